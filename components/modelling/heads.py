"""Heads, one class for each kind of label; see `components.modelling.head`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from airtight.errors import TerminalError
from airtight.import_string import load
from components.measures import scores
from components.modelling import calibration
from components.modelling.head import CLASSIFY, REGRESS, Calibration, Head
from components.schema import ExampleSchema
from components.tasks.task import BUILT_IN, task_of


class Binary(Head):
    """The probability that the label is 1: a logit."""

    calibrations = calibration.KINDS
    loss_name = "log_loss"
    method = CLASSIFY
    outputs = 1
    objectives = ({"objective": "binary"},)

    def loss(self, target: Any, logits: Any) -> Any:
        """Binary cross-entropy."""
        logits = logits[..., 0]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.broadcast_to(target, tf.shape(logits)), logits)
        return tf.reduce_mean(losses, axis=-1)

    def predictions(self, logits: Any) -> Any:
        """Probabilities, [batch]."""
        return tf.reduce_mean(tf.sigmoid(logits[..., 0]), axis=-1)

    def scores(self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
        """Log loss in nats, ROC AUC."""
        return {
            "log_loss": scores.log_loss(labels, predictions, weights),
            "roc_auc": scores.roc_auc(labels, predictions, weights),
        }

    def _calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None, kind: str
    ) -> Calibration:
        scale, shift = calibration.fit(labels, predictions, kind, weights)
        return {"scale": scale, "shift": shift}

    def calibrated(self, predictions: Any, parameters: Calibration) -> Any:
        """The logit is scaled and shifted."""
        mean = tf.clip_by_value(predictions, calibration.CLIP, 1 - calibration.CLIP)
        logit = tf.math.log(mean) - tf.math.log1p(-mean)
        return tf.sigmoid(parameters.get("scale", 1.0) * logit + parameters.get("shift", 0.0))

    def served(self, predictions: Any) -> dict[str, Any]:
        """`probability` [batch]."""
        return {"probability": predictions}

    def examples_outputs(self, predictions: Any) -> dict[str, Any]:
        """Both classes, "0" and "1", with their probabilities."""
        return _classes(("0", "1"), tf.stack([1 - predictions, predictions], axis=1))


class Softmax(Head):
    """The probabilities of the schema's classes: a logit each."""

    calibrations = ("none", "temperature")
    loss_name = "log_loss"
    method = CLASSIFY

    @property
    def outputs(self) -> int:
        """One for each class."""
        return len(self.schema.classes)

    def loss(self, target: Any, logits: Any) -> Any:
        """Cross-entropy."""
        labels = tf.broadcast_to(tf.cast(target, tf.int32), tf.shape(logits)[:2])
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), axis=-1)

    def predictions(self, logits: Any) -> Any:
        """Probabilities, [batch, classes]."""
        return tf.reduce_mean(tf.nn.softmax(logits), axis=1)

    def scores(self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
        """Log loss in nats, share of rows whose most probable class is theirs."""
        right = (predictions.argmax(axis=1) == labels).astype(np.float64)
        return {
            "log_loss": scores.mean(scores.class_log_losses(labels, predictions), weights),
            "accuracy": scores.mean(right, weights),
        }

    def _calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None, kind: str
    ) -> Calibration:
        return {"temperature": calibration.fit_temperature(labels, predictions, weights)}

    def calibrated(self, predictions: Any, parameters: Calibration) -> Any:
        """The logarithms of the probabilities are divided by the temperature."""
        if "temperature" not in parameters:
            return predictions
        logits = tf.math.log(tf.clip_by_value(predictions, calibration.CLIP, 1))
        return tf.nn.softmax(logits / parameters["temperature"])

    def served(self, predictions: Any) -> dict[str, Any]:
        """`probabilities` [batch, classes] and `class` [batch], the name of the most probable one."""
        return {
            "probabilities": predictions,
            "class": tf.gather(tf.constant(self.schema.classes), tf.argmax(predictions, axis=1)),
        }

    def examples_outputs(self, predictions: Any) -> dict[str, Any]:
        """All classes with their probabilities."""
        return _classes(self.schema.classes, predictions)

    @property
    def objectives(self) -> tuple[Mapping[str, Any], ...]:
        """One booster, a tree of each class at a time."""
        return ({"objective": "multiclass", "num_class": self.outputs},)


