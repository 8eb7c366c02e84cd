"""The trees: as exported they answer as LightGBM does, and equal rows train equal trees."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components.modelling import boosted_trees, raw_features, tabular
from components.modelling.boosted_trees import TreeSettings, booster_to_layer, train_boosters
from components.modelling.heads import head_of
from components.modelling.row_store import RowStore
from components.modelling.saved_model import ExportModule
from components.schema import PREDICTION, ExampleSchema, Feature
from tests.components import toy

pytestmark = pytest.mark.slow

ROWS = 3000
NUMBERS, CATEGORIES = tuple(f"n{i}" for i in range(12)), tuple(f"c{i}" for i in range(5))
SCHEMA = ExampleSchema(
    tuple(Feature(name, kind, "") for kind, names in (("category", CATEGORIES), ("number", NUMBERS)) for name in names),
    "late",
    "at",
    (),
    (),
)
SETTINGS = TreeSettings(parameters={"min_child_samples": 50, "cat_smooth": 50})


def rows(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows whose label depends on categories, on numbers and on what is missing, and the labels."""
    rng = np.random.default_rng(seed)
    raw: dict[str, np.ndarray] = {}
    words, shares = [*(f"w{i}" for i in range(40)), ""], [0.003] * 10 + [0.03] * 30 + [0.07]
    for name in CATEGORIES:
        raw[name] = rng.choice(words, ROWS, p=shares).astype(object)
    for place, name in enumerate(NUMBERS):
        raw[name] = rng.normal(0, 100, ROWS).astype(np.float32)
        if place % 2:
            raw[name][rng.random(ROWS) < 0.2] = np.nan
    late = sum(np.char.str_len(raw[name].astype(str)) for name in CATEGORIES) + 0.01 * raw[NUMBERS[0]]
    late = late + np.isnan(raw[NUMBERS[1]]) + np.isin(raw[CATEGORIES[0]], ["w3", "w17", "w30", "w31"])
    noise = rng.normal(0, 0.5, ROWS)
    return raw, (late + noise > np.median(late)).astype(np.int64)


def strange(seed: int) -> dict[str, np.ndarray]:
    """Other rows: unknown, rare and missing categories, numbers that were never missing now are, and infinite ones."""
    new, _ = rows(seed)
    for name in CATEGORIES:
        new[name][:300] = np.resize(["never seen", "", "w0"], 300)
    for name in NUMBERS:
        new[name][150:600] = np.resize([np.nan, np.inf, -np.inf, 1e30, 0.0], 450)
    return new


def tensors(raw: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return raw_features.tensors(raw, SCHEMA.features)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A booster as `tabular.build` trains it, what trees see, and the model."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train_boosters", "_tree_inputs"):
            function = getattr(tabular, name)
            patch.setattr(tabular, name, lambda *a, function=function: kept.append(function(*a)) or kept[-1])
        fitted = toy.labelled(tmp_path_factory.mktemp("rows"), SCHEMA, *rows())
        spec = tabular.build(SCHEMA, fitted, None, {"trees": 60}, 0, tabular.Settings(trees=SETTINGS))
    seen, boosters = kept
    return boosters["trees"], seen, spec


def predicted(booster, seen, raw) -> np.ndarray:
    """As LightGBM predicts."""
    numbers, codes = seen(tensors(raw))
    return booster.predict(np.concatenate([numbers, codes.numpy().astype(np.float32)], axis=1))


def test_the_exported_trees_answer_as_lightgbm(trained, tmp_path):
    booster, seen, spec = trained
    kinds = {node["decision_type"] for node in _nodes(booster)}
    assert kinds == {"==", "<="}, "both kinds of split are there"
    assert {node["missing_type"] for node in _nodes(booster) if node["decision_type"] == "<="} == {"NaN", "None"}
    alone = dataclasses.replace(spec, build_network=None)
    ExportModule(SCHEMA, alone, None, head_of(SCHEMA)).save(tmp_path / "model")
    raw = strange(1)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(tmp_path / "model"))
        signature = meta_graph.signature_def["serving_default"]
        feed = {spec.name: raw[name] for name, spec in signature.inputs.items()}
        answers = session.run(signature.outputs[PREDICTION].name, feed)
    np.testing.assert_allclose(answers, predicted(booster, seen, raw), atol=1e-6)


def test_unknown_rare_and_missing_categories_are_one(trained):
    _, _, spec = trained
    raw, _ = rows(2)
    answers = []
    for word in ("never seen", "", "w0", "w30"):
        columns = {name: np.full(ROWS, word, object) if name in CATEGORIES else raw[name] for name in raw}
        answers.append(spec.ensemble_member(tensors(columns)).numpy())
    assert (answers[0] == answers[1]).all() and (answers[0] == answers[2]).all()
    assert (answers[0] != answers[3]).any()


