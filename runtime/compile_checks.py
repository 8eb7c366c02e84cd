"""Refuses, when a pipeline is compiled, what no DAG run could follow: by node and reason."""

from __future__ import annotations

import re

from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import TerminalError
from runtime.compiled_pipeline import ENDED_ANYHOW

_Trigger = pipeline_pb2.NodeExecutionOptions.TriggerStrategy
_HIDDEN_PARAMETER = re.compile(r'\\*"__class__\\*": *\\*"RuntimeParameter\\*"')


def refuse_what_cannot_run(ir: pipeline_pb2.Pipeline) -> None:
    """Refuses a pipeline that no DAG run could follow.

    Args:
      ir: The compiled pipeline.

    Raises:
      TerminalError: It cannot be run; it names the node, the reason and what to do.
    """
    if ir.execution_mode != pipeline_pb2.Pipeline.SYNC:
        raise _refusal(ir, "the pipeline", "it is asynchronous, and a DAG run is a synchronous run")
    for entry in ir.nodes:
        if entry.WhichOneof("node") == "sub_pipeline":
            name = entry.sub_pipeline.pipeline_info.id
            raise _refusal(
                ir, f"the node {name}", "it is a pipeline in a pipeline, which TFX's open launcher cannot run"
            )
    for entry in ir.nodes:
        if why := _cannot_be_timed(ir, entry.pipeline_node):
            raise _refusal(ir, f"the node {entry.pipeline_node.node_info.id}", *why)
        if why := _cannot_be_bound(entry.pipeline_node):
            raise _refusal(ir, f"the node {entry.pipeline_node.node_info.id}", *why)


def _cannot_be_timed(ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode) -> tuple[str, str] | None:
    """Why a node cannot run when its execution options say, and what to do."""
    options, nodes = node.execution_options, {n.pipeline_node.node_info.id: n.pipeline_node for n in ir.nodes}
    if options.node_success_optional:
        return (
            "its success is optional (success_optional), and the run would be green over its failure",
            "Catch in the component what may fail, and write what became of it into an artifact.",
        )
    start = options.resource_lifetime.lifetime_start
    if start and options.strategy != _Trigger.LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS:
        return (
            f"it ends what {start} begins (lifetime_start), but has another trigger strategy",
            "Give it the trigger strategy LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS.",
        )
    before, waiting = set(), [*node.upstream_nodes] if start else []
    while waiting:
        name = waiting.pop()
        if name not in before:
            before.add(name)
            waiting += nodes[name].upstream_nodes
    if start and start not in before:
        return (
            f"it ends what {start} begins (lifetime_start), and does not come after it",
            f"Add {start}, or what comes after it, to its upstream nodes.",
        )
    begins = {n.execution_options.resource_lifetime.lifetime_start for n in nodes.values()}
    if _Trigger.Name(options.strategy) in ENDED_ANYHOW and begins & set(node.upstream_nodes):
        return (
            f"it runs though {', '.join(begins & set(node.upstream_nodes))}, whose resource it uses, may have failed",
            "Give it the usual trigger strategy.",
        )
    return None


def _cannot_be_bound(node: pipeline_pb2.PipelineNode) -> tuple[str, str] | None:
    """Why a run's values cannot be put into a node's properties, and what to do.

    TFX writes a RuntimeParameter that is a part of a property (of a proto, of `custom_config`) into the property's text
    as JSON, and hands the component that text.
    """
    for name, value in sorted(node.parameters.parameters.items()):
        hidden = _HIDDEN_PARAMETER.search(value.field_value.string_value)
        if hidden:
            return (
                f"its property {name} holds a RuntimeParameter inside a larger value, which TFX never fills in",
                "Give the RuntimeParameter as a whole property of the component; or let create_pipeline take the value "
                "as an argument, and give it as TfxDag(..., arguments={...}) or --arg name=value.",
            )
    return None


def _refusal(
    ir: pipeline_pb2.Pipeline,
    what: str,
    why: str,
    remedy: str = "Write the step as one component that handles the list, or as a pipeline of its own.",
) -> TerminalError:
    return TerminalError(
        f"The pipeline {ir.pipeline_info.id} cannot run as a DAG: {what} cannot be mapped, because {why}.",
        expected="a synchronous pipeline of components, resolvers, importers and conditions",
        received=what,
        remedy=remedy,
    )
