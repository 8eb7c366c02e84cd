"""The page of a pipeline: its versions, who served when, how good they were, what was decided, and what it all cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from airtight.home import Home
from airtight.served_spans import Span
from airtight.supervised import ALARMS, PROMOTE, PROMOTIONS, RELEASE, Supervised
from plugins.tfx_airflow.pages import charts, model_watch
from plugins.tfx_airflow.pages.charts import Line, Point, Stretch
from plugins.tfx_airflow.pages.model_record import ModelRecord, metric_of
from plugins.tfx_airflow.pages.rendering import duration, figure, minute, render
from plugins.tfx_airflow.pages.visible import Visible

VERSIONS, ACTS = 40, 25
"""So many versions and acts the page lists; plots hold all."""


@dataclass(frozen=True)
class NodeCost:
    """What one node cost over all runs.

    Args:
      node: Its id.
      runs: How often it ran.
      cached: How often the cache answered in its place.
      failed: How many tries failed.
      seconds: Of all tries together.
      unserved: Of those in runs whose model never answered a request.
    """

    node: str
    runs: int
    cached: int
    failed: int
    seconds: float
    unserved: float


def page(visible: Visible, settings: Supervised, home: Home) -> str:
    """Renders the page.

    Args:
      visible: What the reader may see of the metadata store.
      settings: The pipeline's.
      home: The state folder.
    """
    record = ModelRecord(visible, settings, home)
    return render(
        "model.html",
        title=f"{settings.title}: the model",
        record=record,
        settings=settings,
        forms=_forms(settings, visible),
        unreadable=[dag_id for dag_id in map(settings.id_of, settings.parts) if not visible.may_read(dag_id)],
        now=_now(record),
        versions=_versions(record)[:VERSIONS],
        watch=model_watch.section(record),
        champions=_champions(record.history),
        quality=_quality(record),
        costs=_costs(record),
        runs=_runs(record),
        acts=record.acts(ACTS),
        hidden=visible.hidden,
    )


def _forms(settings: Supervised, visible: Visible) -> list[tuple[str, str, str]]:
    """The DAGs whose trigger forms act on the model: id, what the link says, and what to fill in."""
    forms = [
        (
            settings.name,
            "Train, or override a gate",
            "champion_incomparable = accept overrides the comparison; override_reason",
        )
    ]
    if settings.release:
        forms += [
            (settings.id_of(PROMOTE), "Promote or roll back", "version = previous, latest or a number; reason"),
            (settings.id_of(RELEASE), "Release", "version = latest or a number"),
            (
                settings.id_of(ALARMS),
                "Acknowledge or silence alarms",
                "action, alarm = its day; until = a silence's end",
            ),
        ]
    return [form for form in forms if visible.may_read(form[0])]


def _now(record: ModelRecord) -> str:
    """What is served at this moment, in words."""
    if not record.served:
        return "No version is served yet."
    release, choice = record.release, record.choice.settled
    if release is not None:
        tried = f"A release tries version {release.candidate} beside {release.stable}, as {release.mode}"
        return f"{tried}, since {minute(release.since)}."
    if not choice.versions:
        return f"Served: version {record.served}, the highest that there is."
    # Who chose it, and why, is of the DAGs that promote, release and take back.
    settings = record.settings
    may_see = all(record.visible.may_read(settings.id_of(part)) for part in PROMOTIONS if part in settings.parts)
    return f"Served: {choice.in_words if may_see else f'version {record.served}'}."


def _versions(record: ModelRecord) -> list[dict[str, Any]]:
    """The versions, the highest first; of one that was pushed again, the last push."""
    from runtime.lineage.versions import published_at

    latest = {int(push.properties.get("version", 0)): push for push in record.pushes}
    last_span = {span.version: span for span in record.history}
    rows = []
    for version in sorted(latest, reverse=True):
        push, properties = latest[version], latest[version].properties
        ends = tuple(str(properties.get(end, "")) for end in ("interval_start", "interval_end"))
        state, status = _status(last_span.get(version), properties)
        rows.append(
            {
                "version": version,
                "interval": ends,
                "at": published_at(push),
                "labels": record.labels.get(version, []),
                "metric": record.metrics.get((str(properties.get("model_digest", "")), ends[1])),
                "state": state,
                "status": status,
                "run_id": record.visible.own_runs.get(record.runs_of_pushes.get(push.proto.id, ""), ""),
            }
        )
    return rows


def _status(span: Span | None, properties: Mapping[str, Any]) -> tuple[str, str]:
    """Where a version stands: in short, and in words."""
    if span is None:
        words = "left to a release" if properties.get("awaits_release") else "never served"
        return words, str(properties.get("reason", ""))
    if not span.until:
        return f"serves since {span.since[:10]}", f"since {minute(span.since)}: {span.because}"
    verb = "taken back" if span.ended_by < span.version else "replaced"
    return f"{verb} {span.until[:10]}", f"by {span.ended_by} at {minute(span.until)}; served since {minute(span.since)}"


def _champions(history: Sequence[Span]) -> Markup:
    """Who answered the requests when, by the clock."""
    if not history:
        return Markup("")
    now = datetime.now(UTC)
    ends = [datetime.fromisoformat(span.since) for span in history] + [now]
    stretches = []
    for number, (span, start, end) in enumerate(zip(history, ends[:-1], ends[1:], strict=True)):
        title = f"{span.version}: {minute(span.since)} to {minute(span.until) if span.until else 'now'}. {span.because}"
        colour = "blue" if number % 2 else "orange"
        stretches.append(Stretch(start.timestamp(), end.timestamp(), str(span.version), title, colour))
    return charts.timeline(stretches, (minute(ends[0]), "now"))


def _quality(record: ModelRecord) -> dict[str, Any] | None:
    """The foremost metric over the intervals: what was judged, and beside it the champion of then."""
    judged = [(e, metric) for e in record.evaluations if (metric := metric_of(e.properties))]
    if not judged:
        return None
    title = judged[-1][1].title
    judged = [(e, metric) for e, metric in judged if metric.title == title]
    ends = [datetime.fromisoformat(str(e.properties["interval_end"])).timestamp() for e, _ in judged]
    names = [str(e.properties["interval_end"])[:10] for e, _ in judged]
    candidates, champions = [], []
    for x, name, (_, metric) in zip(ends, names, judged, strict=True):
        candidates.append(Point(x, metric.value, f"up to {name}: {title} {figure(metric.value)}"))
        champions.append(Point(x, metric.champion, f"up to {name}: champion {figure(metric.champion)}"))
    series = [Line("the champion of then", "orange", champions), Line("the candidate", "blue", candidates)]
    return {"title": title, "plot": charts.lines(series, (names[0], names[-1]))}


def _unserved_runs(record: ModelRecord) -> set[str]:
    """Keys of the runs whose model never answered a request: it was not pushed, or only registered."""
    version_of = {record.runs_of_pushes.get(p.proto.id): int(p.properties.get("version", 0)) for p in record.pushes}
    return {cost.run for cost in record.costs.values() if version_of.get(cost.run) not in record.took_over}


def _costs(record: ModelRecord) -> dict[str, Any]:
    """Time by node, and the part that went into models that never served."""
    unserved = _unserved_runs(record)
    by_node = defaultdict(list)
    for cost in record.costs.values():
        by_node[cost.node].append(cost)
    nodes = [
        NodeCost(
            node,
            sum(cost.state != "cached" for cost in several),
            sum(cost.state == "cached" for cost in several),
            sum(cost.state == "failed" for cost in several),
            sum(cost.seconds for cost in several),
            sum(cost.seconds for cost in several if cost.run in unserved),
        )
        for node, several in by_node.items()
    ]
    nodes.sort(key=lambda node: -node.seconds)
    return {
        "nodes": nodes,
        "seconds": sum(node.seconds for node in nodes),
        "unserved": sum(node.unserved for node in nodes),
    }


def _runs(record: ModelRecord) -> Markup:
    """What each run cost, in the order in which they began."""
    seconds: defaultdict[str, float] = defaultdict(float)
    began: dict[str, datetime] = {}
    for cost in record.costs.values():
        seconds[cost.run] += cost.seconds
        began[cost.run] = min(cost.began, began.get(cost.run, cost.began))
    runs, unserved = sorted(began, key=lambda run: began[run]), _unserved_runs(record)
    points = [
        Point(
            number,
            seconds[run] / 60,
            f"{record.visible.own_runs.get(run, run)}, {minute(began[run])}: {duration(seconds[run])}",
            "grey" if run in unserved else "blue",
        )
        for number, run in enumerate(runs)
    ]
    legend = [("minutes of a run whose model served", "blue"), ("minutes of one whose model never did", "grey")]
    ends = (minute(began[runs[0]]), minute(began[runs[-1]])) if runs else ("", "")
    return charts.bars(points, ends, legend)
