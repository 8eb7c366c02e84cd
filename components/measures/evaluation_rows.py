"""The rows that a candidate is judged on, in the order of time, with blocks, slices and the baseline's answers.

Features pass by in pieces. What is kept of a row are its label (4 or 8 bytes), block (4), a code for each slice (4),
its weight where there is one (8), and for each number that the baseline or a model predicts for it (4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data import examples as reading
from components.data.row_faults import naming_rows
from components.measures.comparison import Rows
from components.measures.slices import Slices
from components.schema import DAY, ExampleSchema
from components.tasks import Task, task_of
from components.tasks.weights import weights_of

PIECE = 8192
"""Rows in memory with all their features."""
RUNS = 200
"""Blocks of rows that have no time: so many runs of consecutive ones."""
HISTORY_ROWS = 1_000_000
"""Rows that the baseline learns from, at most; of more, evenly many of all times."""

Model = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""Predictions [rows] or [rows, outputs] of raw features by name."""


@dataclass(frozen=True)
class EvaluationRows:
    """The split `test`.

    Args:
      folder: The `Examples` artifact's.
      schema: Of the examples.
      rows: Labels, blocks and weights.
      slices: By column.
      baseline: Predictions by the schema's baseline feature.
      order: Places in the files of the rows in the order of time; None where files have that order.
    """

    folder: Path
    schema: ExampleSchema
    rows: Rows
    slices: Mapping[str, Slices]
    baseline: np.ndarray
    order: np.ndarray | None

    @property
    def task(self) -> Task:
        """What the labels are."""
        return self.rows.task

    def by_label(
        self, predictions: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, EvaluationRows, Mapping[str, np.ndarray]]]:
        """For each label its name, the rows with that label alone, and the models' predictions of it."""
        for name, part in self.task.parts.items():
            rows = replace(self.rows, task=part, labels=self.task.labels_of(name, self.rows.labels))
            baseline = self.task.predictions_of(name, self.baseline)
            models = {model: self.task.predictions_of(name, values) for model, values in predictions.items()}
            yield name, replace(self, schema=part.schema, rows=rows, baseline=baseline), models

    def predictions(self, model: Model) -> np.ndarray:
        """A model's predictions, piece by piece, float32 [rows] or [rows, outputs].

        Raises:
          TerminalError: The model fails; a row that is to blame is named.
        """
        parts, start = [], 0
        for piece in reading.batches(self.folder, "test", self.schema, self.schema.names, PIECE):
            with naming_rows(self.folder, ("test",), self.schema, start):
                parts.append(model(reading.features(piece, self.schema)).astype(np.float32))
            start += piece.num_rows
        answers = np.concatenate(parts)
        return answers if self.order is None else answers[self.order]


def read(folder: Path, schema: ExampleSchema, zone: str) -> EvaluationRows:
    """Reads the split `test`, and of `train` and `validation` what the baseline learns from.

    Args:
      folder: The `Examples` artifact's.
      schema: Of the examples.
      zone: Time zone whose days are the blocks, where the schema says "day".

    Raises:
      TerminalError: A split or a column is missing, a label is none of the task, or a weight is below 0.
    """
    task, by_column = task_of(schema), schema.blocks != DAY
    blocks = [schema.blocks] if by_column else []
    baselines = _baselines(schema)
    kept = [*schema.labels, schema.time, *schema.slices, *blocks, schema.weight, *baselines]
    columns = list(dict.fromkeys(filter(None, kept)))
    labels, times, days, weights = (_Column() for _ in range(4))
    features = {name: _Column() for name in baselines}
    codes = {name: Codes() for name in (*schema.slices, *blocks)}
    for piece in reading.batches(folder, "test", schema, columns, PIECE):
        labels.add(_small(task.labels(piece)))
        if schema.time:
            instants = piece[schema.time].cast(pa.timestamp("us", "UTC"))
            times.add(instants.cast(pa.int64()).to_numpy())
            days.add(_local_days(instants, zone))
        weights.add(weights_of(piece, schema))
        for name, values in features.items():
            values.add(_feature(piece, schema, name))
        for name, column in codes.items():
            column.add(piece[name])
    encoded, order = labels.values(np.int32), _order(times.values(np.int64))
    history = _History.read(folder, schema, task)
    count = len(encoded)
    now = {name: values.values(np.float32) for name, values in features.items()}
    baseline = task.baselines(history.features, history.labels, now, count, history.weights)

    def ordered(values: np.ndarray) -> np.ndarray:
        return values if order is None else values[order]

    if by_column:
        units, unit = codes[schema.blocks].codes, f"values of {schema.blocks}"
    elif schema.time:
        units, unit = days.values(np.int32), "days"
    else:
        units, unit = np.arange(count) * min(count, RUNS) // max(count, 1), "runs of rows"
    rows = Rows(
        task,
        ordered(encoded),
        ordered(units),
        unit,
        None if not schema.weight else ordered(weights.values(np.float32)),
    )
    slices = {name: Slices(codes[name].names, ordered(codes[name].codes)) for name in schema.slices}
    return EvaluationRows(folder, schema, rows, slices, ordered(baseline.astype(np.float32)), order)


