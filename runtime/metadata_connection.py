"""Opening the store of ML Metadata: SQLite in the state folder, or what AIRTIGHT_METADATA names.

Nothing of TFX is imported here, which takes seconds: whoever only reads the store needs none of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import socket
import time
import urllib.parse
import uuid
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata import errors as mlmd_errors
from ml_metadata.proto import metadata_store_pb2

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.home import Home
from runtime.metadata_postgresql import Store, widen

ENVIRONMENT = "AIRTIGHT_METADATA"
"""Names the metadata store when it is not the SQLite file of the state folder.

Either `postgresql://user:password@host:port/database`, or `file:/path` of a file whose only line is such an address,
which keeps the password out of the environment.
"""

_OPENING_S = 10.0
_PROBE_S = 3.0
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_CONNECTION = "connection pointer is NULL"
_LOCKED = ("a subset of tables", "Concurrent writes aborted")
_NO_DATABASE = "file is not a database"
_FILE = "file:"
_STORE_TYPE, _STORE_NAME, _STORE_ID = "airtight_store", "this store", "id"
_PLAIN_SSLMODES = ("disable", "allow", "prefer")


def project_config(home: Home) -> metadata_store_pb2.ConnectionConfig:
    """How the project's metadata store is reached: SQLite in the state folder, or what AIRTIGHT_METADATA names."""
    address = os.environ.get(ENVIRONMENT, "")
    if address.startswith(_FILE):
        address = _address_in(Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)))
    return _postgresql(address) if address else _sqlite(home)


def project_store(home: Home) -> mlmd.MetadataStore:
    """The project's metadata store, opened.

    Raises:
      AirtightError: It cannot be opened, and trying again did not help.
    """
    config = project_config(home)
    make_tables(config)
    return connected(config)


