"""Rows of the prediction log as a Parquet file, written as they come: memory holds one group of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airtight.files import new_file
from serving.prediction_log.journals import folders_to_change, sync_folders

GROUP_ROWS, GROUP_BYTES = 1 << 17, 32 << 20
"""A group of rows is written when it has so many, or so many bytes in memory."""


def write(path: Path, schema: pa.Schema | None, tables: Iterable[pa.Table]) -> None:
    """Writes a file, whole or not at all; none where there are no rows.

    Args:
      path: The file, two folders below that of the log.
      schema: All columns; None without rows.
      tables: The rows; a column that one lacks is null there.
    """
    for abandoned in path.parent.glob(f".{path.name}.*.tmp"):
        abandoned.unlink(missing_ok=True)  # Its shipper was killed: only the holder of the journal's lock writes it.
    groups = _groups(tables)
    first = next(groups, None)
    if first is None or schema is None:
        return
    changed = folders_to_change(path.parent)
    with new_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        _add(writer, schema, first)
        for group in groups:
            _add(writer, schema, group)
    sync_folders(path.parent, *changed, path.parent.parent, path.parent.parent.parent)


def _groups(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    gathered: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        gathered.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield gathered
            gathered, rows, size = [], 0, 0
    if gathered:
        yield gathered


def _add(writer: pq.ParquetWriter, schema: pa.Schema, group: list[pa.Table]) -> None:
    table = pa.concat_tables([schema.empty_table(), *group], promote_options="permissive")
    writer.write_table(table, row_group_size=GROUP_ROWS)
