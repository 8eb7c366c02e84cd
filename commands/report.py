"""The page on which a pipeline's intervals are seen at a glance, each with its latest run.

    python -m commands.report --pipeline NAME
    python -m commands.report --pipeline NAME --compare OTHER

The page lies in the state folder under `reports/`, and Airflow's UI shows it beside the DAG. Where MLFLOW_TRACKING_URI
is set, what is new is mirrored there (`commands.mlflow_mirror`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airtight import verdict
from airtight.files import write_text
from airtight.home import Home
from airtight.interval import Interval
from airtight.served_history import takeover_of_push
from airtight.supervised import Supervised, find
from commands import arguments, mlflow_mirror
from components.reports.year import Gate, Month, comparison, measured, page

if TYPE_CHECKING:
    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.runs import Run

GATES = {"validate": "report", "evaluate": "evaluation", "try_serving": "infra_blessing"}
"""The gates in order, each with the output that holds its verdict."""
INTERVALS = 24
"""So many intervals the page shows: the newest, each with its latest run. They alone are read."""


def write(settings: Supervised, home: Home, compare: Supervised | None = None, intervals: int = INTERVALS) -> Path:
    """Writes the page of the intervals that ran last.

    Args:
      settings: The pipeline's.
      home: The state folder.
      compare: Those of another pipeline, to set beside it.
      intervals: So many at most, of each pipeline.

    Returns:
      The HTML file.
    """
    runs = {pipeline.name: months(pipeline, home, intervals) for pipeline in (settings, compare) if pipeline}
    path = page_of(settings, home)
    write_text(path, page(f"DAG {settings.name}, run by run", runs[settings.name], comparison(runs) if compare else ""))
    return path


def months(settings: Supervised, home: Home, intervals: int = INTERVALS) -> list[Month]:
    """What the latest run of each of the last intervals did, in the order of the intervals."""
    from runtime import metadata_connection
    from runtime.lineage.runs import latest_of_each_interval
    from runtime.lineage.versions import served_ever

    store = metadata_connection.project_store(home)
    runs = latest_of_each_interval(store, settings.name, intervals)
    served = served_ever(store, settings.name, {version_of(run) for run in runs} - {0})
    return [month_of(run, settings.zone, served) for run in runs]


def page_of(settings: Supervised, home: Home) -> Path:
    """Where the page lies."""
    return home.reports(settings.name) / "year.html"


def month_of(run: Run, zone: str, served: Collection[int] = ()) -> Month:
    """What one run did, as the page shows it.

    Args:
      run: The run.
      zone: IANA time zone by whose days its interval is named.
      served: Versions that are known to have answered requests, whatever their pushes say.
    """
    interval = run.interval
    assert interval is not None, "runs without an interval are left out"
    dataset, examples = run.output("ingest", "dataset"), run.output("transform", "examples")
    model, pushed = run.output("train", "model"), run.output("push", "pushed")
    figures = ((evaluation := run.output("evaluate", "evaluation")) and evaluation.properties) or {}
    champion = run.output("champion", "pushed")
    drift = run.output("monitor", "drift")
    data = dataset.properties if dataset else {}
    version = version_of(run)
    return Month(
        name=short(interval, zone),
        run=str(run.labels.get("run_id", run.key)),
        data=_versions(data),
        rows=_whole(examples, "rows_test"),
        learned=_whole(model, "rows"),
        gates={node: _gate(run.output(node, key)) for node, key in GATES.items()},
        version=version,
        took_over=version in served or bool(pushed and takeover_of_push(pushed.properties, 0)),
        refusal=str(pushed.properties.get("reason", "")) if pushed else f"{_stopped_at(run)}",
        metrics=measured(figures),
        champion=int(champion.properties.get("version", 0)) if champion else 0,
        drift=_share(drift),
        drifted=bool(drift.properties["drifted"]) if drift else None,
        seconds={step.node: step.seconds for step in run.steps.values() if step.state == "complete"},
        warm=bool(model and model.properties.get("warm_start")),
        digests={
            "data": str(data.get("digest", "")),
            "examples": str(examples.properties.get("digest", "")) if examples else "",
            "model": str(evaluation.properties.get("current_model_digest", "")) if evaluation else "",
        },
    )


def version_of(run: Run) -> int:
    """The version that a run has pushed, or found pushed already; 0 without one."""
    pushed = run.output("push", "pushed")
    return int(pushed.properties.get("version", 0)) if pushed else 0


def short(interval: Interval, zone: str) -> str:
    """A month as 2013-06, anything else by its local days."""
    first, last = (end.astimezone(ZoneInfo(zone)) for end in (interval.start, interval.end))
    month = f"{first:%Y-%m}"
    return month if Interval.parse(month, zone) == interval else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"


def _versions(properties: dict[str, str | int | float]) -> str:
    """Which state of the lake was read, as it is now or was known then, and each table's version where they differ."""
    versions = {
        name.removeprefix("version_"): v for name, v in sorted(properties.items()) if name.startswith("version_")
    }
    if not versions:
        return ""
    if len(set(versions.values())) == 1:
        versions = {"all": next(iter(versions.values()))}
    return f"{properties.get('lake_version', '')}: " + ", ".join(
        f"{name} {number}" for name, number in versions.items()
    )


def _gate(output: Artifact | None) -> Gate:
    result = _verdict(output)
    return Gate(bool(result["passed"]), str(result["summary"])) if result else Gate()


def _stopped_at(run: Run) -> str:
    return next((f"{s.node} {s.state}" for s in run.steps.values() if s.state not in ("complete", "cached")), "")


def _share(drift: Artifact | None) -> float | None:
    """The share of drifted features, from the drift report's verdict."""
    checks = (_verdict(drift) or {"checks": []})["checks"]
    return next((check["value"] for check in checks if check["name"] == "share of drifted features"), None)


def _verdict(output: Artifact | None) -> dict[str, Any] | None:
    """What a gate wrote, where it has spoken and its artifact is still there."""
    path = Path(output.uri) / verdict.FILE_NAME if output else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None


def _whole(output: Artifact | None, name: str) -> int | None:
    return int(output.properties[name]) if output and name in output.properties else None


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 64 or 75 for a fault."""
    parser = arguments.parser("commands.report", __doc__ or "")
    parser.add_argument("--intervals", type=int, default=INTERVALS, help="how many of the last intervals it shows")
    parser.add_argument("--compare", default="", metavar="NAME", help="another pipeline, to set beside it")

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        compare = find(chosen.compare)[0] if chosen.compare else None
        print(f"The intervals at a glance: {write(settings, Home.current(), compare, chosen.intervals)}")
        if mirrored := mlflow_mirror.after_run(settings, Home.current()):
            print(mirrored)
        return 0

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
