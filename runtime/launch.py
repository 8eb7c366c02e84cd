"""Runs one node, once: the one function behind Airflow's tasks, local runs and cold processes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import data_types, launcher, outputs_utils, runtime_parameter_utils
from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from runtime import attempts, cache, cross_run, faults, metadata_connection, metadata_store, user_modules
from runtime.compiled_pipeline import CompiledPipeline, Node
from runtime.lineage.artifacts import by_key
from runtime.parameters import as_tfx
from runtime.protocol import NodeRequest, Outcome, State

log = logging.getLogger(__name__)

_DONE: dict[int, State] = {
    metadata_store_pb2.Execution.COMPLETE: "complete",
    metadata_store_pb2.Execution.CACHED: "cached",
}


def launch(request: NodeRequest) -> Outcome:
    """Runs one node and tells what became of it.

    Args:
      request: Which node of which compiled pipeline, in which run.

    Returns:
      The outcome; faults are in it, none is raised.
    """
    try:
        outcome = _launch(request)
    except Exception as error:  # noqa: BLE001 - the outcome carries every fault across the process boundary
        if not isinstance(error, (AirtightError, faults.Cancelled)):
            log.error("%s", "".join(traceback.format_exception(error)).rstrip())
        outcome = Outcome.failure(faults.in_words(error, request.node))
    log.log(logging.ERROR if outcome.state == "failed" else logging.INFO, "%s", outcome.summary)
    return outcome


def _launch(request: NodeRequest) -> Outcome:
    compiled = CompiledPipeline.read(Path(request.compiled))
    home = Home(Path(request.home))
    for module in compiled.types:
        importlib.import_module(module)
    node, ir = _prepared(compiled, request, home)
    deployment = runner_utils.extract_local_deployment_config(ir)
    connection = metadata_store.connection(deployment, home)
    with connection as handle:
        attempts.bury(handle.store, request.run, request.node)
        earlier = attempts.latest(handle.store, request.run, request.node)
        if earlier and earlier.is_untold(request.labels):
            log.warning("An earlier try of %s had ended well, and its task died before it could tell.", request.node)
            return _told(handle, node, earlier.execution)
        producers = attempts.pin_inputs(node, request.run, handle.store)
        _check_inputs(handle, node, request.run, producers)
        user_modules.check(node)
        _check_folder(ir, node)
        kept = _cache(compiled.node(request.node), request, again=earlier is not None)
    node.execution_options.caching_options.enable_cache = not kept.why_not
    with _no_flags(), _instead_of_tfx(kept), cross_run.bounded(node), user_modules.importable(node):
        info = launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=connection,
            pipeline_info=ir.pipeline_info,
            pipeline_runtime_spec=ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(deployment, request.node),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, request.node),
        ).launch()
    with connection as handle:
        return _outcome(handle, node, info, kept)


def _cache(node: Node, request: NodeRequest, *, again: bool) -> cache.Cache:
    """The cache for this node of this run, which succeeded in it before if it runs `again`."""
    why_not = ""
    if not node.cache.enabled:
        why_not = "the pipeline wants this node to run each time"
    elif not request.use_cache:
        why_not = "this run was started without it"
    elif again:
        why_not = "the node succeeded in this run before, and was asked to run again"
    return cache.Cache(node, why_not)


@contextlib.contextmanager
def _instead_of_tfx(kept: cache.Cache) -> Iterator[None]:
    """Puts our cache in the place of TFX's, which its launcher asks by the name of a module."""
    theirs, launcher.cache_utils = launcher.cache_utils, kept
    try:
        yield
    finally:
        launcher.cache_utils = theirs


@contextlib.contextmanager
def _no_flags() -> Iterator[None]:
    """TFX hands the flags of this process to every Python executor; they are not meant for it."""
    flags, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = flags


def _prepared(
    compiled: CompiledPipeline, request: NodeRequest, home: Home
) -> tuple[pipeline_pb2.PipelineNode, pipeline_pb2.Pipeline]:
    """A fresh copy of the IR with this run's values in it, and its node."""
    installed = importlib.metadata.version("tfx")
    if compiled.tfx != installed:
        raise TerminalError(
            f"The pipeline {compiled.pipeline} was compiled by another TFX.",
            expected=f"TFX {installed}, which is installed",
            received=f"TFX {compiled.tfx}",
            remedy=f"Run `python -m runtime compile {compiled.source}`.",
        )
    compiled.node(request.node)
    ir = json_format.ParseDict(compiled.ir, pipeline_pb2.Pipeline())
    values: dict[str, Any] = as_tfx(compiled.bind(request.parameters))
    values |= {"pipeline-root": metadata_store.pipeline_root(ir, home), "pipeline-run-id": request.run}
    runtime_parameter_utils.substitute_runtime_parameter(ir, values)
    node = next(n.pipeline_node for n in ir.nodes if n.pipeline_node.node_info.id == request.node)
    folder = outputs_utils.get_node_dir(ir.runtime_spec, request.node)
    attempts.mark(node, request.run, request.attempt, folder, request.labels)
    return node, ir


