"""Several labels of one model: each has its own task, and all that is measured and served of it bears its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa

from airtight.errors import TerminalError
from airtight.import_string import load
from components.measures import paired
from components.schema import ExampleSchema
from components.tasks.task import Calibration, Metric, Task, Value, task_of

if TYPE_CHECKING:
    from components.measures.evaluation_rows import EvaluationRows
    from components.modelling.head import Head


class Several(Task):
    """See `components.tasks.task.Task`.

    Encoded labels are float64 [rows, labels], in the order of the schema; predictions are [rows, outputs], those of one
    label after those of the other. Metrics, figures and served outputs are called `<label>_<name>`.
    """

    def __init__(self, schema: ExampleSchema) -> None:
        self._parts = {name: task_of(alone) for name, alone in schema.by_label.items()}
        widths = [part.width or 1 for part in self._parts.values()]
        ends = list(accumulate(widths))
        self._columns = {
            name: slice(end - width, end) for name, end, width in zip(self._parts, ends, widths, strict=True)
        }
        super().__init__(schema)
        names = [*schema.labels, *self.metrics, *self.figures, *self.outputs]
        twice = [name for name, count in Counter(names).items() if count > 1]
        twice += sorted(set(schema.labels) & set(schema.names))
        # Their dictionaries hold a name once, however often it came up.
        expected = sum(len(part.metrics) for part in self._parts.values())
        if twice or schema.reference or len(self.metrics) < expected:
            raise TerminalError(
                "The labels of the schema do not go together.",
                expected="labels of different names that are no features, and no reference",
                received=f"{', '.join(twice) or ', '.join(schema.labels)}; reference {schema.reference!r}",
                remedy="Correct the schema.",
            )

    def unfit(self) -> str:
        """See `Task`: each label's own task has said so."""
        return ""

    @property
    def parts(self) -> Mapping[str, Task]:
        """See `Task`."""
        return self._parts

    def labels_of(self, name: str, labels: np.ndarray) -> np.ndarray:
        """See `Task`."""
        column = labels[:, list(self._parts).index(name)]
        return column if pa.types.is_floating(self._parts[name].label_type) else column.astype(np.int64)

    def predictions_of(self, name: str, predictions: np.ndarray) -> np.ndarray:
        """See `Task`."""
        columns = predictions[:, self._columns[name]]
        return columns if self._parts[name].width else columns[:, 0]

    def labels(self, table: pa.Table) -> np.ndarray:
        """See `Task`."""
        return np.stack([part.labels(table).astype(np.float64) for part in self._parts.values()], axis=1)

    def encode(self, labels: pa.ChunkedArray) -> NoReturn:
        """Labels are of one column each: see `labels`."""
        raise self._of_one_label()

    @property
    def label_type(self) -> pa.DataType:
        """Each label has its own."""
        raise self._of_one_label()

    def spark_label(self, *_: Any) -> NoReturn:
        """Each label has its own."""
        raise self._of_one_label()

    def analysis_metrics(self) -> NoReturn:
        """Each label is analysed by itself."""
        raise self._of_one_label()

    def baseline(self, *_: Any) -> NoReturn:
        """Each label has its own: see `baselines`."""
        raise self._of_one_label()

    def _of_one_label(self) -> TypeError:
        return TypeError(f"Of the labels {', '.join(self._parts)} each has its own: ask Task.parts.")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """See `Task`: those of the first label foremost."""
        return {
            f"{name}_{metric}": replace(
                described,
                title=f"{described.title} of {name}",
                value=self._value(name, described.value),
                gain=self._gain(name, described),
                size=self._size(name, described),
                property=f"{name}_{described.property or metric}",
                losses=self._losses(name, described),
            )
            for name, part in self._parts.items()
            for metric, described in part.metrics.items()
        }

    @property
    def figures(self) -> Mapping[str, tuple[str, Value]]:
        """See `Task`."""
        return {
            f"{name}_{figure}": (f"{title} of {name}", self._value(name, value))
            for name, part in self._parts.items()
            for figure, (title, value) in part.figures.items()
        }

    def _value(self, name: str, value: Value) -> Value:
        def of_label(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> float:
            return value(self.labels_of(name, labels), self.predictions_of(name, predictions), weights)

        return of_label

    def _gain(self, name: str, metric: Metric) -> Callable[..., paired.Gain]:
        def of_label(
            labels: np.ndarray, candidate: np.ndarray, other: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None
        ) -> paired.Gain:
            own, others = (self.predictions_of(name, predictions) for predictions in (candidate, other))
            return metric.gain(self.labels_of(name, labels), own, others, blocks, weights)

        return of_label

    def _losses(self, name: str, metric: Metric) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
        losses = metric.losses
        if losses is None:
            return None
        return lambda labels, predictions: losses(self.labels_of(name, labels), self.predictions_of(name, predictions))

    def _size(self, name: str, metric: Metric) -> Callable[[np.ndarray], float]:
        return lambda labels: metric.size(self.labels_of(name, labels))

    @property
    def right_predictions(self) -> str:
        """See `Task`."""
        return "; ".join(f"{name}: {part.right_predictions}" for name, part in self._parts.items())

    def wrong_rows(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`: of any label."""
        parts = self._parts.items()
        return np.any([part.wrong_rows(self.predictions_of(name, predictions)) for name, part in parts], axis=0)

    def perfect(self, labels: np.ndarray) -> np.ndarray:
        """See `Task`: one label after the other."""
        parts = self._parts.items()
        own = [part.perfect(self.labels_of(name, labels)).reshape(len(labels), -1) for name, part in parts]
        return np.concatenate(own, axis=1)

    def decidable(self, labels: np.ndarray) -> str:
        """See `Task`: of the first label that judges nothing."""
        for name, part in self._parts.items():
            if why := part.decidable(self.labels_of(name, labels)):
                return f"{name}: {why}"
        return ""

    def described(self, labels: np.ndarray) -> str:
        """See `Task`."""
        parts = self._parts.items()
        return " ".join(f"{name}: {part.described(self.labels_of(name, labels))}" for name, part in parts)

    def baselines(
        self,
        history: Mapping[str, np.ndarray],
        labels: np.ndarray,
        rows: Mapping[str, np.ndarray],
        count: int,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Task`: each label by its own feature."""
        return np.concatenate(
            [
                part.baselines(history, self.labels_of(name, labels), rows, count, weights).reshape(count, -1)
                for name, part in self._parts.items()
            ],
            axis=1,
        )

    def calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None
    ) -> Sequence[Calibration]:
        """See `Task`."""
        return [
            replace(measured, name=f"{measured.name} of {name}")
            for name, part in self._parts.items()
            for measured in part.calibration(
                self.labels_of(name, labels), self.predictions_of(name, predictions), weights
            )
        ]

    def report(self, rows: EvaluationRows, predictions: Mapping[str, np.ndarray]) -> str:
        """See `Task`: one label after the other."""
        return "".join(
            f"<h3>{name}</h3>{own.task.report(own, models)}" for name, own, models in rows.by_label(predictions)
        )

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task`: that of the label by which the router compares."""
        return self._parts[self._compared].score(self.predictions_of(self._compared, predictions))

    def answers_range(self, predictions: np.ndarray) -> tuple[float, float]:
        """See `Task`: likewise."""
        return self._parts[self._compared].answers_range(self.predictions_of(self._compared, predictions))

    @property
    def _compared(self) -> str:
        """The label that the router looks at: the first output by name of one float, or else of class probabilities."""

        def place(name: str) -> tuple[bool, str]:
            part = self._parts[name]
            return bool(part.width) and part.compared_output == part.outputs[0], f"{name}_{part.compared_output}"

        return min(self._parts, key=place)

    @property
    def compared_output(self) -> str:
        """See `Task`."""
        return f"{self._compared}_{self._parts[self._compared].compared_output}"

    @property
    def head(self) -> Head:
        """See `Task`."""
        head: Head = load("components.modelling.several_heads:SeveralHeads")(self.schema)
        return head

    @property
    def width(self) -> int:
        """See `Task`."""
        return sum(part.width or 1 for part in self._parts.values())

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Task`."""
        return tuple(f"{name}_{output}" for name, part in self._parts.items() for output in part.outputs)

    def predictions(self, response: Mapping[str, Any]) -> np.ndarray:
        """See `Task`."""
        answers = []
        for name, part in self._parts.items():
            own = part.predictions({output: response[f"{name}_{output}"] for output in part.outputs})
            answers.append(own.reshape(len(own), -1))
        return np.concatenate(answers, axis=1)