class Regression(Head):
    """The label's mean, or quantiles of it; what is learned has mean 0 and standard deviation 1.

    With a reference the logarithm of the label + 1 is learned, and logits hold that of the reference + 1 already.
    """

    calibrations = ("none", "shift")
    method = REGRESS

    def __init__(self, schema: ExampleSchema, center: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(schema, center, scale)
        self.quantiles = schema.quantiles

    @property
    def outputs(self) -> int:
        """One for each quantile, or one for the mean."""
        return len(self.quantiles) or 1

    @property
    def loss_name(self) -> str:
        """Of the label's unit, or its square."""
        return "pinball" if self.quantiles else "mean_squared_error"

    @property
    def loss_scale(self) -> float:
        """Of labels that are standardized."""
        return self.scale if self.quantiles else self.scale**2

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Standardized labels, or with a reference their logarithms.

        Raises:
          TerminalError: There is a reference, and a label is below 0.
        """
        if self.schema.reference:
            if len(labels) and labels.min() < 0:
                raise TerminalError(
                    f"A label {self.schema.label} is below 0, and in proportion to no {self.schema.reference}.",
                    expected="labels of 0 or more",
                    received=float(labels.min()),
                    remedy="Correct the labels, or leave the schema's reference empty.",
                )
            return np.log1p(labels).astype(np.float32)
        return ((labels - self.center) / self.scale).astype(np.float32)

    def loss(self, target: Any, logits: Any) -> Any:
        """Squared error, or the mean of the quantiles' pinball losses."""
        error = target[:, None, :] - logits
        if not self.quantiles:
            return tf.reduce_mean(tf.square(error), axis=[1, 2])
        levels = tf.constant(self.quantiles, error.dtype)
        return tf.reduce_mean(tf.maximum(levels * error, (levels - 1) * error), axis=[1, 2])

    def predictions(self, logits: Any) -> Any:
        """Values [batch], or [batch, quantiles], in the label's unit."""
        mean = tf.reduce_mean(logits, axis=1)
        values = tf.nn.relu(tf.math.expm1(mean)) if self.schema.reference else self.center + self.scale * mean
        return tf.sort(values, axis=1) if self.quantiles else values[:, 0]

    def scores(self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
        """The loss, in the label's unit, and the mean absolute error of what is served as the prediction."""
        point = predictions[:, self._point] if self.quantiles else predictions
        losses = (
            scores.pinball_losses(labels, predictions, self.quantiles)
            if self.quantiles
            else np.square(labels - predictions)
        )
        return {self.loss_name: scores.mean(losses, weights), "mae": scores.mean(np.abs(labels - point), weights)}

    def _calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None, kind: str
    ) -> Calibration:
        return {"shift": calibration.fit_shift(labels, predictions, weights, self.quantiles)}

    def calibrated(self, predictions: Any, parameters: Calibration) -> Any:
        """What is predicted is shifted, each quantile by its own amount."""
        if "shift" not in parameters:
            return predictions
        shifted = predictions + tf.constant(parameters["shift"], predictions.dtype)
        return tf.sort(shifted, axis=1) if self.quantiles else shifted

    @property
    def _point(self) -> int:
        """Which quantile is served as the prediction: the median, or the one nearest to it."""
        return int(np.argmin(np.abs(np.array(self.quantiles) - 0.5)))

    def served(self, predictions: Any) -> dict[str, Any]:
        """`prediction` [batch], and `quantiles` [batch, quantiles] where there are some."""
        if not self.quantiles:
            return {"prediction": predictions}
        return {"prediction": predictions[:, self._point], "quantiles": predictions}

    def examples_outputs(self, predictions: Any) -> dict[str, Any]:
        """The prediction."""
        return {"outputs": self.served(predictions)["prediction"]}

    @property
    def objectives(self) -> tuple[Mapping[str, Any], ...]:
        """A booster for each quantile, or one for the mean."""
        if not self.quantiles:
            return ({"objective": "regression"},)
        return tuple({"objective": "quantile", "alpha": level} for level in self.quantiles)


HEADS: Mapping[str, type[Head]] = {"binary": Binary, "multiclass": Softmax, "regression": Regression}
"""By the names of the built-in tasks."""


def head_of(schema: ExampleSchema) -> Head:
    """The head of a schema whose task is a built-in one, or inherits from it; not yet fitted to labels.

    Raises:
      TerminalError: The task does not fit the schema, or has to bring a head of its own.
    """
    task = task_of(schema)
    heads = [head for name, head in HEADS.items() if isinstance(task, load(BUILT_IN[name]))]
    if not heads:
        raise TerminalError(
            f"The task {schema.task} has no head.",
            expected=f"a task that inherits from {', '.join(BUILT_IN[name] for name in HEADS)}, or has a `head`",
            received=type(task).__name__,
            remedy="Give the task a property `head` that answers a `components.modelling.head.Head`.",
        )
    return heads[0](schema)


def _classes(names: Sequence[str], scores_: Any) -> dict[str, Any]:
    return {"classes": tf.tile(tf.constant([names]), [tf.shape(scores_)[0], 1]), "scores": scores_}
