"""Inputs across runs, at a cost that does not grow with history.

TFX resolves such an input by reading every execution of the pipeline and of the producer, and hands all that the
producer ever made to the component. Here the component is given what the newest executions of the producer made; and,
however long ago these were made, the latest that was known when this run's interval began, and what was made of the
interval itself, or of some days before it, too.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime, timedelta

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.input_resolution.ops import ops
from tfx.orchestration import mlmd_connection_manager as mlmd_cm
from tfx.orchestration.portable.input_resolution import channel_resolver
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import artifact_utils

from airtight.served_history import Takeover, served, takeover_of_promotion, takeover_of_push
from runtime import known_artifacts, strategies
from runtime.attempt_names import CONTEXT_TYPE, node_context_name
from runtime.known_artifacts import PROMOTIONS, PUSHES, Channel
from runtime.lineage.artifacts import Artifact

log = logging.getLogger(__name__)

NEWEST = 200
"""Of so many of the producer's executions that succeeded, the newest, an input across runs holds the outputs."""
_CHAMPIONS = 2
"""An input of pushes holds the version that had served last when the interval began or ended, and the one before."""
_LIVE = metadata_store_pb2.Artifact.LIVE


class ByInterval(ResolverStrategy):
    """A strategy that asks for itself what was known of its inputs across runs (`served_by`, `promotions_by`).

    TFX gives it none of these; they are not read before it knows what it wants of them.
    """


_node: ContextVar[pipeline_pb2.PipelineNode] = ContextVar("node")
"""The node whose inputs are resolved."""


@contextlib.contextmanager
def bounded(node: pipeline_pb2.PipelineNode, began_ms: int | None = None, history_days: float = 0) -> Iterator[None]:
    """Resolves a node's inputs across runs here instead of in TFX; those of its own run stay TFX's.

    Args:
      node: The node in a copy of the IR whose parameters are bound.
      began_ms: When the node's first attempt in this run began, in milliseconds since 1970, so that what was the newest
        then is among its inputs however much came since; None for the first.
      history_days: Days before the run's interval; what was made of them is among the inputs, as is what was made of
        the interval.
    """
    theirs = channel_resolver.resolve_single_channel
    strategies_ = _strategies(node)
    asks_itself = bool(strategies_) and all(issubclass(class_, ByInterval) for class_ in strategies_)
    # Of the user's own strategies, and of TFX's, nobody knows how far back they look.
    level = logging.WARNING if strategies_ else logging.INFO

    @functools.cache
    def interval(handle: mlmd_cm.HandleLike) -> tuple[datetime, datetime] | None:
        channels = (channel for _, spec in sorted(node.inputs.inputs.items()) for channel in spec.channels)
        own = [c for c in channels if any(query.type.name == CONTEXT_TYPE for query in c.context_queries)]
        inputs = (artifact.mlmd_artifact for channel in own for artifact in theirs(handle, channel))
        for proto in inputs:
            if start := known_artifacts.instant_of(proto, known_artifacts.START):
                return start, known_artifacts.instant_of(proto, known_artifacts.END) or start
        return None

    def resolve(handle: mlmd_cm.HandleLike, channel: Channel) -> list[types.Artifact]:
        producer = _producer_across_runs(channel)
        if not producer:
            return list(theirs(handle, channel))
        if asks_itself:
            return []
        store = mlmd_cm.get_handle(handle).store
        context = store.get_context_by_type_and_name("node", producer)
        if context is None:
            return []
        kind = channel.artifact_query.type.name
        known, versions = [], set()
        if ends := interval(handle):
            start, end = ends
            if kind == PROMOTIONS:
                known += known_artifacts.promotions_by(store, context.id, channel, end)
            else:
                known += known_artifacts.known_at(store, context.id, channel, start)
            known += known_artifacts.within(store, context.id, channel, start - timedelta(days=history_days), end)
            if kind == PUSHES:
                versions = _versions_served(store, context.id, channel, ends)
        for before_ms in (None, began_ms) if began_ms else (None,):
            known += known_artifacts.newest(
                store, context, channel.output_key, NEWEST, before_ms=before_ms, level=level
            )
        # Whether a version took over, its first push says, however long ago that was. So it is with one that was
        # promoted since.
        known += known_artifacts.pushes_of(store, context.id, known_artifacts.versions_pushed(known) | versions)
        return _as_tfx(a for a in known if a.type.name == kind)

    channel_resolver.resolve_single_channel = resolve
    token = _node.set(node)
    try:
        yield
    finally:
        _node.reset(token)
        channel_resolver.resolve_single_channel = theirs


def served_by(store: mlmd.MetadataStore, instant: datetime) -> list[types.Artifact]:
    """The pushes of the latest interval that ended by an instant, among those whose version took over.

    For a strategy; the node that it resolves must have an input `PushedModel` across runs.
    """
    return _of_inputs(
        store, PUSHES, lambda context, channel: known_artifacts.known_at(store, context, channel, instant)
    )


def pushes_of(store: mlmd.MetadataStore, versions: Collection[int]) -> list[types.Artifact]:
    """The pushes of some versions, whether these took over or not; for a strategy, as `served_by`."""
    return _of_inputs(store, PUSHES, lambda context, _: known_artifacts.pushes_of(store, context, versions))


