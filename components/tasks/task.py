"""The interface of a task: steps ask it whatever depends on the kind of label, and know no kind themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airtight.errors import TerminalError
from airtight.import_string import load
from components.measures import paired
from components.schema import ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

    from components.measures.evaluation_rows import EvaluationRows
    from components.modelling.head import Head

BUILT_IN = {
    "binary": "components.tasks.binary:Binary",
    "multiclass": "components.tasks.multiclass:Multiclass",
    "regression": "components.tasks.regression:Regression",
}
"""Tasks by the name that a schema gives; any other name is the import string of a `Task`."""

Value = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]
"""A figure of encoded labels [rows], predictions [rows] or [rows, outputs], and weights [rows] or None."""
Gain = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None], paired.Gain]
"""The candidate's gain, positive where it is better, of encoded labels [rows], the candidate's predictions, the other
model's, block numbers [rows], and weights [rows] or None."""


@dataclass(frozen=True)
class Metric:
    """A metric that decides about a candidate.

    Args:
      title: What reports call it.
      value: Of a model.
      gain: Of the candidate over another model.
      higher_is_better: The direction of `value`.
      margin: By how much a candidate may be worse than a champion, by default, in the metric's unit; relative to the
        champion's value where `relative`.
      baseline_gain: By how much it must be better than the baseline, likewise.
      relative: Whether `margin` and `baseline_gain` are shares of the other model's value, for metrics that have the
        label's unit.
      size: Of labels [rows]: how many rows the metric's noise is that of.
      unit: "nats", "" for a share, or "label" for the label's own unit.
      property: Its custom property of an evaluation, where that is another name than the metric's.
      losses: Of a metric that is a mean over rows, the loss of each, float64 [rows], of labels and predictions.
    """

    title: str
    value: Value
    gain: Gain
    higher_is_better: bool
    margin: float
    baseline_gain: float = 0.0
    relative: bool = False
    size: Callable[[np.ndarray], float] = len
    unit: str = ""
    property: str = ""
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Calibration:
    """How well predictions match what came of them, as one ratio.

    Args:
      name: Of the check.
      ratio: 1 where they match.
      note: What the ratio is, in a sentence.
    """

    name: str
    ratio: float
    note: str