def make_tables(config: metadata_store_pb2.ConnectionConfig) -> None:
    """Sees to it that the tables of a SQLite file exist, and that it can be written.

    Two processes that make the tables of a new file at once get in each other's way, so one makes them alone. On
    PostgreSQL the others are told to try again, and do.
    """
    file = Path(config.sqlite.filename_uri) if config.HasField("sqlite") else None
    if file is not None:
        _check_writable(file)
    if file is not None and not (file.exists() and file.stat().st_size):
        with open(f"{file}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            connected(config)


def connected(config: metadata_store_pb2.ConnectionConfig) -> mlmd.MetadataStore:
    """Opens the store, and makes it ready where it has never been opened here.

    Raises:
      AirtightError: It cannot be opened, and trying again at once did not help.
    """
    deadline = time.monotonic() + _OPENING_S
    while True:
        try:
            store = Store(config) if config.HasField("postgresql") else mlmd.MetadataStore(config)
            if not store_id(store):
                _make_ready(store, config)
            return store
        except RuntimeError as error:
            fault = _unreachable(config, str(error))
            # Others may be making the tables at this very moment.
            if time.monotonic() > deadline or not fault.transient or _NO_CONNECTION in str(error):
                raise fault from error
        except (TransientError, mlmd_errors.AbortedError):
            # Others may be making it ready.
            if time.monotonic() > deadline:
                raise
        time.sleep(random.random() / 2)


def store_id(store: mlmd.MetadataStore) -> str:
    """Returns the id that a store has kept since it was first opened, and that no other store has; "" before that."""
    context = store.get_context_by_type_and_name(_STORE_TYPE, _STORE_NAME)
    return context.properties[_STORE_ID].string_value if context else ""


def _make_ready(store: mlmd.MetadataStore, config: metadata_store_pb2.ConnectionConfig) -> None:
    """Takes the limits out of PostgreSQL's tables, then notes the store's id, which says that this is done."""
    if config.HasField("postgresql"):
        widen(config.postgresql)
    kind = metadata_store_pb2.ContextType(name=_STORE_TYPE)
    kind.properties[_STORE_ID] = metadata_store_pb2.STRING
    context = metadata_store_pb2.Context(type_id=store.put_context_type(kind), name=_STORE_NAME)
    context.properties[_STORE_ID].string_value = uuid.uuid4().hex
    with contextlib.suppress(mlmd_errors.AlreadyExistsError):  # Another process was first.
        store.put_contexts([context])


def make_folder(folder: Path, what: str) -> None:
    """Makes a folder that must be there and writable.

    Args:
      folder: The folder.
      what: What it is, in words.

    Raises:
      TerminalError: It cannot be made or written; a full disk, which may heal, is raised as it is.
    """
    received = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        in_its_place = next((str(p) for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), "")
        if not in_its_place and error.errno not in _NOT_ALLOWED:
            raise
        received = f"a file at {in_its_place}" if in_its_place else str(error.strerror)
    else:
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            received = "a folder that this user may not write"
    if received:
        raise TerminalError(
            f"The {what} cannot be written.",
            expected=f"a folder that this user may write, at {folder}",
            received=received,
            remedy="Give this user the right to write there, take away what is in its place, or name another folder.",
        )


def _sqlite(home: Home) -> metadata_store_pb2.ConnectionConfig:
    make_folder(home.path, "state folder")
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(home.metadata_db)
    config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return config


def _address_in(file: Path) -> str:
    """Reads the address of the store from a file.

    Raises:
      TerminalError: The file cannot be read, or holds nothing.
    """
    try:
        address = file.read_text(encoding="utf-8").strip()
        received = "" if address else "an empty file"
    except (OSError, UnicodeDecodeError) as error:
        received = getattr(error, "strerror", "") or "something that is not text"
    if received or not file.is_absolute():
        raise TerminalError(
            f"{ENVIRONMENT} names a file that holds no address.",
            expected=f"a readable file with postgresql://user:password@host:port/database in it, at {file}",
            received=received or "a relative path",
            remedy=f"Correct {ENVIRONMENT} or the file, or unset it to use SQLite.",
        )
    return address


def _postgresql(address: str) -> metadata_store_pb2.ConnectionConfig:
    """Parses an address.

    Raises:
      TerminalError: It is not an address of PostgreSQL, or asks for what ML Metadata's client cannot do.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port or 5432
        scheme, is_whole = parts.scheme, bool(parts.hostname and parts.path.strip("/"))
    except ValueError:
        # The error's message quotes the address, such as the rest of a password that holds a slash.
        port, scheme, is_whole = 0, address.partition("://")[0] if "://" in address else "", False
    if scheme not in ("postgresql", "postgres") or not is_whole:
        raise TerminalError(
            f"{ENVIRONMENT} names no metadata store.",
            expected="postgresql://user:password@host:port/database, with %2F for a slash in the password and the like",
            received=f"an address of the form {scheme or '?'}://…",
            remedy=f"Correct {ENVIRONMENT}, or unset it to use SQLite.",
        )
    config = metadata_store_pb2.ConnectionConfig()
    config.postgresql.host = parts.hostname or ""
    config.postgresql.port = str(port)
    config.postgresql.user = urllib.parse.unquote(parts.username or "")
    config.postgresql.password = urllib.parse.unquote(parts.password or "")
    config.postgresql.dbname = urllib.parse.unquote(parts.path.strip("/"))
    _set_options(config.postgresql, urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    return config


def _set_options(server: metadata_store_pb2.PostgreSQLDatabaseConfig, options: list[tuple[str, str]]) -> None:
    """Takes over the query part of an address.

    The client library inside ML Metadata's wheel is built without TLS: what asks for it is refused, never dropped.

    Raises:
      TerminalError: An option is unknown, or asks for an encrypted connection.
    """
    for name, value in options:
        if name == "sslmode" and value in _PLAIN_SSLMODES:
            server.ssloption.sslmode = value
        elif name.startswith("ssl"):
            raise TerminalError(
                f"{ENVIRONMENT} asks for a TLS connection.",
                expected=f"sslmode={', '.join(_PLAIN_SSLMODES)}, or none: ML Metadata's client is built without TLS",
                received=f"{name}={value}" if name == "sslmode" else name,
                remedy="Reach the server through a TLS proxy on this machine (stunnel, PgBouncer, a cloud provider's), "
                "and name the proxy's address.",
            )
        else:
            raise TerminalError(
                f"{ENVIRONMENT} holds an option that is not known.",
                expected="no option but sslmode",
                received=name,
                remedy=f"Remove it from {ENVIRONMENT}.",
            )


def _unreachable(config: metadata_store_pb2.ConnectionConfig, why: str) -> AirtightError:
    if not config.HasField("postgresql"):
        file = config.sqlite.filename_uri
        family = TerminalError if _NO_DATABASE in why else TransientError
        return family(
            "The metadata store cannot be opened.",
            expected=f"a SQLite file of ML Metadata that is not locked, at {file}",
            received="a file that another process holds, or whose tables are not all there"
            if any(words in why for words in _LOCKED)
            else why.removeprefix("Error when executing query: ").partition(" query:")[0].strip(),
            remedy="End what holds it, or put another file in its place.",
        )
    server = config.postgresql
    try:
        socket.create_connection((server.host, int(server.port)), _PROBE_S).close()
        received = f"a server that does not let {server.user} in, or is only just starting"
    except OSError as error:
        received = f"no server there: {error.strerror or error}"
    return TransientError(
        "The metadata store cannot be reached.",
        expected=f"PostgreSQL at {server.host}:{server.port}, with the database {server.dbname}",
        received=received,
        remedy=f"Start it, or correct {ENVIRONMENT}. Nothing is lost: the next attempt goes on from here.",
    )


def _check_writable(file: Path) -> None:
    """Says at once what SQLite would say late, or in the middle of a node."""
    if not file.exists():
        wrong = (
            ""
            if os.access(file.parent, os.W_OK | os.X_OK, effective_ids=True)
            else f"the folder {file.parent}, which may not be written"
        )
    elif not file.is_file():
        wrong = "a folder" if file.is_dir() else "something that is no file"
    else:
        wrong = "" if os.access(file, os.R_OK | os.W_OK, effective_ids=True) else "a file that may not be written"
    if wrong:
        raise TerminalError(
            "The metadata store cannot be written.",
            expected=f"a SQLite file that this user may write, at {file}",
            received=wrong,
            remedy="Give this user the right to write it, or take away what is in its place.",
        )
