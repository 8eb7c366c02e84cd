"""The model: what it learns from the rows that are fitted, and what it does with the strange ones."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.modelling import raw_features
from components.modelling.encoders import CATEGORIES
from components.modelling.heads import head_of
from components.modelling.model_spec import ModelSpec
from components.modelling.saved_model import ExportModule
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


def tensors(raw: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return raw_features.tensors(raw, SCHEMA.features)


def build(folder: Path, raw: dict[str, np.ndarray]) -> ModelSpec:
    keras.utils.set_random_seed(0)
    return model.build(SCHEMA, toy.labelled(folder, SCHEMA, raw, labels()), None, {"trees": 3}, 0)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return build(tmp_path_factory.mktemp("rows"), columns())


def test_preprocess_knows_its_vocabulary_and_nothing_else(spec, tmp_path):
    raw = columns()
    raw["carrier"][:4] = ["AA", "ZZ", "", "UA"]
    codes = spec.preprocess(tensors(raw))[CATEGORIES].numpy()[:4, 0]
    assert codes[1] == codes[2] == 0, "unknown and missing are out of the vocabulary"
    assert codes[0] != codes[3] and min(codes[0], codes[3]) > 0
    again = build(tmp_path, {**columns(), "carrier": np.array(["ZZ"] * ROWS, object)})
    assert again.preprocess(tensors(raw))[CATEGORIES].numpy()[1, 0] == 1


def test_a_rare_category_counts_as_unknown(tmp_path):
    raw = columns()
    raw["dest"][:] = "BOS"
    raw["dest"][:5] = "ANC"
    coded = build(tmp_path, raw).preprocess(tensors(raw))[CATEGORIES].numpy()
    codes = coded[:, SCHEMA.of_kind("category").index("dest")]
    assert set(codes[:5]) == {0} and set(codes[5:]) == {1}


def test_members_differ_and_every_row_has_an_answer(spec):
    network = spec.build_network()
    raw = columns(1)
    for name in SCHEMA.of_kind("number"):
        raw[name][:5] = np.nan, 1e30, -1e30, np.inf, -np.inf
    for name in SCHEMA.of_kind("category"):
        raw[name][:3] = ""
    inputs = tensors(raw)
    logits = network(spec.preprocess(inputs), training=False).numpy()
    assert logits.shape == (ROWS, model.NETWORK.members, 1)
    assert np.isfinite(logits).all()
    assert logits.std(axis=1).min() > 0
    probability = ExportModule(SCHEMA, spec, network, head_of(SCHEMA)).predictions(inputs).numpy()
    trees = tf.sigmoid(spec.ensemble_member(inputs)).numpy()[:, 0, 0]
    expected = (tf.sigmoid(logits[..., 0]).numpy().mean(axis=1) + trees) / 2
    np.testing.assert_allclose(probability, expected, atol=1e-5)


def test_a_request_works_out_nothing_of_weights_alone(spec, tmp_path):
    """What is exported says the same with fewer operations: no sums over the bins of a number."""
    network = spec.build_network()
    served = ExportModule(SCHEMA, spec, network, head_of(SCHEMA))
    served.save(tmp_path / "model")
    inputs = tensors(columns(2))
    signature = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    np.testing.assert_allclose(signature(**inputs)[PREDICTION], served.predictions(inputs), atol=1e-6)
    definition = signature.graph.as_graph_def()
    nodes = [node.op for function in definition.library.function for node in function.node_def]
    assert "MatMul" in nodes
    assert "Cumsum" not in nodes


def test_validation_rows_choose_the_trees_and_a_refit_takes_as_many(spec, tmp_path):
    fitted = toy.labelled(tmp_path / "fitted", SCHEMA, columns(), labels())
    watched = model.build(SCHEMA, fitted, toy.labelled(tmp_path / "judges", SCHEMA, columns(1), labels(1)), {}, 0)
    assert 1 <= watched.tuned["trees"] < 50, "noise is not learned"
    assert spec.tuned == {"trees": 3}


def test_the_same_seed_builds_the_same_network(spec):
    weights = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        weights.append(np.concatenate([w.ravel() for w in spec.build_network().get_weights()]))
    assert (weights[0] == weights[1]).all() and (weights[0] != weights[2]).any()


def test_it_is_read_back_in_safe_mode(spec, tmp_path):
    raw = tensors(columns(3))
    network = spec.build_network()
    for made, inputs in ((network, spec.preprocess(raw)), (spec.preprocess, raw), (spec.ensemble_member, raw)):
        made.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        tf.nest.map_structure(
            lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), again(inputs), made(inputs)
        )


def test_it_learns_a_threshold_and_an_interaction(tmp_path):
    raw = columns(2)
    late = (np.nan_to_num(raw["tail_departure_delay"]) > 60) ^ (raw["carrier"] == "AA")
    spec = build(tmp_path, raw)
    network, inputs = spec.build_network(), spec.preprocess(tensors(raw))
    network.compile(keras.optimizers.Adam(3e-3), lambda y, z: tf.nn.sigmoid_cross_entropy_with_logits(y + 0 * z, z))
    network.fit(inputs, late.astype(np.float32)[:, None, None], epochs=40, batch_size=32, verbose=0)
    predicted = network(inputs).numpy()[..., 0].mean(axis=1) > 0
    assert (predicted == late).mean() > 0.95


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