@dataclass
class _Column:
    """Values that come in pieces; a column that is not there has none."""

    pieces: list[np.ndarray] = field(default_factory=list)

    def add(self, values: np.ndarray | None) -> None:
        if values is not None:
            self.pieces.append(values)

    def values(self, empty: type | None) -> np.ndarray:
        """All of them, once; of no piece, an empty array of a type, or None."""
        pieces, self.pieces = self.pieces, []
        if not pieces:
            return np.zeros(0, empty) if empty else None  # type: ignore[return-value]
        return np.concatenate(pieces)


@dataclass
class Codes:
    """A column's values as codes, numbered as they come."""

    by_name: dict[str, int] = field(default_factory=dict)
    pieces: list[np.ndarray] = field(default_factory=list)

    def add(self, column: pa.ChunkedArray) -> None:
        """The next rows."""
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        names = ["" if value is None else str(value) for value in encoded.dictionary.to_pylist()]
        places = np.array([self.by_name.setdefault(name, len(self.by_name)) for name in names], np.int32)
        self.pieces.append(places[encoded.indices.to_numpy()])

    @property
    def names(self) -> tuple[str, ...]:
        """The values, as text; "" is missing."""
        return tuple(self.by_name)

    @property
    def codes(self) -> np.ndarray:
        """Place of each row's value in `names`, int32 [rows]."""
        return np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int32)


@dataclass(frozen=True)
class _History:
    """What the baseline learns from: evenly many rows of `train` and `validation`."""

    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def read(cls, folder: Path, schema: ExampleSchema, task: Task) -> _History:
        labels, weights = _Column(), _Column()
        features = {name: _Column() for name in _baselines(schema)}
        for piece in _history_pieces(folder, schema):
            for name, values in features.items():
                values.add(_feature(piece, schema, name))
            labels.add(_small(task.labels(piece)))
            weights.add(weights_of(piece, schema))
        known = {name: values.values(np.float32) for name, values in features.items()}
        return cls(known, labels.values(np.int32), weights.values(None))


def _history_pieces(folder: Path, schema: ExampleSchema) -> Iterator[pa.Table]:
    splits = ("train", "validation")
    step = -(-sum(reading.count(folder, split) for split in splits) // HISTORY_ROWS)
    columns = list(dict.fromkeys(filter(None, (*_baselines(schema), *schema.labels, schema.weight))))
    passed = 0
    for split in splits:
        for piece in reading.batches(folder, split, schema, columns, PIECE):
            first = -passed % step
            passed += piece.num_rows
            yield piece if step == 1 else piece.take(pa.array(np.arange(first, piece.num_rows, step)))


def _baselines(schema: ExampleSchema) -> list[str]:
    """The features that alone are the floors of models."""
    return list(dict.fromkeys(alone.baseline for alone in schema.by_label.values() if alone.baseline))


def _feature(piece: pa.Table, schema: ExampleSchema, name: str) -> np.ndarray:
    """A feature's values; equal texts are one object."""
    column = piece[name]
    if name in schema.of_kind("number"):
        return column.fill_null(float("nan")).to_numpy().astype(np.float32)
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


def _small(labels: np.ndarray) -> np.ndarray:
    return labels if np.issubdtype(labels.dtype, np.floating) else labels.astype(np.int32)


def _order(instants: np.ndarray) -> np.ndarray | None:
    """Places of the rows in the order of time; None where they have it."""
    return None if np.all(instants[1:] >= instants[:-1]) else np.argsort(instants, kind="stable")


def _local_days(instants: pa.ChunkedArray, zone: str) -> np.ndarray:
    """Local days since 1970, int32 [rows], of instants in UTC."""
    local = pc.local_timestamp(instants.cast(pa.timestamp("us", zone)))
    return pc.floor_temporal(local, unit="day").cast(pa.date32()).cast(pa.int32()).to_numpy()
