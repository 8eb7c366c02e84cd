"""What a stream keeps beside its totals: tables of records that become known part by part, and queries of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from airtight.errors import TerminalError

Values = Mapping[str, Any]
"""A record by column: str, int, float or None."""


class Order(NamedTuple):
    """By which records of a table are read as a range.

    Args:
      by: The column of whole numbers, such as minutes, that the range is of; records without it are in no range.
      equal: Columns that must be equal.
      beside: Columns that a database may keep in the index, so that it need not look for the records.
    """

    by: str
    equal: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the columns."""
        return "_".join((*self.equal, self.by))


@dataclass(frozen=True)
class Table:
    """Records of one kind.

    Args:
      name: An identifier in lower case, unique in the stream.
      key: Columns that identify a record, and their types: str, int or float.
      parts: By the column with the minute (since 1970) at which a part became known, the other columns of the part and
        their types. A part is replaced by one that is as new or newer, never by an older one.
      orders: By which ranges are read. All columns of an order are of one part.
    """

    name: str
    key: Mapping[str, type]
    parts: Mapping[str, Mapping[str, type]]
    orders: tuple[Order, ...] = ()

    def __post_init__(self) -> None:
        for order in self.orders:
            needed = {order.by, *order.equal}
            if not any(needed <= {known, *others} for known, others in self.parts.items()):
                raise TerminalError(
                    f"The table {self.name} is not declared as it must be.",
                    expected="orders whose columns are of one part",
                    received=order.name,
                    remedy="Correct the stream's declaration.",
                )

    @property
    def columns(self) -> dict[str, type]:
        """All columns and their types, the key's first."""
        columns = dict(self.key)
        for known, others in self.parts.items():
            columns |= {known: int, **others}
        return columns

    def parts_of(self, values: Values) -> Iterator[tuple[str, ...]]:
        """The columns of each part that a record has, that of its minute first."""
        return ((known, *others) for known, others in self.parts.items() if known in values)


class Record(NamedTuple):
    """The key and one or more whole parts of a record."""

    table: str
    values: Values


class Get(NamedTuple):
    """Asks for the record of a key, by all columns; None where there is none."""

    table: str
    key: tuple[Any, ...]


class Range(NamedTuple):
    """Asks for the records of an order whose number is in [start, end), by that number.

    Args:
      table: Its name.
      order: One of the table's.
      equal: The values of the order's equal columns.
      start: Of the range.
      end: Of the range.
      columns: Those that are needed; () is all.
    """

    table: str
    order: Order
    equal: tuple[Any, ...]
    start: int
    end: int
    columns: tuple[str, ...] = ()
