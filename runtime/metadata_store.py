"""Where a pipeline's artifacts and metadata lie, when the pipeline itself does not say.

A pipeline of this project names neither: `create_pipeline` leaves `pipeline_root` and `metadata_connection_config`
out, and the launcher fills them in where the node runs. So a compiled pipeline holds no path and no password.
"""

from __future__ import annotations

import time

import ml_metadata as mlmd
from ml_metadata import errors as mlmd_errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.proto.orchestration import pipeline_pb2
from tfx.proto.orchestration.local_deployment_config_pb2 import LocalDeploymentConfig

from airtight.errors import TransientError
from airtight.home import Home
from runtime import metadata_connection

_KEEP_S = 20.0
_SURE_S = 1.0
_PATIENCE_S = 60.0


def pipeline_root(ir: pipeline_pb2.Pipeline, home: Home) -> str:
    """The folder of the pipeline's artifacts: its own choice, or the state folder's. A relative one lies in that."""
    own = ir.runtime_spec.pipeline_root.runtime_parameter.default_value.string_value
    return str(home.path / own) if own else str(home.pipeline_root(ir.pipeline_info.id))


def connection(deployment: LocalDeploymentConfig, home: Home) -> metadata.Metadata:
    """The metadata store that the pipeline names, or the project's. A relative SQLite file lies in the state folder."""
    chosen = deployment.metadata_connection_config
    kind = chosen.WhichOneof("connection_config")
    config = getattr(chosen, kind) if kind else metadata_connection.project_config(home)
    if file := config.sqlite.filename_uri:
        config.sqlite.filename_uri = str(home.path / file)
        metadata_connection.make_folder((home.path / file).parent, "folder of the metadata store")
    return _opened(config)


def project_connection(home: Home) -> metadata.Metadata:
    """The project's metadata store."""
    return _opened(metadata_connection.project_config(home))


def _opened(config: metadata_store_pb2.ConnectionConfig) -> metadata.Metadata:
    """A handle on the store, whose tables exist."""
    metadata_connection.make_tables(config)
    return _Kept(config)


class _Kept(metadata.Metadata):
    """A handle that keeps its connection for a short while: opening one costs as much as all that a small node asks.

    One that was idle for long is opened anew, because servers close idle connections. A store that went away since the
    handle was first used gets a minute to come back, so that what a long node has done is not lost to a restart.
    """

    _last_use = 0.0
    _store: mlmd.MetadataStore | None

    def __enter__(self) -> metadata.Metadata:
        if self._store is None:
            self._store = metadata_connection.connected(self._connection_config)
        elif not self._lives():
            self._store = None
            deadline = time.monotonic() + _PATIENCE_S
            while self._store is None:
                try:
                    self._store = metadata_connection.connected(self._connection_config)
                except TransientError:
                    if time.monotonic() > deadline:
                        raise
        return self

    def __exit__(self, *_: object) -> None:
        self._last_use = time.monotonic()

    def _lives(self) -> bool:
        idle = time.monotonic() - self._last_use
        if idle < _SURE_S or self._connection_config.HasField("sqlite"):
            return idle < _KEEP_S
        try:
            self.store.get_executions_by_id([0])
        except mlmd_errors.StatusError:
            return False
        return idle < _KEEP_S
