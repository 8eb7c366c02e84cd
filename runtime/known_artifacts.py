"""What a producer in other runs made: the newest, and by data time the latest, those of a span, and pushes of versions.

The store's filters find it, so that nothing costs more with a longer history.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

import ml_metadata as mlmd
from ml_metadata import errors
from ml_metadata.proto import metadata_store_pb2
from tfx.proto.orchestration import pipeline_pb2

from airtight.served_history import takeover_of_promotion, takeover_of_push, takeovers_of_pushes
from runtime.lineage.artifacts import FLAGS, Artifact, ByKey, Scalar, by_id, by_key, chunks, quoted, scalars

log = logging.getLogger(__name__)

PUSHES, PROMOTIONS = "PushedModel", "Promotion"
"""Names of the types of artifacts that say which version served."""
START, END = "interval_start", "interval_end"
"""Properties of an artifact: its interval in data time."""
_DAY = timedelta(days=1)
_SPANS = (2 * _DAY, 40 * _DAY, 400 * _DAY, 4000 * _DAY, None)
"""Before an instant the latest artifact is looked for in these spans, one after the other; None is all time."""
_PAGE = 100
Channel: TypeAlias = pipeline_pb2.InputSpec.Channel


def newest(
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


def known_at(store: mlmd.MetadataStore, context: int, channel: Channel, instant: datetime) -> list[Artifact]:
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
            counted = {a.id: a for a in page if query.kind != PUSHES or takeover_of_push(properties_of(a), a.id)}
            ends = [(ended, i) for i, a in counted.items() if (ended := instant_of(a, END)) and ended <= instant]
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


def within(
    store: mlmd.MetadataStore, context: int, channel: Channel, since: datetime, until: datetime
) -> list[Artifact]:
    """What the producer made of the intervals that ended after `since` and by `until`, in the order of ids."""
    query = _ended_by(store, context, channel, until) if since < until else None
    if query is None:
        return []
    filter_ = f"{query.text} AND {query.end} >= {quoted((since - _DAY).isoformat())}"
    artifacts = store.get_artifacts(mlmd.ListOptions(filter_query=filter_))
    ended = {a.id for a in artifacts if (end := instant_of(a, END)) and since < end <= until}
    made: dict[int, Artifact] = {}
    for ids in chunks(ended):
        about = f"contexts_n.id = {context} AND events_e.artifact_id IN ({', '.join(map(str, ids))})"
        executions = [execution.id for execution in store.get_executions(mlmd.ListOptions(filter_query=about))]
        outputs = by_key(store, executions).values()
        made |= {a.proto.id: a for by_name in outputs for a in _of_key(by_name, channel.output_key)}
    return [made[artifact] for artifact in sorted(ended & made.keys())]


def _took_over(store: mlmd.MetadataStore, context: int, push: metadata_store_pb2.Artifact) -> bool:
    """Whether a push put its version before the requests, by what the earlier pushes of the version say."""
    query = _of_versions(context, {push.custom_properties["version"].int_value})
    earlier = store.get_artifacts(_newest_first(f"{query} AND id < {push.id}"))
    takeovers = takeovers_of_pushes((a.id, properties_of(a)) for a in (*earlier, push))
    return any(takeover.order == push.id for takeover in takeovers)


def pushes_of(store: mlmd.MetadataStore, context: int, versions: Collection[int]) -> list[Artifact]:
    """The pushes of some versions that are still there, whether these took over or not."""
    if not versions:
        return []
    options = mlmd.ListOptions(filter_query=f"{_of_versions(context, versions)} AND state = LIVE")
    return list(by_id(store, [a.id for a in store.get_artifacts(options)]).values())


def _of_versions(context: int, versions: Collection[int]) -> str:
    query = f"type = {quoted(PUSHES)} AND contexts_n.id = {context} AND custom_properties.pushed.int_value = 1"
    return f"{query} AND custom_properties.version.int_value IN ({', '.join(map(str, sorted(versions)))})"


def versions_pushed(artifacts: Iterable[Artifact]) -> set[int]:
    """The versions of those artifacts that are pushes."""
    pushes = [properties_of(a.proto) for a in artifacts if a.type.name == PUSHES]
    return {int(push["version"]) for push in pushes if push.get("pushed") and "version" in push}


def promotions_by(store: mlmd.MetadataStore, context: int, channel: Channel, instant: datetime) -> list[Artifact]:
    """The newest promotions that had been made by an instant of data time.

    It is not that of their versions' intervals, which is earlier where an older version was promoted.
    """
    query = _ended_by(store, context, channel, instant)
    made: list[int] = []
    older = ""
    while query is not None and len(made) < _PAGE:
        page = store.get_artifacts(_newest_first(f"{query.text}{older}"))
        takeovers = [takeover for a in page if (takeover := takeover_of_promotion(properties_of(a), a.id))]
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


def _ended_by(store: mlmd.MetadataStore, context: int, channel: Channel, instant: datetime) -> _Query | None:
    """The producer's artifacts whose interval ended by an instant, or less than a day later; None without any."""
    try:
        type_ = store.get_artifact_type(channel.artifact_query.type.name)
    except errors.NotFoundError:
        return None
    end = f"{'' if END in type_.properties else 'custom_'}properties.{END}.string_value"
    query = f"type = {quoted(type_.name)} AND contexts_n.id = {context} AND state = LIVE"
    # Texts of other offsets from UTC are in another order than the instants, by less than a day.
    return _Query(type_.name, f"{query} AND {end} <= {quoted((instant + _DAY).isoformat())}", end)


def _newest_first(query: str) -> mlmd.ListOptions:
    return mlmd.ListOptions(filter_query=query, limit=_PAGE, order_by=mlmd.OrderByField.ID, is_asc=False)


def _makes(store: mlmd.MetadataStore, context: int, artifact: int, channel: Channel) -> bool:
    """Whether the producer made an artifact that it is known to have had to do with, as this output."""
    query = f"contexts_n.id = {context} AND events_e.artifact_id = {artifact}"
    first = mlmd.ListOptions(filter_query=query, limit=1, order_by=mlmd.OrderByField.ID)
    made = by_key(store, [execution.id for execution in store.get_executions(first)])
    return any(a.proto.id == artifact for outputs in made.values() for a in _of_key(outputs, channel.output_key))


def _of_key(outputs: ByKey, key: str) -> list[Artifact]:
    """The artifacts under a key; of a channel that names none those under all."""
    return outputs.get(key, []) if key else [artifact for several in outputs.values() for artifact in several]


def properties_of(artifact: metadata_store_pb2.Artifact) -> dict[str, Scalar]:
    """The properties of an artifact, those of its type and its own."""
    return scalars(artifact.properties) | scalars(artifact.custom_properties)


def instant_of(artifact: metadata_store_pb2.Artifact, name: str) -> datetime | None:
    """The instant that a property says, with a time zone; None where it says none."""
    for properties in (artifact.properties, artifact.custom_properties):
        if name in properties:
            with contextlib.suppress(ValueError):
                instant = datetime.fromisoformat(properties[name].string_value)
                return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return None
