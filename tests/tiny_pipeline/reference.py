"""The reference: the same pipeline through TFX's own LocalDagRunner."""

import logging
from pathlib import Path
from typing import ClassVar
from unittest import mock

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata, pipeline
from tfx.orchestration.local import local_dag_runner
from tfx.orchestration.portable import launcher

from runtime.lineage.artifacts import OUTPUT_EVENTS

States = metadata_store_pb2.Execution.State
log = logging.getLogger(__name__)


class _GoesOn(launcher.Launcher):
    """LocalDagRunner ends at the first node that raises; here the nodes run that need nothing of it."""

    without_outcome: ClassVar[set[str]] = set()
    """Ids of the nodes that raised, and of those that come after one."""

    def launch(self):
        node = self._pipeline_node
        if not self.without_outcome.isdisjoint(node.upstream_nodes):
            log.warning("%s does not run: a node before it failed.", node.node_info.id)
        else:
            try:
                return super().launch()
            except Exception:
                log.exception("The node failed in the reference.")
        self.without_outcome.add(node.node_info.id)
        return None


def run(tfx_pipeline: pipeline.Pipeline, folder: Path) -> dict[str, dict]:
    """Runs a pipeline that names no folders of its own.

    Returns:
      As `made`, of the run's own nodes.
    """
    tfx_pipeline.pipeline_info.pipeline_root = str(folder / "root")
    database = folder / "metadata.sqlite"
    folder.mkdir(exist_ok=True)
    tfx_pipeline.metadata_connection_config = metadata.sqlite_metadata_connection_config(str(database))
    return run_where_it_says(tfx_pipeline, database)


def run_where_it_says(tfx_pipeline: pipeline.Pipeline, database: Path) -> dict[str, dict]:
    """As `run`, for a pipeline whose metadata lie in that database."""
    known = _last_execution(database)
    _GoesOn.without_outcome.clear()
    with mock.patch.object(local_dag_runner.launcher, "Launcher", _GoesOn):
        local_dag_runner.LocalDagRunner().run(tfx_pipeline)
    return made(_store(database), known)


def made(store: mlmd.MetadataStore, after: int = 0) -> dict[str, dict]:
    """What the executions that came after an id did.

    Returns:
      For each node that has an execution its latest one: `state`, such as "COMPLETE", and `outputs`: for each output
      key the sorted pairs of type and state of the artifacts; `blessed`: whether one of them blesses a model.
    """
    latest: dict[str, dict] = {}
    node_type = store.get_context_type("node").id
    for execution in sorted(store.get_executions(), key=lambda execution: execution.id):
        if execution.id <= after:
            continue
        (context,) = (c for c in store.get_contexts_by_execution(execution.id) if c.type_id == node_type)
        events = [e for e in store.get_events_by_execution_ids([execution.id]) if e.type in OUTPUT_EVENTS]
        artifacts = {a.id: a for a in store.get_artifacts_by_id([event.artifact_id for event in events])}
        outputs: dict[str, list] = {}
        for event in events:
            artifact = artifacts[event.artifact_id]
            state = metadata_store_pb2.Artifact.State.Name(artifact.state)
            outputs.setdefault(event.path.steps[0].key, []).append((artifact.type, state))
        latest[context.name.partition(".")[2]] = {
            "state": States.Name(execution.last_known_state),
            "outputs": {key: sorted(pairs) for key, pairs in sorted(outputs.items())},
            "blessed": any(artifact.custom_properties["blessed"].int_value == 1 for artifact in artifacts.values()),
        }
    return latest


def _store(database: Path) -> mlmd.MetadataStore:
    return mlmd.MetadataStore(metadata.sqlite_metadata_connection_config(str(database)))


def _last_execution(database: Path) -> int:
    if not database.exists():
        return 0
    return max((execution.id for execution in _store(database).get_executions()), default=0)
