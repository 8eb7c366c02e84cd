"""ML Metadata on PostgreSQL: texts of any length, with backslashes.

ML Metadata's own tables refuse a property of more than some 2,700 bytes, because a B-tree index lies over it, a name
of more than 255 characters, and an int of more than 32 bits. On SQLite none of these limits exists, and TFX writes
parameters, module texts and tracebacks of any length. `widen` takes them out of the tables (adr/0018).

ML Metadata's client writes a text that holds a backslash so that PostgreSQL takes it for a syntax error, or for worse:
`'E'{...}`. Tracebacks, JSON in parameters and the cache's keys hold them. So here every backslash crosses to the
database, in values as in queries, as a character of Unicode's private use area, and becomes one again on its way back.
"""

from __future__ import annotations

import logging
from typing import Any

import ml_metadata as mlmd
from google.protobuf import message
from google.protobuf.descriptor import FieldDescriptor
from ml_metadata.proto import metadata_store_pb2

from airtight.errors import TerminalError, TransientError

log = logging.getLogger(__name__)

_BACKSLASH = "\\"
_STANDS_FOR_IT = "\uf05c"
_HOLDERS = ("artifact", "execution", "context")
_TABLES = ("type", "typeproperty", *_HOLDERS, *(f"{holder}property" for holder in _HOLDERS))
_NARROW_COLUMNS = """
    SELECT c.table_name, c.column_name, c.data_type
    FROM information_schema.columns c
    WHERE c.table_schema = current_schema() AND c.table_name = ANY(%s)
      AND (c.data_type = 'character varying' OR c.column_name = 'int_value' AND c.data_type = 'integer')
    ORDER BY 1, 2"""
_STRING_INDEXES = """
    SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND indexname = ANY(%s) ORDER BY 1"""
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('airtight.metadata_postgresql'))"
_CONNECT_S = 5
_LOCK_WAIT = "5s"
"""So long a statement waits behind an open transaction, and all others on the table behind it."""


class Store(mlmd.MetadataStore):
    """A metadata store on PostgreSQL."""

    def _pywrap_cc_call(self, method: Any, request: message.Message, response: message.Message) -> None:
        if _BACKSLASH.encode() in request.SerializeToString():
            request = _translated(request, _BACKSLASH, _STANDS_FOR_IT)
        super()._pywrap_cc_call(method, request, response)
        if _STANDS_FOR_IT.encode() in response.SerializeToString():
            response.CopyFrom(_translated(response, _STANDS_FOR_IT, _BACKSLASH))


def widen(server: metadata_store_pb2.PostgreSQLDatabaseConfig) -> None:
    """Lets ML Metadata's tables hold texts of any length and ints of 64 bits; does nothing where they do already.

    No query of ML Metadata needs the indexes that go: a filter on a property still finds its name by those over ints
    and doubles. Making a VARCHAR a TEXT rewrites no table.

    Args:
      server: The database, whose tables exist.

    Raises:
      TerminalError: The tables belong to another role; the message holds the statements for that role.
      TransientError: The server does not answer, or an open transaction holds a table.
    """
    import psycopg  # Only this needs it, and a store on SQLite never does.

    statements: list[str] = []
    options = {"sslmode": server.ssloption.sslmode} if server.ssloption.sslmode else {}
    try:
        with psycopg.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=server.password,
            dbname=server.dbname,
            connect_timeout=_CONNECT_S,
            **options,
        ) as connection:
            connection.execute(_ONE_AT_A_TIME)
            # From here on only, as those that widen the same tables wait for one another as long as it takes.
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'")
            indexes = connection.execute(_STRING_INDEXES, [[f"idx_{holder}_property_string" for holder in _HOLDERS]])
            statements += [f"DROP INDEX {name}" for (name,) in indexes]
            for table, column, kind in connection.execute(_NARROW_COLUMNS, [list(_TABLES)]).fetchall():
                wide = "BIGINT" if kind == "integer" else "TEXT"
                statements.append(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {wide}")
            for statement in statements:
                log.warning("The metadata store's tables are changed, to hold texts of any length: %s", statement)
                connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        raise TerminalError(
            "The tables of the metadata store refuse long texts, and this role may not change them.",
            expected=f"tables that {server.user} owns, or that their owner has changed",
            received=str(error).splitlines()[0],
            remedy=f"Have their owner execute: {'; '.join(statements)};",
        ) from error
    except psycopg.Error as error:
        raise TransientError(
            "The tables of the metadata store could not be changed to hold long texts.",
            expected=f"PostgreSQL at {server.host}:{server.port}, with the database {server.dbname}",
            received=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="See whether the server runs, and whether an open transaction holds a table (pg_locks). "
            "Nothing is lost: the next attempt tries again.",
        ) from error


def _translated(proto: message.Message, old: str, new: str) -> message.Message:
    """A copy with one character for another in every text, names and keys too."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    _translate(copy, old, new)
    return copy


def _translate(proto: message.Message, old: str, new: str) -> None:
    for field, value in proto.ListFields():
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _translate_map(value, kind.fields_by_name["value"].message_type is not None, old, new)
        elif kind is not None:
            for part in value if field.label == FieldDescriptor.LABEL_REPEATED else [value]:
                _translate(part, old, new)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.label == FieldDescriptor.LABEL_REPEATED:
                value[:] = [text.replace(old, new) for text in value]
            else:
                setattr(proto, field.name, value.replace(old, new))


def _translate_map(entries: Any, holds_messages: bool, old: str, new: str) -> None:
    for key in list(entries):
        if holds_messages:
            _translate(entries[key], old, new)
        elif isinstance(entries[key], str):
            entries[key] = entries[key].replace(old, new)
        if isinstance(key, str) and old in key:
            if holds_messages:
                entries[key.replace(old, new)].CopyFrom(entries[key])
            else:
                entries[key.replace(old, new)] = entries[key]
            del entries[key]
