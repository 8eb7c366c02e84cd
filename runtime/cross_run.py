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
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

import ml_metadata as mlmd
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.input_resolution.ops import ops
from tfx.orchestration import mlmd_connection_manager as mlmd_cm
from tfx.orchestration.portable.input_resolution import channel_resolver
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import artifact_utils

from airtight.served_history import Takeover, served, takeover_of_promotion, takeover_of_push, takeovers_of_pushes
from runtime import strategies
from runtime.attempt_names import CONTEXT_TYPE, node_context_name
from runtime.lineage.artifacts import FLAGS, Artifact, ByKey, Scalar, by_id, by_key, chunks, quoted, scalars

log = logging.getLogger(__name__)

NEWEST = 200
"""Of so many of the producer's executions that succeeded, the newest, an input across runs holds the outputs."""
_START, _END = "interval_start", "interval_end"
_DAY = timedelta(days=1)
_SPANS = (2 * _DAY, 40 * _DAY, 400 * _DAY, 4000 * _DAY, None)
"""Before an instant the latest artifact is looked for in these spans, one after the other; None is all time."""
_PAGE = 100
_CHAMPIONS = 2
"""An input of pushes holds the version that had served last when the interval began or ended, and the one before."""
PUSHES, PROMOTIONS = "PushedModel", "Promotion"
"""Names of the types of artifacts that say which version served."""
_LIVE = metadata_store_pb2.Artifact.LIVE
_Channel: TypeAlias = pipeline_pb2.InputSpec.Channel


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
        starts = ((start, _instant(proto, _END) or start) for proto in inputs if (start := _instant(proto, _START)))
        return next(starts, None)

    def resolve(handle: mlmd_cm.HandleLike, channel: _Channel) -> list[types.Artifact]:
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
                known += _promotions(store, context.id, channel, end)
            else:
                known += _known_at(store, context.id, channel, start)
            known += _within(store, context.id, channel, start - timedelta(days=history_days), end)
            if kind == PUSHES:
                versions = _versions_served(store, context.id, channel, ends)
        for before_ms in (None, began_ms) if began_ms else (None,):
            known += _newest(store, context, channel.output_key, NEWEST, before_ms=before_ms, level=level)
        # Whether a version took over, its first push says, however long ago that was. So it is with one that was
        # promoted since.
        known += _pushes_of(store, context.id, _versions_pushed(known) | versions)
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
    return _of_inputs(store, PUSHES, lambda context, channel: _known_at(store, context, channel, instant))


def pushes_of(store: mlmd.MetadataStore, versions: Collection[int]) -> list[types.Artifact]:
    """The pushes of some versions, whether these took over or not; for a strategy, as `served_by`."""
    return _of_inputs(store, PUSHES, lambda context, _: _pushes_of(store, context, versions))


def promotions_by(store: mlmd.MetadataStore, instant: datetime) -> list[types.Artifact]:
    """The newest promotions that had been made by an instant of data time; for a strategy, as `served_by`."""
    return _of_inputs(store, PROMOTIONS, lambda context, channel: _promotions(store, context, channel, instant))


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
        for artifact in _within(store, context.id, channel, since, until) if context else ():
            newest[_end_of(artifact)] = artifact
    return _as_tfx_in_order(newest[ended] for ended in sorted(newest))


def versions_promoted(promotions: Iterable[types.Artifact]) -> set[int]:
    """The versions that promotions had served."""
    return {int(promotion.to_version) for promotion in promotions}


def _channels(key: str) -> Iterator[_Channel]:
    """The channels of an input of the strategy of the node that is being resolved."""
    inputs = _node.get().inputs
    for graph in inputs.input_graphs.values():
        for step in graph.nodes.values():
            if key in step.dict_node.node_ids:
                source = graph.nodes[step.dict_node.node_ids[key]].input_node.input_key
                yield from inputs.inputs[source].channels


