"""What the stores in SQL databases share: tables and statements."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

from airtight.errors import TerminalError
from streaming.windows.declaration import Stream
from streaming.windows.store import Row, Span, Store

DAY = 24 * 60
_KEY = "grp = ? AND key = ?"


class SqlStore(Store):
    """A table of totals for each stream, and a table of streams with what they measure and their watermarks.

    Args:
      stream: The declaration.
    """

    VALUE: ClassVar[str] = ""
    """Type of a measure's column."""

    def __init__(self, stream: Stream) -> None:
        self._name, self._keep = stream.name, stream.keep_days * DAY
        self._table = f"totals_{stream.name}"
        measures = [(f'"{measure.kind}_{measure.name}"', measure.kind == "max") for measure in stream.measures]
        columns = ['"count"', *(column for column, _ in measures)]
        self._columns = ", ".join(columns)
        self._layout = " ".join(columns)
        self._sums = ", ".join(
            [
                'CAST(coalesce(sum("count"), 0) AS BIGINT)',
                *(f"max({column})" if largest else f"coalesce(sum({column}), 0)" for column, largest in measures),
            ]
        )
        self._upsert = (
            f"INSERT INTO {self._table} VALUES ({', '.join('?' * (4 + len(columns)))}) "
            "ON CONFLICT (grp, key, minutes, start) DO UPDATE SET "
            + ", ".join(f"{column} = excluded.{column}" for column in columns)
        )

    def write(self, rows: Sequence[Row]) -> None:
        """See `Store`."""
        with self._transaction(writes=True) as db:
            known = self._watermark(db)
            rows = [row for row in rows if not (row.early and known is not None and row.start + row.minutes <= known)]
            places = [(row.group, row.key, row.minutes, row.start) for row in rows if not row.totals[0]]
            if places:
                db.executemany(
                    self._sql(f"DELETE FROM {self._table} WHERE {_KEY} AND minutes = ? AND start = ?"), places
                )
            values = [(row.group, row.key, row.minutes, row.start, *row.totals) for row in rows if row.totals[0]]
            if values:
                db.executemany(self._sql(self._upsert), values)

    def advance(self, minute: int) -> None:
        """See `Store`."""
        with self._transaction(writes=True) as db:
            known = self._watermark(db)
            if known is not None and known >= minute:
                return
            db.execute(self._sql("UPDATE streams SET minute = ? WHERE stream = ?"), (minute, self._name))
            if known is None or known // DAY < minute // DAY:
                old = (minute - self._keep,)
                db.execute(self._sql(f"DELETE FROM {self._table} WHERE start + minutes <= ?"), old)

    def watermark(self) -> int | None:
        """See `Store`."""
        with self._transaction() as db:
            return self._watermark(db)

    def read(self, spans: Sequence[Span]) -> list[tuple[Any, ...]]:
        """See `Store`."""
        query = f"SELECT {self._sums} FROM {self._table} WHERE {_KEY} AND minutes = 1 AND start >= ? AND start < ?"
        with self._transaction() as db:
            return [db.execute(self._sql(query), span).fetchone() for span in spans]

    def newest(self, span: Span) -> Row | None:
        """See `Store`."""
        rows = self._rows(span, 1, "DESC LIMIT 1")
        return rows[0] if rows else None

    def windows(self, group: str, key: str, minutes: int, start: int, end: int) -> list[Row]:
        """See `Store`."""
        return self._rows(Span(group, key, start, end), minutes)

    def rows(self, minutes: int = 1) -> list[Row]:
        """All rows of windows of a length, for comparison; raises as `read`."""
        query = f"SELECT grp, key, start, {self._columns} FROM {self._table} WHERE minutes = ? ORDER BY 1, 2, 3"
        with self._transaction() as db:
            records = db.execute(self._sql(query), (minutes,)).fetchall()
        return [Row(group, key, start, minutes, tuple(totals)) for group, key, start, *totals in records]

    def _transaction(self, writes: bool = False) -> contextlib.AbstractContextManager[Any]:
        """One transaction, with `execute` and `executemany`; what is read is of one moment."""
        raise NotImplementedError

    def _sql(self, statement: str) -> str:
        """A statement with the database's own marks for values, in place of "?"."""
        return statement

    def _rows(self, span: Span, minutes: int, order: str = "") -> list[Row]:
        query = (
            f"SELECT start, {self._columns} FROM {self._table} "
            f"WHERE {_KEY} AND start >= ? AND start < ? AND minutes = ? ORDER BY start {order}"
        )
        with self._transaction() as db:
            records = db.execute(self._sql(query), (*span, minutes)).fetchall()
        return [Row(span.group, span.key, start, minutes, tuple(totals)) for start, *totals in records]

    def _watermark(self, db: Any) -> int | None:
        record = db.execute(self._sql("SELECT minute FROM streams WHERE stream = ?"), (self._name,)).fetchone()
        return record[0] if record else None

    def _create(self, db: Any, where: str) -> None:
        """Makes the tables that are not there, and refuses those of other measures."""
        columns = ", ".join(
            f"{column} {'BIGINT' if place == 0 else self.VALUE}"
            for place, column in enumerate(self._columns.split(", "))
        )
        db.execute("CREATE TABLE IF NOT EXISTS streams (stream TEXT PRIMARY KEY, layout TEXT, minute BIGINT)")
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (grp TEXT, key TEXT, minutes BIGINT, start BIGINT, {columns}, "
            "PRIMARY KEY (grp, key, minutes, start))"
        )
        db.execute(
            self._sql("INSERT INTO streams VALUES (?, ?, NULL) ON CONFLICT (stream) DO NOTHING"),
            (self._name, self._layout),
        )
        query = self._sql("SELECT layout FROM streams WHERE stream = ?")
        (held,) = db.execute(query, (self._name,)).fetchone()
        if held != self._layout:
            raise TerminalError(
                f"The store of the stream {self._name} is laid out for other measures.",
                expected=self._layout,
                received=held,
                remedy=f"Remove {where}, or name another, and start the stream with --anew.",
            )
