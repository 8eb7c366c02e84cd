"""Where a node's inputs come from, read from TFX's intermediate representation."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.ops import ops
from tfx.proto.orchestration import pipeline_pb2
from tfx.utils import name_utils

from runtime.attempt_names import CONTEXT_TYPE

RESOLVER = name_utils.get_full_name(Resolver)
"""Type of a node that is a resolver."""
_RUN_TYPE = "pipeline_run"
_NODE_TYPE = "node"


def channels(node: pipeline_pb2.PipelineNode, key: str) -> Iterator[pipeline_pb2.InputSpec.Channel]:
    """Yields the channels that an input is resolved from: its own, those of a union, those of a resolver function.

    Args:
      node: The node.
      key: The input's key.
    """
    spec = node.inputs.inputs[key]
    yield from spec.channels
    keys = list(spec.mixed_inputs.input_keys)
    if spec.input_graph_ref.graph_id:
        graph = node.inputs.input_graphs[spec.input_graph_ref.graph_id]
        keys += [n.input_node.input_key for n in graph.nodes.values() if n.WhichOneof("kind") == "input_node"]
    for other in keys:
        yield from channels(node, other)


def required(node: pipeline_pb2.PipelineNode) -> Iterator[tuple[str, list[pipeline_pb2.InputSpec.Channel]]]:
    """Yields each input that the node cannot do without, and its channels."""
    for key, spec in sorted(node.inputs.inputs.items()):
        if spec.min_count > 0:
            yield key, list(channels(node, key))


def needs(node: pipeline_pb2.PipelineNode) -> tuple[tuple[str, ...], ...]:
    """For each input that a node cannot do without, the nodes of its run of which one at least must have run.

    An input that other runs may fill as well needs none of them.

    Args:
      node: The node as it was compiled; its run has no key yet.
    """
    producer_sets = ({producer_in_run(channel, None) for channel in sources} for _, sources in required(node))
    return tuple(sorted({tuple(sorted(producers)) for producers in producer_sets if producers and "" not in producers}))


def producer_in_run(channel: pipeline_pb2.InputSpec.Channel, run: str | None) -> str:
    """Gives the node that makes in one run what a channel gives, or "" for a channel that looks across runs.

    Args:
      channel: The channel.
      run: Key of the run; None where the pipeline is only compiled, so that its run has no key yet.
    """
    names = {query.type.name: query.name for query in channel.context_queries}
    if CONTEXT_TYPE in names:
        return str(channel.producer_node_query.id)
    none = pipeline_pb2.Value()
    in_run = names.get(_RUN_TYPE, none)
    # A channel to one run of another pipeline names that run; the run's own has no name before it begins.
    is_own = in_run.HasField("runtime_parameter") if run is None else in_run.field_value.string_value == run
    if _NODE_TYPE not in names or not is_own:
        return ""
    pipeline = names.get("pipeline", none).field_value.string_value
    return str(names[_NODE_TYPE].field_value.string_value).removeprefix(f"{pipeline}.")


def may_skip(node: pipeline_pb2.PipelineNode) -> bool:
    """Whether a node itself may decide that it has nothing to do: by a condition, an empty loop, or a resolver."""
    graphs = node.inputs.input_graphs.values()
    return bool(node.inputs.conditionals) or any(
        _may_give_nothing(graph) or any(_raises_skip(n.op_node.op_type) for n in graph.nodes.values())
        for graph in graphs
    )


def _may_give_nothing(graph: pipeline_pb2.InputGraph) -> bool:
    kind = graph.nodes[graph.result_node].output_data_type
    return bool(kind == pipeline_pb2.InputGraph.DataType.ARTIFACT_MULTIMAP_LIST)


def _raises_skip(op_type: str) -> bool:
    """Whether a resolver's class raises TFX's signal to skip the node; no declaration of it exists."""
    if not op_type:
        return False
    try:
        return "SkipSignal" in inspect.getsource(_class_of(op_type))
    except (OSError, TypeError, ValueError, ImportError, AttributeError):
        # An IR file of another machine may name a class that is not here; the node itself will say so.
        return False


def _class_of(op_type: str) -> type:
    try:
        return ops.get_by_name(op_type)
    except KeyError:
        return ops.get_by_class_path(op_type)
