"""Splits as shards of a fixed number of rows: Spark sorts, one writer cuts, and the same rows are the same bytes.

Spark sorts on disk and writes parts whose number and cuts are its own affair. The writer reads them in order, a few
thousand rows at a time, and cuts them anew by counting rows, so that neither cores nor settings show in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.files import new_file
from components.data import tfrecords

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

PARQUET, TFRECORD = FORMATS = ("parquet", "tfrecord")
SUFFIXES = {PARQUET: ".parquet", TFRECORD: ".tfrecord.gz"}
"""How files of a format end. Beam, and so TFX, knows by `.gz` that TFRecords are compressed."""
SHARD_ROWS = 1 << 17
"""Rows of a shard, by default."""
ROW_GROUP = 1 << 17
"""Rows of a row group, at most."""
ROW_GROUP_BYTES = 1 << 26
"""Bytes of values beyond which a row group ends, whatever it has of rows."""
UNIT = 1024
"""Rows by which a row group grows."""
PART_BLOCK = 1 << 25
"""Bytes of a row group of Spark's parts: what reading one of them holds."""
BATCH = 1 << 13


def file_name(number: int, shards: int, format_: str = PARQUET) -> str:
    """Such as `examples-00000-of-00003.parquet`."""
    return f"examples-{number:05d}-of-{shards:05d}{SUFFIXES[format_]}"


def sorted_parts(frame: DataFrame, order: Sequence[str | Column], folder: Path) -> list[Path]:
    """Has Spark sort a frame and write it.

    Args:
      frame: The rows. Spark works them out in part twice, once to see how they are spread.
      order: By which columns.
      folder: A new folder, under the same path for Spark and for this process.

    Returns:
      Parquet files, whose rows one after the other are in order.
    """
    frame.orderBy(*order).write.option("parquet.block.size", PART_BLOCK).parquet(str(folder))
    return sorted(folder.glob("part-*.parquet"))


def read_parts(parts: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of `sorted_parts`, a few at a time."""
    for part in parts:
        with pq.ParquetFile(part, pre_buffer=False) as source:
            for batch in source.iter_batches(BATCH, columns=columns):
                yield pa.Table.from_batches([batch])


class RowStream:
    """Rows that are taken one after the other, as many as wanted.

    Args:
      tables: The rows.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables = iter(tables)
        self._rest: pa.Table | None = None

    def take(self, rows: int) -> Iterator[pa.Table]:
        """The next rows, fewer where the stream ends. What is not read of them is not taken."""
        while rows > 0:
            table = self._rest if self._rest is not None else next(self._tables, None)
            if table is None:
                return
            self._rest = table.slice(rows) if table.num_rows > rows else None
            rows -= min(rows, table.num_rows)
            yield table if self._rest is None else table.slice(0, table.num_rows - self._rest.num_rows)


def write_shards(
    folder: Path, tables: Iterable[pa.Table], rows: int, columns: pa.Schema, format_: str, shard_rows: int
) -> int:
    """Writes one split, each of its files atomically.

    Args:
      folder: The split's folder.
      tables: Its rows, with these columns and perhaps others.
      rows: How many there are.
      columns: What is written of them.
      format_: "parquet" or "tfrecord".
      shard_rows: Rows of each shard but the last.

    Returns:
      How many shards there are; one of no rows where there are none.
    """
    stream = RowStream(tables)
    shards = max(1, -(-rows // shard_rows))
    for number in range(shards):
        path = folder / file_name(number, shards, format_)
        shard = (_typed(table, columns) for table in stream.take(shard_rows))
        if format_ == PARQUET:
            write_parquet(path, shard, columns)
        else:
            with new_file(path) as temporary:
                tfrecords.write(temporary, shard)
    return shards


def write_parquet(path: Path, tables: Iterable[pa.Table], columns: pa.Schema) -> None:
    """Writes one file atomically, with no more than a row group in memory; the same rows give the same bytes."""
    with (
        new_file(path) as temporary,
        pq.ParquetWriter(temporary, columns, compression="zstd", store_schema=False) as writer,
    ):
        for group in _row_groups(tables):
            writer.write_table(group, row_group_size=group.num_rows)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    stream, units, rows, size = RowStream(tables), [], 0, 0
    while parts := list(stream.take(UNIT)):
        unit = pa.concat_tables(parts)
        units.append(unit)
        rows, size = rows + unit.num_rows, size + _bytes(unit)
        if rows >= ROW_GROUP or size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(units).combine_chunks()
            units, rows, size = [], 0, 0
    if units:
        yield pa.concat_tables(units).combine_chunks()


def _bytes(table: pa.Table) -> int:
    """Bytes of the values, however Arrow keeps them."""
    size = 0
    for column in table.columns:
        leaf = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        text = pa.types.is_string(leaf.type) or pa.types.is_binary(leaf.type)
        size += (pc.sum(pc.binary_length(leaf)).as_py() or 0) if text else leaf.type.bit_width // 8 * len(leaf)
    return size


def _typed(table: pa.Table, columns: pa.Schema) -> pa.Table:
    return table.select(columns.names).replace_schema_metadata(None).cast(columns)
