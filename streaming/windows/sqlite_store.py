"""The store of a stream in one SQLite file, with a write-ahead log: readers wait for no writer. On one host."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from airtight.errors import TransientError
from streaming.windows.declaration import Stream
from streaming.windows.sql_store import SqlStore

BUSY_S = 30.0
"""A writer waits so long for another one."""
_turns: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
"""Of the writers of this process to a file. SQLite's own wait is a sleep, and longer than need be."""
os.register_at_fork(after_in_child=_turns.clear)
_DAMAGED = ("malformed", "not a database", "disk image")
_PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -65536")


class SqliteStore(SqlStore):
    """See the module. A file that is damaged is moved aside, and a new one begun.

    Args:
      path: The file; the first write makes it. Several streams may share it.
      stream: The declaration.
    """

    CLUSTERED: ClassVar[str] = " WITHOUT ROWID"

    def __init__(self, path: Path, stream: Stream) -> None:
        super().__init__(stream)
        self.path = path
        self._open = threading.local()

    def close(self) -> None:
        """See `Store`; of this thread."""
        for name in ("reader", "writer"):
            if held := self._open.__dict__.pop(name, None):
                held[1].close()

    @contextlib.contextmanager
    def _transaction(self, writes: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            with self._turn() if writes else contextlib.nullcontext():
                db = self._connection(writes)
                db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
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

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        turn = _turns[self.path]
        if not turn.acquire(timeout=BUSY_S):
            raise sqlite3.OperationalError(f"another thread has been writing for {BUSY_S:g} s")
        try:
            yield
        finally:
            turn.release()

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

    def _connection(self, writes: bool) -> sqlite3.Connection:
        """The connection of this thread; anew after a fork, or when another file has taken the place of the old one."""
        if writes and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        try:
            now = os.getpid(), os.stat(self.path).st_ino
        except FileNotFoundError as error:
            raise sqlite3.OperationalError("no such file") from error
        name = "writer" if writes else "reader"
        if (held := self._open.__dict__.get(name)) and held[0] == now:
            return held[1]
        uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if writes else 'rw'}"
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        if writes:
            try:
                for pragma in _PRAGMAS:
                    db.execute(f"PRAGMA {pragma}")
                db.execute("BEGIN IMMEDIATE")
                self._create(db, str(self.path))
                db.execute("COMMIT")
            except BaseException:
                db.close()
                raise
        self._open.__dict__[name] = (now, db)
        return db
