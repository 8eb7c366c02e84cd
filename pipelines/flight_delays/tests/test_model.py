"""The model: what it learns from the rows that are fitted, and what it does with the strange ones."""

from __future__ import annotations

import datetime
import itertools
import json

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.modelling.parts import Labelled, Parts
from components.modelling.saved_model import Served, raw_tensors
from components.schema import PREDICTION
from components.train import RECORD, train
from pipelines.flight_delays import model
from pipelines.flight_delays.features import SCHEMA
from tests.components import toy

pytestmark = pytest.mark.slow

ROWS = 400


def columns(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    raw: dict[str, np.ndarray] = {}
    for feature in SCHEMA.features:
        if feature.kind == "category":
            raw[feature.name] = rng.choice(["AA", "UA", "DL", ""], ROWS).astype(object)
        else:
            raw[feature.name] = rng.gamma(2, 30, ROWS).astype(np.float32)
            raw[feature.name][rng.random(ROWS) < 0.2] = np.nan
    return raw


def labels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 1000).integers(0, 2, ROWS)


def build(raw: dict[str, np.ndarray]) -> Parts:
    keras.utils.set_random_seed(0)
    return model.build(SCHEMA, Labelled(raw, labels()), None, {"trees": 3}, 0)


@pytest.fixture(scope="module")
def parts():
    return build(columns())


def test_quantile_edges_rise_and_hold_the_range():
    values = np.random.default_rng(0).gamma(2, 30, 5000).astype(np.float32)
    values[::7] = np.nan
    edges = model.quantile_edges(values, 16)
    known = values[~np.isnan(values)]
    assert edges.shape == (17,) and (np.diff(edges) > 0).all()
    assert (edges[0], edges[-1]) == (known.min(), known.max())
    shares = np.histogram(known, edges)[0] / len(known)
    assert shares == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.nan, np.nan], [0]),
        ([3.0, 3.0, np.nan], [3]),
        ([0.0] * 90 + [1.0] * 9 + [2.0], [0, 1, 2]),
        ([0.0] * 90 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 6]),
    ],
)
def test_quantile_edges_of_few_values(values, expected):
    assert model.quantile_edges(np.array(values, np.float32), 4).tolist() == expected


EDGES = [[0.0, 1.0, 3.0], [5.0], [-2.0, 7.0]]


def embedded(numbers: np.ndarray, layer: model.PiecewiseLinear) -> np.ndarray:
    return layer(*model.Places(EDGES)(np.asarray(numbers, np.float32))).numpy()


def test_piecewise_linear_is_continuous_flat_outside_and_knows_missing():
    layer = model.PiecewiseLinear([2, 0, 1], 4)
    inside = embedded([[x, x, x] for x in np.linspace(-2, 5, 701)], layer)
    assert np.abs(np.diff(inside, axis=0)).max() < 0.05
    assert (inside[:201, 0] == inside[0, 0]).all() and (inside[500:, 0] == inside[500, 0]).all()
    assert (inside[:, 1] == inside[0, 1]).all(), "a number of one value says nothing"
    missing = embedded([[np.nan] * 3], layer)
    np.testing.assert_allclose(missing[0], np.maximum(layer.missing.numpy(), 0))
    assert np.isfinite(embedded([[np.inf] * 3, [-np.inf] * 3, [1e30] * 3], layer)).all()


def test_the_look_up_is_the_sum_of_all_bins():
    layer = model.PiecewiseLinear([2, 0, 1], 2, straight=True)
    numbers = np.random.default_rng(0).normal(1, 3, (200, 3)).astype(np.float32)
    embedded(numbers[:1], layer)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    steps, bias, _ = (np.asarray(w) for w in layer.get_weights())
    expected = np.zeros((200, 3, 2)) + bias - 0.5 * steps.mean(axis=1)
    for number, edges in enumerate(EDGES):
        for place, (low, high) in enumerate(itertools.pairwise(edges)):
            way = np.clip((numbers[:, number] - low) / (high - low), 0, 1)
            expected[:, number] += way[:, None] * steps[number, place] / (len(edges) - 1)
    np.testing.assert_allclose(embedded(numbers, layer), expected, atol=1e-5)


def test_every_second_unit_of_an_embedding_starts_falling():
    layer = model.PiecewiseLinear([2, 0, 1], 4)
    embedded([[0.0] * 3], layer)
    assert (np.sign(layer.steps.numpy()) == [1, -1, 1, -1]).all()


def test_preprocess_knows_its_vocabulary_and_nothing_else(parts):
    raw = columns()
    raw["carrier"][:4] = ["AA", "ZZ", "", "UA"]
    codes = parts.preprocess(raw_tensors(raw, SCHEMA))[model.CATEGORIES].numpy()[:4, 0]
    assert codes[1] == codes[2] == 0, "unknown and missing are out of the vocabulary"
    assert codes[0] != codes[3] and min(codes[0], codes[3]) > 0
    again = build({**columns(), "carrier": np.array(["ZZ"] * ROWS, object)})
    assert again.preprocess(raw_tensors(raw, SCHEMA))[model.CATEGORIES].numpy()[1, 0] == 1


