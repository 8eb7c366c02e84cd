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
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import orjson

from airtight.errors import TerminalError, TransientError
from streaming.queries import Get, Last, Query, Row, Sum, Table, Totals, newest

HOUR = 60
KEEP_MINUTES = 30 * 24 * HOUR
"""The longest window of a feature is 28 days, and a request may come a while after its cut-off."""
BUSY_S = 30.0
"""A writer waits so long for another one."""


class Store(Protocol):
    """What the stream writes and a request reads. Safe to share among threads."""

    def put_hour(
        self,
        hour: int,
        messages: int,
        totals: Sequence[Totals],
        rows: Mapping[str, Sequence[Row]],
        watermark: int | None = None,
    ) -> bool:
        """Writes an hour of events, all of it or nothing; done again it changes nothing.

        Args:
          hour: Hours since 1970.
          messages: How many messages all of this is made of.
          totals: The whole of the hour's totals; what the store has of the hour is replaced.
          rows: Facts by table, each with its key and one or more whole parts.
          watermark: Minute before which all that became known is in the store; the store never goes back. None for the
            newest minute of the totals.

        Returns:
          Whether it was taken. It is not when the store's hour is made of more messages, or has expired.

        Raises:
          TransientError: The store is away, busy for too long, or full.
        """

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


def opened(where: str, tables: Sequence[Table]) -> Store:
    """The store at an address: `redis://host:port/db`, or a path."""
    if where.startswith(("redis://", "rediss://", "unix://")):
        from streaming.redis_store import RedisStore

        return RedisStore(where, tables)
    return SqliteStore(Path(where), tables)


def window(store: Store, group: str, key: str, start: int, end: int) -> tuple[int, int, int]:
    """One `Sum`."""
    return store.read([Sum(group, key, start, end)])[0]


def last(store: Store, group: str, key: str, start: int, end: int) -> tuple[int, int] | None:
    """One `Last`."""
    return store.read([Last(group, key, start, end)])[0]


_LAYOUT = 1
_SUM = (
    "SELECT coalesce(sum(count), 0), coalesce(sum(late), 0), coalesce(sum(minutes), 0) FROM totals "
    "WHERE grp = (SELECT id FROM groups WHERE name = ?) AND key = ? AND minute >= ? AND minute < ?"
)
_LAST = (
    "SELECT minute, largest FROM totals WHERE grp = (SELECT id FROM groups WHERE name = ?) AND key = ? "
    "AND minute >= ? AND minute < ? ORDER BY minute DESC LIMIT 1"
)
_CREATE = (
    "CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
    "CREATE TABLE totals (grp INTEGER, key TEXT, minute INTEGER, count INTEGER, late INTEGER, minutes INTEGER, "
    "largest INTEGER, PRIMARY KEY (grp, key, minute)) WITHOUT ROWID",
    # To replace an hour and to forget; new rows go to its end.
    "CREATE INDEX totals_minute ON totals (minute)",
    "CREATE TABLE hours (hour INTEGER PRIMARY KEY, messages INTEGER)",
    "CREATE TABLE told (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
)


