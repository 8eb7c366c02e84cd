"""Where totals are kept: a small interface, and what is asked of it. Instants are whole minutes since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from streaming.windows.declaration import Stream


class Row(NamedTuple):
    """Totals of a key and window; a minute, or a window that the stream declares.

    Args:
      group: Name of the group.
      key: The fields of the key, joined by "|"; "" where the group has none.
      start: First minute.
      minutes: Length.
      totals: How many events, then each measure in the order of the declaration: a sum, of a mean too, or a maximum;
        None is the maximum of nothing.
      early: Whether it was written before its window was over.
    """

    group: str
    key: str
    start: int
    minutes: int
    totals: tuple[Any, ...]
    early: bool = False


class Span(NamedTuple):
    """Asks for the totals of a key in the minutes [start, end)."""

    group: str
    key: str
    start: int
    end: int


class Store(Protocol):
    """Rows by (group, key, start, minutes). Done again, a write changes nothing; safe to share among threads."""

    def write(self, rows: Sequence[Row]) -> None:
        """Puts rows in place of those of the same key and window; one without events is removed. All or nothing.

        A row that is `early` is passed over where its window was over by the store's watermark: it is what an engine
        that went back to a checkpoint sees on its way.

        Raises:
          TransientError: The store cannot be used now, or was damaged and has been moved aside.
          TerminalError: It is laid out for other measures.
        """

    def advance(self, minute: int) -> None:
        """Says that all that was published before a minute is in the store; it never goes back. Raises as `write`."""

    def watermark(self) -> int | None:
        """The minute to which all is known; None in an empty store. Raises as `read`."""

    def read(self, spans: Sequence[Span]) -> list[tuple[Any, ...]]:
        """Totals of spans, in their order and of one moment; zeros, and None for maxima, where there is nothing.

        Raises:
          TransientError: There is no store, or it cannot be used now.
        """

    def newest(self, span: Span) -> Row | None:
        """The newest minute of a key in a span; None where there is none. Raises as `read`."""

    def windows(self, group: str, key: str, minutes: int, start: int, end: int) -> list[Row]:
        """The rows of declared windows of a length that begin in [start, end), in order. Raises as `read`."""

    def close(self) -> None:
        """Lets go of what is open; the store can be used again."""


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
          `count` and each measure by name, and `behind_minutes`: by how many minutes the store ends before `at`, None
          for an empty one.

        Raises:
          TransientError: The store cannot be used now.
        """
        end = int(at // 60)
        watermark = self.store.watermark()
        (totals,) = self.store.read([Span(group, key, end - minutes, end)])
        behind = None if watermark is None else max(0, end - watermark)
        return {**self.stream.values_of(totals), "behind_minutes": behind}
