"""Runs a resolver's strategy so that "nothing yet" is an answer, and a run that is cleared sees what it saw at first.

TFX calls it a failure when a strategy returns None, which LocalDagRunner passes by in silence: the nodes that can do
without the resolver's outputs run. And its "latest" means now, so a run of January that is cleared in March would take
March's artifacts. adr/0022.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.input_resolution.ops import ops
from tfx.orchestration.portable.mlmd import event_lib
from tfx.proto.orchestration import pipeline_pb2
from tfx.utils import name_utils

from runtime import attempts, node_inputs
from runtime.lineage.artifacts import events_of

log = logging.getLogger(__name__)

_LATEST_MARKS = ("{SPAN}", "{VERSION}", "{YYYY}")
"""What TFX's ExampleGen replaces in a path by the latest that there is."""
Artifacts = dict[str, list[types.Artifact]]


def put_in_run(
    node: pipeline_pb2.PipelineNode,
    run: str,
    before: Iterable[str],
    *,
    began_ms: int | None,
    executions: Mapping[str, int] | None = None,
    labels: Mapping[str, str | int] | None = None,
) -> None:
    """Puts `InRun` in the place of each strategy of a node.

    Args:
      node: The node in a copy of the IR; changed in place.
      run: Key of the run.
      before: The nodes of the run that come before this one, directly or not.
      began_ms: When the node's first attempt in this run began, in milliseconds since 1970; None for the first.
      executions: For each of these that has an output in this run the execution that made it; None for the latest
        success that the store knows under the run's key.
      labels: Those of the present attempt; an execution of another DAG or run counts for none.
    """
    place = {
        "run": run,
        "node": node.node_info.id,
        "before": sorted(before),
        "began_ms": began_ms,
        "executions": None if executions is None else dict(executions),
        "labels": dict(labels or {}),
    }
    for graph in node.inputs.input_graphs.values():
        for graph_node in graph.nodes.values():
            # TFX names its resolver ops by a short name, and strategies by the path of their class.
            if _is_strategy(graph_node.op_node.op_type):
                settings = graph_node.op_node.kwargs
                settings["strategy"].value.field_value.string_value = graph_node.op_node.op_type
                settings["place"].value.field_value.string_value = json.dumps(place)
                graph_node.op_node.op_type = name_utils.get_full_name(InRun)


def path_of(step: pipeline_pb2.InputGraph.OpNode) -> str:
    """Gives the path of the class of a strategy, also where `InRun` has taken its place; "" for what is none."""
    if not _is_strategy(step.op_type):
        return ""
    if step.op_type == name_utils.get_full_name(InRun):
        return str(step.kwargs["strategy"].value.field_value.string_value)
    return str(step.op_type)


class InRun(ResolverStrategy):
    """A strategy as a node of one run has it.

    Args:
      strategy: Path of the class of the strategy proper.
      place: JSON of the other arguments of `put_in_run`.
      **settings: For the strategy proper.
    """

    def __init__(self, strategy: str, place: str, **settings: Any) -> None:
        self._strategy_class = ops.get_by_class_path(strategy)
        self._settings = settings
        self._place = json.loads(place)

    def resolve_artifacts(self, store: mlmd.MetadataStore, input_dict: Artifacts) -> Artifacts:
        """Gives what the strategy proper finds, or empty lists if it finds nothing."""
        # A strategy of the user's own decides for itself what it counts.
        if self._strategy_class.__module__.startswith("tfx."):
            input_dict = _as_at_first(store, input_dict, **self._place)
        resolved = self._strategy_class(**self._settings).resolve_artifacts(store, input_dict)
        if resolved is None:
            log.info("%s found nothing yet.", self._strategy_class.__name__)
            return {key: [] for key in input_dict}
        return resolved


def _as_at_first(
    store: mlmd.MetadataStore, candidates: Artifacts, *, node: str, began_ms: int | None, **of_run: Any
) -> Artifacts:
    """Leaves out what came into being after the node's first attempt in this run had begun.

    What this run's own earlier nodes have made since stays, because they were cleared, too; of each only the outputs
    that count now.
    """
    if began_ms is None:
        return candidates
    current, replaced = _of_this_run(store, **of_run)

    def counts(artifact: types.Artifact) -> bool:
        is_old = artifact.mlmd_artifact.create_time_since_epoch < began_ms
        return artifact.id in current or (is_old and artifact.id not in replaced)

    kept = {key: [artifact for artifact in several if counts(artifact)] for key, several in candidates.items()}
    left_out = sum(map(len, candidates.values())) - sum(map(len, kept.values()))
    if left_out:
        when = datetime.fromtimestamp(began_ms / 1000, UTC).isoformat(timespec="seconds")
        log.warning(
            "%s resolves again in this run, and sees what was there when it first did, at %s: what came later does "
            "not count (artifacts left out: %d).",
            *(node, when, left_out),
        )
    return kept


def _of_this_run(
    store: mlmd.MetadataStore,
    *,
    run: str,
    before: Iterable[str],
    executions: Mapping[str, int] | None,
    labels: Mapping[str, str | int],
) -> tuple[set[int], set[int]]:
    """Ids of the artifacts that nodes of this run give now, and of those that they made in attempts since replaced."""
    current, ever = [], []
    for name in before:
        tried = attempts.earlier(store, run, name)
        if executions is None:
            success = attempts.latest_success(tried)
        else:
            success = attempts.success_of(store, executions.get(name, 0), name, labels)
        current += [success.execution.id] if success else []
        ever += attempts.completed(tried)
    given = {event.artifact_id for event in events_of(store, current) if event_lib.is_valid_output_event(event)}
    # A resolver's outputs are others' artifacts, by events of another type.
    made = {event.artifact_id for event in events_of(store, ever) if event.type == metadata_store_pb2.Event.OUTPUT}
    return given, made - given


def read_as_of_now(node: pipeline_pb2.PipelineNode, run: str) -> list[str]:
    """What a node reads of the world as it is now, even when its run of long ago is cleared; in words.

    Args:
      node: The node in a copy of the IR whose parameters are bound.
      run: Key of the run.
    """
    sources_read = []
    for key, spec in sorted(node.inputs.inputs.items()):
        is_plain = not spec.input_graph_ref.graph_id or not _has_strategy(node, spec.input_graph_ref.graph_id)
        sources = node_inputs.channels(node, key)
        if is_plain and not spec.hidden and any(not node_inputs.producer_in_run(channel, run) for channel in sources):
            sources_read.append(f"the input {key}, which all runs fill")
    parameters = {name: value.field_value.string_value for name, value in node.parameters.parameters.items()}
    patterns = [mark for mark in _LATEST_MARKS if mark in parameters.get("input_config", "")]
    if patterns and "static" not in parameters.get("range_config", ""):
        sources_read.append(f"the latest folder that fits {' and '.join(patterns)}")
    return sources_read


def _has_strategy(node: pipeline_pb2.PipelineNode, graph_id: str) -> bool:
    nodes = node.inputs.input_graphs[graph_id].nodes.values()
    return any(_is_strategy(n.op_node.op_type) for n in nodes)


def _is_strategy(op_type: str) -> bool:
    if not op_type:
        return False
    try:
        ops.get_by_name(op_type)
    except KeyError:
        return True
    return False
