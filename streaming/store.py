"""The online store: the freshest value of each feature by key, with its event time, behind one small interface.

It holds totals by the minute, of which windows of any length are sums, and tables of facts (`streaming.queries`).
`SqliteStore` is a file; `streaming.redis_store` a server.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from airtight.errors import TerminalError, TransientError
from streaming.queries import Count, Get, Hour, Last, Order, Query, Range, Row, Sum, Table, Totals

HOUR = 60
KEEP_MINUTES = 30 * 24 * HOUR
"""The longest window of a feature is 28 days, and a request may come a while after its cut-off."""
BUSY_S = 30.0
"""A writer waits so long for another one."""


class Store(Protocol):
    """What the stream writes and a request reads. Safe to share among threads."""

    def put_hours(self, hours: Sequence[Hour]) -> list[bool]:
        """Writes hours of events, all of them or nothing; done again it changes nothing.

        Args:
          hours: One after the other, as if each were written by itself.

        Returns:
          Of each, whether it was taken. It is not when the store's hour is made of more messages, or has expired.

        Raises:
          TransientError: The store is away, busy for too long, or full.
        """

    def put_hour(
        self,
        hour: int,
        messages: int,
        totals: Sequence[Totals],
        rows: Mapping[str, Sequence[Row]],
        watermark: int | None = None,
    ) -> bool:
        """Writes one hour; see `Hour` and `put_hours`."""
        return self.put_hours([Hour(hour, messages, totals, rows, watermark)])[0]

    def messages(self, hour: int) -> int:
        """How many messages the store's hour is made of; 0 when it has none. Raises as `read`."""

    def freshest(self) -> int | None:
        """The watermark, minutes since 1970; None in an empty store. Raises as `read`."""

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """Answers questions, in their order.

        Raises:
          TransientError: There is no store, or it is away.
        """

    def close(self) -> None:
        """Lets go of what is open; the store can be used again."""


def opened(where: str, tables: Sequence[Table], spans: Mapping[str, int] | None = None) -> Store:
    """The store at an address: `redis://host:port/db`, or a path; `spans` as `SqliteStore` takes them."""
    if where.startswith(("redis://", "rediss://", "unix://")):
        from streaming.redis_store import RedisStore

        return RedisStore(where, tables)
    return SqliteStore(Path(where), tables, spans=spans or {})


def window(store: Store, group: str, key: str, start: int, end: int) -> tuple[int, int, int]:
    """One `Sum`."""
    return store.read([Sum(group, key, start, end)])[0]


def last(store: Store, group: str, key: str, start: int, end: int) -> tuple[int, int] | None:
    """One `Last`."""
    return store.read([Last(group, key, start, end)])[0]


def accepted(
    hours: Iterable[Hour], held: Mapping[int, int], fresh: int | None, keep_minutes: int
) -> tuple[list[bool], int | None]:
    """Which hours a store takes, one after the other.

    Args:
      hours: What is to be written.
      held: Of how many messages the store's hours are made, as far as it has them.
      fresh: The store's watermark.
      keep_minutes: What is older than this before the watermark has expired.

    Returns:
      Of each hour, whether it is taken; and the watermark after them.
    """
    held, told = dict(held), []
    for hour in hours:
        expired = fresh is not None and (hour.number + 1) * HOUR <= fresh - keep_minutes
        told.append(not expired and held.get(hour.number, 0) <= hour.messages)
        if told[-1]:
            held[hour.number] = hour.messages
            fresh = max((each for each in (fresh, hour.reached) if each is not None), default=None)
    return told, fresh


_DAY = 24 * HOUR
_SUM = "coalesce(sum(count), 0), coalesce(sum(late), 0), coalesce(sum(minutes), 0)"
_PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -65536", "wal_autocheckpoint = 4000")
_CREATE = (
    "CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT UNIQUE, span INTEGER)",
    # The minutes of a key lie together within spans about as long as is asked for, so that a window is one or two
    # places to read from, and an hour not many to write to.
    "CREATE TABLE totals (grp INTEGER, span INTEGER, key TEXT, minute INTEGER, count INTEGER, late INTEGER, "
    "minutes INTEGER, largest INTEGER, PRIMARY KEY (grp, span, key, minute)) WITHOUT ROWID",
    # To replace an hour and to forget; new rows go to its end.
    "CREATE INDEX totals_minute ON totals (minute)",
    "CREATE TABLE hours (hour INTEGER PRIMARY KEY, messages INTEGER)",
    "CREATE TABLE told (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
)


