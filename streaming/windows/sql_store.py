"""What the stores in SQL databases share: tables and statements."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from airtight.errors import TerminalError
from streaming.windows.arithmetic import sum_of
from streaming.windows.declaration import Stream
from streaming.windows.store import FOREVER, Birth, Newest, Query, Row, Span, Store
from streaming.windows.tables import Get, Range, Record, Table

DAY = 24 * 60
_KEY = "grp = ? AND key = ?"
_TYPES = {str: "TEXT", int: "BIGINT", float: "DOUBLE PRECISION"}
_NEWEST = "newest_minute"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[int, float]).decode


class SqlStore(Store):
    """Tables of totals and of records for each stream, and one of all streams: what they measure, and watermarks.

    Args:
      stream: The declaration.
    """

    VALUE: ClassVar[str] = ""
    """Type of a measure's column."""
    CLUSTERED: ClassVar[str] = ""
    """What makes a table lie in the order of its key."""

    def __init__(self, stream: Stream) -> None:
        self._name, self._keep = stream.name, stream.keep_days * DAY
        self._birth = f"{stream.name} birth"
        self._table = f"totals_{stream.name}"
        self._measures = stream.measures
        self._has_distribution = any(measure.kind == "distribution" for measure in stream.measures)
        measures = [(f'"{measure.kind}_{measure.name}"', measure.kind == "max") for measure in stream.measures]
        columns = ['"count"', *(column for column, _ in measures)]
        self._columns = ", ".join(columns)
        self._tables = {table.name: table for table in stream.tables}
        self._layout = " ".join([*columns, *(f"{name}({_columns(table)})" for name, table in self._tables.items())])
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
            places = [(row.group, row.key, row.minutes, row.start) for row in rows if not row.totals[0]]
            if places:
                db.executemany(
                    self._sql(f"DELETE FROM {self._table} WHERE {_KEY} AND minutes = ? AND start = ?"), places
                )
            values = [
                (row.group, row.key, row.minutes, row.start, *_stored(row.totals)) for row in rows if row.totals[0]
            ]
            if values:
                db.executemany(self._sql(self._upsert), values)

    def upsert(self, records: Sequence[Record]) -> None:
        """See `Store`."""
        with self._transaction(writes=True) as db:
            for table in self._tables.values():
                chosen = [record.values for record in records if record.table == table.name]
                for known, others in table.parts.items():
                    columns = (*table.key, known, *others)
                    rows = [
                        (*(values[name] for name in columns), values[known]) for values in chosen if known in values
                    ]
                    if rows:
                        db.executemany(self._sql(self._upsert_part(table, known, columns)), rows)

    def advance(self, minute: int) -> None:
        """See `Store`."""
        with self._transaction(writes=True) as db:
            known = self._watermark(db)
            if known is not None and known >= minute:
                return
            # Another writer may be further by now.
            statement = "UPDATE streams SET minute = ? WHERE stream = ? AND (minute IS NULL OR minute < ?)"
            db.execute(self._sql(statement), (minute, self._name, minute))
            if known is None or known // DAY < minute // DAY:
                old = (minute - self._keep,)
                db.execute(self._sql(f"DELETE FROM {self._table} WHERE start + minutes <= ?"), old)
                for name in self._tables:
                    db.execute(self._sql(f"DELETE FROM {self._records(name)} WHERE {_NEWEST} <= ?"), old)

    def watermark(self) -> int | None:
        """See `Store`."""
        with self._transaction() as db:
            return self._watermark(db)

    def birth(self) -> Birth:
        """See `Store`; a line of the table of streams, whose layout is the token."""
        with self._transaction(writes=True) as db:
            statement = "INSERT INTO streams VALUES (?, ?, NULL) ON CONFLICT (stream) DO NOTHING"
            db.execute(self._sql(statement), (self._birth, uuid.uuid4().hex))
            query = self._sql("SELECT layout, minute FROM streams WHERE stream = ?")
            token, whole_from = db.execute(query, (self._birth,)).fetchone()
            return Birth(token, self._watermark(db), whole_from)

    def set_whole_from(self, minute: int) -> None:
        """See `Store`."""
        self.birth()
        with self._transaction(writes=True) as db:
            db.execute(self._sql("UPDATE streams SET minute = ? WHERE stream = ?"), (minute, self._birth))

    def whole_from(self) -> int | None:
        """See `Store`."""
        with self._transaction() as db:
            return self._minute(db, self._birth)

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """See `Store`."""
        with self._transaction() as db:
            return [self._answer(db, query) for query in queries]

    def windows(self, group: str, key: str, minutes: int, start: int, end: int) -> list[Row]:
        """See `Store`."""
        with self._transaction() as db:
            return self._rows(db, Span(group, key, start, end), minutes)

    def rows(self, minutes: int = 1, start: int = 0, end: int = FOREVER) -> list[Row]:
        """See `Store`."""
        query = (
            f"SELECT grp, key, start, {self._columns} FROM {self._table} "
            "WHERE minutes = ? AND start >= ? AND start < ? ORDER BY 1, 2, 3"
        )
        with self._transaction() as db:
            records = db.execute(self._sql(query), (minutes, start, end)).fetchall()
        return [Row(group, key, start, minutes, self._totals(totals)) for group, key, start, *totals in records]

    def _transaction(self, writes: bool = False) -> contextlib.AbstractContextManager[Any]:
        """One transaction, with `execute` and `executemany`; what is read is of one moment."""
        raise NotImplementedError

    def _sql(self, statement: str) -> str:
        """A statement with the database's own marks for values, in place of "?"."""
        return statement

    def _answer(self, db: Any, query: Query) -> Any:
        if isinstance(query, Get | Range):
            return self._answer_records(db, query)
        if isinstance(query, Newest):
            rows = self._rows(db, query, 1, "DESC LIMIT 1")
            return rows[0] if rows else None
        if self._has_distribution:
            return sum_of(self._measures, (row.totals for row in self._rows(db, query, 1)))
        inside = f"{_KEY} AND minutes = 1 AND start >= ? AND start < ?"
        statement = f"SELECT {self._sums} FROM {self._table} WHERE {inside}"
        return tuple(db.execute(self._sql(statement), query).fetchone())

    def _answer_records(self, db: Any, query: Get | Range) -> Any:
        table = self._tables[query.table]
        columns: tuple[str, ...] = tuple(table.columns)
        if isinstance(query, Get):
            condition, values, order = _equal(*table.key), query.key, ""
        else:
            columns, by = query.columns or columns, query.order.by
            condition = f"{_equal(*query.order.equal, '')}{by} >= ? AND {by} < ?"
            values, order = (*query.equal, query.start, query.end), f" ORDER BY {by}"
        statement = f"SELECT {', '.join(columns)} FROM {self._records(table.name)} WHERE {condition}{order}"
        records = [dict(zip(columns, row, strict=True)) for row in db.execute(self._sql(statement), values).fetchall()]
        return records if isinstance(query, Range) else records[0] if records else None

    def _rows(self, db: Any, span: Span | Newest, minutes: int, order: str = "") -> list[Row]:
        query = (
            f"SELECT start, {self._columns} FROM {self._table} "
            f"WHERE {_KEY} AND start >= ? AND start < ? AND minutes = ? ORDER BY start {order}"
        )
        records = db.execute(self._sql(query), (*span, minutes)).fetchall()
        return [Row(span.group, span.key, start, minutes, self._totals(totals)) for start, *totals in records]

    def _totals(self, columns: Sequence[Any]) -> tuple[Any, ...]:
        count, *rest = columns
        pairs = zip(rest, self._measures, strict=True)
        return count, *(_decode(value) if measure.kind == "distribution" else value for value, measure in pairs)

    def _records(self, table: str) -> str:
        return f"records_{self._name}_{table}"

    def _upsert_part(self, table: Table, known: str, columns: Sequence[str]) -> str:
        """The statement that writes a part, and the minute at which something of the record last became known."""
        name = self._records(table.name)
        newest = f"CASE WHEN excluded.{_NEWEST} > {name}.{_NEWEST} THEN excluded.{_NEWEST} ELSE {name}.{_NEWEST} END"
        sets = [f"{column} = excluded.{column}" for column in columns if column not in table.key]
        return (
            f"INSERT INTO {name} ({', '.join(columns)}, {_NEWEST}) VALUES ({', '.join('?' * (len(columns) + 1))}) "
            f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {', '.join(sets)}, {_NEWEST} = {newest} "
            f"WHERE {name}.{known} IS NULL OR {name}.{known} <= excluded.{known}"
        )

    def _watermark(self, db: Any) -> int | None:
        return self._minute(db, self._name)

    def _minute(self, db: Any, name: str) -> int | None:
        record = db.execute(self._sql("SELECT minute FROM streams WHERE stream = ?"), (name,)).fetchone()
        return record[0] if record else None

    def _create(self, db: Any, where: str) -> None:
        """Makes the tables of a new stream, and refuses those of other measures."""
        db.execute("CREATE TABLE IF NOT EXISTS streams (stream TEXT PRIMARY KEY, layout TEXT, minute BIGINT)")
        query = self._sql("SELECT layout FROM streams WHERE stream = ?")
        held = db.execute(query, (self._name,)).fetchone()
        if held is None:
            self._create_tables(db)
            db.execute(self._sql("INSERT INTO streams VALUES (?, ?, NULL)"), (self._name, self._layout))
        elif held[0] != self._layout:
            raise TerminalError(
                f"The store of the stream {self._name} is laid out for other measures.",
                expected=self._layout,
                received=held[0],
                remedy=f"Remove {where}, or name another, and start the stream with --anew.",
            )

    def _create_tables(self, db: Any) -> None:
        kinds = ["BIGINT", *("TEXT" if measure.kind == "distribution" else self.VALUE for measure in self._measures)]
        columns = ", ".join(map(" ".join, zip(self._columns.split(", "), kinds, strict=True)))
        db.execute(
            f"CREATE TABLE {self._table} (grp TEXT, key TEXT, minutes BIGINT, start BIGINT, {columns}, "
            f"PRIMARY KEY (grp, key, minutes, start)){self.CLUSTERED}"
        )
        for table in self._tables.values():
            name = self._records(table.name)
            db.execute(
                f"CREATE TABLE {name} ({_columns(table)}, {_NEWEST} BIGINT, "
                f"PRIMARY KEY ({', '.join(table.key)})){self.CLUSTERED}"
            )
            for order in table.orders:
                indexed = ", ".join((*order.equal, order.by, *order.beside))
                db.execute(f"CREATE INDEX {name}_{order.name} ON {name} ({indexed})")


def _stored(totals: Sequence[Any]) -> list[Any]:
    return [_encode(total).decode() if isinstance(total, dict) else total for total in totals]


def _columns(table: Table) -> str:
    """Columns and their types, as a statement has them."""
    return ", ".join(f"{name} {_TYPES[kind]}" for name, kind in table.columns.items())


def _equal(*columns: str) -> str:
    """A condition; with a last column of "" it can be followed by another one."""
    return " AND ".join(f"{column} = ?" if column else "" for column in columns)
