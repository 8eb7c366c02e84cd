"""What Prometheus scrapes: pipelines, their watches and quality, their nodes, and the launcher.

All of it is what the tab Model shows, by the same readers. They read all of a pipeline's history, and a scrape comes
each minute: so what a part's records say is kept until its executions change, or the rights of who asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from airtight.declared_pipelines import declared_settings
from airtight.home import Home
from airtight.interval import Interval
from airtight.supervised import LABELS, TRAIN, WATCH, Supervised
from airtight.watch import alarm_acts
from airtight.watch.policies import Action
from plugins.tfx_airflow.pages import model_watch
from plugins.tfx_airflow.pages.model_record import ModelRecord
from plugins.tfx_airflow.pages.visible import MayRead, Visible
from runtime.protocol import is_served, load_of

if TYPE_CHECKING:
    import ml_metadata as mlmd

__all__ = ["CONTENT_TYPE", "FAMILIES", "exposition"]

_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily
_PIPELINE, _NODE = ("pipeline",), ("pipeline", "dag_id", "node")
_ENDED = ("complete", "cached", "failed", "canceled")
_RIPE = "ripe"
_TRIGGERED = "watch__"
"""How the ids of the runs begin that a watch has triggered."""
FAMILIES: Mapping[str, tuple[type, str, tuple[str, ...]]] = {
    "airtight_served_version": (_GAUGE, "The version that answers requests; 0 for none.", _PIPELINE),
    "airtight_watch_last_day_timestamp_seconds": (_GAUGE, "When the last watched day ended.", _PIPELINE),
    "airtight_watch_alarms": (_GAUGE, "Alarms about the data of the last watched day.", _PIPELINE),
    "airtight_watch_training_blocked": (
        _GAUGE,
        "1 where a fault of that day blocks training.",
        _PIPELINE,
    ),
    "airtight_watch_days": (_GAUGE, "Days on record.", _PIPELINE),
    "airtight_watch_alarm_days": (_GAUGE, "Days on record with an alarm about their data.", _PIPELINE),
    "airtight_watch_decision": (_GAUGE, "1 for what was decided last, 0 for the others.", ("pipeline", "action")),
    "airtight_watch_regret_alarm": (_GAUGE, "1 where a fresh model would be better, as decided last.", _PIPELINE),
    "airtight_watch_trainings_total": (_COUNTER, "Trainings that the watch triggered, and that began.", _PIPELINE),
    "airtight_quality_figure": (_GAUGE, "A metric of the predictions of the last ripe day.", ("pipeline", "metric")),
    "airtight_quality_day_timestamp_seconds": (_GAUGE, "When the last ripe day ended.", _PIPELINE),
    "airtight_quality_labelled_ratio": (_GAUGE, "Share of its predictions whose label is known.", _PIPELINE),
    "airtight_quality_pending_labels": (_GAUGE, "Predictions of all days whose label has not come.", _PIPELINE),
    "airtight_node_executions_total": (_COUNTER, "Executions that ended, by their state.", (*_NODE, "state")),
    "airtight_node_last_duration_seconds": (_GAUGE, "How long the last took that the cache did not answer.", _NODE),
    "airtight_node_last_success_timestamp_seconds": (_GAUGE, "When the last ended that succeeded.", _NODE),
    "airtight_launcher_up": (_GAUGE, "1 where the launcher serves.", ()),
    "airtight_launcher_start_time_seconds": (_GAUGE, "When it started, or started anew after an upgrade.", ()),
    "airtight_launcher_resident_memory_bytes": (_GAUGE, "Its own, when a request last began or ended.", ()),
    "airtight_launcher_requests_running": (_GAUGE, "Nodes and compilations that run.", ()),
    "airtight_launcher_requests_total": (_COUNTER, "Nodes and compilations that ended.", ()),
    "airtight_launcher_requests_died_total": (_COUNTER, "Of these, whose process ended without an outcome.", ()),
}
"""By name: type, words for people, and the names of the labels."""


class _Sample(NamedTuple):
    """A value of a family, and those of its labels."""

    name: str
    labels: tuple[str, ...]
    value: float


class _Kept(NamedTuple):
    """What a part's records say, as of its newest execution and to who may read such DAGs."""

    mark: tuple[int, ...]
    rights: Mapping[str, bool]
    samples: Sequence[_Sample]


_KEPT: dict[tuple[Path, str], _Kept] = {}


