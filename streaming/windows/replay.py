"""Messages of what the lake holds, in the order in which it became known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.errors import TerminalError
from airtight.import_string import load
from components.data.lake import Lake
from streaming.windows.declaration import Stream
from streaming.windows.messages import Message

_CHUNK = 20_000
_MICRO = timedelta(microseconds=1)


def messages(stream: Stream, lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """What was published in [start, end), as the lake has it.

    Args:
      stream: The declaration, with a replay.
      lake: Folder of the lake.
      start: With its offset from UTC.
      end: Likewise.

    Raises:
      TerminalError: The stream has no replay, or the lake no such rows.
    """
    if not stream.replay:
        raise TerminalError(
            f"The stream {stream.name} cannot be replayed.",
            expected="a function that makes messages of the lake's rows",
            received="replay=''",
            remedy="Declare it, or publish to its topics and use --to-end.",
        )
    yield from load(stream.replay)(lake, start, end)


@dataclass(frozen=True)
class Kind:
    """What rows of a table tell at one instant each.

    Args:
      table: The rows.
      time: Column of instants; a row without one tells nothing.
      make: Function of the values of `columns` -> what is told.
      columns: Names.
      after: How much later than that instant it becomes known; may be negative.
    """

    table: pa.Table
    time: str
    make: Callable[..., Any]
    columns: tuple[str, ...]
    after: timedelta = timedelta()


def merged(kinds: Sequence[Kind], start: datetime, end: datetime) -> Iterator[Any]:
    """What becomes known in [start, end), in that order; of one instant in the order of the kinds, then of the rows.

    Args:
      kinds: Of rows.
      start: With its offset from UTC.
      end: Likewise.
    """
    instants = [_micros(kind) for kind in kinds]
    at = np.concatenate(instants)
    numbers = np.concatenate([np.full(len(of_kind), number) for number, of_kind in enumerate(instants)])
    rows = np.concatenate([np.arange(len(of_kind)) for of_kind in instants])
    first, last = (int(moment.timestamp() * 1_000_000) for moment in (start, end))
    chosen = np.flatnonzero((at >= first) & (at < last))
    chosen = chosen[np.lexsort((rows[chosen], numbers[chosen], at[chosen]))]
    for begin in range(0, len(chosen), _CHUNK):
        part = chosen[begin : begin + _CHUNK]
        made: dict[int, Any] = {}
        for number, kind in enumerate(kinds):
            places = np.flatnonzero(numbers[part] == number)
            table = kind.table.select(kind.columns).take(pa.array(rows[part[places]]))
            columns = (column.to_pylist() for column in table.columns)
            made.update(zip(places.tolist(), map(kind.make, *columns), strict=True))
        yield from (made[place] for place in range(len(part)))


def _micros(kind: Kind) -> np.ndarray:
    """Microseconds since 1970 at which each row becomes known; those that lack one never come."""
    instants = kind.table[kind.time].cast(pa.int64()).fill_null(np.iinfo(np.int64).max // 2)
    return instants.to_numpy() + kind.after // _MICRO


def days(lake: Path, table: str, first: date, last: date) -> pa.Table:
    """The newest rows of a table's days; all of a table without days.

    Args:
      lake: Folder of the lake.
      table: Its name.
      first: Local day.
      last: Local day, included.

    Raises:
      TerminalError: The lake has no such days.
    """
    files = Lake(lake).snapshot(table).files
    held = [file for file in files if file.day is None or first <= date.fromisoformat(file.day) <= last]
    if not held:
        raise TerminalError(
            f"The lake has no {table} of these days.",
            expected=f"{table} between {first} and {last}",
            received=f"days {files[0].day} to {files[-1].day}" if files else "no days at all",
            remedy="Fill the lake, or name other days.",
        )
    return pa.concat_tables([pq.read_table(lake / file.path, partitioning=None) for file in held])


def rows(lake: Path, table: str, time: str, start: datetime, end: datetime) -> Iterator[dict[str, Any]]:
    """Rows of a table in the order of a column of instants.

    Args:
      lake: Folder of the lake.
      table: Its name.
      time: The column; rows whose instant is in [start, end) count.
      start: With its offset from UTC.
      end: Likewise.

    Raises:
      TerminalError: The lake has no such rows.
    """
    day, whole = timedelta(days=1), (start.astimezone(UTC), end.astimezone(UTC))
    # Days of the lake are local, and an instant may lie in the day before its row's.
    content = days(lake, table, whole[0].date() - 2 * day, whole[1].date() + 2 * day)
    lower, upper = (pa.scalar(instant, content.schema.field(time).type) for instant in whole)
    inside = pc.and_(pc.greater_equal(content[time], lower), pc.less(content[time], upper))
    chosen = content.filter(inside).sort_by(time)
    return (row for batch in chosen.to_batches(max_chunksize=_CHUNK) for row in batch.to_pylist())
