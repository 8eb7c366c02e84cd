"""The network: what it learns from the rows that are fitted, and what it does with the strange ones."""

from __future__ import annotations

import datetime
import json

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.modelling.saved_model import Served, raw_tensors
from components.train import RECORD, train
from pipelines.flight_delays import model
from pipelines.flight_delays.features import SCHEMA
from tests.components import toy

pytestmark = pytest.mark.slow

ROWS = 400
NUMBERS = len(set(SCHEMA.of_kind("number")) - set(model.LEFT_OUT))


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


@pytest.fixture(scope="module")
def parts():
    keras.utils.set_random_seed(0)
    preprocess, build_network = model.build(SCHEMA, columns())
    return preprocess, build_network


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
        ([np.nan, np.nan], [0, 0, 0, 0, 0]),
        ([3.0, 3.0, np.nan], [3, 3, 3, 3, 3]),
        ([0.0] * 90 + [1.0] * 9 + [2.0], [0, 1, 2, 2, 2]),
    ],
)
def test_quantile_edges_of_few_values(values, expected):
    assert model.quantile_edges(np.array(values, np.float32), 4).tolist() == expected


def test_piecewise_linear_is_continuous_flat_outside_and_knows_missing():
    layer = model.PiecewiseLinear([[0.0, 1.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]], 4)
    inside = layer(np.array([[x, 5.0] for x in np.linspace(-2, 5, 701)], np.float32)).numpy()
    assert np.abs(np.diff(inside, axis=0)).max() < 0.05
    assert (inside[0] == inside[200]).all() and (inside[-1] == inside[500]).all()
    missing = layer(np.array([[np.nan, np.nan]], np.float32)).numpy()
    np.testing.assert_allclose(missing[0], np.maximum(layer.missing.numpy(), 0))
    assert np.isfinite(missing).all()


def test_preprocess_knows_its_vocabulary_and_nothing_else(parts):
    preprocess, _ = parts
    raw = columns()
    raw["carrier"][:4] = ["AA", "ZZ", "", "UA"]
    codes = preprocess(raw_tensors(raw, SCHEMA))[model.CATEGORIES].numpy()[:4, 0]
    assert codes[1] == codes[2] == 0, "unknown and missing are out of the vocabulary"
    assert codes[0] != codes[3] and min(codes[0], codes[3]) > 0
    again, _ = model.build(SCHEMA, {**columns(), "carrier": np.array(["ZZ"] * ROWS, object)})
    assert again(raw_tensors(raw, SCHEMA))[model.CATEGORIES].numpy()[1, 0] == 1


def test_a_rare_category_counts_as_unknown():
    raw = columns()
    raw["dest"][:] = "BOS"
    raw["dest"][:5] = "ANC"
    preprocess, _ = model.build(SCHEMA, raw)
    codes = preprocess(raw_tensors(raw, SCHEMA))[model.CATEGORIES].numpy()[:, SCHEMA.of_kind("category").index("dest")]
    assert set(codes[:5]) == {0} and set(codes[5:]) == {1}


def test_members_differ_and_every_row_has_an_answer(parts):
    preprocess, build_network = parts
    network = build_network()
    raw = columns(1)
    for name in SCHEMA.of_kind("number"):
        raw[name][:3] = np.nan, 1e30, -1e30
    for name in SCHEMA.of_kind("category"):
        raw[name][:3] = ""
    logits = network(preprocess(raw_tensors(raw, SCHEMA)), training=False).numpy()
    assert logits.shape == (ROWS, model.Shape().members)
    assert np.isfinite(logits).all()
    assert logits.std(axis=1).min() > 0
    served = Served(SCHEMA, preprocess, network, 1.0, 0.0)
    probability = served.probability(raw_tensors(raw, SCHEMA)).numpy()
    np.testing.assert_allclose(probability, tf.sigmoid(logits).numpy().mean(axis=1), atol=1e-5)


def test_the_same_seed_builds_the_same_network(parts):
    _, build_network = parts
    weights = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        weights.append(np.concatenate([w.ravel() for w in build_network().get_weights()]))
    assert (weights[0] == weights[1]).all() and (weights[0] != weights[2]).any()


def test_it_is_read_back_in_safe_mode(parts):
    _, build_network = parts
    network = build_network()
    again = keras.Model.from_config(json.loads(json.dumps(network.get_config())))
    again.set_weights(network.get_weights())
    inputs = {
        model.CATEGORIES: np.zeros((2, len(SCHEMA.of_kind("category"))), np.int64),
        model.NUMBERS: np.full((2, NUMBERS), np.nan, np.float32),
    }
    np.testing.assert_allclose(again(inputs), network(inputs), atol=1e-6)


def test_it_learns_a_threshold_and_an_interaction():
    keras.utils.set_random_seed(0)
    raw = columns(2)
    late = (np.nan_to_num(raw["tail_departure_delay"]) > 60) ^ (raw["carrier"] == "AA")
    preprocess, build_network = model.build(SCHEMA, raw)
    network, inputs = build_network(), preprocess(raw_tensors(raw, SCHEMA))
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
