"""Runs one node, once: the one function behind Airflow's tasks, local runs and cold processes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import data_types, outputs_utils, runtime_parameter_utils
from tfx.proto.orchestration import pipeline_pb2

from airtight import fingerprint, provenance
from airtight.audit.actor import Actor, acting
from airtight.errors import AirtightError, TerminalError
from airtight.home import ROOT, Home
from runtime import (
    attempts,
    cache,
    content_digest,
    cross_run,
    faults,
    input_checks,
    metadata_connection,
    metadata_store,
    node_inputs,
    outputs,
    strategies,
    tfx_patches,
    user_modules,
)
from runtime.compiled_pipeline import PUSHED, CompiledPipeline, Node
from runtime.lineage.artifacts import DIGEST, Artifact, by_key
from runtime.openlineage.emit import Reporter
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
    reporter = Reporter(request)
    try:
        outcome = _launch(request, reporter)
    except Exception as error:  # noqa: BLE001 - the outcome carries every fault across the process boundary
        if not isinstance(error, (AirtightError, faults.Cancelled)):
            log.error("%s", "".join(traceback.format_exception(error)).rstrip())
        outcome = Outcome.failure(faults.in_words(error, request.node))
    reporter.ended(outcome)
    log.log(logging.ERROR if outcome.state == "failed" else logging.INFO, "%s", outcome.summary)
    return outcome


def _launch(request: NodeRequest, reporter: Reporter) -> Outcome:
    provenance.begin(ROOT)
    compiled = CompiledPipeline.read(Path(request.compiled))
    # The same folder and modules wherever the node runs: relative paths begin where the pipeline's file lies.
    sys.path.extend(path for path in compiled.paths if path not in sys.path)
    # A container need not have that of a pipeline whose paths are absolute.
    folder = ROOT / compiled.folder
    with contextlib.chdir(folder if folder.is_dir() else ROOT):
        return _launch_compiled(compiled, request, reporter)


def _launch_compiled(compiled: CompiledPipeline, request: NodeRequest, reporter: Reporter) -> Outcome:
    home = Home(Path(request.home))
    for module in compiled.types:
        importlib.import_module(module)
    ir = _parsed(compiled, request.node)
    values: dict[str, Any] = as_tfx(compiled.bind(request.parameters))
    deployment = runner_utils.extract_local_deployment_config(ir)
    connection = metadata_store.connection(deployment, home)
    reporter.connected(connection, compiled.pipeline)
    with connection as handle:
        node = _bound(ir, request, values, metadata_store.pipeline_root(ir, home, handle.store))
        earlier = attempts.earlier(handle.store, request.run, request.node, request.earlier)
        attempts.fail_stale_attempts(handle.store, earlier)
        success = attempts.latest_success(earlier)
        if success and success.was_unreported(request.unreported):
            log.warning("The try of %s before succeeded, and its task died before reporting it.", request.node)
            return _success(handle, node, success.execution)
        producers = attempts.pin_inputs(node, request.run, handle.store, request.inputs, request.labels)
        attempts.fit_names(node)
        missing = input_checks.check(handle.store, node, request, producers)
        for what in strategies.read_as_of_now(node, request.run) if success else ():
            log.warning("%s runs again in this run, and takes %s, as it is now.", request.node, what)
        began_ms = min((attempt.context.create_time_since_epoch for attempt in earlier), default=None)
        strategies.put_in_run(
            node,
            request.run,
            compiled.before(request.node),
            began_ms=began_ms,
            executions=request.inputs,
            labels=request.labels,
        )
        user_modules.check(node)
        _check_folder(ir, node)
        kept = _cache(compiled.node(request.node), request, again=request.again or success is not None)
    node.execution_options.caching_options.enable_cache = not kept.why_not
    with (
        tfx_patches.no_flags(),
        tfx_patches.own_cache(kept),
        tfx_patches.caught_exceptions() as caught,
        cross_run.bounded(node, began_ms, compiled.node(request.node).history_days),
        user_modules.importable(node),
        acting(_actor(compiled, request)),
    ):
        info = outputs.Launcher(
            kept=kept,
            started=reporter.started,
            pipeline_node=node,
            mlmd_connection=connection,
            pipeline_info=ir.pipeline_info,
            pipeline_runtime_spec=ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(deployment, request.node),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, request.node),
        ).launch()
    with connection as handle:
        return _outcome(handle, node, info, kept, missing or (caught[-1] if caught else None))


def _actor(compiled: CompiledPipeline, request: NodeRequest) -> Actor:
    """Whom the audit log names; retries of one try series are one act."""
    series = next(iter(request.unreported), request.attempt)
    return Actor(compiled.pipeline, request.node, request.run, request.attempt, series, request.labels)


def _cache(node: Node, request: NodeRequest, *, again: bool) -> cache.Cache:
    """The cache for this node of this run, which succeeded in it before if it runs `again`."""
    why_not = ""
    if not node.cache.enabled and PUSHED in node.outputs.values():
        why_not = "what this node pushes lies outside of its outputs, so it runs each time"
    elif not node.cache.enabled:
        why_not = "the pipeline does not cache this node"
    elif not request.use_cache:
        why_not = "this run was started without it"
    elif again:
        why_not = "the node succeeded in this run before, and was asked to run again"
    return cache.Cache(node, why_not)


def _parsed(compiled: CompiledPipeline, node: str) -> pipeline_pb2.Pipeline:
    """A fresh copy of the IR of a pipeline that this TFX can run and that has the node."""
    installed = fingerprint.versions(("tfx",))["tfx"]
    if compiled.tfx != installed:
        raise TerminalError(
            f"The pipeline {compiled.pipeline} was compiled by another TFX.",
            expected=f"TFX {installed}, which is installed",
            received=f"TFX {compiled.tfx}",
            remedy=f"Run `python -m runtime compile {compiled.source}`, and clear the whole run.",
        )
    compiled.node(node)
    return json_format.ParseDict(compiled.ir, pipeline_pb2.Pipeline())


def _bound(
    ir: pipeline_pb2.Pipeline, request: NodeRequest, values: dict[str, Any], root: str
) -> pipeline_pb2.PipelineNode:
    """Puts this run's values into the IR, and returns its node."""
    values = values | {"pipeline-root": root, "pipeline-run-id": request.run}
    runtime_parameter_utils.substitute_runtime_parameter(ir, values)
    node = next(n.pipeline_node for n in ir.nodes if n.pipeline_node.node_info.id == request.node)
    folder = outputs_utils.get_node_dir(ir.runtime_spec, request.node)
    attempts.tag(node, request.run, request.attempt, folder, {**provenance.labels(ROOT), **request.labels})
    return node


