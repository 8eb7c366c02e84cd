"""Where a pipeline's artifacts and metadata lie, when the pipeline itself does not say.

A pipeline of this project names neither: `create_pipeline` leaves `pipeline_root` and `metadata_connection_config`
out, and the launcher fills them in where the node runs. So a compiled pipeline holds no path and no password.
"""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata import errors as mlmd_errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.proto.orchestration import pipeline_pb2
from tfx.proto.orchestration.local_deployment_config_pb2 import LocalDeploymentConfig

from airtight.errors import TransientError
from airtight.files import new_file
from airtight.home import Home
from runtime import metadata_connection

_KEEP_S = 20.0
_SURE_S = 1.0
_PATIENCE_S = 60.0
_OWNER = ".metadata_store"


def pipeline_root(ir: pipeline_pb2.Pipeline, home: Home, store: mlmd.MetadataStore) -> str:
    """Returns the folder of the pipeline's artifacts: its own choice or the state folder's, if this store may use it.

    A relative one lies in the state folder.

    Execution ids, which name the folders of outputs, start at 1 in every store. So a folder belongs to the first store
    that puts outputs there, and any other store uses one beside it: `<folder>.<start of the store's id>`.

    Args:
      ir: The pipeline.
      home: The state folder.
      store: The metadata store of the run.

    Raises:
      TerminalError: The folder cannot be made or written.
    """
    own = ir.runtime_spec.pipeline_root.runtime_parameter.default_value.string_value
    root = str(home.path / own) if own else str(home.pipeline_root(ir.pipeline_info.id))
    metadata_connection.make_folder(Path(root), "pipeline root")
    this = metadata_connection.store_id(store)
    beside = f"{root}.{this[:8]}"
    if not Path(beside).exists():
        if _owner(Path(root), Path(beside), ir, store, this) == this:
            return root
        # From its first node on the store knows the pipeline: that this folder is there keeps the choice.
        metadata_connection.make_folder(Path(beside), "pipeline root")
    return beside


def _owner(root: Path, beside: Path, ir: pipeline_pb2.Pipeline, store: mlmd.MetadataStore, this: str) -> str:
    """Returns the id of the store that a folder belongs to, "" for one that cannot be known; claims a free folder."""
    file = root / _OWNER
    if not file.exists():
        nodes = (node.pipeline_node.node_info.id for node in ir.nodes)
        # Another node that met the old folder first has chosen the one beside it before it made the pipeline known.
        is_old = any((root / node).exists() for node in nodes)
        if is_old and (not _knows(store, ir.pipeline_info.id) or beside.exists()):
            return ""
        with contextlib.suppress(FileExistsError), new_file(file, exclusive=True) as temporary:
            temporary.write_text(this, encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _knows(store: mlmd.MetadataStore, pipeline: str) -> bool:
    return store.get_context_by_type_and_name("pipeline", pipeline) is not None


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


def warm_up() -> None:
    """Asks a store in memory what each node asks its own, so that processes forked from here need not work it out.

    ML Metadata reads its statements and the grammar of its queries at the first use of each: 20 ms of a node's time.
    Neither a thread nor a file stays.
    """
    config = metadata_store_pb2.ConnectionConfig()
    config.fake_database.SetInParent()
    store = mlmd.MetadataStore(config)
    kind = store.put_context_type(metadata_store_pb2.ContextType(name="node"))
    context = metadata_store_pb2.Context(type_id=kind, name="node")
    (context.id,) = store.put_contexts([context])
    type_id = store.put_execution_type(metadata_store_pb2.ExecutionType(name="node"))
    store.put_execution(metadata_store_pb2.Execution(type_id=type_id), [], [context])
    store.get_contexts(mlmd.ListOptions(filter_query="type = 'node' AND name LIKE 'node%'"))
    newest = {"limit": 1, "order_by": mlmd.OrderByField.ID, "is_asc": False}
    completed = mlmd.ListOptions(filter_query="last_known_state = COMPLETE", **newest)
    store.get_executions_by_context(context.id, list_options=completed)
    store.get_executions(mlmd.ListOptions(filter_query=f"contexts_0.id = {context.id}"))


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
                    time.sleep(random.random())
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
