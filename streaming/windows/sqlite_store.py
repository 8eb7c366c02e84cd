"""The store of a stream in one SQLite file, with a write-ahead log: readers wait for no writer. On one host."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError, TransientError
from streaming.windows.declaration import Stream
from streaming.windows.store import Row, Span, Store

BUSY_S = 30.0
"""A writer waits so long for another one."""
DAY = 24 * 60
_DAMAGED = ("malformed", "not a database", "disk image")
_KEY = "grp = ? AND key = ?"
_PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -65536")


class SqliteStore(Store):
    """See the module. A file that is damaged is moved aside, and a new one begun.

    Args:
      path: The file; the first write makes it. Several streams may share it.
      stream: The declaration.
    """

    def __init__(self, path: Path, stream: Stream) -> None:
        self.path, self._keep = path, stream.keep_days * DAY
        self._table = f"totals_{stream.name}"
        self._name = stream.name
        columns = ["count", *(f"{measure.kind}_{measure.name}" for measure in stream.measures)]
        self._columns = ", ".join(f'"{column}"' for column in columns)
        self._width = len(columns)
        self._sums = ", ".join(
            f'max("{column}")' if column.startswith("max_") else f'coalesce(sum("{column}"), 0)' for column in columns
        )
        self._open = threading.local()

    def write(self, rows: Sequence[Row]) -> None:
        """See `Store`."""
        with self._transaction("writer") as db:
            known = self._watermark(db)
            rows = [row for row in rows if not (row.early and known is not None and row.start + row.minutes <= known)]
            places = ((row.group, row.key, row.minutes, row.start) for row in rows if not row.totals[0])
            db.executemany(f"DELETE FROM {self._table} WHERE grp = ? AND key = ? AND minutes = ? AND start = ?", places)
            values = ((row.group, row.key, row.minutes, row.start, *row.totals) for row in rows if row.totals[0])
            marks = ", ".join("?" * (4 + self._width))
            db.executemany(f"INSERT OR REPLACE INTO {self._table} VALUES ({marks})", values)

    def advance(self, minute: int) -> None:
        """See `Store`."""
        with self._transaction("writer") as db:
            known = self._watermark(db)
            if known is not None and known >= minute:
                return
            db.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?)", (self._name, minute))
            if known is None or known // DAY < minute // DAY:
                db.execute(f"DELETE FROM {self._table} WHERE start + minutes <= ?", (minute - self._keep,))

    def watermark(self) -> int | None:
        """See `Store`."""
        with self._transaction("reader") as db:
            return self._watermark(db)

    def read(self, spans: Sequence[Span]) -> list[tuple[Any, ...]]:
        """See `Store`."""
        query = f"SELECT {self._sums} FROM {self._table} WHERE {_KEY} AND minutes = 1 AND start >= ? AND start < ?"
        with self._transaction("reader") as db:
            return [db.execute(query, span).fetchone() for span in spans]

    def newest(self, span: Span) -> Row | None:
        """See `Store`."""
        rows = self._rows(span, 1, "DESC LIMIT 1")
        return rows[0] if rows else None

    def windows(self, group: str, key: str, minutes: int, start: int, end: int) -> list[Row]:
        """See `Store`."""
        return self._rows(Span(group, key, start, end), minutes)

    def rows(self, minutes: int = 1) -> Iterator[Row]:
        """All rows of windows of a length, for comparison; raises as `read`."""
        query = f"SELECT grp, key, start, {self._columns} FROM {self._table} WHERE minutes = ? ORDER BY 1, 2, 3"
        with self._transaction("reader") as db:
            for group, key, start, *totals in db.execute(query, (minutes,)):
                yield Row(group, key, start, minutes, tuple(totals))

    def close(self) -> None:
        """See `Store`; of this thread."""
        for name in ("reader", "writer"):
            if held := self._open.__dict__.pop(name, None):
                held[1].close()

    def _rows(self, span: Span, minutes: int, order: str = "") -> list[Row]:
        query = (
            f"SELECT start, {self._columns} FROM {self._table} "
            f"WHERE {_KEY} AND start >= ? AND start < ? AND minutes = ? ORDER BY start {order}"
        )
        with self._transaction("reader") as db:
            found = db.execute(query, (*span, minutes)).fetchall()
        return [Row(span.group, span.key, at, minutes, tuple(totals)) for at, *totals in found]

    def _watermark(self, db: sqlite3.Connection) -> int | None:
        row = db.execute("SELECT minute FROM watermarks WHERE stream = ?", (self._name,)).fetchone()
        return row[0] if row else None

    @contextlib.contextmanager
    def _transaction(self, name: str) -> Iterator[sqlite3.Connection]:
        """One transaction; what is read is of one moment."""
        try:
            db = self._connection(name)
            db.execute("BEGIN IMMEDIATE" if name == "writer" else "BEGIN")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            self.close()
            if any(word in str(error) for word in _DAMAGED):
                raise self._moved_aside(error) from error
            raise TransientError(
                f"The store of the stream {self._name} cannot be used now.",
                expected=f"a store at {self.path}",
                received=str(error),
                remedy="Start the stream, which makes and fills it; see that it is not locked and the disk not full.",
            ) from error

    def _moved_aside(self, error: sqlite3.DatabaseError) -> TransientError:
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        with contextlib.suppress(FileNotFoundError):  # Another process was first.
            os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        return TransientError(
            f"The store of the stream {self._name} was damaged, and is now {aside}.",
            expected=f"a SQLite database at {self.path}",
            received=str(error),
            remedy="A new one is filled from now on. What was before comes back when the stream is read again from the "
            "beginning of its topics: stop the job, and start it with --anew.",
        )

    def _connection(self, name: str) -> sqlite3.Connection:
        """The connection of this thread; anew after a fork, or when another file has taken the place of the old one."""
        writes = name == "writer"
        if writes and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        try:
            now = os.getpid(), os.stat(self.path).st_ino
        except FileNotFoundError as error:
            raise sqlite3.OperationalError("no such file") from error
        if (held := self._open.__dict__.get(name)) and held[0] == now:
            return held[1]
        mode = "rwc" if writes else "rw"
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None
        )
        if writes:
            self._prepare(db)
        self._open.__dict__[name] = (now, db)
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        db.execute("CREATE TABLE IF NOT EXISTS watermarks (stream TEXT PRIMARY KEY, minute INTEGER) WITHOUT ROWID")
        create = (
            f"CREATE TABLE {self._table} (grp TEXT, key TEXT, minutes INTEGER, start INTEGER, {self._columns}, "
            "PRIMARY KEY (grp, key, minutes, start)) WITHOUT ROWID"
        )
        held = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (self._table,)).fetchone()
        if held is None:
            # Another process may make it at the same moment.
            with contextlib.suppress(sqlite3.OperationalError):
                db.execute(create)
            held = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (self._table,)).fetchone()
        if held[0] != create:
            db.close()
            raise TerminalError(
                f"The store of the stream {self._name} is laid out for other measures.",
                expected=create,
                received=held[0],
                remedy=f"Remove {self.path}, or name another file, and start the stream with --anew.",
            )
