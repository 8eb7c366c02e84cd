"""Where a pipeline's artifacts and metadata lie, when the pipeline itself does not say.

A pipeline of this project names neither: `create_pipeline` leaves `pipeline_root` and `metadata_connection_config`
out, and the launcher fills them in where the node runs. So a compiled pipeline holds no path and no password.
"""

from __future__ import annotations

import fcntl
import os
import time
import urllib.parse

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.proto.orchestration import pipeline_pb2
from tfx.proto.orchestration.local_deployment_config_pb2 import LocalDeploymentConfig

from airtight.errors import TerminalError
from airtight.home import Home

ENVIRONMENT = "AIRTIGHT_METADATA"
"""Names the metadata store when it is not the SQLite file of the state folder: postgresql://user:password@host:port/db."""

_KEEP_S = 20.0


def pipeline_root(ir: pipeline_pb2.Pipeline, home: Home) -> str:
    """The folder of the pipeline's artifacts: its own choice, or the state folder's."""
    own = ir.runtime_spec.pipeline_root.runtime_parameter.default_value.string_value
    return own or str(home.pipeline_root(ir.pipeline_info.id))


def connection(deployment: LocalDeploymentConfig, home: Home) -> metadata.Metadata:
    """The metadata store that the pipeline names, or the project's."""
    chosen = deployment.metadata_connection_config
    kind = chosen.WhichOneof("connection_config")
    return _opened(getattr(chosen, kind)) if kind else project_connection(home)


def project_connection(home: Home) -> metadata.Metadata:
    """The project's metadata store: SQLite in the state folder, or what AIRTIGHT_METADATA names."""
    address = os.environ.get(ENVIRONMENT, "")
    return _opened(_postgresql(address) if address else _sqlite(home))


def _sqlite(home: Home) -> metadata_store_pb2.ConnectionConfig:
    home.path.mkdir(parents=True, exist_ok=True)
    return metadata.sqlite_metadata_connection_config(str(home.metadata_db))


def _postgresql(address: str) -> metadata_store_pb2.ConnectionConfig:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not parts.path.strip("/"):
        raise TerminalError(
            f"{ENVIRONMENT} names no metadata store.",
            expected="postgresql://user:password@host:port/database",
            received=f"an address of the form {parts.scheme or '?'}://…",
            remedy=f"Correct {ENVIRONMENT}, or unset it to use SQLite.",
        )
    config = metadata_store_pb2.ConnectionConfig()
    config.postgresql.host = parts.hostname
    config.postgresql.port = str(parts.port or 5432)
    config.postgresql.user = urllib.parse.unquote(parts.username or "")
    config.postgresql.password = urllib.parse.unquote(parts.password or "")
    config.postgresql.dbname = parts.path.strip("/")
    return config


class _Kept(metadata.Metadata):
    """A handle that keeps its connection for a short while: opening one costs as much as all that a small node asks.

    One that was idle for long is opened anew, because servers close idle connections.
    """

    _last_use = 0.0

    def __enter__(self) -> metadata.Metadata:
        if self._store is None or time.monotonic() - self._last_use > _KEEP_S:
            super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._last_use = time.monotonic()


def _opened(config: metadata_store_pb2.ConnectionConfig) -> metadata.Metadata:
    """A handle on the store, whose tables exist.

    Two processes that make the tables of a new SQLite file at once get in each other's way, so one makes them alone.
    """
    file = config.sqlite.filename_uri if config.HasField("sqlite") else ""
    if file and not (os.path.exists(file) and os.path.getsize(file)):
        with open(f"{file}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with metadata.Metadata(config):
                pass
    return _Kept(config)