class SqliteStore(Store):
    """The store in one SQLite file, with a write-ahead log: readers wait for no writer.

    A crash of a process loses nothing. A power cut may take back the last hours that were taken, whole; whoever goes on
    afterwards asks `messages`.

    Args:
      path: The file; the first write makes it.
      tables: The facts that it holds.
      keep_minutes: What is older than this before the watermark expires; facts are forgotten once a day.
      spans: By group, about how many minutes are asked for at once; a day where nothing is said.
    """

    def __init__(
        self,
        path: Path,
        tables: Sequence[Table] = (),
        keep_minutes: int = KEEP_MINUTES,
        spans: Mapping[str, int] | None = None,
    ) -> None:
        self.path, self._tables, self._keep = path, {table.name: table for table in tables}, keep_minutes
        self._spans = spans or {}
        self._open = threading.local()

    def put_hours(self, hours: Sequence[Hour]) -> list[bool]:
        """See `Store`."""
        with self._writing() as db:
            before = _freshest(db)
            held = {hour.number: messages for hour in hours if (messages := _messages(db, hour.number)) is not None}
            told, now = accepted(hours, held, before, self._keep)
            taken = [hour for hour, ok in zip(hours, told, strict=True) if ok]
            last = {hour.number: hour for hour in taken}
            for number in last.keys() & held.keys():
                db.execute("DELETE FROM totals WHERE minute >= ? AND minute < ?", (number * HOUR, (number + 1) * HOUR))
            self._put_totals(db, [each for hour in last.values() for each in hour.totals])
            for hour in taken:
                for name, facts in hour.rows.items():
                    self._put_facts(db, self._tables[name], facts)
            written = ((number, hour.messages) for number, hour in last.items())
            db.executemany("INSERT OR REPLACE INTO hours VALUES (?, ?)", written)
            if now is not None and now != before:
                db.execute("INSERT OR REPLACE INTO told VALUES ('watermark', ?)", (now,))
                self._forget(db, now, before)
        return told

    def messages(self, hour: int) -> int:
        """See `Store`."""
        with self._reading() as db:
            return _messages(db, hour) or 0

    def freshest(self) -> int | None:
        """See `Store`."""
        with self._reading() as db:
            return _freshest(db)

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """See `Store`; all answers are of one moment."""
        with self._reading() as db:
            return [self._answer(db, query) for query in queries]

    def close(self) -> None:
        """See `Store`; of this thread."""
        for name in ("reader", "writer"):
            if opened := self._open.__dict__.pop(name, None):
                opened[1].close()

    def _answer(self, db: sqlite3.Connection, query: Query) -> Any:
        if isinstance(query, Sum | Last):
            return self._answer_totals(db, query)
        if isinstance(query, Get):
            table = self._tables[query.table]
            return db.execute(f"SELECT * FROM facts_{table.name} WHERE {_equal(table.key)}", query.key).fetchone()
        order, unless = query.order, query.unless if isinstance(query, Range) else None
        where = f"{_equal(order.equal, order.by)} >= ? AND {order.by} < ?"
        values = (*query.equal, query.start, query.end)
        if isinstance(query, Count):
            return db.execute(f"SELECT count(*) FROM facts_{query.table} WHERE {where}", values).fetchone()[0]
        if unless:
            where, values = f"{where} AND ({unless[0]} IS NULL OR {unless[0]} >= ?)", (*values, unless[1])
        columns = ", ".join(query.columns) or "*"
        sql = f"SELECT {columns} FROM facts_{query.table} WHERE {where} ORDER BY {order.by}"
        return db.execute(sql, values).fetchall()

    def _answer_totals(self, db: sqlite3.Connection, query: Sum | Last) -> Any:
        groups = self._open.groups
        if query.group not in groups:
            groups |= {name: rest for name, *rest in db.execute("SELECT name, id, span FROM groups")}
        if query.group not in groups or query.start >= query.end:
            return (0, 0, 0) if isinstance(query, Sum) else None
        group, span = groups[query.group]
        spans = range(query.start // span, (query.end - 1) // span + 1)
        where = f"grp = ? AND span IN ({', '.join('?' * len(spans))}) AND key = ? AND minute >= ? AND minute < ?"
        values = (group, *spans, query.key, query.start, query.end)
        if isinstance(query, Sum):
            return tuple(db.execute(f"SELECT {_SUM} FROM totals WHERE {where}", values).fetchone())
        newest_first = f"SELECT minute, largest FROM totals WHERE {where} ORDER BY span DESC, minute DESC LIMIT 1"
        found = db.execute(newest_first, values).fetchone()
        return tuple(found) if found else None

    def _put_totals(self, db: sqlite3.Connection, totals: Sequence[Totals]) -> None:
        spans = {each.group: self._spans.get(each.group, _DAY) for each in totals}
        db.executemany("INSERT OR IGNORE INTO groups (name, span) VALUES (?, ?)", spans.items())
        groups = {name: rest for name, *rest in db.execute("SELECT name, id, span FROM groups")}
        rows = chain.from_iterable(_rows(each, *groups[each.group]) for each in totals)
        db.executemany("INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _put_facts(self, db: sqlite3.Connection, table: Table, rows: Iterable[Row]) -> None:
        rows = list(rows)
        for known, others in table.parts.items():
            names = (*table.key, known, *others)
            sets = ", ".join(f"{name} = excluded.{name}" for name in names[len(table.key) :])
            db.executemany(
                f"INSERT INTO facts_{table.name} ({', '.join(names)}, _newest) "
                f"VALUES ({', '.join('?' * len(names))}, ?) ON CONFLICT DO UPDATE SET {sets}, "
                f"_newest = max(_newest, excluded._newest) WHERE {known} IS NULL OR {known} <= excluded.{known}",
                map(itemgetter(*names, known), (row for row in rows if known in row)),
            )

    def _forget(self, db: sqlite3.Connection, now: int, before: int | None) -> None:
        db.execute("DELETE FROM totals WHERE minute < ?", (now - self._keep,))
        if before is None or before // _DAY < now // _DAY:
            for name in self._tables:
                db.execute(f"DELETE FROM facts_{name} WHERE _newest < ?", (now - self._keep,))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._faults():
            db = self._connected("writer", "rwc")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One transaction, so that what is read is of one moment."""
        with self._faults():
            db = self._connected("reader", "rw")
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("ROLLBACK")

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            self.close()
            raise TransientError(
                "The online store cannot be used now.",
                expected=f"a store at {self.path}",
                received=str(error),
                remedy="Start the stream, which makes and fills it; where it is busy or the disk full, help it there.",
            ) from error

    def _connected(self, name: str, mode: str) -> sqlite3.Connection:
        """The connection of this thread; anew after a fork, or when another file has taken the place of the old one."""
        try:
            now = os.getpid(), os.stat(self.path).st_ino
        except FileNotFoundError as error:
            if mode == "rw":
                raise sqlite3.OperationalError("no such file") from error
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            now = os.getpid(), os.stat(self.path).st_ino
        if (held := self._open.__dict__.get(name)) and held[0] == now:
            return held[1]
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None
        )
        db.row_factory = sqlite3.Row
        if mode == "rwc":
            self._prepare(db)
        else:
            db.execute("PRAGMA query_only = 1")
            self._open.groups = {}
        self._open.__dict__[name] = (now, db)
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Makes the tables; refuses a file in which they are others."""
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        statements = (*_CREATE, *(each for table in self._tables.values() for each in _create(table)))
        layout = "; ".join(statements)
        db.execute("BEGIN IMMEDIATE")
        try:
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in statements:
                    db.execute(statement)
                db.execute("INSERT INTO told VALUES ('layout', ?)", (layout,))
            found = db.execute("SELECT value FROM told WHERE name = 'layout'").fetchone()
        finally:
            db.execute("COMMIT")
        if found is None or found[0] != layout:
            db.close()
            raise TerminalError(
                "The online store is laid out in another way.",
                expected=layout,
                received=found[0] if found else "no layout",
                remedy=f"Remove {self.path} and start the stream at the beginning of what it needs.",
            )


def _freshest(db: sqlite3.Connection) -> int | None:
    found = db.execute("SELECT value FROM told WHERE name = 'watermark'").fetchone()
    return found[0] if found else None


def _messages(db: sqlite3.Connection, hour: int) -> int | None:
    found = db.execute("SELECT messages FROM hours WHERE hour = ?", (hour,)).fetchone()
    return found[0] if found else None


def _rows(totals: Totals, group: int, span: int) -> Iterator[tuple[Any, ...]]:
    """As the table has them."""
    spans, *rest = (array.tolist() for array in (totals.minute // span, *totals[2:]))
    return zip(repeat(group), spans, totals.keys, *rest, strict=False)


def _equal(columns: tuple[str, ...], ranged: str = "") -> str:
    """The beginning of a condition; with a last column, whose comparison follows."""
    return " AND ".join((*(f"{column} = ?" for column in columns), *([ranged] if ranged else ())))


def _create(table: Table) -> list[str]:
    name = f"facts_{table.name}"
    columns = ", ".join((*table.columns, "_newest INTEGER"))

    def index(order: Order) -> str:
        return f"CREATE INDEX {name}_{order.name} ON {name} ({', '.join((*order.equal, order.by, *order.beside))})"

    return [
        f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({', '.join(table.key)})) WITHOUT ROWID",
        *map(index, table.orders),
    ]