class Task(ABC):
    """What a label is, and what follows from it.

    Labels are encoded: int64 0 or 1 for `binary`, int64 index into the schema's classes for `multiclass`, float64 for
    `regression`. Predictions are floats: probabilities [rows] for `binary` and [rows, classes] for `multiclass`,
    values [rows], or [rows, quantiles] where the schema has quantiles, for `regression`.

    Args:
      schema: Of the pipeline's examples.

    Raises:
      TerminalError: The schema does not fit the task.
    """

    def __init__(self, schema: ExampleSchema) -> None:
        self.schema = schema
        lacking = self.unfit()
        if lacking:
            raise TerminalError(
                f"The schema of {schema.label} does not fit the task {schema.task}.",
                expected=lacking,
                received=f"classes {schema.classes}, quantiles {schema.quantiles}, baseline {schema.baseline!r}",
                remedy="Correct the schema.",
            )

    @abstractmethod
    def unfit(self) -> str:
        """What the schema would have to be for this task; empty where it is."""

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

    def labels(self, table: pa.Table) -> np.ndarray:
        """Encoded labels of some examples, [rows], or [rows, labels] where the schema has several.

        Raises:
          TerminalError: As `encode`.
        """
        return self.encode(table[self.schema.label])

    @abstractmethod
    def encode(self, labels: pa.ChunkedArray) -> np.ndarray:
        """Encoded labels [rows] of a column of examples.

        Raises:
          TerminalError: A label is missing, or is none of this task.
        """

    # --- Several labels: see `components.tasks.several` ----------------------------------------------------------

    @property
    def parts(self) -> Mapping[str, Task]:
        """The task of each label, by its name."""
        return {self.schema.label: self}

    def labels_of(self, name: str, labels: np.ndarray) -> np.ndarray:
        """Encoded labels [rows] of the label of this name, of those of all labels."""
        return labels

    def predictions_of(self, name: str, predictions: np.ndarray) -> np.ndarray:
        """Predictions of the label of this name, [rows] or [rows, outputs], of those of all labels."""
        return predictions

    # --- Metrics, gates, reports ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics that decide, the first one foremost."""

    @property
    def figures(self) -> Mapping[str, tuple[str, Value]]:
        """What reports show by slice beside `metrics`: title and value by name."""
        return {}

    @property
    @abstractmethod
    def right_predictions(self) -> str:
        """What predictions must be, for messages, such as "finite numbers from 0 to 1"."""

    @abstractmethod
    def wrong_rows(self, predictions: np.ndarray) -> np.ndarray:
        """Which rows of predictions are none, bool [rows]: not finite, no probabilities, or quantiles that cross."""

    def wrong_predictions(self, predictions: np.ndarray) -> int:
        """How many rows of predictions are none."""
        return int(np.count_nonzero(self.wrong_rows(predictions)))

    @abstractmethod
    def perfect(self, labels: np.ndarray) -> np.ndarray:
        """Predictions of who knows the encoded labels [rows]: what the interval of a metric's value is a gain over."""

    @abstractmethod
    def decidable(self, labels: np.ndarray) -> str:
        """Why these encoded labels [rows] can judge nothing, in a sentence; empty where they can."""

    @abstractmethod
    def described(self, labels: np.ndarray) -> str:
        """How encoded labels [rows], at least one, are distributed, in a sentence."""

    @abstractmethod
    def baseline(
        self,
        history: np.ndarray | None,
        labels: np.ndarray,
        rows: np.ndarray | None,
        count: int,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """Predictions [count] or [count, outputs] of the schema's baseline feature alone.

        Args:
          history: The feature's values before the interval, [history rows]; None where the schema names no feature.
          labels: Encoded labels of these rows.
          rows: The feature's values to predict for, [count].
          count: How many rows to predict for.
          weights: Of the rows of `history`.
        """

    def baselines(
        self,
        history: Mapping[str, np.ndarray],
        labels: np.ndarray,
        rows: Mapping[str, np.ndarray],
        count: int,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """As `baseline`, of features by name."""
        feature = self.schema.baseline
        return self.baseline(history.get(feature), labels, rows.get(feature), count, weights)

    @abstractmethod
    def calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None
    ) -> Sequence[Calibration]:
        """How well predictions match encoded labels [rows], in the order of the report."""

    @abstractmethod
    def analysis_metrics(self) -> Mapping[str, tuple[str, str]]:
        """TensorFlow Model Analysis's metrics by name: class, and its configuration as JSON without braces."""

    def analysed(self, predictions: np.ndarray) -> np.ndarray:
        """What TensorFlow Model Analysis gets of predictions, [rows] or [rows, outputs]."""
        return predictions

    @abstractmethod
    def report(self, rows: EvaluationRows, predictions: Mapping[str, np.ndarray]) -> str:
        """What an evaluation's report shows of the models' predictions over all rows, as HTML.

        Args:
          rows: What was predicted.
          predictions: By "candidate" and, where there is one, "champion".
        """

    @abstractmethod
    def score(self, predictions: np.ndarray) -> np.ndarray:
        """One value a row, float64 [rows], by whose distribution drift and releases compare predictions."""

    def answers_range(self, predictions: np.ndarray) -> tuple[float, float]:
        """The range in which nearly all scores lie; a release compares them in its units."""
        return 0.0, 1.0

    # --- The model -----------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """Loss, activation and served outputs, in TensorFlow."""
        head: Head = load("components.modelling.heads:head_of")(self.schema)
        return head

    @property
    def width(self) -> int:
        """Numbers that are predicted of a row; 0 where predictions are [rows]."""
        return 0

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """The served outputs that `predictions` reads."""

    @property
    def compared_output(self) -> str:
        """The served output by which the router compares answers, as `score` does."""
        return self.outputs[0]

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
    if schema.more_labels:
        several: Task = load("components.tasks.several:Several")(schema)
        return several
    if schema.task not in BUILT_IN and ":" not in schema.task:
        raise TerminalError(
            "There is no such task.",
            expected=f"{', '.join(BUILT_IN)}, or the import string of a components.tasks.Task",
            received=repr(schema.task),
            remedy="Correct the schema.",
        )
    task: Task = load(BUILT_IN.get(schema.task, schema.task))(schema)
    return task
