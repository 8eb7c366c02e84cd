"""A label that is 0 or 1; predictions are the probability of 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from components.measures import baseline, paired, scores
from components.schema import PREDICTION
from components.tasks.label_checks import checked, examples_of, labels_refused, type_refused
from components.tasks.mean_metric import mean_metric
from components.tasks.task import Calibration, Metric, Task, Value

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

    from components.measures.evaluation_rows import EvaluationRows

LABEL_ROWS = 10
"""Fewer rows of a label judge nothing."""
_EXPECTED = "0 or 1 in every row"


def _balanced(labels: np.ndarray) -> float:
    """Rows of a set with as many of each label that orders pairs as surely: the rarer label decides."""
    positives = float(labels.sum())
    return 4 * positives * (len(labels) - positives) / len(labels)


def _mean_label(labels: np.ndarray, _: np.ndarray, weights: np.ndarray | None) -> float:
    return scores.mean(labels, weights)


def _precision_recall(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> float:
    return scores.average_precision(labels, predictions, weights)


def _ratio(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> float:
    label = scores.mean(labels, weights)
    return scores.mean(predictions.astype(np.float64), weights) / label if label else float("nan")


class Binary(Task):
    """See `components.tasks.task.Task`."""

    def unfit(self) -> str:
        """See `Task`."""
        if self.schema.classes or self.schema.quantiles or self.schema.baseline_as_is:
            return "no classes, no quantiles, and a baseline that is not the prediction itself"
        return ""

    @property
    def label_type(self) -> pa.DataType:
        """See `Task`."""
        return pa.int64()

    def spark_label(self, label: Column, kind: DataType, row: Column | None = None) -> Column:
        """See `Task`: whole or other numbers of value 0 or 1, or booleans."""
        from pyspark.sql import types

        if isinstance(kind, types.BooleanType):
            return label.cast("long")
        if not isinstance(kind, types.NumericType):
            raise type_refused(self.schema, "numbers 0 and 1, or booleans", kind.simpleString())
        words = f"The label {self.schema.label} is neither 0 nor 1"
        return checked(label.isin(0, 1), label.cast("long"), label, words, row)

    def encode(self, labels: pa.ChunkedArray) -> np.ndarray:
        """See `Task`."""
        if not pa.types.is_integer(labels.type):
            raise type_refused(self.schema, "whole numbers", str(labels.type))
        values = labels.fill_null(-1).to_numpy().astype(np.int64)
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            raise labels_refused(self.schema, _EXPECTED, examples_of(labels, wrong))
        return values

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """See `Task`."""
        area = Metric(
            "ROC AUC", scores.roc_auc, paired.RankGain.of, True, 0.008, 0.01, size=_balanced, property="roc_auc"
        )
        return {"auc": area, "log_loss": mean_metric("log loss", scores.log_losses, 0.008, unit="nats")}

    @property
    def figures(self) -> Mapping[str, tuple[str, Value]]:
        """See `Task`."""
        return {
            "mean_label": ("share of label 1", _mean_label),
            "auc_precision_recall": ("PR AUC", _precision_recall),
            "calibration": ("calibration", _ratio),
        }

    @property
    def right_predictions(self) -> str:
        """See `Task`."""
        return "finite numbers from 0 to 1"

    def wrong_rows(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`."""
        return ~((predictions >= 0) & (predictions <= 1))

    def perfect(self, labels: np.ndarray) -> np.ndarray:
        """See `Task`."""
        return labels.astype(np.float64)

    def decidable(self, labels: np.ndarray) -> str:
        """See `Task`: LABEL_ROWS rows of each label."""
        counts = np.bincount(labels, minlength=2)
        if not len(labels):
            return "The interval has no rows with a known label, so that nothing can be judged."
        if not counts.min():
            return f"All {len(labels)} rows have the label {labels[0]}, so that nothing can be judged."
        if counts.min() < LABEL_ROWS:
            rarer = int(counts.argmin())
            return f"Only {counts[rarer]} rows have the label {rarer}; {LABEL_ROWS} are needed to judge anything."
        return ""

    def described(self, labels: np.ndarray) -> str:
        """See `Task`."""
        counts = np.bincount(labels, minlength=2)
        return f"{counts[0]:,} rows have the label 0 and {counts[1]:,} the label 1."

    def baseline(
        self,
        history: np.ndarray | None,
        labels: np.ndarray,
        rows: np.ndarray | None,
        count: int,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Task`: the share of label 1 by the feature's value or bin."""
        return baseline.means(history, labels, rows, count, weights)

    def calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None
    ) -> Sequence[Calibration]:
        """See `Task`."""
        error = scores.expected_calibration_error(labels, predictions, weights=weights)
        note = f"Mean prediction / mean label; the expected calibration error is {error:.4f}."
        return [Calibration("calibration", _ratio(labels, predictions, weights), note)]

    def analysis_metrics(self) -> Mapping[str, tuple[str, str]]:
        """See `Task`."""
        return {
            "auc": ("AUC", ""),
            "auc_precision_recall": ("AUC", '"curve": "PR"'),
            "log_loss": ("BinaryCrossEntropy", ""),
            "calibration": ("Calibration", ""),
            "mean_label": ("MeanLabel", ""),
            "mean_prediction": ("MeanPrediction", ""),
        }

    def report(self, rows: EvaluationRows, predictions: Mapping[str, np.ndarray]) -> str:
        """See `Task`: ROC, precision-recall and calibration curves."""
        from components.reports import binary_curves

        return binary_curves.html(rows.rows.labels, predictions, rows.rows.weights)

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`: the probability."""
        return predictions.astype(np.float64)

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task`."""
        return (PREDICTION,)

    def predictions(self, response: Mapping[str, Any]) -> np.ndarray:
        """See `Task`."""
        values = np.asarray(response[PREDICTION])
        if values.ndim != 1:
            raise ValueError(f"{PREDICTION} of shape {list(values.shape)}")
        return values
