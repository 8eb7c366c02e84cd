"""A label that is one of several named classes; predictions are a probability for each, in the schema's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.measures import baseline, scores
from components.tasks.label_checks import checked, examples_of, labels_refused, type_refused
from components.tasks.mean_metric import mean_metric
from components.tasks.task import Calibration, Metric, Task, Value

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

    from components.measures.evaluation_rows import EvaluationRows

PROBABILITIES, CLASS = "probabilities", "class"
"""Served outputs: float32 [batch, classes], and the name of the likeliest class, string [batch]."""
LABEL_ROWS = 10
"""Classes of fewer rows judge nothing."""
SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of a row may sum up."""


def _errors(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return (predictions.argmax(axis=1) != labels).astype(np.float64)


def _sureness(_: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> float:
    return scores.mean(predictions.max(axis=1).astype(np.float64), weights)


class Multiclass(Task):
    """See `components.tasks.task.Task`."""

    def unfit(self) -> str:
        """See `Task`."""
        classes = self.schema.classes
        sound = len(classes) > 1 and len(set(classes)) == len(classes) and all(classes)
        if not sound or self.schema.quantiles or self.schema.baseline_as_is:
            return "two classes or more, each with a name of its own, no quantiles, and a baseline of class shares"
        return ""

    @property
    def label_type(self) -> pa.DataType:
        """See `Task`."""
        return pa.string()

    def spark_label(self, label: Column, kind: DataType, row: Column | None = None) -> Column:
        """See `Task`: strings, exactly the names of classes."""
        from pyspark.sql import types

        if not isinstance(kind, types.StringType):
            raise type_refused(self.schema, f"strings: {', '.join(self.schema.classes)}", kind.simpleString())
        words = f"The label {self.schema.label} is none of the schema's classes"
        return checked(label.isin(*self.schema.classes), label, label, words, row)

    def encode(self, labels: pa.ChunkedArray) -> np.ndarray:
        """See `Task`: places of the classes in the schema."""
        type_ = labels.type.value_type if pa.types.is_dictionary(labels.type) else labels.type
        if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
            raise type_refused(self.schema, "strings", str(labels.type))
        names = labels.cast(pa.string())
        places = pc.index_in(names, pa.array(self.schema.classes, pa.string())).fill_null(-1).to_numpy()
        wrong = places < 0
        if wrong.any():
            raise labels_refused(self.schema, f"one of {', '.join(self.schema.classes)}", examples_of(names, wrong))
        return places.astype(np.int64)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """See `Task`."""
        return {
            "log_loss": mean_metric("log loss", scores.class_log_losses, 0.01, unit="nats"),
            "accuracy": mean_metric("accuracy", _errors, 0.01, higher_is_better=True),
        }

    @property
    def figures(self) -> Mapping[str, tuple[str, Value]]:
        """See `Task`."""
        return {"sureness": ("mean top probability", _sureness)}

    @property
    def right_predictions(self) -> str:
        """See `Task`."""
        return f"{len(self.schema.classes)} finite numbers from 0 to 1 that sum up to 1"

    def wrong_rows(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`."""
        inside = np.all((predictions >= 0) & (predictions <= 1), axis=1)
        return ~(inside & (np.abs(predictions.sum(axis=1) - 1) <= SUM_TOLERANCE))

    def perfect(self, labels: np.ndarray) -> np.ndarray:
        """See `Task`."""
        return np.eye(len(self.schema.classes))[labels]

    def decidable(self, labels: np.ndarray) -> str:
        """See `Task`: LABEL_ROWS rows of two classes or more."""
        counts = np.bincount(labels, minlength=len(self.schema.classes))
        if not len(labels):
            return "The interval has no rows with a known label, so that nothing can be judged."
        if np.count_nonzero(counts) == 1:
            return f"All {len(labels)} rows have the label {self._name(labels[0])}, so that nothing can be judged."
        if np.count_nonzero(counts >= LABEL_ROWS) < 2:  # noqa: PLR2004 - One class orders nothing.
            name = self._name(int(counts.argmax()))
            return f"No class but {name} has {LABEL_ROWS} rows of {len(labels)}, so that nothing can be judged."
        return ""

    def described(self, labels: np.ndarray) -> str:
        """See `Task`."""
        counts = np.bincount(labels, minlength=len(self.schema.classes))
        rows = [f"{count:,} {self._name(place)}" for place, count in enumerate(counts)]
        return f"Rows by class: {', '.join(rows)}."

    def baseline(
        self,
        history: np.ndarray | None,
        labels: np.ndarray,
        rows: np.ndarray | None,
        count: int,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Task`: the classes' shares by the feature's value or bin."""
        return baseline.shares(history, labels, len(self.schema.classes), rows, count, weights)

    def calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None
    ) -> Sequence[Calibration]:
        """See `Task`: of the class whose share is foretold worst, of those with LABEL_ROWS rows; none, no ratio."""
        counts = np.bincount(labels, minlength=len(self.schema.classes))
        ratios = {
            place: scores.mean(predictions[:, place].astype(np.float64), weights) / share
            for place in np.flatnonzero(counts >= LABEL_ROWS).tolist()
            if (share := scores.mean(labels == place, weights))
        }
        if not ratios:
            return []
        worst = max(ratios, key=lambda place: abs(np.log(max(ratios[place], 1e-9))))
        top = predictions.argmax(axis=1)
        error = scores.expected_calibration_error(top == labels, predictions.max(axis=1), weights=weights)
        note = (
            f"Mean probability / share of rows, of the class {self._name(worst)}, where it is farthest from 1; the "
            f"expected calibration error of the likeliest class is {error:.4f}."
        )
        return [Calibration("calibration", ratios[worst], note)]

    def analysis_metrics(self) -> Mapping[str, tuple[str, str]]:
        """See `Task`."""
        return {
            "log_loss": ("SparseCategoricalCrossentropy", ""),
            "accuracy": ("SparseCategoricalAccuracy", ""),
        }

    def report(self, rows: EvaluationRows, predictions: Mapping[str, np.ndarray]) -> str:
        """See `Task`: confusion matrix, classes one by one, reliability of the likeliest class."""
        from components.reports import class_tables

        return class_tables.html(self.schema.classes, rows.rows.labels, predictions, rows.rows.weights)

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`: (place of the likeliest class + its probability) / classes, from 0 to 1.

        Its distribution says which classes are answered and how surely; the router works it out alike.
        """
        classes = predictions.shape[1]
        return (predictions.argmax(axis=1) + np.minimum(predictions.max(axis=1), 1 - 1e-6)) / classes

    @property
    def width(self) -> int:
        """See `Task`."""
        return len(self.schema.classes)

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task`."""
        return (PROBABILITIES,)

    def predictions(self, response: Mapping[str, Any]) -> np.ndarray:
        """See `Task`."""
        values = np.asarray(response[PROBABILITIES])
        if values.ndim != 2 or values.shape[1] != len(self.schema.classes):  # noqa: PLR2004 - rows and classes.
            raise ValueError(f"{PROBABILITIES} of shape {list(values.shape)} for {len(self.schema.classes)} classes")
        return values

    def _name(self, place: int) -> str:
        return self.schema.classes[place]
