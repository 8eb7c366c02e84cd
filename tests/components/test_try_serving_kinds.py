"""try_serving sends every kind of feature, and reads the predictions of every task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from components import try_serving
from components.schema import ExampleSchema, Feature

pytestmark = pytest.mark.slow

FEATURES = (
    Feature("colour", "category", ""),
    Feature("size", "number", ""),
    Feature("tags", "categories", ""),
    Feature("pixels", "vector", "", length=3),
    Feature("picture", "image", ""),
)
CLASSES = ExampleSchema(FEATURES, "kind", "", ("id",), (), task="multiclass", classes=("a", "b"))
NUMBERS = ExampleSchema(FEATURES, "price", "", ("id",), (), task="regression")
QUANTILES = ExampleSchema(FEATURES, "price", "", ("id",), (), task="regression", quantiles=(0.1, 0.5, 0.9))


class Candidate(tf.Module):
    """Sums of all inputs, as the outputs of a task."""

    def __init__(self, schema: ExampleSchema, scale: float = 1.0) -> None:
        super().__init__()
        self.schema, self.scale = schema, scale

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="colour"),
            tf.TensorSpec([None], tf.float32, name="size"),
            tf.TensorSpec([None, None], tf.string, name="tags"),
            tf.TensorSpec([None, 3], tf.float32, name="pixels"),
            tf.TensorSpec([None], tf.string, name="picture"),
        ]
    )
    def serve(self, colour, size, tags, pixels, picture):
        lengths = [
            tf.strings.length(colour),
            tf.reduce_sum(tf.strings.length(tags), axis=1),
            tf.strings.length(picture),
        ]
        total = tf.add_n([tf.cast(length, tf.float32) for length in lengths])
        total = self.scale * (total + tf.where(tf.math.is_nan(size), 0.5, size) + tf.reduce_sum(pixels, axis=1))
        if self.schema.classes:
            likely = tf.sigmoid(total / 50)
            return {"probabilities": tf.stack([likely, 1 - likely], axis=1), "class": tf.where(likely > 0.5, "a", "b")}
        if self.schema.quantiles:
            return {"prediction": total, "quantiles": total[:, None] + tf.constant([[-1.0, 0.0, 1.0]])}
        return {"prediction": total}


def rows() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    size = draw.normal(size=12).astype(np.float32)
    size[::3] = np.nan
    tags = np.full((12, 2), "", object)
    tags[::2, 0], tags[::4, 1] = "round", "Zürich"
    picture = np.array([b"\x89PNG\r\n\x1a\n\xff" + bytes([row]) if row % 2 else b"" for row in range(12)], object)
    return {
        "colour": draw.choice(["red", ""], 12).astype(object),
        "size": size,
        "tags": tags,
        "pixels": draw.normal(size=(12, 3)).astype(np.float32),
        "picture": picture,
    }


@pytest.mark.parametrize("schema", [CLASSES, NUMBERS, QUANTILES], ids=["classes", "numbers", "quantiles"])
def test_answers_of_every_task_agree(schema, tmp_path):
    candidate = Candidate(schema, scale=1 if schema.classes else 1000)
    tf.saved_model.save(candidate, str(tmp_path / "model"), signatures=candidate.serve)
    checks = try_serving.trial(tmp_path / "model", schema, rows(), 10_000, 120)
    assert [str(check) for check in checks if not check.passed] == []
    assert {check.name: check.value for check in checks}["REST answers"] == 12


def test_outputs_that_are_no_prediction_of_the_task_are_told(tmp_path):
    candidate = Candidate(NUMBERS, math.nan)
    tf.saved_model.save(candidate, str(tmp_path / "model"), signatures=candidate.serve)
    checks = try_serving.trial(tmp_path / "model", QUANTILES, rows(), 10_000, 120)
    assert [(check.name, check.passed) for check in checks[1:3]] == [("REST answers", False), ("gRPC answers", False)]
    assert "is no quantiles" in checks[2].note


def test_crossed_quantiles_and_infinite_numbers_are_refused():
    from components.tasks import task_of

    task = task_of(QUANTILES)
    name = task.outputs[0]
    with pytest.raises(try_serving.Refused, match="no finite number"):
        try_serving._prediction(task, {name: [[1.0, math.inf, 2.0]]})
    with pytest.raises(try_serving.Refused, match=f"is no {name}"):
        try_serving._prediction(task, {name: [[1.0, 3.0, 2.0]]})
    np.testing.assert_array_equal(try_serving._prediction(task, {name: [[1.0, 2.0, 3.0]]}), [1, 2, 3])