def _check_folder(ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode) -> None:
    """Says at once that outputs cannot be written, where they lie on this machine's disk."""
    folder = outputs_utils.get_node_dir(ir.runtime_spec, node.node_info.id)
    if "://" not in folder:
        metadata_connection.make_folder(Path(folder).parent, "pipeline root")
        if Path(folder).exists():
            metadata_connection.make_folder(Path(folder), f"folder of {node.node_info.id}")


def _outcome(
    handle: metadata.Metadata,
    node: pipeline_pb2.PipelineNode,
    info: data_types.ExecutionInfo | None,
    kept: cache.Cache,
    caught: BaseException | None,
) -> Outcome:
    """Reads back what the launcher did: it returns normally on failures, too, such as those that it `caught`."""
    name = node.node_info.id
    if info is None or not info.execution_id:
        attempts.record_skip(handle.store, node)
        return Outcome(
            "skipped", summary=f"{name} was skipped: its condition does not hold, or an input asked to skip."
        )
    (execution,) = handle.store.get_executions_by_id([info.execution_id])
    if execution.last_known_state not in _DONE:
        return Outcome.failure(faults.swallowed(execution, name, caught), execution.id)
    if kept.message and cache.MESSAGE not in execution.custom_properties:
        execution.custom_properties[cache.MESSAGE].string_value = kept.message
        handle.store.put_executions([execution])
    return _success(handle, node, execution)


def _success(
    handle: metadata.Metadata, node: pipeline_pb2.PipelineNode, execution: metadata_store_pb2.Execution
) -> Outcome:
    """The outcome of an execution that succeeded; notes what its outputs hold, where that is not known yet."""
    name, state = node.node_info.id, _DONE[execution.last_known_state]
    outputs_by_key = by_key(handle.store, [execution.id]).get(execution.id, {})
    if state == "complete" and outputs.makes_its_own(node):
        content_digest.note(handle.store, [a.proto for several in outputs_by_key.values() for a in several])
    where = "; ".join(f"{key}: {a.uri or a.type.name}" for key, several in outputs_by_key.items() for a in several)
    found_nothing = node.node_info.type.name == node_inputs.RESOLVER and not outputs_by_key
    took = "found nothing yet" if found_nothing else "was taken from the cache" if state == "cached" else "is done"
    summary = f"{name} {took} (execution {execution.id}). Outputs: {where or 'none'}."
    made = {key: [_as_json(artifact) for artifact in several] for key, several in outputs_by_key.items()}
    return Outcome(state, summary, execution.id, made)


def _as_json(artifact: Artifact) -> dict[str, Any]:
    """An output artifact as JSON can tell it."""
    return {
        "id": artifact.proto.id,
        "type": artifact.type.name,
        "uri": artifact.uri,
        "state": metadata_store_pb2.Artifact.State.Name(artifact.proto.state),
        "properties": {
            name: value for name, value in artifact.properties.items() if not name.startswith(_OF_THE_SYSTEM)
        },
    }


_OF_THE_SYSTEM = ("__", "tfx_", "name", "pipeline_name", "producer_component", "state", DIGEST)
