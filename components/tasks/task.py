"""The interface of a task: steps ask it whatever depends on the kind of label, and know no kind themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airtight.import_string import load
from components.measures import paired
from components.schema import ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

    from components.modelling.heads import Head

BUILT_IN = {
    "binary": "components.tasks.binary:Binary",
    "multiclass": "components.tasks.multiclass:Multiclass",
    "regression": "components.tasks.regression:Regression",
}
"""Tasks by the name that a schema gives; any other name is the import string of a `Task`."""


@dataclass(frozen=True)
class Metric:
    """A metric that decides about a candidate.

    Args:
      value: Of labels [rows] and predictions, [rows] or [rows, outputs]; weights [rows] are None where none count.
      gain: The candidate's gain over another model, positive where the candidate is better, of labels, candidate's
        predictions, the other's, and block numbers [rows].
      higher_is_better: The direction of `value`.
      margin: By how much a candidate may be worse than a champion, by default, in the metric's unit; relative to the
        champion's value where `relative`.
      baseline_gain: By how much it must be better than the baseline, likewise.
      relative: Whether `margin` and `baseline_gain` are shares of the other model's value, for metrics that have the
        label's unit.
      size: Of labels [rows]: how many rows the metric's noise is that of.
      unit: "nats", "" for a share, or "label" for the label's own unit.
    """

    value: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]
    gain: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], paired.Gain]
    higher_is_better: bool
    margin: float
    baseline_gain: float = 0.0
    relative: bool = False
    size: Callable[[np.ndarray], float] = len
    unit: str = ""


class Task(ABC):
    """What a label is, and what follows from it.

    Labels are encoded: int64 0 or 1 for `binary`, int64 index into the schema's classes for `multiclass`, float64 for
    `regression`. Predictions are float64: probabilities [rows] for `binary` and [rows, classes] for `multiclass`,
    values [rows], or [rows, quantiles] where the schema has quantiles, for `regression`.

    Args:
      schema: Of the pipeline's examples.
    """

    def __init__(self, schema: ExampleSchema) -> None:
        self.schema = schema

    # --- The label -----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def label_type(self) -> pa.DataType:
        """Type of the label's column in examples: int64, string or float64."""

    @abstractmethod
    def spark_label(self, label: Column, kind: DataType, row: Column | None = None) -> Column:
        """The label as examples store it, null where unknown.

        Args:
          label: What the pipeline's transform made.
          kind: Its type. A value that is no label raises when Spark computes it (`raise_error`), and names the value.
          row: Text that names the row, for that message.

        Raises:
          TerminalError: A column of this type holds no labels of this task.
        """

    @abstractmethod
    def encode(self, labels: pa.ChunkedArray) -> np.ndarray:
        """Encoded labels [rows] of a column of examples.

        Raises:
          TerminalError: A label is missing, or is none of this task.
        """

    # --- Metrics, gates, reports ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics that decide, the first one foremost."""

    @abstractmethod
    def wrong_predictions(self, predictions: np.ndarray) -> int:
        """How many rows of predictions are none: not finite, no probabilities, or quantiles that cross."""

    @abstractmethod
    def decidable(self, labels: np.ndarray) -> str:
        """Why these encoded labels [rows] can judge nothing, in a sentence; empty where they can."""

    @abstractmethod
    def baseline(
        self, history: np.ndarray | None, labels: np.ndarray, rows: np.ndarray | None, count: int
    ) -> np.ndarray:
        """Predictions [count] or [count, outputs] of the schema's baseline feature alone.

        Args:
          history: The feature's values before the interval, [history rows]; None where the schema names no feature.
          labels: Encoded labels of these rows.
          rows: The feature's values to predict for, [count].
          count: How many rows to predict for.
        """

    @abstractmethod
    def score(self, predictions: np.ndarray) -> np.ndarray:
        """One value a row, float64 [rows], by whose distribution drift and releases compare predictions."""

    # --- The model -----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def head(self) -> Head:
        """Loss, activation and served outputs, in TensorFlow."""

    @abstractmethod
    def predictions(self, response: Mapping[str, Any]) -> np.ndarray:
        """Predictions of a served model's outputs by name, each [rows, ...].

        Raises:
          KeyError: An output is missing.
          ValueError: One has another shape.
        """


def task_of(schema: ExampleSchema) -> Task:
    """The task that a schema names.

    Raises:
      TerminalError: There is no such task, or it does not fit the schema.
    """
    task: Task = load(BUILT_IN.get(schema.task, schema.task))(schema)
    return task
