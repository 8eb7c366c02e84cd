"""What a pipeline's watch says, day by day: alarms about data, quality as labels come, decisions about retraining.

The watch's artifacts are read by the names of their types and properties (docs/watch.md): where there is no watch, or
none of its kinds of artifacts yet, the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airtight.audit.log import AuditLog
from airtight.supervised import WATCH
from airtight.watch import alarm_acts
from plugins.tfx_airflow.pages import charts, model_decisions
from plugins.tfx_airflow.pages.charts import Line, Point
from plugins.tfx_airflow.pages.model_record import ModelRecord
from plugins.tfx_airflow.pages.rendering import figure

if TYPE_CHECKING:
    from runtime.lineage.artifacts import Artifact

_NEWEST = 12
_DAYS = "days.jsonl"
_NO_WATCH = "{what}: the pipeline has no watch, or it has not run yet. It would be the DAG {dag_id}."
_NOT_READABLE = "{what} are of the DAG {dag_id}, which you may not read."


def section(record: ModelRecord) -> dict[str, Any]:
    """What the template shows of the watch.

    Args:
      record: The pipeline's versions.
    """
    dag_id = record.settings.id_of(WATCH)
    readable = record.visible.also(dag_id)
    text = _NO_WATCH if readable else _NOT_READABLE
    acts = [act for act in alarm_acts.acts(AuditLog(record.name, record.home)) if record.visible.done_by(act.dag_id)]
    alarms, decided = watched(record) if readable else ({}, [])
    return {
        "alarms": _alarms(alarms, acts) if alarms else None,
        "no_alarms": text.format(what="Alarms about data", dag_id=dag_id),
        "silences": [silence.in_words for silence in alarm_acts.open_silences(acts, datetime.now(UTC))],
        "quality": _quality(record),
        "no_quality": "No step has joined the served predictions with labels yet, as far as you may see.",
        "decided": model_decisions.section(record, decided) if decided else None,
        "outcomes": _outcomes(record),
        "no_decisions": text.format(what="Decisions about retraining", dag_id=dag_id),
    }


def watched(record: ModelRecord) -> tuple[Mapping[str, Mapping[str, Any]], list[Artifact]]:
    """What the watch said of days, whose DAG the reader may read.

    Args:
      record: The pipeline's versions.

    Returns:
      The properties of each day's `DataAlarms`, and every `WatchDecision`, the oldest first.
    """
    from runtime.lineage import versions

    pipeline = record.settings.id_of(WATCH)
    run_of = {execution: cost.run for execution, cost in record.costs_of(pipeline).items()}

    def made(node: str, kind: str) -> list[Artifact]:
        every = versions.of_node(record.visible.store, pipeline, node, kind, "properties.day.string_value != ''")
        return record.visible.artifacts(every, run_of)

    # Of a day that was judged again, the last.
    alarms = {str(artifact.properties["day"]): artifact.properties for artifact in made("data_alarms", "DataAlarms")}
    return alarms, made("decide", "WatchDecision")


def _alarms(by_day: Mapping[str, Mapping[str, Any]], acts: Sequence[alarm_acts.AlarmAct]) -> dict[str, Any]:
    first, last = (date.fromisoformat(day) for day in (min(by_day), max(by_day)))
    marks = []
    for number in range((last - first).days + 1):
        day = date.fromordinal(first.toordinal() + number).isoformat()
        properties = by_day.get(day)
        if properties is None:
            marks.append(("soft", f"{day}: not watched"))
        else:
            colour = "bad" if properties.get("blocking") else "orange" if properties.get("alarm") else "grey"
            marks.append((colour, str(properties.get("summary", day))))
    alarmed = {day: properties for day, properties in by_day.items() if properties.get("alarm")}
    legend = [("nothing unusual", "grey"), ("alarm", "orange"), ("blocks training", "bad"), ("not watched", "soft")]
    return {
        "plot": charts.strip(marks, (first.isoformat(), last.isoformat()), legend),
        "days": len(by_day),
        "alarmed": len(alarmed),
        "blocking": sum(bool(properties.get("blocking")) for properties in alarmed.values()),
        "newest": [
            {
                "day": day,
                "blocking": bool(alarmed[day].get("blocking")),
                "summary": str(alarmed[day].get("summary", "")).removeprefix(f"{day}: "),
                "effects": _effects(day, str(alarmed[day].get("summary", "")), acts),
            }
            for day in sorted(alarmed, reverse=True)[:_NEWEST]
        ],
    }


def _effects(day: str, summary: str, acts: Sequence[alarm_acts.AlarmAct]) -> list[str]:
    """Because of what nobody is notified of a day's alarms, in words."""
    now = datetime.now(UTC)
    quiet = [alarm_acts.quieting(acts, day, words, now) for words in alarm_acts.alarms_in(day, summary)]
    return list(dict.fromkeys(act.effect for act in quiet if act))


