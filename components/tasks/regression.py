"""A label that is a number; predictions are its mean, or its quantiles where the schema has them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from components.measures import baseline, scores
from components.tasks.label_checks import checked, examples_of, labels_refused, type_refused
from components.tasks.mean_metric import mean_metric
from components.tasks.task import Calibration, Metric, Task, Value

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

    from components.measures.evaluation_rows import EvaluationRows

POINT, QUANTILES = "prediction", "quantiles"
"""Served outputs: float32 [batch], the mean or the quantile nearest to the median, and float32 [batch, quantiles]."""
LABEL_ROWS = 20
"""Fewer rows judge nothing."""


def point(predictions: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """One value a row of predictions [rows] or [rows, quantiles]: that of the quantile nearest to the median."""
    return predictions[:, np.argmin(np.abs(np.array(quantiles) - 0.5))] if quantiles else predictions


class Regression(Task):
    """See `components.tasks.task.Task`."""

    def unfit(self) -> str:
        """See `Task`."""
        levels = self.schema.quantiles
        rising = all(low < high for low, high in itertools.pairwise(levels))
        if self.schema.classes or not rising or not all(0 < level < 1 for level in levels):
            return "no classes, and quantiles that rise and lie between 0 and 1"
        numbers = self.schema.of_kind("number")
        if self.schema.baseline_as_is and self.schema.baseline not in numbers:
            return "a baseline that is a number, where it is the prediction itself"
        if self.schema.reference not in ("", *numbers):
            return "a reference that is a number"
        return ""

    @property
    def label_type(self) -> pa.DataType:
        """See `Task`."""
        return pa.float64()

    def spark_label(self, label: Column, kind: DataType, row: Column | None = None) -> Column:
        """See `Task`: finite numbers."""
        from pyspark.sql import functions as F
        from pyspark.sql import types

        if not isinstance(kind, types.NumericType):
            raise type_refused(self.schema, "numbers", kind.simpleString())
        value = label.cast("double")
        right = ~F.isnan(value) & (F.abs(value) < float("inf"))
        return checked(right, value, label, f"The label {self.schema.label} is no finite number", row)

    def encode(self, labels: pa.ChunkedArray) -> np.ndarray:
        """See `Task`."""
        if not pa.types.is_floating(labels.type):
            raise type_refused(self.schema, "float64", str(labels.type))
        values = labels.cast(pa.float64()).fill_null(float("nan")).to_numpy()
        wrong = ~np.isfinite(values)
        if wrong.any():
            raise labels_refused(self.schema, "a finite number in every row", examples_of(labels, wrong))
        return values

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """See `Task`."""
        metrics = {"mae": mean_metric("MAE", self._errors, 0.02, relative=True, unit="label")}
        if self.schema.quantiles:
            metrics["pinball"] = mean_metric("pinball loss", self._losses, 0.02, relative=True, unit="label")
        return metrics

    @property
    def figures(self) -> Mapping[str, tuple[str, Value]]:
        """See `Task`."""
        return {
            "mean_label": ("mean label", lambda labels, _, weights: scores.mean(labels, weights)),
            "mean_prediction": (
                "mean prediction",
                lambda _, predicted, weights: scores.mean(self._of(predicted), weights),
            ),
            "rmse": ("RMSE", self._rmse),
        }

    def _of(self, predictions: np.ndarray) -> np.ndarray:
        return point(predictions, self.schema.quantiles).astype(np.float64)

    def _errors(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return np.abs(labels - self._of(predictions))

    def _losses(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return scores.pinball_losses(labels, predictions, self.schema.quantiles)

    def _rmse(self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> float:
        return float(np.sqrt(scores.mean(self._errors(labels, predictions) ** 2, weights)))

    @property
    def right_predictions(self) -> str:
        """See `Task`."""
        return "finite numbers" + (", quantiles rising" if self.schema.quantiles else "")

    def wrong_rows(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`."""
        wrong = ~np.isfinite(predictions)
        if self.schema.quantiles:
            wrong = wrong.any(axis=1) | (np.diff(predictions, axis=1) < 0).any(axis=1)
        return wrong

    def perfect(self, labels: np.ndarray) -> np.ndarray:
        """See `Task`."""
        levels = len(self.schema.quantiles)
        return np.repeat(labels[:, None], levels, axis=1) if levels else labels

    def decidable(self, labels: np.ndarray) -> str:
        """See `Task`: LABEL_ROWS rows that are not all the same."""
        if not len(labels):
            return "The interval has no rows with a known label, so that nothing can be judged."
        if len(labels) < LABEL_ROWS:
            return f"The interval has {len(labels)} rows; {LABEL_ROWS} are needed to judge anything."
        if labels.min() == labels.max():
            return f"All {len(labels)} rows have the label {labels[0]:g}, so that nothing can be judged."
        return ""

    def described(self, labels: np.ndarray) -> str:
        """See `Task`."""
        low, middle, high = np.quantile(labels, (0, 0.5, 1))
        return f"{len(labels):,} rows with labels from {low:g} to {high:g}, median {middle:g}."

    def baseline(
        self,
        history: np.ndarray | None,
        labels: np.ndarray,
        rows: np.ndarray | None,
        count: int,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Task`: the mean, or the quantiles, by the feature's value or bin.

        Where the schema says that the feature is the prediction itself, it is that, and quantiles lie around it as
        labels lay around it before; a row without it has what all rows had.
        """
        levels = self.schema.quantiles
        if not self.schema.baseline_as_is or history is None or rows is None:
            if levels:
                return baseline.quantiles(history, labels, rows, count, levels, weights)
            return baseline.means(history, labels, rows, count, weights)
        return self._as_is(history.astype(np.float64), labels, rows.astype(np.float64), weights)

    def _as_is(
        self, history: np.ndarray, labels: np.ndarray, rows: np.ndarray, weights: np.ndarray | None
    ) -> np.ndarray:
        levels = self.schema.quantiles
        if not levels:
            return np.where(np.isnan(rows), baseline.means(None, labels, None, len(rows), weights), rows)
        overall = baseline.weighted_quantiles(labels, levels, weights)
        known = ~np.isnan(history)
        of_known = None if weights is None else weights[known]
        around = baseline.weighted_quantiles(labels[known] - history[known], levels, of_known) if known.any() else 0.0
        return np.where(np.isnan(rows)[:, None], overall, rows[:, None] + around)

    def calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None
    ) -> Sequence[Calibration]:
        """See `Task`: of each quantile how often labels are beyond it; of a mean its bias, in standard deviations."""
        checks = []
        for place, level in enumerate(self.schema.quantiles):
            below = scores.mean(labels <= predictions[:, place], weights)
            tail, expected, side = (below, level, "up to") if level <= 0.5 else (1 - below, 1 - level, "above")  # noqa: PLR2004
            note = f"Share of labels {side} the quantile, {tail:.3f}, / {expected:g}."
            checks.append(Calibration(f"coverage of quantile {level:g}", tail / expected, note))
        if not checks:
            bias = scores.mean(predictions.astype(np.float64) - labels, weights)
            note = f"1 + bias / standard deviation of the labels; the mean prediction is off by {bias:+.4g}."
            spread = np.sqrt(scores.mean((labels - scores.mean(labels, weights)) ** 2, weights))
            checks.append(Calibration("calibration", 1 + bias / float(spread), note))
        return checks

    def analysis_metrics(self) -> Mapping[str, tuple[str, str]]:
        """See `Task`."""
        return {
            "mae": ("MeanAbsoluteError", ""),
            "mse": ("MeanSquaredError", ""),
            "mean_label": ("MeanLabel", ""),
            "mean_prediction": ("MeanPrediction", ""),
        }

    def analysed(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`: values [rows]."""
        return point(predictions, self.schema.quantiles)

    def report(self, rows: EvaluationRows, predictions: Mapping[str, np.ndarray]) -> str:
        """See `Task`: errors, predicted against actual values, coverage, error over time."""
        from components.reports import regression_errors

        return regression_errors.html(self.schema.quantiles, rows.rows, predictions)

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`: the predicted value, of quantiles the one nearest to the median."""
        return self._of(predictions)

    def answers_range(self, predictions: np.ndarray) -> tuple[float, float]:
        """See `Task`: 98 of 100 values lie in it."""
        low, high = np.quantile(self.score(predictions), (0.01, 0.99)).tolist()
        return (low, high) if low < high else (low - 0.5, high + 0.5)

    @property
    def width(self) -> int:
        """See `Task`."""
        return len(self.schema.quantiles)

    @property
    def compared_output(self) -> str:
        """See `Task`."""
        return POINT

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task`."""
        return (QUANTILES,) if self.schema.quantiles else (POINT,)

    def predictions(self, response: Mapping[str, Any]) -> np.ndarray:
        """See `Task`."""
        (name,), width = self.outputs, len(self.schema.quantiles)
        values = np.asarray(response[name])
        if values.ndim != 1 + bool(width) or (width and values.shape[1] != width):
            raise ValueError(f"{name} of shape {list(values.shape)}" + (f" for {width} quantiles" if width else ""))
        return values