def table(seed: int = 0) -> np.ndarray:
    """Three numbers and two categories."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(ROWS, 3)), rng.integers(0, 5, (ROWS, 2))], axis=1).astype(np.float32)


def labels(classes: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes, ROWS).astype(np.float32)


def stored(*arrays: np.ndarray, block: int = 700) -> RowStore:
    store = RowStore(block)
    for start in range(0, len(arrays[0]), 300):
        store.append(tuple(array[start : start + 300] for array in arrays))
    return store.finish()


BINARY = {"objective": "binary"}


def train(fitted: RowStore, trees: int = 5, seed: int = 3, watched: RowStore | None = None, objective=BINARY, **more):
    settings = TreeSettings(parameters=more)
    return train_boosters(fitted, watched, [3, 4], {"a": objective}, {"a": trees}, seed, settings)["a"]


def test_equal_rows_train_equal_trees_and_another_seed_others():
    texts = [train(stored(table(), labels()), seed=seed).model_to_string() for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_rows_in_pieces_train_the_trees_of_one_array():
    parameters = {**boosted_trees.DEFAULTS, **BINARY, "seed": 3}
    whole = boosted_trees.lightgbm.Dataset(table(), labels(), categorical_feature=[3, 4], params=parameters)
    expected = boosted_trees.lightgbm.train(parameters, whole, 5).model_to_string()
    assert train(stored(table(), labels())).model_to_string() == expected
    assert train(stored(table(), labels(), block=5000)).model_to_string() == expected


def test_weights_count_as_rows_would():
    # Of few values, so that bins are theirs, however often each is there.
    rows = np.round(table()[:, :3])
    twice = np.concatenate([rows, rows[:500]]), np.concatenate([labels(), labels()[:500]])
    weights = np.where(np.arange(ROWS) < 500, 2.0, 1.0).astype(np.float32)
    still = {"bagging_fraction": 1.0, "feature_fraction": 1.0, "min_child_samples": 1, "min_data_in_bin": 1}
    settings = TreeSettings(parameters=still)
    weighted, repeated, plain = (
        train_boosters(stored(*arrays), None, [], {"a": BINARY}, {"a": 5}, 3, settings)["a"].predict(rows)
        for arrays in ((rows, labels(), weights), twice, (rows, labels()))
    )
    np.testing.assert_allclose(weighted, repeated, atol=1e-5)
    assert np.abs(plain - repeated).max() > 0.01


def test_validation_rows_end_the_training():
    booster = train(stored(table(), labels()), watched=stored(table(), 1 - labels()))
    assert booster.num_trees() == 1 == booster.current_iteration()


def test_boosters_share_binned_rows_and_are_as_if_each_had_its_own(monkeypatch):
    quantiles = {f"q{level}": {"objective": "quantile", "alpha": level} for level in (0.1, 0.5, 0.9)}
    fitted, watched = stored(table(), table()[:, 0]), stored(table(7), table(7)[:, 0])
    alone = {name: train(fitted, watched=watched, objective=o).model_to_string() for name, o in quantiles.items()}
    made, dataset = [], boosted_trees._dataset
    monkeypatch.setattr(boosted_trees, "_dataset", lambda *a: made.append(dataset(*a)) or made[-1])
    together = train_boosters(fitted, watched, [3, 4], quantiles, {}, 3, TreeSettings())
    assert {name: booster.model_to_string() for name, booster in together.items()} == alone
    assert len(made) == 2, "the fitted rows and the watched ones"


@pytest.mark.parametrize(
    "objectives",
    [[{"objective": "multiclass", "num_class": 3}], [{"objective": "quantile", "alpha": a} for a in (0.1, 0.9)]],
)
def test_each_output_has_its_own_trees(objectives):
    boosters = [train(stored(table(), labels(3)), trees, objective=o) for trees, o in enumerate(objectives, start=3)]
    numbers, codes = table()[:, :3], table()[:, 3:].astype(np.int64)
    answers = booster_to_layer(boosters, 3)(numbers, codes).numpy()
    raw = [booster.predict(table(), raw_score=True).reshape(ROWS, -1) for booster in boosters]
    np.testing.assert_allclose(answers[:, 0], np.concatenate(raw, axis=1), atol=1e-5)


def test_trees_that_cannot_grow_answer_the_share():
    flat = np.zeros((50, 3), np.float32)
    rows = stored(flat, (np.arange(50) % 2).astype(np.float32))
    booster = train_boosters(rows, None, [2], {"a": BINARY}, {"a": 2}, 0, TreeSettings())["a"]
    answer = booster_to_layer([booster], 2)(flat[:, :2], flat[:, 2:].astype(np.int64)).numpy()
    np.testing.assert_allclose(answer[:, 0, 0], booster.predict(flat, raw_score=True), atol=1e-6)


def test_an_unknown_treatment_of_missing_values_is_refused():
    booster = train(stored(table(), labels()), trees=2, zero_as_missing=True)
    with pytest.raises(TerminalError, match="treats missing values"):
        booster_to_layer([booster], 3)


def _nodes(booster) -> list[dict]:
    nodes, open_ = [], [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while open_:
        node = open_.pop()
        if "decision_type" in node:
            nodes.append(node)
            open_ += [node["left_child"], node["right_child"]]
    return nodes
