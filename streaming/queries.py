"""What is put into the online store, and what can be asked of it.

All instants are whole minutes since 1970, and every span is half-open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

Row = Mapping[str, Any]


class Totals(NamedTuple):
    """What happened in the minutes of an hour, of one group of keys: a row for each key and minute; arrays are int64.

    Args:
      group: Name of the group.
      keys: [rows]: the parts of each key joined by "|"; "" where the group has no key.
      minute: Since 1970.
      count: How many events.
      late: How many of them were late.
      minutes: Sum of their delays.
      largest: Greatest delay among them.
    """

    group: str
    keys: list[str]
    minute: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # It hides the method of tuples.
    late: np.ndarray
    minutes: np.ndarray
    largest: np.ndarray


class Hour(NamedTuple):
    """All that the store is told of an hour of events.

    Args:
      number: Hours since 1970.
      messages: How many messages all of this is made of.
      totals: The whole of the hour's totals; what the store has of the hour is replaced.
      rows: Facts by table, each with its key and one or more whole parts.
      watermark: Minute before which all that became known is in the store; the store never goes back. None for the
        newest minute of the totals.
    """

    number: int
    messages: int
    totals: Sequence[Totals]
    rows: Mapping[str, Sequence[Row]]
    watermark: int | None = None

    @property
    def reached(self) -> int | None:
        """The watermark; where nobody tells it, the end of the newest minute of the totals."""
        if self.watermark is not None:
            return self.watermark
        return max((int(each.minute.max()) + 1 for each in self.totals if len(each.minute)), default=None)


class Order(NamedTuple):
    """How rows of a table are found by range.

    Args:
      equal: Columns that must be equal.
      by: The column, of minutes or other whole numbers, that the range is of; rows without it are in no range.
      beside: Columns that an implementation may keep beside it, so that it need not look for the rows.
    """

    equal: tuple[str, ...]
    by: str
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the columns."""
        return "_".join((*self.equal, self.by))


@dataclass(frozen=True)
class Table:
    """Facts of one kind, a row for each key, that become known part by part.

    Args:
      name: Of the table, an identifier.
      key: Columns that name a row.
      parts: The column with the minute at which each part became known, and the columns that came with it. A part is
        replaced by one that is as new or newer, never by an older one.
      orders: By which ranges are read.
    """

    name: str
    key: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    orders: tuple[Order, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, the key's first."""
        return (*self.key, *(name for known, others in self.parts.items() for name in (known, *others)))

    def parts_of(self, row: Row) -> list[tuple[str, tuple[str, ...]]]:
        """The parts that a row tells: the minute's column, and all columns of the part with it."""
        return [(known, (known, *others)) for known, others in self.parts.items() if known in row]


class Sum(NamedTuple):
    """Asks for (count, late, minutes) of a key in [start, end); zeros where there is nothing."""

    group: str
    key: str
    start: int
    end: int


class Last(NamedTuple):
    """Asks for (minute, largest) of the newest minute of a key in [start, end); None where there is none."""

    group: str
    key: str
    start: int
    end: int


class Get(NamedTuple):
    """Asks for the row of a key, by names of columns; None where there is none."""

    table: str
    key: tuple[Any, ...]


class Range(NamedTuple):
    """Asks for the rows of an order whose number is in [start, end), by that number.

    Args:
      table: Its name.
      order: One of the table's.
      equal: The values of the order's equal columns.
      start: Of the range.
      end: Of the range.
      unless: A column and a number: rows whose column is below it are left out.
      columns: Those that are needed; () for all.
    """

    table: str
    order: Order
    equal: tuple[Any, ...]
    start: int
    end: int
    unless: tuple[str, int] | None = None
    columns: tuple[str, ...] = ()


class Count(NamedTuple):
    """Asks how many rows a `Range` has."""

    table: str
    order: Order
    equal: tuple[Any, ...]
    start: int
    end: int


Query = Sum | Last | Get | Range | Count
