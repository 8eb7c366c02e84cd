"""Splits as shards of a fixed number of rows: Spark sorts, one writer cuts, and the same rows are the same bytes.

Spark sorts on disk and writes parts whose number and cuts are its own affair. The writer reads them in order, a few
thousand rows at a time, and cuts them anew by counting rows, so that neither cores nor settings show in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from airtight.files import new_file
from components.data import tfrecords
from components.data.pieces import pieces, write_parquet

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

PARQUET, TFRECORD = FORMATS = ("parquet", "tfrecord")
SUFFIXES = {PARQUET: ".parquet", TFRECORD: ".tfrecord.gz"}
"""How files of a format end. Beam, and so TFX, knows by `.gz` that TFRecords are compressed."""
SHARD_ROWS = 1 << 17
"""Rows of a shard, by default."""
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
    # Without dictionaries: by its own account a part would have an image that is there a thousand times once.
    plain = {"parquet.block.size": PART_BLOCK, "parquet.enable.dictionary": False}
    frame.orderBy(*order).write.options(**plain).parquet(str(folder))
    return sorted(folder.glob("part-*.parquet"))


def read_parts(parts: Iterable[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of `sorted_parts`, a few at a time."""
    for part in parts:
        with pq.ParquetFile(part, pre_buffer=False) as source:
            for batch in pieces(source, BATCH, columns):
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


def _typed(table: pa.Table, columns: pa.Schema) -> pa.Table:
    return table.select(columns.names).replace_schema_metadata(None).cast(columns)
