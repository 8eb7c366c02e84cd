"""Reading `Examples`: one Parquet split to Arrow and to NumPy, checked against the schema that every engine shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.errors import TerminalError
from components.schema import ExampleSchema
from components.tasks import task_of

Columns = Mapping[str, np.ndarray]
"""Raw feature values by name, shape [rows]: object arrays of str for categories, float32 for numbers."""


def read_table(folder: Path, split: str, schema: ExampleSchema, columns: Sequence[str] | None = None) -> pa.Table:
    """One split of an `Examples` artifact.

    Args:
      folder: The artifact's folder.
      split: Name of the split, such as "train".
      schema: What the rows must hold.
      columns: Which columns to read; features, label and slices when None.

    Returns:
      The rows in the order of the file, only the columns asked for. An empty split has no rows.

    Raises:
      TerminalError: The split is not there, a file cannot be read, or a column is missing or of another type.
    """
    files = files_of(folder, split)
    wanted = list(dict.fromkeys(columns or (*schema.names, schema.label, *schema.slices)))
    tables = [_read_file(file, wanted) for file in files]
    table = pa.concat_tables(tables)
    _check_types(table, schema, files[0].parent)
    return table


def batches(
    folder: Path, split: str, schema: ExampleSchema, columns: Sequence[str] | None = None, rows: int = 8192
) -> Iterator[pa.Table]:
    """One split in pieces, so that no more than one of them is in memory.

    Args:
      folder: The artifact's folder.
      split: Name of the split, such as "train".
      schema: What the rows must hold.
      columns: Which columns to read; features, label and slices when None.
      rows: Rows of a piece, at most.

    Yields:
      Tables in the order of the rows.

    Raises:
      TerminalError: As `read_table`.
    """
    wanted = list(dict.fromkeys(columns or (*schema.names, schema.label, *schema.slices)))
    for file in files_of(folder, split):
        _check_columns(file, wanted)
        with pq.ParquetFile(file) as source:
            for batch in source.iter_batches(rows, columns=wanted):
                table = pa.Table.from_batches([batch])
                _check_types(table, schema, file.parent)
                yield table.select(wanted)


def count(folder: Path, split: str) -> int:
    """Rows of a split, by the files' own metadata.

    Raises:
      TerminalError: The split is not there.
    """
    return sum(int(pq.read_metadata(file).num_rows) for file in files_of(folder, split))


def files_of(folder: Path, split: str) -> list[Path]:
    """The files of one split of an `Examples` artifact, in the order of its rows; never none.

    Args:
      folder: The artifact's folder.
      split: Name of the split, such as "train".

    Raises:
      TerminalError: The split is not there.
    """
    path = folder / f"Split-{split}"
    files = sorted(path.glob("*.parquet")) if path.is_dir() else []
    if not files:
        there = [p.name.removeprefix("Split-") for p in sorted(folder.glob("Split-*"))] if folder.is_dir() else []
        raise TerminalError(
            f"The examples have no split {split!r}.",
            expected=f"Parquet files in {path}",
            received=f"the splits {', '.join(there)}" if there else "no split at all",
            remedy="Run the step that makes the examples again.",
        )
    return files


def features(table: pa.Table, schema: ExampleSchema) -> dict[str, np.ndarray]:
    """The model's inputs, raw: "" stands for a missing category and NaN for a missing number."""
    return raw(table, {feature.name: feature.kind for feature in schema.features})


def raw(table: pa.Table, kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Columns by name as a model takes them: object arrays of str for "category", float32 for "number"."""
    columns: dict[str, np.ndarray] = {}
    for name, kind in kinds.items():
        if kind == "category":
            columns[name] = table[name].fill_null("").to_numpy(zero_copy_only=False).astype(object)
        else:
            columns[name] = table[name].fill_null(float("nan")).to_numpy(zero_copy_only=False).astype(np.float32)
    return columns


def labels(table: pa.Table, schema: ExampleSchema) -> np.ndarray:
    """The labels [rows], encoded as `components.tasks.Task` says.

    Raises:
      TerminalError: A label is missing, or is none of the task.
    """
    return task_of(schema).encode(table[schema.label])


def concatenated(*parts: Columns) -> dict[str, np.ndarray]:
    """Rows of several splits, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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


def _read_file(file: Path, columns: list[str]) -> pa.Table:
    _check_columns(file, columns)
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error) from error


def _check_columns(file: Path, columns: list[str]) -> None:
    try:
        present = set(pq.read_schema(file).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error) from error
    missing = [name for name in columns if name not in present]
    if missing:
        raise TerminalError(
            f"The examples in {file} lack columns.",
            expected=columns,
            received=f"no {', '.join(missing[:5])}",
            remedy="Run the step that makes the examples again, with the schema that the model is trained with.",
        )


def _unreadable(file: Path, error: Exception) -> TerminalError:
    return TerminalError(
        f"The examples in {file} cannot be read.",
        expected="a Parquet file",
        received=str(error).splitlines()[0],
        remedy="Run the step that makes the examples again.",
    )


def _check_types(table: pa.Table, schema: ExampleSchema, path: Path) -> None:
    kinds = {feature.name: feature.kind for feature in schema.features}
    for name in table.column_names:
        type_ = table.schema.field(name).type
        string = pa.types.is_string(type_) or pa.types.is_large_string(type_)
        number = pa.types.is_floating(type_) or pa.types.is_integer(type_)
        expected = {"category": string, "number": number}.get(kinds.get(name, ""), True)
        if name == schema.label:
            label_type = task_of(schema).label_type
            family = pa.types.is_integer(type_) if pa.types.is_integer(label_type) else type_ == label_type
            expected = family or (string and pa.types.is_string(label_type))
        if not expected:
            raise TerminalError(
                f"The column {name} of the examples in {path} has another type.",
                expected={"category": "strings", "number": "numbers"}.get(kinds.get(name, ""), "whole numbers"),
                received=str(type_),
                remedy="Correct the schema or the step that makes the examples.",
            )