def _check_folder(ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode) -> None:
    """Says at once that outputs cannot be written, where they lie on this machine's disk."""
    folder = outputs_utils.get_node_dir(ir.runtime_spec, node.node_info.id)
    if "://" not in folder:
        metadata_connection.make_folder(Path(folder).parent, "pipeline root")
        if Path(folder).exists():
            metadata_connection.make_folder(Path(folder), f"folder of {node.node_info.id}")


def _check_inputs(
    handle: metadata.Metadata,
    node: pipeline_pb2.PipelineNode,
    run: str,
    producers: dict[str, attempts.Success | None],
) -> None:
    """Says which upstream output is missing, where TFX would only say that an input could not be resolved."""
    needed = {
        attempts.producer_in_run(channel, run)
        for spec in node.inputs.inputs.values()
        if spec.min_count > 0
        for channel in spec.channels
    }
    for producer, success in producers.items():
        if success is None:
            if producer in needed and not node.inputs.conditionals:
                raise TerminalError(
                    f"The upstream node {producer} has no output in this run.",
                    expected=f"a successful attempt of {producer}",
                    received="none, though its task counts as done (it was skipped, or marked by hand)",
                    remedy=f"Clear {producer} so that it runs.",
                )
            continue
        for artifact in _artifacts(handle, success.execution.id):
            cleaned = artifact["state"] in ("DELETED", "MARKED_FOR_DELETION")
            if cleaned or (artifact["state"] == "LIVE" and artifact["uri"] and not fileio.exists(artifact["uri"])):
                raise TerminalError(
                    f"The output {artifact['key']} of {producer} is gone.",
                    expected=artifact["uri"],
                    received="nothing at that place; it was removed after it was published"
                    + (", by `python -m runtime clean`" if cleaned else ""),
                    remedy=f"Clear {producer}, which makes it again.",
                )


def _outcome(
    handle: metadata.Metadata,
    node: pipeline_pb2.PipelineNode,
    info: data_types.ExecutionInfo | None,
    kept: cache.Cache,
) -> Outcome:
    """Reads back what the launcher did: it returns normally on failures, too."""
    name = node.node_info.id
    if info is None or not info.execution_id:
        attempts.record_skip(handle.store, node)
        return Outcome(
            "skipped", summary=f"{name} was skipped: its condition does not hold, or an input asked to skip."
        )
    (execution,) = handle.store.get_executions_by_id([info.execution_id])
    if execution.last_known_state not in _DONE:
        return Outcome.failure(faults.swallowed(execution, name), execution.id)
    if kept.told:
        execution.custom_properties[cache.TOLD].string_value = kept.told
        handle.store.put_executions([execution])
    return _told(handle, node, execution, publish=bool(kept.told))


def _told(
    handle: metadata.Metadata,
    node: pipeline_pb2.PipelineNode,
    execution: metadata_store_pb2.Execution,
    *,
    publish: bool = False,
) -> Outcome:
    """The outcome of an execution that succeeded; `publish` notes what its new outputs hold."""
    name, state = node.node_info.id, _DONE[execution.last_known_state]
    outputs: dict[str, list[dict[str, Any]]] = {}
    for artifact in _artifacts(handle, execution.id, publish=publish and state == "complete"):
        outputs.setdefault(artifact.pop("key"), []).append(artifact)
    where = "; ".join(f"{key}: {a['uri'] or a['type']}" for key, found in outputs.items() for a in found)
    took = "was taken from the cache" if state == "cached" else "is done"
    return Outcome(
        state, f"{name} {took} (execution {execution.id}). Outputs: {where or 'none'}.", execution.id, outputs
    )


def _artifacts(handle: metadata.Metadata, execution: int, *, publish: bool = False) -> list[dict[str, Any]]:
    """The output artifacts of an execution, as JSON can tell them; `publish` notes what they hold."""
    outputs = by_key(handle.store, [execution]).get(execution, {})
    if publish:
        cache.keep_digests(handle.store, [artifact.proto for several in outputs.values() for artifact in several])
    return [
        {
            "key": key,
            "id": artifact.proto.id,
            "type": artifact.type.name,
            "uri": artifact.uri,
            "state": metadata_store_pb2.Artifact.State.Name(artifact.proto.state),
            "properties": {
                name: value for name, value in artifact.properties.items() if not name.startswith(_OF_THE_SYSTEM)
            },
        }
        for key, several in outputs.items()
        for artifact in several
    ]


_OF_THE_SYSTEM = ("__", "tfx_", "name", "pipeline_name", "producer_component", "state", cache.DIGEST)