def _outcomes(record: ModelRecord) -> Sequence[Mapping[str, Any]]:
    """How the newest versions did beside the former champion after they took over, the newest first."""
    names = ("interval_end", "version", "former", "outcome", "reason")
    latest: dict[Any, dict[str, Any]] = {}
    for judged in reversed(record.judgements):
        if version := judged.properties.get("version"):
            latest.setdefault(version, {name: judged.properties.get(name, "") for name in names})
    return list(latest.values())[:_NEWEST]


def quality(record: ModelRecord) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """How good the predictions were by day, as `label_quality` wrote it last, and the artifact's properties.

    Args:
      record: The pipeline's versions.

    Returns:
      Nothing of either where nothing is known, or the reader may not see it.
    """
    from runtime.lineage import versions

    last = versions.label_quality(record.visible.store, record.name)
    made = record.visible.artifacts([last] if last else [])
    file = Path(made[-1].uri) / _DAYS if made else None
    if file is None or not file.is_file():
        return [], {}
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()], made[-1].properties


def _quality(record: ModelRecord) -> dict[str, Any] | None:
    """The foremost metric of the predictions by day, with its interval, and what was estimated before labels came."""
    days, properties = quality(record)
    name = _foremost(record, days) if days else ""
    if not name:
        return None
    series = [
        Line("expected before its labels came", "orange", [_expected(day, name) for day in days]),
        Line("measured", "blue", [_measured(day, name) for day in days]),
        Line("lower and upper bound", "grey", [_bound(day, name, 1) for day in days]),
        Line("", "grey", [_bound(day, name, 2) for day in days]),
    ]
    plot = charts.lines(series[2:] + series[:2], (str(days[0]["day"]), str(days[-1]["day"])), marks=False)
    summary = str(properties.get("summary", ""))
    return {"title": name, "plot": plot, "known_by": str(properties.get("known_by", "")), "summary": summary}


def _foremost(record: ModelRecord, days: Sequence[Mapping[str, Any]]) -> str:
    """The metric that evaluate names first, where days have it; else any that they have."""
    from components.modelling.metric_names import metrics_of

    measured = {name for day in days for name in day.get("figures") or {}}
    judged = metrics_of(record.evaluations[-1].properties) if record.evaluations else {}
    return next((name for name in judged if name in measured), min(measured, default=""))


def _measured(day: Mapping[str, Any], name: str) -> Point:
    value = ((day.get("figures") or {}).get(name) or [None])[0]
    state = day.get("in_words") or day.get("state", "")
    return Point(_place(day), value, f"{day['day']}: {figure(value)}, {state}, {day.get('rows', 0):,} predictions")


def _bound(day: Mapping[str, Any], name: str, place: int) -> Point:
    figures = (day.get("figures") or {}).get(name) or []
    return Point(_place(day), figures[place] if len(figures) > place else None, f"{day['day']}: bound")


def _expected(day: Mapping[str, Any], name: str) -> Point:
    value = (day.get("estimate") or {}).get(name)
    return Point(_place(day), value, f"{day['day']}: expected {figure(value)}")


def _place(day: Mapping[str, Any]) -> float:
    return float(date.fromisoformat(str(day["day"])).toordinal())