class _Families(Collector):
    """Samples as the client library takes them."""

    def __init__(self, samples: Sequence[_Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        for name, (family, words, labels) in FAMILIES.items():
            metric = family(name, words, labels=labels)
            for sample in self._samples:
                if sample.name == name:
                    metric.add_metric(sample.labels, sample.value)
            yield metric


def exposition(store: mlmd.MetadataStore | None, home: Home, may_read: MayRead) -> bytes:
    """All of it as text.

    Args:
      store: The metadata store; None where there is none yet.
      home: The state folder.
      may_read: Whether the reader may read the DAG of an id.
    """
    samples = [*_launcher(home)]
    for settings in declared_settings():
        for part in settings.parts:
            if store is not None and may_read(settings.id_of(part)):
                samples += _part(store, settings, part, home, may_read)
    return generate_latest(_Families(samples))


def _launcher(home: Home) -> Iterator[_Sample]:
    """The launcher is not asked, which would be a request and a process of its own: it notes its load in a file."""
    load = load_of(home.launcher_socket)
    yield _Sample("airtight_launcher_up", (), is_served(home.launcher_socket))
    for name, key in {
        "start_time_seconds": "started",
        "resident_memory_bytes": "memory_bytes",
        "requests_running": "running",
        "requests_total": "ended",
        "requests_died_total": "died",
    }.items():
        if key in load:
            yield _Sample(f"airtight_launcher_{name}", (), load[key])


def _part(
    store: mlmd.MetadataStore, settings: Supervised, part: str, home: Home, may_read: MayRead
) -> Iterator[_Sample]:
    dag_id, rights = settings.id_of(part), dict[str, bool]()

    def may(other: str) -> bool:
        return rights.setdefault(other, may_read(other))

    record = ModelRecord(Visible(store, dag_id, may), settings, home)
    if part == TRAIN:
        yield _Sample("airtight_served_version", (settings.name,), record.served)
    kept, mark = _KEPT.get((home.path, dag_id)), _mark(store, dag_id)
    if kept is None or kept.mark != mark or any(may_read(other) != right for other, right in kept.rights.items()):
        kept = _Kept(mark, rights, [*_recorded(record, part)])
        _KEPT[home.path, dag_id] = kept
    yield from kept.samples


def _mark(store: mlmd.MetadataStore, pipeline: str) -> tuple[int, ...]:
    """Changes with every change of an execution of a pipeline; one look-up, however many there are."""
    import ml_metadata as mlmd

    newest = mlmd.ListOptions(limit=1, order_by=mlmd.OrderByField.UPDATE_TIME, is_asc=False)
    context = store.get_context_by_type_and_name("pipeline", pipeline)
    last = store.get_executions_by_context(context.id, list_options=newest) if context else ()
    return tuple(number for e in last for number in (e.id, e.last_update_time_since_epoch))


def _recorded(record: ModelRecord, part: str) -> Iterator[_Sample]:
    """What the metadata store says of a part of a pipeline."""
    yield from _nodes(record, record.settings.id_of(part))
    if part == TRAIN and record.settings.watch:
        triggered = sum(run_id.startswith(_TRIGGERED) for run_id in record.visible.own_runs.values())
        yield _Sample("airtight_watch_trainings_total", (record.name,), triggered)
    elif part == WATCH:
        yield from _watch(record)
    elif part == LABELS:
        yield from _quality(record)


def _nodes(record: ModelRecord, dag_id: str) -> Iterator[_Sample]:
    costs = sorted(record.costs_of(dag_id).values(), key=lambda cost: cost.began)
    ended = Counter((cost.node, cost.state) for cost in costs if cost.state in _ENDED)
    # Zeros, too: `increase` misses the first failure of a series that begins with it.
    for node, state in product(sorted({node for node, _ in ended}), _ENDED):
        yield _Sample("airtight_node_executions_total", (record.name, dag_id, node, state), ended[node, state])
    done = {cost.node: cost for cost in costs if cost.state in ("complete", "cached")}
    for node, cost in sorted({cost.node: cost for cost in costs if cost.state == "complete"}.items()):
        yield _Sample("airtight_node_last_duration_seconds", (record.name, dag_id, node), cost.seconds)
    for node, cost in sorted(done.items()):
        at = cost.began.timestamp() + cost.seconds
        yield _Sample("airtight_node_last_success_timestamp_seconds", (record.name, dag_id, node), at)


def _watch(record: ModelRecord) -> Iterator[_Sample]:
    from runtime.lineage.watch_chain import of_each_day

    alarms, decided = model_watch.watched(record)
    if alarms:
        day = max(alarms)
        words = alarm_acts.alarms_in(day, str(alarms[day].get("summary", ""))) if alarms[day].get("alarm") else ()
        values = {
            "last_day_timestamp_seconds": _end_of(record, day),
            "alarms": len(words),
            "training_blocked": bool(alarms[day].get("blocking")),
            "days": len(alarms),
            "alarm_days": sum(bool(properties.get("alarm")) for properties in alarms.values()),
        }
        for name, value in values.items():
            yield _Sample(f"airtight_watch_{name}", (record.name,), value)
    if decided:
        last = of_each_day(record.visible.store, decided)[-1].properties
        for action in get_args(Action):
            yield _Sample("airtight_watch_decision", (record.name, action), last["action"] == action)
        yield _Sample("airtight_watch_regret_alarm", (record.name,), bool(last.get("alarm")))


def _quality(record: ModelRecord) -> Iterator[_Sample]:
    days, _ = model_watch.quality(record)
    if not days:
        return
    yield _Sample("airtight_quality_pending_labels", (record.name,), sum(day.get("pending", 0) for day in days))
    last: dict[str, Any] | None = next((day for day in reversed(days) if day["state"] == _RIPE), None)
    if last is None:
        return
    yield _Sample("airtight_quality_day_timestamp_seconds", (record.name,), _end_of(record, str(last["day"])))
    if last.get("rows"):
        yield _Sample("airtight_quality_labelled_ratio", (record.name,), last.get("labelled", 0) / last["rows"])
    for metric, (value, *_bounds) in sorted((last.get("figures") or {}).items()):
        if value is not None:
            yield _Sample("airtight_quality_figure", (record.name, metric), value)


def _end_of(record: ModelRecord, day: str) -> float:
    """When a local day ended, in Unix seconds."""
    return Interval.parse(day, record.settings.zone).end.timestamp()
