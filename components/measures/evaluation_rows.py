"""The rows that a candidate is judged on, in the order of time, with blocks, slices and the baseline's answers.

Features pass by in pieces. What is kept of a row are its label (4 or 8 bytes), block (4), a code for each slice (4),
its weight where there is one (8), and for each number that the baseline (8) or a model (4) predicts for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data import examples as reading
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

    def predictions(self, model: Model) -> np.ndarray:
        """A model's predictions, piece by piece, float32 [rows] or [rows, outputs]."""
        pieces = reading.batches(self.folder, "test", self.schema, self.schema.names, PIECE)
        answers = np.concatenate(
            [model(reading.features(piece, self.schema)).astype(np.float32) for piece in pieces if piece.num_rows]
        )
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
    kept = [schema.label, schema.time, *schema.slices, *blocks, schema.weight, schema.baseline]
    columns = list(dict.fromkeys(filter(None, kept)))
    labels, times, weights, features = (_Column() for _ in range(4))
    codes = {name: Codes() for name in (*schema.slices, *blocks)}
    for piece in reading.batches(folder, "test", schema, columns, PIECE):
        labels.add(_small(task.encode(piece[schema.label])))
        if schema.time:
            times.add(piece[schema.time].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy())
        weights.add(weights_of(piece, schema))
        features.add(_feature(piece, schema))
        for name, column in codes.items():
            column.add(piece[name])
    encoded, instants = labels.values(np.int32), times.values(np.int64)
    order = None if np.all(instants[1:] >= instants[:-1]) else np.argsort(instants, kind="stable")
    history = _History.read(folder, schema, task)
    count = len(encoded)
    baseline = task.baseline(history.feature, history.labels, features.values(None), count, history.weights)

    def ordered(values: np.ndarray) -> np.ndarray:
        return values if order is None else values[order]

    if by_column:
        units, unit = codes[schema.blocks].codes, f"values of {schema.blocks}"
    elif schema.time:
        units, unit = _local_days(instants, zone), "days"
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
    return EvaluationRows(folder, schema, rows, slices, ordered(baseline), order)


@dataclass
class _Column:
    """Values that come in pieces; a column that is not there has none."""

    pieces: list[np.ndarray] = field(default_factory=list)

    def add(self, values: np.ndarray | None) -> None:
        if values is not None:
            self.pieces.append(values)

    def values(self, empty: type | None) -> np.ndarray:
        """All of them; of no piece, an empty array of a type, or None."""
        if not self.pieces:
            return np.zeros(0, empty) if empty else None  # type: ignore[return-value]
        return np.concatenate(self.pieces)


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

    feature: np.ndarray | None
    labels: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def read(cls, folder: Path, schema: ExampleSchema, task: Task) -> _History:
        features, labels, weights = (_Column() for _ in range(3))
        for piece in _history_pieces(folder, schema):
            features.add(_feature(piece, schema))
            labels.add(_small(task.encode(piece[schema.label])))
            weights.add(weights_of(piece, schema))
        return cls(features.values(None), labels.values(np.int32), weights.values(None))


def _history_pieces(folder: Path, schema: ExampleSchema) -> Iterator[pa.Table]:
    splits = ("train", "validation")
    step = -(-sum(reading.count(folder, split) for split in splits) // HISTORY_ROWS)
    columns, passed = [name for name in (schema.baseline, schema.label, schema.weight) if name], 0
    for split in splits:
        for piece in reading.batches(folder, split, schema, columns, PIECE):
            first = -passed % step
            passed += piece.num_rows
            yield piece if step == 1 else piece.take(pa.array(np.arange(first, piece.num_rows, step)))


def _feature(piece: pa.Table, schema: ExampleSchema) -> np.ndarray | None:
    """The baseline's values; equal texts are one object."""
    if not schema.baseline:
        return None
    column = piece[schema.baseline]
    if schema.baseline in schema.of_kind("number"):
        return column.fill_null(float("nan")).to_numpy().astype(np.float32)
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


def _small(labels: np.ndarray) -> np.ndarray:
    return labels if np.issubdtype(labels.dtype, np.floating) else labels.astype(np.int32)


def _local_days(instants: np.ndarray, zone: str) -> np.ndarray:
    """Local days since 1970, int32 [rows], of microseconds since then in UTC."""
    times = pa.array(instants, pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone))
    days = pc.floor_temporal(pc.local_timestamp(times), unit="day").cast(pa.date32()).cast(pa.int32())
    return days.to_numpy()
