"""Where totals are kept: a small interface, and what is asked of it. Instants are whole minutes since 1970."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airtight.home import Home
from streaming.windows.tables import Get, Range, Record

if TYPE_CHECKING:
    from streaming.windows.declaration import Stream

FOREVER = 1 << 40
"""A minute that never comes."""
STORE = "AIRTIGHT_WINDOWS"
"""Environment variable with the folder of the streams' SQLite stores, or the address of a Redis or PostgreSQL."""


class Row(NamedTuple):
    """Totals of a key and window; a minute, or a window that the stream declares.

    Args:
      group: Name of the group.
      key: The fields of the key, joined by "|"; "" where the group has none.
      start: First minute.
      minutes: Length.
      totals: How many events, then each measure in the order of the declaration: a sum, of a mean too; a maximum, None
        of nothing; or of a distribution how often by the number of the part.
    """

    group: str
    key: str
    start: int
    minutes: int
    totals: tuple[Any, ...]


class Span(NamedTuple):
    """Asks for the totals of a key in the minutes [start, end): zeros, and None for maxima, where there is nothing."""

    group: str
    key: str
    start: int
    end: int


class Newest(NamedTuple):
    """Asks for the `Row` of the newest minute of a key in [start, end); None where there is none."""

    group: str
    key: str
    start: int
    end: int


Query = Span | Newest | Get | Range


class Birth(NamedTuple):
    """Which store it is, so that who fills it notices when it lost what it had.

    Args:
      token: Made with the store, as no other one has it.
      watermark: As `Store.watermark`.
      whole_from: The minute from which the store is whole, where it lost what was before; else None.
    """

    token: str
    watermark: int | None
    whole_from: int | None


class Store(Protocol):
    """Rows by (group, key, start, minutes), and records by table and key.

    Done again, a write changes nothing; safe to share among threads.
    """

    def write(self, rows: Sequence[Row]) -> None:
        """Puts rows in place of those of the same key and window; one without events is removed. All or nothing.

        Raises:
          TransientError: The store cannot be used now, or was damaged and has been moved aside.
          TerminalError: It is laid out for other measures.
        """

    def upsert(self, records: Sequence[Record]) -> None:
        """Writes parts of records, one after the other, all or nothing.

        A part is passed over where the store's is newer. Raises as `write`.
        """

    def advance(self, minute: int) -> None:
        """Says that all that was published before a minute is in the store; it never goes back. Raises as `write`."""

    def watermark(self) -> int | None:
        """The minute to which all is known; None in an empty store. Raises as `read`."""

    def birth(self) -> Birth:
        """Which store it is; one that is not there is made. Raises as `write`."""

    def set_whole_from(self, minute: int) -> None:
        """Says that it lost what was before a minute, or that it was filled again back to one. Raises as `write`."""

    def whole_from(self) -> int | None:
        """The minute from which it is whole, where it lost what was before; else None. Raises as `read`."""

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """Answers queries, in their order and of one moment; Redis may answer a `Range` of a moment later.

        Raises:
          TransientError: There is no store, or it cannot be used now.
        """

    def windows(self, group: str, key: str, minutes: int, start: int, end: int) -> list[Row]:
        """The rows of declared windows of a length that begin in [start, end), in order. Raises as `read`."""

    def rows(self, minutes: int = 1, start: int = 0, end: int = FOREVER) -> list[Row]:
        """All rows of windows of a length that begin in [start, end), by group, key and start. Raises as `read`."""

    def close(self) -> None:
        """Lets go of what is open; the store can be used again."""


def address_of(stream: Stream, home: Home | None = None) -> str:
    """The usual address of a stream's store: a file in the folder, or the server, that AIRTIGHT_WINDOWS names.

    Args:
      stream: The declaration.
      home: The state folder, whose `stream/` is used otherwise; None is the current one.
    """
    address = os.environ.get(STORE) or str((home or Home.current()).path / "stream")
    return address if "://" in address else f"{address}/{stream.name}.windows.sqlite"


def opened(where: str, stream: Stream) -> Store:
    """The store of a stream.

    Args:
      where: `redis://host:port/db`, `postgresql://user:password@host:port/database`, or the path of a SQLite file.
      stream: The declaration.
    """
    if where.startswith(("redis://", "rediss://", "unix://")):
        from streaming.windows.redis_store import RedisStore

        return RedisStore(where, stream)
    if where.startswith("postgresql://"):
        from streaming.windows.postgres_store import PostgresStore

        return PostgresStore(where, stream)
    from streaming.windows.sqlite_store import SqliteStore

    return SqliteStore(Path(where), stream)


@dataclass(frozen=True)
class Reader:
    """Answers what a request asks.

    Args:
      store: The store.
      stream: Its declaration.
    """

    store: Store
    stream: Stream

    def last_minutes(self, group: str, key: str, minutes: int, at: float) -> dict[str, Any]:
        """What is known of a key at a time: its totals over the minutes before.

        Args:
          group: Name of the group.
          key: As in `Row`.
          minutes: How many; the one that `at` is in does not count.
          at: Seconds since 1970.

        Returns:
          `count` and each measure by name; `behind_minutes`: by how many minutes the store ends before `at`, None for
          an empty one; `lost_minutes`: how many of the first minutes the store may have lost.

        Raises:
          TransientError: The store cannot be used now.
        """
        end = int(at // 60)
        watermark = self.store.watermark()
        (totals,) = self.store.read([Span(group, key, end - minutes, end)])
        behind = None if watermark is None else max(0, end - watermark)
        lost = min(minutes, max(0, (self.store.whole_from() or 0) - (end - minutes)))
        return {**self.stream.values_of(totals), "behind_minutes": behind, "lost_minutes": lost}