def test_a_rare_category_counts_as_unknown():
    raw = columns()
    raw["dest"][:] = "BOS"
    raw["dest"][:5] = "ANC"
    coded = build(raw).preprocess(raw_tensors(raw, SCHEMA))[model.CATEGORIES].numpy()
    codes = coded[:, SCHEMA.of_kind("category").index("dest")]
    assert set(codes[:5]) == {0} and set(codes[5:]) == {1}


def test_members_differ_and_every_row_has_an_answer(parts):
    network = parts.build_network()
    raw = columns(1)
    for name in SCHEMA.of_kind("number"):
        raw[name][:5] = np.nan, 1e30, -1e30, np.inf, -np.inf
    for name in SCHEMA.of_kind("category"):
        raw[name][:3] = ""
    tensors = raw_tensors(raw, SCHEMA)
    logits = network(parts.preprocess(tensors), training=False).numpy()
    assert logits.shape == (ROWS, model.Shape().members)
    assert np.isfinite(logits).all()
    assert logits.std(axis=1).min() > 0
    probability = Served(SCHEMA, parts, network, 1.0, 0.0).probability(tensors).numpy()
    trees = tf.sigmoid(parts.companion(tensors)).numpy()[:, 0]
    expected = (tf.sigmoid(logits).numpy().mean(axis=1) + trees) / 2
    np.testing.assert_allclose(probability, expected, atol=1e-5)


def test_a_request_works_out_nothing_of_weights_alone(parts, tmp_path):
    """What is exported says the same with fewer operations: no sums over the bins of a number."""
    network = parts.build_network()
    served = Served(SCHEMA, parts, network, 1.0, 0.0)
    served.save(tmp_path / "model")
    tensors = raw_tensors(columns(2), SCHEMA)
    signature = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    np.testing.assert_allclose(signature(**tensors)[PREDICTION], served.probability(tensors), atol=1e-6)
    definition = signature.graph.as_graph_def()
    nodes = [node.op for function in definition.library.function for node in function.node_def]
    assert "MatMul" in nodes
    assert "Cumsum" not in nodes


def test_validation_rows_choose_the_trees_and_a_refit_takes_as_many(parts):
    raw = columns()
    watched = model.build(SCHEMA, Labelled(raw, labels()), Labelled(columns(1), labels(1)), {}, 0)
    assert 1 <= watched.chosen["trees"] < 50, "noise is not learned"
    assert parts.chosen == {"trees": 3}


def test_the_same_seed_builds_the_same_network(parts):
    weights = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        weights.append(np.concatenate([w.ravel() for w in parts.build_network().get_weights()]))
    assert (weights[0] == weights[1]).all() and (weights[0] != weights[2]).any()


def test_it_is_read_back_in_safe_mode(parts, tmp_path):
    raw = raw_tensors(columns(3), SCHEMA)
    network = parts.build_network()
    for made, inputs in ((network, parts.preprocess(raw)), (parts.preprocess, raw), (parts.companion, raw)):
        made.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        tf.nest.map_structure(
            lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), again(inputs), made(inputs)
        )


def test_it_learns_a_threshold_and_an_interaction():
    raw = columns(2)
    late = (np.nan_to_num(raw["tail_departure_delay"]) > 60) ^ (raw["carrier"] == "AA")
    parts = build(raw)
    network, inputs = parts.build_network(), parts.preprocess(raw_tensors(raw, SCHEMA))
    network.compile(keras.optimizers.Adam(3e-3), lambda y, z: tf.nn.sigmoid_cross_entropy_with_logits(y + 0 * z, z))
    network.fit(inputs, late.astype(np.float32)[:, None], epochs=40, batch_size=32, verbose=0)
    said = network(inputs).numpy().mean(axis=1) > 0
    assert (said == late).mean() > 0.95


def test_what_was_trained_before_in_the_process_does_not_matter(tmp_path):
    # Keras counts names up in a process; when they reach another digit, sums come in another order.
    rows = {
        name: pa.array(values.tolist(), pa.string() if values.dtype == object else pa.float32())
        for name, values in columns().items()
    }
    rng = np.random.default_rng(0)
    rows[SCHEMA.label] = pa.array(rng.integers(0, 2, ROWS))
    rows[SCHEMA.time] = pa.array([datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)] * ROWS)
    examples = toy.examples(tmp_path / "examples", train=pa.table(rows), validation=pa.table(rows))
    losses = []
    for attempt in range(3):
        run = toy.artifact(standard_artifacts.ModelRun, tmp_path / f"run{attempt}")
        train.test_call(
            examples=examples,
            model=toy.artifact(standard_artifacts.Model, tmp_path / f"model{attempt}"),
            model_run=run,
            schema="pipelines.flight_delays.features:SCHEMA",
            model_fn="pipelines.flight_delays.model:build",
            epochs=2,
            batch_size=64,
        )
        losses.append(json.loads((tmp_path / f"run{attempt}" / RECORD).read_text())["validation"]["log_loss"])
    assert losses == [losses[0]] * 3