def _of_inputs(
    store: mlmd.MetadataStore, kind: str, read: Callable[[int, _Channel], list[Artifact]]
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
    newest = _newest(store, context, key, limit)
    return _as_tfx([*newest, *_pushes_of(store, context.id, _versions_pushed(newest))])


def _producer_across_runs(channel: _Channel) -> str:
    """The name of the producer's context, `pipeline.node`; "" for a channel of this run, or of another kind."""
    names = {query.type.name: query.name.field_value.string_value for query in channel.context_queries}
    return names["node"] if set(names) == {"pipeline", "node"} else ""


def _strategies(node: pipeline_pb2.PipelineNode) -> list[type[ResolverStrategy]]:
    """The classes of a node's strategies."""
    steps = [step for graph in node.inputs.input_graphs.values() for step in graph.nodes.values()]
    return [ops.get_by_class_path(path) for step in steps if (path := strategies.path_of(step.op_node))]


def _newest(
    store: mlmd.MetadataStore,
    context: metadata_store_pb2.Context,
    key: str,
    limit: int,
    *,
    before_ms: int | None = None,
    level: int = logging.INFO,
) -> list[Artifact]:
    """What the newest successful executions of a context made, of those that began before an instant if it is given."""
    query = "(last_known_state = COMPLETE OR last_known_state = CACHED)"
    if before_ms is not None:
        query += f" AND create_time_since_epoch < {before_ms}"
    options = mlmd.ListOptions(limit=limit, order_by=mlmd.OrderByField.ID, is_asc=False, filter_query=query)
    executions = [execution.id for execution in store.get_executions_by_context(context.id, list_options=options)]
    if len(executions) == limit:
        message = "Of %s across runs the outputs %s of the newest %d successful executions are taken, and none before."
        log.log(level, message, context.name, key, limit)
    return [artifact for outputs in by_key(store, executions).values() for artifact in _of_key(outputs, key)]


def _known_at(store: mlmd.MetadataStore, context: int, channel: _Channel, instant: datetime) -> list[Artifact]:
    """The producer's artifacts with the latest interval that ended by an instant; of pushes those that took over."""
    query = _ended_by(store, context, channel, instant)
    if query is None:
        return []
    if flag := FLAGS.get(query.kind):
        query = query._replace(text=f"{query.text} AND custom_properties.{flag}.int_value = 1")
    for span in _SPANS:
        low = since = instant - span if span else None
        latest, older = None, ""
        made: list[int] = []
        while True:
            after = f" AND {query.end} >= {quoted((since - _DAY).isoformat())}" if since else ""
            page = store.get_artifacts(_newest_first(f"{query.text}{after}{older}"))
            counted = {a.id: a for a in page if query.kind != PUSHES or takeover_of_push(_properties(a), a.id)}
            ends = [(ended, i) for i, a in counted.items() if (ended := _instant(a, _END)) and ended <= instant]
            for ended, artifact in sorted(ends, reverse=True):
                if latest and ended < latest:
                    break
                if query.kind == PUSHES and not _took_over(store, context, counted[artifact]):
                    continue
                if _makes(store, context, artifact, channel):
                    made = [*made, artifact] if ended == latest else [artifact]
                    latest = ended
            if len(page) < _PAGE:
                break
            # A page holds the newest ids: the latest interval may be in any of those that follow.
            older = f" AND id < {page[-1].id}"
            since = latest or since
        if latest and (low is None or latest >= low):
            return list(by_id(store, made).values())
    return []


def _within(
    store: mlmd.MetadataStore, context: int, channel: _Channel, since: datetime, until: datetime
) -> list[Artifact]:
    """What the producer made of the intervals that ended after `since` and by `until`, in the order of ids."""
    query = _ended_by(store, context, channel, until) if since < until else None
    if query is None:
        return []
    filter_ = f"{query.text} AND {query.end} >= {quoted((since - _DAY).isoformat())}"
    artifacts = store.get_artifacts(mlmd.ListOptions(filter_query=filter_))
    ended = {a.id for a in artifacts if (end := _instant(a, _END)) and since < end <= until}
    made: dict[int, Artifact] = {}
    for ids in chunks(ended):
        about = f"contexts_n.id = {context} AND events_e.artifact_id IN ({', '.join(map(str, ids))})"
        executions = [execution.id for execution in store.get_executions(mlmd.ListOptions(filter_query=about))]
        outputs = by_key(store, executions).values()
        made |= {a.proto.id: a for by_name in outputs for a in _of_key(by_name, channel.output_key)}
    return [made[artifact] for artifact in sorted(ended & made.keys())]


def _versions_served(
    store: mlmd.MetadataStore, context: int, channel: _Channel, ends: tuple[datetime, datetime]
) -> set[int]:
    """The version that had served last by either end of an interval, the one before it, and those promoted by then."""

    def pushes(by: datetime) -> list[Takeover]:
        known = ((a.properties, a.proto.id) for a in _known_at(store, context, channel, by))
        return [takeover for push in known if (takeover := takeover_of_push(*push))]

    promotions = promotions_by(store, max(ends))
    made = (takeover_of_promotion(_properties(promotion.mlmd_artifact), promotion.id) for promotion in promotions)
    promoted = [takeover for takeover in made if takeover]
    last = (served(pushes, promoted, instant, _CHAMPIONS) for instant in ends)
    return {takeover.version for champions in last for takeover in champions} | versions_promoted(promotions)


def _took_over(store: mlmd.MetadataStore, context: int, push: metadata_store_pb2.Artifact) -> bool:
    """Whether a push put its version before the requests, by what the earlier pushes of the version say."""
    query = _of_versions(context, {push.custom_properties["version"].int_value})
    earlier = store.get_artifacts(_newest_first(f"{query} AND id < {push.id}"))
    takeovers = takeovers_of_pushes((a.id, _properties(a)) for a in (*earlier, push))
    return any(takeover.order == push.id for takeover in takeovers)


def _pushes_of(store: mlmd.MetadataStore, context: int, versions: Collection[int]) -> list[Artifact]:
    """The pushes of some versions that are still there, whether these took over or not."""
    if not versions:
        return []
    options = mlmd.ListOptions(filter_query=f"{_of_versions(context, versions)} AND state = LIVE")
    return list(by_id(store, [a.id for a in store.get_artifacts(options)]).values())


def _of_versions(context: int, versions: Collection[int]) -> str:
    query = f"type = {quoted(PUSHES)} AND contexts_n.id = {context} AND custom_properties.pushed.int_value = 1"
    return f"{query} AND custom_properties.version.int_value IN ({', '.join(map(str, sorted(versions)))})"


def _versions_pushed(artifacts: Iterable[Artifact]) -> set[int]:
    pushes = [_properties(a.proto) for a in artifacts if a.type.name == PUSHES]
    return {int(push["version"]) for push in pushes if push.get("pushed") and "version" in push}


def _promotions(store: mlmd.MetadataStore, context: int, channel: _Channel, instant: datetime) -> list[Artifact]:
    """The newest promotions that had been made by an instant of data time.

    It is not that of their versions' intervals, which is earlier where an older version was promoted.
    """
    query = _ended_by(store, context, channel, instant)
    made: list[int] = []
    older = ""
    while query is not None and len(made) < _PAGE:
        page = store.get_artifacts(_newest_first(f"{query.text}{older}"))
        takeovers = [takeover for a in page if (takeover := takeover_of_promotion(_properties(a), a.id))]
        made += [takeover.order for takeover in takeovers if takeover.at <= instant]
        if len(page) < _PAGE:
            break
        older = f" AND id < {page[-1].id}"
    return list(by_id(store, made).values())


class _Query(NamedTuple):
    """What the store is asked for: the artifacts' type, the filter, and in it the name of an interval's end."""

    kind: str
    text: str
    end: str


def _ended_by(store: mlmd.MetadataStore, context: int, channel: _Channel, instant: datetime) -> _Query | None:
    """The producer's artifacts whose interval ended by an instant, or less than a day later; None without any."""
    try:
        type_ = store.get_artifact_type(channel.artifact_query.type.name)
    except errors.NotFoundError:
        return None
    end = f"{'' if _END in type_.properties else 'custom_'}properties.{_END}.string_value"
    query = f"type = {quoted(type_.name)} AND contexts_n.id = {context} AND state = LIVE"
    # Texts of other offsets from UTC are in another order than the instants, by less than a day.
    return _Query(type_.name, f"{query} AND {end} <= {quoted((instant + _DAY).isoformat())}", end)


def _newest_first(query: str) -> mlmd.ListOptions:
    return mlmd.ListOptions(filter_query=query, limit=_PAGE, order_by=mlmd.OrderByField.ID, is_asc=False)


def _makes(store: mlmd.MetadataStore, context: int, artifact: int, channel: _Channel) -> bool:
    """Whether the producer made an artifact that it is known to have had to do with, as this output."""
    query = f"contexts_n.id = {context} AND events_e.artifact_id = {artifact}"
    first = mlmd.ListOptions(filter_query=query, limit=1, order_by=mlmd.OrderByField.ID)
    made = by_key(store, [execution.id for execution in store.get_executions(first)])
    return any(a.proto.id == artifact for outputs in made.values() for a in _of_key(outputs, channel.output_key))


def _of_key(outputs: ByKey, key: str) -> list[Artifact]:
    """The artifacts under a key; of a channel that names none those under all."""
    return outputs.get(key, []) if key else [artifact for several in outputs.values() for artifact in several]


def _properties(artifact: metadata_store_pb2.Artifact) -> dict[str, Scalar]:
    return scalars(artifact.properties) | scalars(artifact.custom_properties)


def _end_of(artifact: Artifact) -> datetime:
    end = _instant(artifact.proto, _END)
    assert end is not None
    return end


def _instant(artifact: metadata_store_pb2.Artifact, name: str) -> datetime | None:
    for properties in (artifact.properties, artifact.custom_properties):
        if name in properties:
            with contextlib.suppress(ValueError):
                instant = datetime.fromisoformat(properties[name].string_value)
                return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return None


def _as_tfx(artifacts: Iterable[Artifact]) -> list[types.Artifact]:
    """The live ones, each once, in the order of their ids."""
    once = {artifact.proto.id: artifact for artifact in artifacts if artifact.proto.state == _LIVE}
    return [artifact_utils.deserialize_artifact(once[i].type, once[i].proto) for i in sorted(once)]


def _as_tfx_in_order(artifacts: Iterable[Artifact]) -> list[types.Artifact]:
    return [artifact_utils.deserialize_artifact(artifact.type, artifact.proto) for artifact in artifacts]
