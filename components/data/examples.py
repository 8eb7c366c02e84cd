"""Reading `Examples`: shards of Parquet or TFRecords to Arrow and NumPy, checked against the schema of every engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.errors import TerminalError
from components.data import tfrecords
from components.data.example_frame import columns_of
from components.data.feature_kinds import KINDS, Text, kind_of
from components.data.pieces import pieces
from components.schema import ExampleSchema, Feature, Kind
from components.tasks import task_of

SUFFIXES = PARQUET_SUFFIX, _ = (".parquet", ".gz")
RECORDS = 1 << 13
"""TFRecords that are parsed together, at most."""
PIECE = 1 << 13
"""Rows of a piece, by default."""
IMAGE_PIECE = 1 << 10
"""Rows of a piece with images, at most: a model decodes them all at once, and pixels are more than a file's bytes."""
_ALL_ROWS = 1 << 20

HISTORY, DAY = "train", "day"
"""The splits of examples that are to be watched: labelled rows before the interval, and all rows of the interval."""

Columns = Mapping[str, np.ndarray]
"""Raw feature values by name, [rows, ...] as their kinds have them (`components.data.feature_kinds`)."""


def read_table(folder: Path, split: str, schema: ExampleSchema, columns: Sequence[str] | None = None) -> pa.Table:
    """One split of an `Examples` artifact, whole: for splits that are known to be small.

    Args:
      folder: The artifact's folder.
      split: Name of the split, such as "train".
      schema: What the rows must hold.
      columns: Which columns to read; features, labels and slices when None.

    Returns:
      The rows in the order of the shards, only the columns asked for. An empty split has no rows.

    Raises:
      TerminalError: The split is not there, a file cannot be read, or a column is missing or of another type.
    """
    wanted = list(dict.fromkeys(columns or (*schema.names, *schema.labels, *schema.slices)))
    return pa.concat_tables(_tables(files_of(folder, split), schema, wanted, _ALL_ROWS))


