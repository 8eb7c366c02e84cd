"""The store of a stream in a PostgreSQL database, for several hosts."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from airtight.errors import TerminalError, TransientError
from streaming.windows.declaration import Stream
from streaming.windows.sql_store import SqlStore

CONNECT_S = 10


class PostgresStore(SqlStore):
    """See the module. Measures are double precision: whole numbers are exact up to 2**53.

    Args:
      url: `postgresql://user:password@host:port/database`.
      stream: The declaration.
    """

    VALUE: ClassVar[str] = "DOUBLE PRECISION"

    def __init__(self, url: str, stream: Stream) -> None:
        super().__init__(stream)
        try:
            import psycopg
        except ImportError as error:
            raise TerminalError(
                "The client of PostgreSQL is not installed.",
                expected="the package psycopg",
                received=str(error),
                remedy="Install it, or choose a path as the store's address.",
            ) from error
        self._psycopg, self._url = psycopg, url
        self._open = threading.local()

    def close(self) -> None:
        """See `Store`; of this thread."""
        if held := self._open.__dict__.pop("connection", None):
            held[1].close()

    @contextlib.contextmanager
    def _transaction(self, writes: bool = False) -> Iterator[Any]:
        try:
            connection = self._connection()
            with connection.transaction(), connection.cursor() as cursor:
                if not writes:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield cursor
        except self._psycopg.Error as error:
            self.close()
            raise TransientError(
                f"The store of the stream {self._name} cannot be used now.",
                expected=f"a PostgreSQL database at {self._url.rpartition('@')[2]}",
                received=f"{type(error).__name__}: {error}",
                remedy="Start it, or correct its address.",
            ) from error

    def _sql(self, statement: str) -> str:
        return statement.replace("?", "%s")

    def _connection(self) -> Any:
        """The connection of this thread; anew after a fork."""
        held = self._open.__dict__.get("connection")
        if held and held[0] == os.getpid() and not held[1].closed:
            return held[1]
        connection = self._psycopg.connect(self._url, connect_timeout=CONNECT_S, autocommit=True)
        try:
            with connection.transaction(), connection.cursor() as cursor:
                # Two that make the tables at once get in each other's way, whatever IF NOT EXISTS says.
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext('airtight streams'))")
                self._create(cursor, self._url.rpartition("@")[2])
        except BaseException:
            connection.close()
            raise
        self._open.connection = (os.getpid(), connection)
        return connection
