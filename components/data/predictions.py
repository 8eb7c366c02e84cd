"""Reading the prediction log: what a model answered in an interval, a row for each example, each once.

The model server writes it (docs/serving.md); `airtight.predictions` has its columns. A feature of one value a row is
the column `input_<name>`, an answer `output_<name>`; a refused request is a row with `rows` 0 and its `code`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.predictions import JOURNAL, REQUEST, ROW, SIGNATURE, TIME, VERSION, folder_of
from serving.prediction_log.journal_rows import rows_of, slices

_INSTANT = pa.timestamp("us", tz="UTC")
_NAMES = {VERSION: pa.int64(), SIGNATURE: pa.string(), REQUEST: pa.string(), ROW: pa.int32()}
"""What tells a row from all others."""
_TOGETHER = 10_000
"""Rows of a file that are read, or converted, together."""
_NOTHING = pa.schema({TIME: _INSTANT, "model": pa.string(), **_NAMES})


def read(root: Path, model: str, interval: Interval) -> pa.Table:
    """The rows that a model answered in an interval, by the time of the answer.

    Files that a server is still writing are read as far as they go. A row that was written twice (same version,
    signature, request id and row) is there once, as it was first. Columns are those of all files; where a file lacks
    one, it is null, and where files disagree between numbers and text, text.

    Args:
      root: Folder of the log, all models'.
      model: The model's name.
      interval: When it was answered.

    Raises:
      TerminalError: A file is broken.
    """
    rows = _together([_NOTHING.empty_table(), *pieces(root, model, interval)])
    start, end = (pa.scalar(moment, _INSTANT) for moment in (interval.start, interval.end))
    inside = rows.filter((pc.field(TIME) >= start) & (pc.field(TIME) < end))
    ordered = inside.sort_by([(name, "ascending") for name in (TIME, REQUEST, VERSION, SIGNATURE, ROW)])
    return _once(ordered)


def pieces(root: Path, model: str, interval: Interval) -> Iterator[pa.Table]:
    """The rows of the days that an interval touches, file by file and a few thousand at a time, in no order.

    A row that was written twice is there twice, and columns are those of its file.

    Args:
      root: Folder of the log, all models'.
      model: The model's name.
      interval: When it was answered; the days are whole, in UTC.

    Raises:
      TerminalError: A file is broken.
    """
    folder = folder_of(root, model)
    days = [f"date={day.isoformat()}" for day in _days(interval)]
    # Open files first: one that is closed meanwhile is then read twice, and not missed.
    for day in days:
        for path in sorted(folder.glob(f"{day}/.*{JOURNAL}")):
            yield from _journal(path)
    for day in days:
        for path in sorted(folder.glob(f"{day}/*.parquet")):
            yield from _file(path)


def _days(interval: Interval) -> Iterator[date]:
    day = interval.start.astimezone(UTC).date()
    while day <= interval.end.astimezone(UTC).date():
        yield day
        day += timedelta(days=1)


def _journal(path: Path) -> Iterator[pa.Table]:
    """What is whole of a file that is still being written; nothing where it was closed since."""
    try:
        for batch in slices(path):
            yield rows_of(batch)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from error


def _file(path: Path) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as source:
            yield source.schema_arrow.empty_table()
            for batch in source.iter_batches(_TOGETHER):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> TerminalError:
    return TerminalError(
        f"The file {path} of the prediction log cannot be read.",
        expected="a Parquet file, or an Arrow stream that is still being written",
        received=str(error).splitlines()[0],
        remedy="Put it back from a copy, or move it away: its rows are then missing.",
    )


def _together(parts: Sequence[pa.Table]) -> pa.Table:
    kinds: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for field in part.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    # A column that was hashed for some time, or a feature that became a category, is text in all of them.
    as_text = {n for n, types in kinds.items() if len(types) > 1 and pa.string() in types}
    return pa.concat_tables([_with_text(part, as_text) for part in parts], promote_options="permissive")


def _with_text(part: pa.Table, names: set[str]) -> pa.Table:
    fields = [field.with_type(pa.string()) if field.name in names else field for field in part.schema]
    return part.cast(pa.schema(fields))


def _once(rows: pa.Table) -> pa.Table:
    names = list(_NAMES)
    numbered = rows.select(names).append_column("number", pa.array(range(rows.num_rows), pa.int64()))
    first = numbered.group_by(names).aggregate([("number", "min")])["number_min"]
    return rows.take(first.combine_chunks().sort())
