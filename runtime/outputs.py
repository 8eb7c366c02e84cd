"""Whether a node left behind what its outputs' types promise: green means that the work is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.io import fileio
from tfx.orchestration import data_types_utils
from tfx.orchestration.portable import data_types, launcher, merge_utils, outputs_utils
from tfx.proto.orchestration import execution_result_pb2, pipeline_pb2
from tfx.types import artifact_utils, standard_artifacts

from airtight.errors import TerminalError
from runtime.cache import Cache

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
_WITHOUT_EXECUTOR = ("tfx.dsl.components.common.importer.Importer", "tfx.dsl.components.common.resolver.Resolver")
"""Nodes that name what is there already."""


def makes_its_own(node: pipeline_pb2.PipelineNode) -> bool:
    """Whether what a node hands on is its own work; importers and resolvers name what is there already."""
    return node.node_info.type.name not in _WITHOUT_EXECUTOR


class Launcher(launcher.Launcher):
    """TFX's launcher, which takes a node that left an output empty for one that failed.

    Its outputs are looked at before they are published, so nobody can take them in between.

    Args:
      kept: The cache, which notes its answer in the execution.
      started: Is called with the metadata store once the execution is registered.
      **arguments: For TFX's launcher.
    """

    def __init__(self, *, kept: Cache, started: Callable[[mlmd.MetadataStore], None], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._kept = kept
        self._started = started

    def _register_or_reuse_execution(self, **arguments: Any) -> metadata_store_pb2.Execution:
        self._kept.execution = super()._register_or_reuse_execution(**arguments)
        self._started(arguments["metadata_handle"].store)
        return self._kept.execution

    def _run_executor(self, execution_info: data_types.ExecutionInfo) -> execution_result_pb2.ExecutorOutput:
        executor_output = super()._run_executor(execution_info)
        try:
            # The executor may have put others in the place of the artifacts that it was given.
            replaced = data_types_utils.unpack_executor_output_artifacts(executor_output.output_artifacts)
            made = merge_utils.merge_updated_output_artifacts(execution_info.output_dict, replaced)
            _check(self._pipeline_node.node_info.id, made)
        except Exception:
            there = {
                key: [a for a in several if fileio.exists(a.uri)] for key, several in execution_info.output_dict.items()
            }
            outputs_utils.remove_output_dirs(there)
            raise
        return executor_output


def _check(node: str, made: Mapping[str, Sequence[types.Artifact]]) -> None:
    """Sees to it that outputs hold something, where their types say that they must.

    Raises:
      TerminalError: One is empty.
    """
    empty = [
        (key, artifact)
        for key, artifacts in sorted(made.items())
        for artifact in artifacts
        if _must_hold_files(artifact.artifact_type, artifact.mlmd_artifact) and not _holds_files(artifact.uri)
    ]
    if empty:
        raise TerminalError(
            f"{node} ended without an exception, and left an output empty.",
            expected=[f"files of {key} ({artifact.type_name}) at {artifact.uri}" for key, artifact in empty],
            received=[f"{key}: {'an empty folder' if Path(a.uri).exists() else 'nothing there'}" for key, a in empty],
            remedy=f"See where {node} writes: an output's files belong into the folder that its uri names.",
        )


def _must_hold_files(kind: metadata_store_pb2.ArtifactType, artifact: metadata_store_pb2.Artifact) -> bool:
    python = type(artifact_utils.deserialize_artifact(kind, artifact))
    return artifact.uri.startswith("/") and (kind.name in _HOLDING or getattr(python, _MARK, False))


def _holds_files(uri: str) -> bool:
    place = Path(uri)
    return place.is_file() or any(path.is_file() for path in place.rglob("*"))
