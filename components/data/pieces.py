"""Parquet files in pieces that are bounded in rows and in bytes: an image or a long text is more than a number.

A row group ends by the bytes of its values, and is read without the next one. Its own account would not do: of a column
that repeats its values (a dictionary), it has fewer bytes than are there in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.files import new_file

ROW_GROUP = 1 << 17
"""Rows of a row group, at most."""
ROW_GROUP_BYTES = 1 << 26
"""Bytes of values at which a row group ends, whatever it has of rows."""
PIECE_BYTES = 1 << 26
"""Bytes of a piece, by the file's own account: at most, but never less than one row."""


def pieces(source: pq.ParquetFile, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Reads a file.

    Args:
      source: The file.
      rows: Rows of a piece, at most.
      columns: Which columns to read; all when None.

    Yields:
      The rows in order.
    """
    for number in range(source.num_row_groups):
        group = source.metadata.row_group(number)
        read = [
            chunk.total_uncompressed_size
            for chunk in map(group.column, range(group.num_columns))
            if columns is None or chunk.path_in_schema.split(".")[0] in columns
        ]
        bounded = max(1, min(rows, group.num_rows * PIECE_BYTES // max(1, sum(read))))
        yield from source.iter_batches(bounded, row_groups=[number], columns=columns)


def write_parquet(path: Path, tables: Iterable[pa.Table], columns: pa.Schema) -> None:
    """Writes one file atomically, with no more than a row group in memory; the same rows give the same bytes."""
    with (
        new_file(path) as temporary,
        pq.ParquetWriter(temporary, columns, compression="zstd", store_schema=False) as writer,
    ):
        for group in _row_groups(tables):
            writer.write_table(group, row_group_size=group.num_rows)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows anew, cut where rows or bytes are enough: however they come, at the same rows."""
    parts: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in (batch for table in tables for batch in table.to_batches()):
        rest, sizes = batch, _bytes(batch)
        while rest.num_rows:
            ends = size + np.cumsum(sizes)
            count = min(int(np.searchsorted(ends, ROW_GROUP_BYTES)) + 1, ROW_GROUP - rows, rest.num_rows)
            parts.append(rest.slice(0, count))
            rows, size, rest, sizes = rows + count, int(ends[count - 1]), rest.slice(count), sizes[count:]
            if rows == ROW_GROUP or size >= ROW_GROUP_BYTES:
                yield pa.Table.from_batches(parts).combine_chunks()
                parts, rows, size = [], 0, 0
    if parts:
        yield pa.Table.from_batches(parts).combine_chunks()


def _bytes(rows: pa.RecordBatch) -> np.ndarray:
    """Bytes of each row's values, int64 [rows], however Arrow keeps them."""
    sizes = np.zeros(rows.num_rows, np.int64)
    for values in rows.columns:
        nested = pa.types.is_list(values.type)
        leaf = pc.list_flatten(values) if nested else values
        text = pa.types.is_string(leaf.type) or pa.types.is_binary(leaf.type)
        lengths = pc.binary_length(leaf).fill_null(0) if text else pa.repeat(leaf.type.bit_width // 8, len(leaf))
        each = lengths.to_numpy(zero_copy_only=False)
        sizes += np.bincount(pc.list_parent_indices(values), each, len(sizes)).astype(np.int64) if nested else each
    return sizes