def spread_rows(
    folder: Path, split: str, schema: ExampleSchema, most: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Some rows of a split, evenly many of all its parts, with no more than a piece of it in memory.

    Args:
      folder: The artifact's folder.
      split: Name of the split, such as "train".
      schema: What the rows must hold.
      most: How many rows; all of them where there are no more.
      columns: Which columns to read; features, labels and slices when None.

    Returns:
      The rows in their order, the first and the last among them.

    Raises:
      TerminalError: As `read_table`.
    """
    rows = count(folder, split)
    places = np.unique(np.linspace(0, max(0, rows - 1), min(most, rows)).astype(np.int64))
    wanted = list(dict.fromkeys(columns or (*schema.names, *schema.labels, *schema.slices)))
    parts, first = [], 0
    for table in _tables(files_of(folder, split), schema, wanted, PIECE):
        start, stop = np.searchsorted(places, (first, first + table.num_rows))
        # Copies: a slice would keep the whole piece.
        parts.append(table.take(pa.array(places[start:stop] - first)))
        first += table.num_rows
    return pa.concat_tables(parts)


def batches(
    folder: Path, split: str, schema: ExampleSchema, columns: Sequence[str] | None = None, rows: int = PIECE
) -> Iterator[pa.Table]:
    """One split in pieces, so that no more than one of them is in memory.

    Args:
      folder: The artifact's folder.
      split: Name of the split, such as "train".
      schema: What the rows must hold.
      columns: Which columns to read; features, labels and slices when None.
      rows: Rows of a piece, at most; of large values, or with images, it has fewer.

    Yields:
      Tables in the order of the rows.

    Raises:
      TerminalError: As `read_table`.
    """
    wanted = list(dict.fromkeys(columns or (*schema.names, *schema.labels, *schema.slices)))
    bounded = min(rows, IMAGE_PIECE) if set(wanted) & set(schema.of_kind("image")) else rows
    for table in _tables(files_of(folder, split), schema, wanted, bounded):
        if table.num_rows:
            yield table


def count(folder: Path, split: str) -> int:
    """Rows of a split: by the files' own metadata, or of TFRecords by reading them.

    Raises:
      TerminalError: The split is not there, or a file cannot be read.
    """
    total = 0
    for file in files_of(folder, split):
        with _readable(file):
            total += pq.read_metadata(file).num_rows if file.suffix == PARQUET_SUFFIX else tfrecords.count(file)
    return total


def files_of(folder: Path, split: str) -> list[Path]:
    """The files of one split of an `Examples` artifact, in the order of its rows; never none.

    Args:
      folder: The artifact's folder.
      split: Name of the split, such as "train".

    Raises:
      TerminalError: The split is not there.
    """
    path = folder / f"Split-{split}"
    files = sorted(file for suffix in SUFFIXES for file in path.glob(f"*{suffix}")) if path.is_dir() else []
    if not files:
        there = [p.name.removeprefix("Split-") for p in sorted(folder.glob("Split-*"))] if folder.is_dir() else []
        raise TerminalError(
            f"The examples have no split {split!r}.",
            expected=f"Parquet files or gzipped TFRecords in {path}",
            received=f"the splits {', '.join(there)}" if there else "no split at all",
            remedy="Run the step that makes the examples again.",
        )
    return files


def features(table: pa.Table, schema: ExampleSchema) -> dict[str, np.ndarray]:
    """The model's inputs, raw, [rows, ...]: what stands for a missing value is the kind's."""
    return {feature.name: kind_of(feature).numpy(feature, table[feature.name]) for feature in schema.features}


def raw(table: pa.Table, kinds: Mapping[str, Kind]) -> dict[str, np.ndarray]:
    """Columns by name as a model takes them, of these kinds of features."""
    return {name: KINDS[kind].numpy(Feature(name, kind, ""), table[name]) for name, kind in kinds.items()}


def labels(table: pa.Table, schema: ExampleSchema) -> np.ndarray:
    """The labels [rows], or [rows, labels], encoded as `components.tasks.Task` says.

    Raises:
      TerminalError: A label is missing, or is none of the task.
    """
    return task_of(schema).labels(table)


def names_in(folder: Path, split: str) -> list[str]:
    """The columns of a split, by its first file; [] where that is TFRecords without a record.

    Raises:
      TerminalError: The split is not there, or a file cannot be read.
    """
    file = files_of(folder, split)[0]
    with _readable(file):
        return list(pq.read_schema(file).names) if file.suffix == PARQUET_SUFFIX else tfrecords.names_in(file)


def interval_of(artifact: Any) -> tuple[str, str]:
    """The data interval that an artifact carries, `(interval_start, interval_end)`, ISO 8601.

    Raises:
      TerminalError: It carries none.
    """
    ends = []
    for name in ("interval_start", "interval_end"):
        declared = (artifact.PROPERTIES or {}).get(name)
        value = getattr(artifact, name) if declared else artifact.get_string_custom_property(name)
        if not value:
            raise TerminalError(
                f"An artifact of type {artifact.type_name} does not say which data interval it speaks of.",
                expected="the properties interval_start and interval_end",
                received=f"no {name} on {artifact.uri}",
                remedy="Run the step that made it again.",
            )
        ends.append(value)
    return ends[0], ends[1]


def _tables(files: Sequence[Path], schema: ExampleSchema, columns: list[str], rows: int) -> Iterator[pa.Table]:
    """The columns of each file, in pieces; of each file at least one, so that types are known of no rows too."""
    for file in files:
        with _readable(file):
            if file.suffix == PARQUET_SUFFIX:
                with pq.ParquetFile(file) as source:
                    _check_columns(file, source.schema_arrow.names, columns)
                    empty = source.schema_arrow.empty_table().select(columns)
                    _check_types(empty, schema, file.parent)
                    yield empty
                    for batch in pieces(source, rows, columns):
                        # Columns come as the file has them.
                        yield pa.Table.from_batches([batch]).select(columns)
            else:
                declared = columns_of(schema, labelled=True)
                _check_columns(file, tfrecords.names_in(file) or declared.names, columns)
                wanted = pa.schema([declared.field(name) for name in columns])
                yield wanted.empty_table()
                yield from tfrecords.read(file, wanted, min(rows, RECORDS))


def _check_columns(file: Path, present: Sequence[str], columns: list[str]) -> None:
    missing = [name for name in columns if name not in present]
    if missing:
        raise TerminalError(
            f"The examples in {file} lack columns.",
            expected=columns,
            received=f"no {', '.join(missing[:5])}",
            remedy="Run the step that makes the examples again, with the schema that the model is trained with.",
        )


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise TerminalError(
            f"The examples in {file} cannot be read.",
            expected="a Parquet file, or gzipped TFRecords of tf.Example",
            received=(str(error).splitlines() or [type(error).__name__])[0],
            remedy="Run the step that makes the examples again.",
        ) from error


def _check_types(table: pa.Table, schema: ExampleSchema, path: Path) -> None:
    features_by_name = {feature.name: feature for feature in schema.features}
    for name in table.column_names:
        type_ = table.schema.field(name).type
        expected = ""
        if feature := features_by_name.get(name):
            kind = kind_of(feature)
            expected = "" if kind.holds(type_) else kind.stored
        elif alone := schema.by_label.get(name):
            label_type = task_of(alone).label_type
            expected = "" if _same_family(type_, label_type) else f"labels of the task {alone.task}, {label_type}"
        if expected:
            raise TerminalError(
                f"The column {name} of the examples in {path} has another type.",
                expected=expected,
                received=str(type_),
                remedy="Correct the schema or the step that makes the examples.",
            )


def _same_family(type_: pa.DataType, other: pa.DataType) -> bool:
    families = (pa.types.is_integer, pa.types.is_floating, Text().holds)
    return type_ == other or any(family(type_) and family(other) for family in families)
