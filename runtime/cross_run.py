"""Inputs across runs, at a cost that does not grow with history.

TFX resolves such an input by reading every execution of the pipeline and of the producer, and hands all that the
producer ever made to the component. Here the component is given what the newest executions of the producer made, and
the latest that was known when this run's interval began, however long ago that was made.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar, TypeAlias

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

from runtime import strategies
from runtime.attempts import CONTEXT_TYPE, node_context_name
from runtime.lineage.artifacts import FLAGS, Artifact, ByKey, by_id, by_key, quoted

log = logging.getLogger(__name__)

NEWEST = 200
"""Of so many of the producer's executions that succeeded, the newest, an input across runs holds the outputs."""
_START, _END = "interval_start", "interval_end"
_DAY = timedelta(days=1)
_SPANS = (2 * _DAY, 40 * _DAY, 400 * _DAY, 4000 * _DAY, None)
"""Before an instant the latest artifact is looked for in these spans, one after the other; None is all time."""
_PAGE = 100
_LIVE = metadata_store_pb2.Artifact.LIVE
_Channel: TypeAlias = pipeline_pb2.InputSpec.Channel


class ByInterval(ResolverStrategy):
    """A strategy that takes of its inputs across runs only what was known when this run's interval began.

    Of each such input it is given the artifacts with the latest `interval_end` that is not after the `interval_start`
    of an input of this run, and nothing else; of types in `FLAGS` those alone whose flag is set.
    """

    intervals: ClassVar[int] = 1
    """Of so many intervals, the latest, it is given the artifacts."""


@contextlib.contextmanager
def bounded(node: pipeline_pb2.PipelineNode, began_ms: int | None = None) -> Iterator[None]:
    """Resolves a node's inputs across runs here instead of in TFX; those of its own run stay TFX's.

    Args:
      node: The node in a copy of the IR whose parameters are bound.
      began_ms: When the node's first attempt in this run began, in milliseconds since 1970, so that what was the newest
        then is among its inputs however much came since; None for the first.
    """
    theirs = channel_resolver.resolve_single_channel
    strategies_ = _strategies(node)
    by_interval = bool(strategies_) and all(issubclass(class_, ByInterval) for class_ in strategies_)
    intervals = max(class_.intervals for class_ in strategies_) if by_interval else 0
    # Of the user's own strategies, and of TFX's, nobody knows how far back they look.
    level = logging.WARNING if strategies_ else logging.INFO

    @functools.cache
    def start(handle: mlmd_cm.HandleLike) -> datetime | None:
        channels = (channel for _, spec in sorted(node.inputs.inputs.items()) for channel in spec.channels)
        own = [c for c in channels if any(query.type.name == CONTEXT_TYPE for query in c.context_queries)]
        given = (artifact for channel in own for artifact in theirs(handle, channel))
        starts = (_instant(artifact.mlmd_artifact, _START) for artifact in given)
        return next((instant for instant in starts if instant), None)

    def resolve(handle: mlmd_cm.HandleLike, channel: _Channel) -> list[types.Artifact]:
        producer = _producer_across_runs(channel)
        if not producer:
            return list(theirs(handle, channel))
        store = mlmd_cm.get_handle(handle).store
        context = store.get_context_by_type_and_name("node", producer)
        if context is None:
            return []
        instant = start(handle)
        known = _latest_of(store, context.id, channel, instant, intervals or 1) if instant else []
        if not (intervals and instant):
            for before_ms in (None, began_ms) if began_ms else (None,):
                known += _newest(store, context, channel.output_key, NEWEST, before_ms=before_ms, level=level)
        return _as_tfx(a for a in known if a.type.name == channel.artifact_query.type.name)

    channel_resolver.resolve_single_channel = resolve
    try:
        yield
    finally:
        channel_resolver.resolve_single_channel = theirs


def newest_outputs(
    store: mlmd.MetadataStore, pipeline: str, node: str, key: str, limit: int = NEWEST
) -> list[types.Artifact]:
    """What the newest executions of a node made and is still there, in the order of the artifacts' ids.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      node: The node's id.
      key: The output.
      limit: So many executions that succeeded count.
    """
    context = store.get_context_by_type_and_name("node", node_context_name(pipeline, node))
    return _as_tfx(_newest(store, context, key, limit)) if context else []


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


def _latest_of(
    store: mlmd.MetadataStore, context: int, channel: _Channel, instant: datetime, intervals: int
) -> list[Artifact]:
    """The producer's artifacts of the latest intervals that ended by an instant."""
    artifacts: list[Artifact] = []
    for _ in range(intervals):
        latest = _known_at(store, context, channel, instant)
        ends = [end for artifact in latest if (end := _instant(artifact.proto, _END))]
        if not ends:
            break
        artifacts += latest
        instant = min(ends) - timedelta(microseconds=1)
    return artifacts


def _known_at(store: mlmd.MetadataStore, context: int, channel: _Channel, instant: datetime) -> list[Artifact]:
    """The producer's artifacts with the latest interval that ended by an instant."""
    try:
        type_ = store.get_artifact_type(channel.artifact_query.type.name)
    except errors.NotFoundError:
        return []
    end = f"{'' if _END in type_.properties else 'custom_'}properties.{_END}.string_value"
    query = f"type = {quoted(type_.name)} AND contexts_n.id = {context} AND state = LIVE"
    if flag := FLAGS.get(type_.name):
        query += f" AND custom_properties.{flag}.int_value = 1"
    # Texts of other offsets from UTC are in another order than the instants, by less than a day.
    query += f" AND {end} <= {quoted((instant + _DAY).isoformat())}"
    for span in _SPANS:
        low = since = instant - span if span else None
        latest, older = None, ""
        made: list[int] = []
        while True:
            after = f" AND {end} >= {quoted((since - _DAY).isoformat())}" if since else ""
            options = mlmd.ListOptions(
                filter_query=query + after + older, limit=_PAGE, order_by=mlmd.OrderByField.ID, is_asc=False
            )
            page = store.get_artifacts(options)
            ends = [(ended, a.id) for a in page if (ended := _instant(a, _END)) and ended <= instant]
            for ended, artifact in sorted(ends, reverse=True):
                if latest and ended < latest:
                    break
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


def _makes(store: mlmd.MetadataStore, context: int, artifact: int, channel: _Channel) -> bool:
    """Whether the producer made an artifact that it is known to have had to do with, as this output."""
    query = f"contexts_n.id = {context} AND events_e.artifact_id = {artifact}"
    first = mlmd.ListOptions(filter_query=query, limit=1, order_by=mlmd.OrderByField.ID)
    made = by_key(store, [execution.id for execution in store.get_executions(first)])
    return any(a.proto.id == artifact for outputs in made.values() for a in _of_key(outputs, channel.output_key))


def _of_key(outputs: ByKey, key: str) -> list[Artifact]:
    """The artifacts under a key; of a channel that names none those under all."""
    return outputs.get(key, []) if key else [artifact for several in outputs.values() for artifact in several]


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
