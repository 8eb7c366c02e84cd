"""The trees: as exported they say what LightGBM says, and equal rows grow equal trees."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components.data.examples import Columns
from components.modelling.parts import Labelled, Parts
from components.modelling.saved_model import Served, raw_tensors
from components.schema import PREDICTION
from pipelines.flight_delays import forest, model
from pipelines.flight_delays.features import SCHEMA

pytestmark = pytest.mark.slow

ROWS = 3000
NUMBERS, CATEGORIES = SCHEMA.of_kind("number"), SCHEMA.of_kind("category")


def rows(seed: int = 0) -> Labelled:
    """Rows whose label depends on categories, on numbers and on what is missing."""
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
    return Labelled(raw, (late + noise > np.median(late)).astype(np.int64))


def strange(seed: int) -> Labelled:
    """Other rows: unknown, rare and missing categories, numbers that were never missing now are, and infinite ones."""
    new = rows(seed)
    for name in CATEGORIES:
        new.columns[name][:300] = np.resize(["never seen", "", "w0"], 300)
    for name in NUMBERS:
        new.columns[name][150:600] = np.resize([np.nan, np.inf, -np.inf, 1e30, 0.0], 450)
    return new


@pytest.fixture(scope="module")
def grown():
    """A booster as `build` grows it, and the parts."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        grow = forest.grow
        patch.setattr(forest, "grow", lambda *a: kept.append(grow(*a)) or kept[0])
        parts = model.build(SCHEMA, rows(), None, {"trees": 60}, 0)
    return kept[0], parts


def predicted(booster, parts: Parts, raw: Columns) -> np.ndarray:
    """What LightGBM says itself."""
    codes = parts.preprocess(raw_tensors(raw, SCHEMA))[model.CATEGORIES].numpy()
    numbers = np.stack([raw[name] for name in NUMBERS], axis=1)
    return booster.predict(forest.Seen(numbers, codes, np.zeros(len(codes))).table)


def test_the_exported_trees_say_what_lightgbm_says(grown, tmp_path):
    booster, parts = grown
    kinds = {node["decision_type"] for node in _nodes(booster)}
    assert kinds == {"==", "<="}, "both kinds of question are asked"
    assert {node["missing_type"] for node in _nodes(booster) if node["decision_type"] == "<="} == {"NaN", "None"}
    # A network that says the trees' own logit: the mean of both is what the trees say.
    twice = dataclasses.replace(parts, preprocess=parts.companion)
    logit = keras.Input((1,))
    Served(SCHEMA, twice, keras.Model(logit, keras.layers.Identity()(logit)), 1.0, 0.0).save(tmp_path / "model")
    raw = strange(1).columns
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(tmp_path / "model"))
        signature = meta_graph.signature_def["serving_default"]
        feed = {spec.name: raw[name] for name, spec in signature.inputs.items()}
        answers = session.run(signature.outputs[PREDICTION].name, feed)
    np.testing.assert_allclose(answers, predicted(booster, parts, raw), atol=1e-6)


def test_unknown_rare_and_missing_categories_are_one(grown):
    _, parts = grown
    raw = rows(2).columns
    answers = []
    for word in ("never seen", "", "w0", "w30"):
        columns = {name: np.full(ROWS, word, object) if name in CATEGORIES else raw[name] for name in raw}
        answers.append(parts.companion(raw_tensors(columns, SCHEMA)).numpy())
    assert (answers[0] == answers[1]).all() and (answers[0] == answers[2]).all()
    assert (answers[0] != answers[3]).any()


def test_equal_rows_grow_equal_trees_and_another_seed_others():
    seen = forest.Seen(np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32), *_codes_and_labels())
    texts = [forest.grow(seen, None, 5, seed).model_to_string() for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_validation_rows_end_the_growing():
    seen = forest.Seen(np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32), *_codes_and_labels())
    other = dataclasses.replace(seen, labels=1 - seen.labels)
    booster = forest.grow(seen, other, 5, 0)
    assert booster.num_trees() == 1 == booster.current_iteration()


def test_trees_that_cannot_grow_say_the_share():
    seen = forest.Seen(np.zeros((50, 2), np.float32), np.zeros((50, 1), np.int64), np.arange(50) % 2)
    booster = forest.grow(seen, None, 2, 0)
    said = forest.planted(booster, 2)(seen.numbers, seen.codes).numpy()
    np.testing.assert_allclose(said[:, 0], booster.predict(seen.table, raw_score=True), atol=1e-6)


def test_an_unknown_treatment_of_missing_values_is_refused():
    seen = forest.Seen(np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32), *_codes_and_labels())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(forest.SETTINGS, "zero_as_missing", True)
        booster = forest.grow(seen, None, 2, 0)
    with pytest.raises(TerminalError, match="treats missing values"):
        forest.planted(booster, 3)


def _codes_and_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 5, (ROWS, 2)), rng.integers(0, 2, ROWS)


def _nodes(booster) -> list[dict]:
    found, open_ = [], [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while open_:
        node = open_.pop()
        if "decision_type" in node:
            found.append(node)
            open_ += [node["left_child"], node["right_child"]]
    return found
