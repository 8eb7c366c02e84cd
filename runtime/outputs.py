"""Whether a node left behind what its outputs' types promise: green means that the work is there."""

from __future__ import annotations

from pathlib import Path

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import artifact_utils, standard_artifacts

from airtight.errors import TerminalError

_HOLDING = {
    kind.TYPE_NAME
    for kind in (
        standard_artifacts.Examples,
        standard_artifacts.ExampleAnomalies,
        standard_artifacts.ExampleStatistics,
        standard_artifacts.HyperParameters,
        standard_artifacts.Model,
        standard_artifacts.Schema,
        standard_artifacts.TransformGraph,
    )
}
"""TFX's types of which an artifact without a file is of no use; blessings, pushed models and runs may be empty."""
_MARK = "HOLDS_FILES"
"""Class attribute of other types that say so of themselves."""
_FOUND = ("tfx.dsl.components.common.importer.Importer", "tfx.dsl.components.common.resolver.Resolver")
"""Nodes that name what is there already."""
_Event = metadata_store_pb2.Event
_OUTPUTS = (_Event.OUTPUT, _Event.INTERNAL_OUTPUT, _Event.DECLARED_OUTPUT)


def empty(
    store: mlmd.MetadataStore, node: pipeline_pb2.PipelineNode, execution: metadata_store_pb2.Execution
) -> TerminalError | None:
    """Looks whether the outputs of an execution hold something, where their types say that they must.

    An execution that left nothing is marked as failed, and its outputs as deleted: nothing may take them.

    Args:
      store: The metadata store.
      node: The node.
      execution: It succeeded by its own account.

    Returns:
      The fault; None where all is there.
    """
    if node.node_info.type.name in _FOUND or execution.last_known_state != metadata_store_pb2.Execution.COMPLETE:
        return None
    events = [e for e in store.get_events_by_execution_ids([execution.id]) if e.type in _OUTPUTS]
    keys = {event.artifact_id: event.path.steps[0].key for event in events if event.path.steps}
    artifacts = store.get_artifacts_by_id(list(keys))
    types = {t.id: t for t in store.get_artifact_types_by_id(list({a.type_id for a in artifacts}))}
    lacking = [a for a in artifacts if _must_hold_files(types[a.type_id], a) and not _holds_files(a.uri)]
    if not lacking:
        return None
    execution.last_known_state = metadata_store_pb2.Execution.FAILED
    store.put_executions([execution])
    for artifact in artifacts:
        artifact.state = metadata_store_pb2.Artifact.DELETED
    store.put_artifacts(artifacts)
    name = node.node_info.id
    return TerminalError(
        f"{name} ended without an exception, and left an output empty.",
        expected=[f"files of {keys[a.id]} ({types[a.type_id].name}) at {a.uri}" for a in lacking],
        received=[f"{keys[a.id]}: {'an empty folder' if Path(a.uri).exists() else 'nothing there'}" for a in lacking],
        remedy=f"See where {name} writes: an output's files belong into the folder that its uri names.",
    )


def _must_hold_files(kind: metadata_store_pb2.ArtifactType, artifact: metadata_store_pb2.Artifact) -> bool:
    python = type(artifact_utils.deserialize_artifact(kind, artifact))
    return artifact.uri.startswith("/") and (kind.name in _HOLDING or getattr(python, _MARK, False))


def _holds_files(uri: str) -> bool:
    place = Path(uri)
    return place.is_file() or any(path.is_file() for path in place.rglob("*"))
