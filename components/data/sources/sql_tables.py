"""Tables of SQL databases, by SQLAlchemy, through a cursor of the server."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airtight.errors import AirtightError, TransientError
from components.data.sources.source import ReadReport, Rows, Source

if TYPE_CHECKING:
    from sqlalchemy import Engine, Table

PIECE = 16_384
"""Rows that are fetched at a time."""


def read(source: Source, report: ReadReport) -> Iterator[Rows]:
    """Yields the rows of a table or view.

    Raises:
      TerminalError: There is no such table, or this user may not read it.
      TransientError: The database does not answer.
    """
    import sqlalchemy as sa

    engine = _engine(source)
    try:
        table = _table(engine, source)
        types = {column.name: _arrow_type(column.type) for column in table.columns}
        with engine.connect().execution_options(stream_results=True, yield_per=PIECE) as connection:
            place = 1
            for rows in connection.execute(sa.select(table)).partitions():
                columns = zip(*rows, strict=True)
                arrays = [_array(values, kind) for values, kind in zip(columns, types.values(), strict=True)]
                yield Rows(pa.RecordBatch.from_arrays(arrays, names=list(types)), place, source.table)
                place += len(rows)
    except sa.exc.SQLAlchemyError as error:
        raise _in_words(error, source) from error
    finally:
        engine.dispose()


def tables(source: Source) -> list[str]:
    """Names of the tables and views that the database shows this user.

    Raises:
      TransientError: The database does not answer.
    """
    import sqlalchemy as sa

    engine = _engine(source)
    try:
        inspector = sa.inspect(engine)
        return sorted([*inspector.get_table_names(), *inspector.get_view_names()])
    except sa.exc.SQLAlchemyError as error:
        raise _in_words(error, source) from error
    finally:
        engine.dispose()


def _engine(source: Source) -> Engine:
    import sqlalchemy as sa

    try:
        url = sa.make_url(source.url)
        if url.drivername.startswith("sqlite") and url.database:
            # Connecting would make an empty database where there is none.
            url = url.set(database=f"file:{url.database}", query={"mode": "ro", "uri": "true"})
        return sa.create_engine(url)
    except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
        raise source.error(
            "The database's URL is none.",
            expected="postgresql://user@host/database or sqlite:////absolute/path.db",
            received=str(error).splitlines()[0],
            remedy="Correct DATA; a driver that is not installed goes into requirements.in.",
        ) from error


def _table(engine: Engine, source: Source) -> Table:
    import sqlalchemy as sa

    schema, _, name = source.table.rpartition(".")
    try:
        return sa.Table(name, sa.MetaData(), schema=schema or None, autoload_with=engine)
    except sa.exc.NoSuchTableError as error:
        raise source.error(
            f"There is no table {source.table!r}.",
            expected="one of the database's tables",
            received=tables(source) or "none that this user sees",
            remedy="Name one of them: TABLE=...",
        ) from error


def _in_words(error: Exception, source: Source) -> AirtightError:
    import sqlalchemy as sa

    message = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    user = sa.make_url(source.url).username or "this user"
    if "permission denied" in message or "not authorized" in message:
        return source.error(
            f"{user} may not read the table.",
            expected=f"the right to read it: GRANT SELECT ON {source.table} TO {user}",
            received=message,
            remedy="Have the right granted, or name another table or user.",
        )
    if isinstance(error, sa.exc.OperationalError):
        return TransientError(
            "The database does not answer.",
            expected=f"a database at {sa.make_url(source.url).render_as_string(hide_password=True)}",
            received=message,
            remedy="Correct the URL, or start the database.",
        )
    return source.error(
        "The table cannot be read.", expected="rows", received=message, remedy="Correct the table or the view."
    )


def _arrow_type(kind: Any) -> pa.DataType | None:
    """The Arrow type of a column; None where its values are turned into text."""
    import sqlalchemy as sa

    if isinstance(kind, sa.DateTime):
        return pa.timestamp("us", tz="UTC" if kind.timezone else None)
    if isinstance(kind, sa.ARRAY):
        return pa.list_(pa.float64()) if isinstance(kind.item_type, (sa.Integer, sa.Numeric, sa.Float)) else None
    types = {
        sa.Boolean: pa.bool_(),
        sa.Integer: pa.int64(),
        sa.Numeric: pa.float64(),
        sa.Float: pa.float64(),
        sa.Date: pa.date32(),
        sa.LargeBinary: pa.binary(),
    }
    return next((arrow for sql, arrow in types.items() if isinstance(kind, sql)), None)


def _array(values: tuple[Any, ...], kind: pa.DataType | None) -> pa.Array:
    if kind is None:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if pa.types.is_floating(kind):
        return pa.array([float(value) if isinstance(value, Decimal) else value for value in values], kind)
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # SQLite keeps what it is given, whatever the column's type says.
        return pa.array([None if value is None else str(value) for value in values], pa.string())