def promotions_by(store: mlmd.MetadataStore, instant: datetime) -> list[types.Artifact]:
    """The newest promotions that had been made by an instant of data time; for a strategy, as `served_by`."""
    return _of_inputs(
        store, PROMOTIONS, lambda context, channel: known_artifacts.promotions_by(store, context, channel, instant)
    )


def made_within(store: mlmd.MetadataStore, key: str, since: datetime, until: datetime) -> list[types.Artifact]:
    """What was made of the intervals that ended after `since` and by `until`, of each interval the newest, in order.

    For a strategy, as `served_by`; of its input `key`, which is across runs.

    Args:
      store: The metadata store.
      key: An input across runs of the node that is being resolved.
      since: In data time, with a time zone.
      until: Likewise.
    """
    newest: dict[datetime, Artifact] = {}
    for channel in _channels(key):
        context = store.get_context_by_type_and_name("node", _producer_across_runs(channel))
        for artifact in known_artifacts.within(store, context.id, channel, since, until) if context else ():
            if ended := known_artifacts.instant_of(artifact.proto, known_artifacts.END):
                newest[ended] = artifact
    return _as_tfx_in_order(newest[ended] for ended in sorted(newest))


def versions_promoted(promotions: Iterable[types.Artifact]) -> set[int]:
    """The versions that promotions had served."""
    return {int(promotion.to_version) for promotion in promotions}


def _channels(key: str) -> Iterator[Channel]:
    """The channels of an input of the strategy of the node that is being resolved."""
    inputs = _node.get().inputs
    for graph in inputs.input_graphs.values():
        for step in graph.nodes.values():
            if key in step.dict_node.node_ids:
                source = graph.nodes[step.dict_node.node_ids[key]].input_node.input_key
                yield from inputs.inputs[source].channels


def _of_inputs(
    store: mlmd.MetadataStore, kind: str, read: Callable[[int, Channel], list[Artifact]]
) -> list[types.Artifact]:
    """What is read for the inputs of a type across runs of the node that is being resolved."""
    artifacts: list[Artifact] = []
    channels = (channel for spec in _node.get().inputs.inputs.values() for channel in spec.channels)
    for channel in channels:
        producer = _producer_across_runs(channel)
        if producer and channel.artifact_query.type.name == kind:
            context = store.get_context_by_type_and_name("node", producer)
            artifacts += read(context.id, channel) if context else []
    return _as_tfx(artifacts)


def newest_outputs(
    store: mlmd.MetadataStore, pipeline: str, node: str, key: str, limit: int = NEWEST
) -> list[types.Artifact]:
    """What the newest executions of a node made and is still there, in the order of the artifacts' ids.

    Of a version that they pushed the earlier pushes are there, too.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      node: The node's id.
      key: The output.
      limit: So many executions that succeeded count.
    """
    context = store.get_context_by_type_and_name("node", node_context_name(pipeline, node))
    if context is None:
        return []
    newest = known_artifacts.newest(store, context, key, limit)
    return _as_tfx([*newest, *known_artifacts.pushes_of(store, context.id, known_artifacts.versions_pushed(newest))])


def _producer_across_runs(channel: Channel) -> str:
    """The name of the producer's context, `pipeline.node`; "" for a channel of this run, or of another kind."""
    names = {query.type.name: query.name.field_value.string_value for query in channel.context_queries}
    return names["node"] if set(names) == {"pipeline", "node"} else ""


def _strategies(node: pipeline_pb2.PipelineNode) -> list[type[ResolverStrategy]]:
    """The classes of a node's strategies."""
    steps = [step for graph in node.inputs.input_graphs.values() for step in graph.nodes.values()]
    return [ops.get_by_class_path(path) for step in steps if (path := strategies.path_of(step.op_node))]


def _versions_served(
    store: mlmd.MetadataStore, context: int, channel: Channel, ends: tuple[datetime, datetime]
) -> set[int]:
    """The version that had served last by either end of an interval, the one before it, and those promoted by then."""

    def pushes(by: datetime) -> list[Takeover]:
        known = ((a.properties, a.proto.id) for a in known_artifacts.known_at(store, context, channel, by))
        return [takeover for push in known if (takeover := takeover_of_push(*push))]

    promotions = promotions_by(store, max(ends))
    properties = ((known_artifacts.properties_of(promotion.mlmd_artifact), promotion.id) for promotion in promotions)
    promoted = [takeover for of_one in properties if (takeover := takeover_of_promotion(*of_one))]
    last = (served(pushes, promoted, instant, _CHAMPIONS) for instant in ends)
    return {takeover.version for champions in last for takeover in champions} | versions_promoted(promotions)


def _as_tfx(artifacts: Iterable[Artifact]) -> list[types.Artifact]:
    """The live ones, each once, in the order of their ids."""
    once = {artifact.proto.id: artifact for artifact in artifacts if artifact.proto.state == _LIVE}
    return [artifact_utils.deserialize_artifact(once[i].type, once[i].proto) for i in sorted(once)]


def _as_tfx_in_order(artifacts: Iterable[Artifact]) -> list[types.Artifact]:
    return [artifact_utils.deserialize_artifact(artifact.type, artifact.proto) for artifact in artifacts]
