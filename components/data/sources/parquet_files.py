"""Parquet files, in their own types."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.pieces import pieces
from components.data.sources.source import ReadReport, Rows, Source
from components.data.sources.watched_file import watched

PIECE = 16_384
"""Rows in a piece, at most."""
READ_BYTES = 1 << 20
"""Bytes of a column that are read at a time: a row group of another's file may be of any size."""


def read(source: Source, report: ReadReport) -> Iterator[Rows]:
    """Yields the rows of Parquet files.

    Raises:
      TerminalError: A file is no Parquet, has a column twice, or other columns than the one before.
      TransientError: It changes meanwhile.
    """
    schema: pa.Schema | None = None
    for path in source.files():
        with watched(path) as file:
            try:
                with pq.ParquetFile(file, buffer_size=READ_BYTES) as opened:
                    if schema is not None and not opened.schema_arrow.equals(schema):
                        raise source.error(
                            f"{path.name} has other columns than the file before it.",
                            expected=", ".join(f"{f.name} {f.type}" for f in schema),
                            received=", ".join(f"{f.name} {f.type}" for f in opened.schema_arrow),
                            remedy="Write all files with the same columns.",
                        )
                    schema, place = opened.schema_arrow, 1
                    if doubled := sorted({name for name in schema.names if schema.names.count(name) > 1}):
                        raise source.error(
                            f"{path.name} has several columns of one name.",
                            expected="a name for each column, each another",
                            received=[f"{name} twice" for name in doubled],
                            remedy="Write it with other names.",
                        )
                    for batch in pieces(opened, PIECE):
                        yield Rows(batch, place, path.name)
                        place += batch.num_rows
            except (pa.ArrowInvalid, OSError) as error:
                raise source.error(
                    f"{path.name} is no whole Parquet file.",
                    expected="a Parquet file",
                    received=str(error).splitlines()[0],
                    remedy="Write it again.",
                ) from error