class SqliteStore:
    """The store in one SQLite file, with a write-ahead log: readers wait for no writer.

    A crash of a process loses nothing. A power cut may take back the last hours that were taken, whole; whoever goes on
    afterwards asks `messages`.

    Args:
      path: The file; the first write makes it.
      tables: The facts that it holds.
      keep_minutes: What is older than this before the watermark expires.
    """

    def __init__(self, path: Path, tables: Sequence[Table] = (), keep_minutes: int = KEEP_MINUTES) -> None:
        self.path, self._tables, self._keep = path, {table.name: table for table in tables}, keep_minutes
        self._open = threading.local()

    def put_hour(
        self,
        hour: int,
        messages: int,
        totals: Sequence[Totals],
        rows: Mapping[str, Sequence[Row]],
        watermark: int | None = None,
    ) -> bool:
        """See `Store`."""
        with self._writing() as db:
            before = _freshest(db)
            held = db.execute("SELECT messages FROM hours WHERE hour = ?", (hour,)).fetchone()
            if (held and held[0] > messages) or (before is not None and (hour + 1) * HOUR <= before - self._keep):
                return False
            if held:
                db.execute("DELETE FROM totals WHERE minute >= ? AND minute < ?", (hour * HOUR, (hour + 1) * HOUR))
            for each in totals:
                db.execute("INSERT OR IGNORE INTO groups (name) VALUES (?)", (each.group,))
                (group,) = db.execute("SELECT id FROM groups WHERE name = ?", (each.group,)).fetchone()
                arrays = (each.minute, each.count, each.late, each.minutes, each.largest)
                told = zip(repeat(group), each.keys, *(array.tolist() for array in arrays), strict=False)
                db.executemany("INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?)", told)
            for name, facts in rows.items():
                self._put_facts(db, self._tables[name], facts)
            db.execute("INSERT OR REPLACE INTO hours VALUES (?, ?)", (hour, messages))
            now = newest(totals) if watermark is None else watermark
            if now is not None and (before is None or now > before):
                db.execute("INSERT OR REPLACE INTO told VALUES ('watermark', ?)", (now,))
                self._forget(db, now - self._keep)
        return True

    def messages(self, hour: int) -> int:
        """See `Store`."""
        with self._reading() as db:
            held = db.execute("SELECT messages FROM hours WHERE hour = ?", (hour,)).fetchone()
        return held[0] if held else 0

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
        if isinstance(query, Sum):
            return tuple(db.execute(_SUM, query).fetchone())
        if isinstance(query, Last):
            found = db.execute(_LAST, query).fetchone()
            return tuple(found) if found else None
        if isinstance(query, Get):
            table = self._tables[query.table]
            sql = f"SELECT * FROM facts_{table.name} WHERE {_equal(table.key)}"
            return db.execute(sql, query.key).fetchone()
        *equal, ranged = query.order
        sql = f"SELECT * FROM facts_{query.table} WHERE {_equal((*equal, ''))}{ranged} >= ? AND {ranged} < ?"
        return db.execute(f"{sql} ORDER BY {ranged}", (*query.equal, query.start, query.end)).fetchall()

    def _put_facts(self, db: sqlite3.Connection, table: Table, rows: Iterable[Row]) -> None:
        parts: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            for _, columns in table.parts_of(row):
                parts.setdefault(columns, []).append(row)
        for columns, of_part in parts.items():
            known, names = columns[0], (*table.key, *columns)
            sets = ", ".join(f"{name} = excluded.{name}" for name in columns)
            db.executemany(
                f"INSERT INTO facts_{table.name} ({', '.join(names)}, _newest) "
                f"VALUES ({', '.join('?' * len(names))}, ?) ON CONFLICT DO UPDATE SET {sets}, "
                f"_newest = max(_newest, excluded._newest) WHERE {known} IS NULL OR {known} <= excluded.{known}",
                ((*(row[name] for name in names), row[known]) for row in of_part),
            )

    def _forget(self, db: sqlite3.Connection, before: int) -> None:
        db.execute("DELETE FROM totals WHERE minute < ?", (before,))
        for name in self._tables:
            db.execute(f"DELETE FROM facts_{name} WHERE _newest < ?", (before,))

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
            if not self.path.exists():
                raise sqlite3.OperationalError("no such file")
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
        held = self._open.__dict__.get(name)
        if held and held[0] == self._identity():
            return held[1]
        if mode == "rwc":
            self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None
        )
        db.row_factory = sqlite3.Row
        if mode == "rwc":
            self._prepare(db)
        else:
            db.execute("PRAGMA query_only = 1")
        self._open.__dict__[name] = (self._identity(), db)
        return db

    def _identity(self) -> tuple[int, int]:
        try:
            return os.getpid(), os.stat(self.path).st_ino
        except FileNotFoundError:
            return os.getpid(), 0

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Makes the tables; refuses a file in which they are others."""
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        tables = [[table.name, table.key, dict(table.parts), table.orders] for table in self._tables.values()]
        layout = orjson.dumps([_LAYOUT, tables]).decode()
        db.execute("BEGIN IMMEDIATE")
        try:
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in (*_CREATE, *(s for table in self._tables.values() for s in _create(table))):
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


def _equal(columns: tuple[str, ...]) -> str:
    """A condition; a last column of "" leaves it open for more."""
    return " AND ".join(f"{column} = ?" if column else "" for column in columns)


def _create(table: Table) -> list[str]:
    name = f"facts_{table.name}"
    columns = ", ".join((*table.columns, "_newest INTEGER"))
    return [
        f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({', '.join(table.key)})) WITHOUT ROWID",
        f"CREATE INDEX {name}_newest ON {name} (_newest)",
        *(f"CREATE INDEX {name}_{'_'.join(order)} ON {name} ({', '.join(order)})" for order in table.orders),
    ]
