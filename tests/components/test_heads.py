"""Each task from a toy table to a served model: losses, calibrations, and what TensorFlow and our server answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components.data.examples import labels, read_table
from components.modelling import calibration, heads, raw_features, saved_model
from components.modelling.head import LabelStatistics
from components.tasks import task_of
from serving import examples as serving_examples
from serving.loader import load
from tests.components import tables
from tests.components.tables import BINARY, MEAN, MULTICLASS, QUANTILES, SCHEMAS

pytestmark = pytest.mark.slow

LABELS = {"label": LabelStatistics(4.0, 16.0, 10.0, 2.0)}
CALIBRATIONS = {"binary": "scale_and_shift", "multiclass": "temperature", "mean": "shift", "quantiles": "shift"}


class Served:
    """A trained model, and what it answers to the test rows."""

    def __init__(self, name: str, folder: Path):
        self.schema, self.name = SCHEMAS[name], name
        self.folder, self.record = tables.train(folder, name.upper(), calibrate=CALIBRATIONS[name], epochs=4)
        table = read_table(folder / "examples", "test", self.schema)
        self.raw = raw_features.columns(table, self.schema.features)
        self.labels = labels(table, self.schema)
        self.predictions = saved_model.Predictor(self.folder, self.schema)(self.raw)
        self.loaded = load(self.folder, self.folder, 1)
        self.task, self.head = task_of(self.schema), heads.head_of(self.schema)

    def rows(self, count: int) -> list[bytes]:
        """The first rows as serialized tf.Examples; of the first one all values are missing."""
        serialized = [tf.train.Example().SerializeToString()]
        for row in range(1, count):
            example = tf.train.Example()
            example.features.feature["colour"].bytes_list.value.append(self.raw["colour"][row].encode())
            example.features.feature["size"].float_list.value.append(self.raw["size"][row])
            serialized.append(example.SerializeToString())
        return serialized

    def call(self, signature: str, inputs: list) -> dict[str, np.ndarray]:
        """As our server answers."""
        prepared = self.loaded.signature(signature)
        answers = prepared.run(*(_array(values) for values in inputs))
        return {spec.name: answer for spec, answer in zip(prepared.outputs, answers, strict=True)}


def _array(values) -> np.ndarray:
    return np.array(values, object if isinstance(values[0], bytes) else np.float32)


@pytest.fixture(scope="module", params=list(SCHEMAS))
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRTIGHT_HOME", str(folder / "home"))
        yield Served(request.param, folder)


def test_it_learns(served):
    scores = served.head.scores(served.labels, served.predictions, None)
    # Without colour and size: ln 2, about ln 3, a standard deviation of 72, and its share in the pinball loss.
    limits = {"binary": 0.45, "multiclass": 0.75, "mean": 50**2, "quantiles": 17}
    assert scores[served.head.loss_name] < limits[served.name]
    epochs = [epoch[f"validation_{served.head.loss_name}"] for epoch in served.record["epochs"]["judged"]]
    assert served.record["best_epoch"] == int(np.argmin(epochs)) + 1
    assert served.record["calibration"].keys() == {"kind", *_PARAMETERS[served.name]}
    trees = {"quantiles": {"trees_0", "trees_1", "trees_2"}}.get(served.name, {"trees"})
    assert served.record["tuned"].keys() == trees


_OUTPUTS = {
    "binary": {"probability"},
    "multiclass": {"probabilities", "class"},
    "mean": {"prediction"},
    "quantiles": {"prediction", "quantiles"},
}
_PARAMETERS = {"binary": {"scale", "shift"}, "multiclass": {"temperature"}, "mean": {"shift"}, "quantiles": {"shift"}}


def test_what_is_served_has_the_form_that_is_declared(served):
    signature = tf.saved_model.load(str(served.folder)).signatures["serving_default"]
    response = signature(**raw_features.tensors(served.raw, served.schema.features))
    assert set(response) == _OUTPUTS[served.name]
    forms = {name: (value.dtype.name, value.shape.as_list()) for name, value in response.items()}
    rows = len(served.labels)
    assert (
        forms
        == {
            "binary": {"probability": ("float32", [rows])},
            "multiclass": {"probabilities": ("float32", [rows, 3]), "class": ("string", [rows])},
            "mean": {"prediction": ("float32", [rows])},
            "quantiles": {"prediction": ("float32", [rows]), "quantiles": ("float32", [rows, 3])},
        }[served.name]
    )
    if served.name == "multiclass":
        assert np.allclose(response["probabilities"].numpy().sum(axis=1), 1, atol=1e-6)
        classes = [name.decode() for name in response["class"].numpy()]
        assert classes == [MULTICLASS.classes[place] for place in served.predictions.argmax(axis=1)]
        assert "höch" in classes
        names = np.array(MULTICLASS.classes)[served.labels]
        assert np.mean(names == classes) > 0.6
    if served.name == "quantiles":
        assert (np.diff(served.predictions, axis=1) >= 0).all(), "they never cross"
        np.testing.assert_array_equal(response["prediction"], served.predictions[:, 1])
        below = (served.labels[:, None] < served.predictions).mean(axis=0)
        assert np.abs(below - QUANTILES.quantiles).max() < 0.12, "each has its level"


def test_our_server_answers_like_tensorflow_from_raw_values_and_from_examples(served):
    inputs = {"colour": served.raw["colour"][:40], "size": served.raw["size"][:40]}
    inputs["colour"][0], inputs["size"][0] = "", np.nan
    named = served.call("serving_default", [[text.encode() for text in inputs["colour"]], inputs["size"]])
    parsed = served.call("serving_examples", [served.rows(40)])
    expected = saved_model.Predictor(served.folder, served.schema)(inputs)
    for response in (named, parsed):
        assert set(response) == _OUTPUTS[served.name]
        np.testing.assert_allclose(served.task.predictions(response), expected, rtol=1e-5, atol=1e-6)


def test_classify_and_regress_are_tensorflow_servings_own(served):
    method = served.head.method
    signature = served.loaded.signature(method)
    assert signature.method == serving_examples.METHODS[method]
    outputs = signature.run(_array(served.rows(30)))
    result = serving_examples.result(outputs, signature, method, 30)
    answers = served.call("serving_examples", [served.rows(30)])
    if method == "regress":
        assert [row.value for row in result.regressions] == pytest.approx(answers["prediction"].tolist())
        return
    rows = [{entry.label: entry.score for entry in row.classes} for row in result.classifications]
    if served.name == "binary":
        assert [row["1"] for row in rows] == pytest.approx(answers["probability"].tolist())
        assert [row["0"] + row["1"] for row in rows] == pytest.approx([1] * 30)
    else:
        assert [*rows[0]] == [*MULTICLASS.classes]
        assert [[*row.values()] for row in rows] == [pytest.approx(p) for p in answers["probabilities"].tolist()]


@pytest.mark.parametrize("schema", [replace(QUANTILES, quantiles=q) for q in ((0.9, 0.1), (0.5, 0.5), (0.0, 0.5))])
def test_quantiles_that_cross_are_refused(schema):
    with pytest.raises(TerminalError, match="does not fit the task"):
        heads.head_of(schema)


@pytest.mark.parametrize("classes", [(), ("one",), ("one", "one")])
def test_classes_that_are_none_are_refused(classes):
    with pytest.raises(TerminalError, match="does not fit the task"):
        heads.head_of(replace(MULTICLASS, classes=classes))


def test_members_learn_alone_and_predict_together():
    for schema, target in ((BINARY, 1.0), (MULTICLASS, 2.0), (MEAN, 0.5), (QUANTILES, 0.5)):
        head = heads.head_of(schema).fitted_to(LABELS)
        logits = np.random.default_rng(0).normal(size=(5, 4, head.outputs)).astype(np.float32)
        label = tf.fill([5, 1], target)
        alone = [head.loss(label, logits[:, [member]]).numpy() for member in range(4)]
        np.testing.assert_allclose(head.loss(label, logits), np.mean(alone, axis=0), rtol=1e-5)
        assert head.predictions(logits).shape == (5, *([head.outputs] if schema in (MULTICLASS, QUANTILES) else []))
    centered = heads.head_of(MEAN).fitted_to(LABELS)
    assert centered.predictions(np.array([[[0.5], [1.5]]], np.float32)).numpy().tolist() == [12]
    assert centered.targets(np.array([12.0])).tolist() == [1]
    assert heads.head_of(BINARY).fitted_to(LABELS).targets(np.array([1])).tolist() == [1]


def test_the_pinball_loss_is_least_at_the_quantile():
    head = heads.head_of(QUANTILES)
    labels = np.random.default_rng(0).normal(size=(2000, 1)).astype(np.float32)

    def loss(values) -> float:
        return float(np.mean(head.loss(labels, np.broadcast_to(np.float32(values), (2000, 1, 3)))))

    levels = np.quantile(labels, QUANTILES.quantiles)
    for place in range(3):
        for step in (-0.1, 0.1):
            assert loss(levels) < loss(levels + step * (np.arange(3) == place))


def test_a_temperature_undoes_what_was_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5000, 3))
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(3, p=row) for row in right])
    sure = right**3 / (right**3).sum(axis=1, keepdims=True)
    assert calibration.fit_temperature(labels, sure) == pytest.approx(3, rel=0.1)
    head = heads.head_of(MULTICLASS)
    corrected = head.calibrated(tf.constant(sure), {"temperature": 3.0}).numpy()
    np.testing.assert_allclose(corrected, right, atol=0.01)


def test_shifts_give_quantiles_their_level_and_keep_them_in_order():
    labels = np.random.default_rng(0).normal(size=1000)
    shifts = calibration.fit_shift(labels, np.tile([1.0, 0.0, 5.0], (1000, 1)), None, QUANTILES.quantiles)
    head = heads.head_of(QUANTILES)
    corrected = head.calibrated(tf.constant([[1.0, 0.0, 5.0]]), {"shift": shifts}).numpy()
    assert (np.diff(corrected) > 0).all()
    assert (labels[:, None] < corrected).mean(axis=0) == pytest.approx([0.1, 0.5, 0.9], abs=0.01)


def test_a_calibration_of_another_task_is_refused(tmp_path):
    with pytest.raises(TerminalError, match=r"calibrate .* none, temperature"):
        tables.train(tmp_path, "MULTICLASS", calibrate="scale")
