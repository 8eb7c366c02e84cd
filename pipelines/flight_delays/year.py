"""`make year`: every month of 2013 by one backfill, and a page on which the year is seen at a glance.

    python -m pipelines.flight_delays.year backfill --first 2013-02 --last 2013-12 --parallel 2
    python -m pipelines.flight_delays.year report
    python -m pipelines.flight_delays.year report --compare flight_delays_warm

The page lies in the state folder under `reports/`, and Airflow's UI shows it beside the DAG and each of its runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airtight import verdict
from airtight.errors import AirtightError
from airtight.files import write_text
from airtight.home import Home
from airtight.interval import Interval
from airtight.served_history import takeover_of_push
from components.modelling import metric_names
from components.reports.year import Gate, Month, comparison, metrics_of, page
from pipelines.flight_delays import clock, settings

if TYPE_CHECKING:
    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.runs import Run
    from services.airflow_api import Airflow
    from services.settings import Settings

DAG = "flight_delays"
"""Name of the DAG and of the pipeline."""
SOURCES = {DAG: DAG, settings.WARM_NAME: settings.WARM_PIPELINE}
"""What each DAG is compiled from."""
GATES = {"validate": "report", "evaluate": "evaluation", "try_serving": "infra_blessing"}
"""The gates in order, each with the output that holds its verdict."""
INTERVALS = 24
"""So many intervals the page shows: the newest, each with its latest run. They alone are read."""
REPROCESS = ("none", "failed", "completed")
LOOK_S = 5.0
UNHURRIED = {"airflow_idle_ms": 1000, "airflow_heartbeat_s": 5}
"""Settings of the services: with a year of runs before it, a hurried Airflow takes half a core from them."""


def report(home: Home, pipeline: str = DAG, compare: str = "", intervals: int = INTERVALS) -> Path:
    """Writes the page of the intervals that ran last, each with its latest run.

    Args:
      home: The state folder.
      pipeline: The pipeline's id.
      compare: Id of another, to set beside it.
      intervals: So many at most, of each pipeline.

    Returns:
      The HTML file.
    """
    runs = {name: months(home, name, intervals) for name in (pipeline, compare) if name}
    path = page_of(home, pipeline)
    beside = comparison(runs) if compare else ""
    write_text(path, page(f"{pipeline}, run by run", runs[pipeline], beside))
    return path


def months(home: Home, pipeline: str = DAG, intervals: int = INTERVALS) -> list[Month]:
    """What the latest run of each of the last intervals did, in the order of the intervals."""
    from runtime import metadata_connection
    from runtime.lineage.runs import latest_of_each_interval

    store = metadata_connection.project_store(home)
    return [month_of(run) for run in latest_of_each_interval(store, pipeline, intervals)]


def page_of(home: Home, pipeline: str = DAG) -> Path:
    """Where the page lies."""
    return home.reports(pipeline) / "year.html"


def month_of(run: Run) -> Month:
    """What one run did, as the page shows it."""
    interval = run.interval
    assert interval is not None, "runs without an interval are left out"
    dataset, examples = run.output("ingest", "dataset"), run.output("transform", "examples")
    model, pushed = run.output("train", "model"), run.output("push", "pushed")
    figures = ((evaluation := run.output("evaluate", "evaluation")) and evaluation.properties) or {}
    champion = run.output("champion", "pushed")
    drift = run.output("monitor", "drift")
    data = dataset.properties if dataset else {}
    return Month(
        name=short(interval),
        run=str(run.labels.get("run_id", run.key)),
        data=_versions(data),
        rows=_whole(examples, "rows_test"),
        learned=_whole(model, "rows"),
        gates={node: _gate(run.output(node, key)) for node, key in GATES.items()},
        version=int(pushed.properties.get("version", 0)) if pushed else 0,
        took_over=bool(pushed and takeover_of_push(pushed.properties, 0)),
        refusal=str(pushed.properties.get("reason", "")) if pushed else f"{_stopped_at(run)}",
        metrics=metrics_of(figures, metric_names.metrics_of(figures)),
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


def short(interval: Interval) -> str:
    """A month as 2013-06, anything else by its local days."""
    first, last = (end.astimezone(ZoneInfo(clock.ZONE)) for end in (interval.start, interval.end))
    month = f"{first:%Y-%m}"
    return month if Interval.parse(month, clock.ZONE) == interval else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"


def start(home: Home) -> Settings:
    """Starts the local services for a year, where they do not run yet; answers their settings."""
    from services.__main__ import up
    from services.settings import variable

    for name, value in UNHURRIED.items():
        os.environ.setdefault(variable(name), str(value))
    return up(home)


def backfill(first: str, last: str, *, parallel: int, reprocess: str, dag: str = DAG) -> bool:
    """Runs every month from the first to the last, both included, and writes the page.

    Args:
      first: Such as 2013-02.
      last: Such as 2013-12.
      parallel: So many runs at once.
      reprocess: One of `REPROCESS`: which of the runs that are there already run again.
      dag: One of `SOURCES`.

    Returns:
      Whether every run succeeded.

    Raises:
      AirtightError: The services do not come up, or Airflow refuses the backfill.
    """
    from pipelines.flight_delays.demo import DAG_TIMEOUT_S, build_lake, compile_pipeline
    from services.airflow_api import Airflow

    span = Interval(Interval.parse(first, clock.ZONE).start, Interval.parse(last, clock.ZONE).end)
    home = Home.current()
    airflow = Airflow.local(start(home), home)
    build_lake(home)
    compile_pipeline(home, SOURCES[dag])
    airflow.await_dag(dag, DAG_TIMEOUT_S)
    airflow.unpause(dag)
    started = time.monotonic()
    number = airflow.backfill(
        dag, span.start, Interval.parse(last, clock.ZONE).start, parallel=parallel, reprocess=reprocess
    )
    print(f"\nBackfill {number} of {dag}, {first} to {last}, {parallel} at once: {airflow.url}/dags/{dag}", flush=True)
    states = _follow(airflow, dag, number, span, started)
    failed = sorted(name for name, state in states.items() if state != "success")
    said = f"; FAILED: {', '.join(failed)}" if failed else ""
    print(f"{len(states)} runs in {time.monotonic() - started:.0f} s{said}")
    print(f"The year at a glance: {report(home, dag)}")
    print(f"In Airflow's UI:      {airflow.url}/dags/{dag}/plugin/year")
    return bool(states) and not failed


def _follow(airflow: Airflow, dag: str, number: int, span: Interval, started: float) -> dict[str, str]:
    """Tells what each run does until the backfill has ended; answers each month's state."""
    said: dict[str, str] = {}
    while True:
        ended = airflow.backfill_ended(number)
        states = {}
        for run in airflow.runs_of_span(dag, span.start, span.end):
            ends = (datetime.fromisoformat(run[f"data_interval_{end}"]) for end in ("start", "end"))
            name, state = short(Interval(*ends)), str(run["state"])
            states[name] = state
            if state == "running":
                state += f": {', '.join(t.id for t in airflow.tasks(dag, run['dag_run_id']) if t.active)}"
            if said.get(name) != state and not state.endswith(": "):
                said[name] = state
                print(f"{time.monotonic() - started:6.0f} s  {name}  {state}", flush=True)
        if ended:
            return states
        time.sleep(LOOK_S)


def _versions(told: dict[str, str | int | float]) -> str:
    """Which state of the lake was read, as it is now or was known then, and each table's version where they differ."""
    versions = {name.removeprefix("version_"): v for name, v in sorted(told.items()) if name.startswith("version_")}
    if not versions:
        return ""
    if len(set(versions.values())) == 1:
        versions = {"all": next(iter(versions.values()))}
    return f"{told.get('lake_version', '')}: " + ", ".join(f"{name} {number}" for name, number in versions.items())


def _gate(output: Artifact | None) -> Gate:
    told = _verdict(output)
    return Gate(bool(told["passed"]), str(told["summary"])) if told else Gate()


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 1 where a run failed, 64 or 75 for a fault."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.flight_delays.year", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    fill = commands.add_parser("backfill", help="run every month, then write the page")
    fill.add_argument("--first", default="2013-02", help="January has nothing before it to learn from")
    fill.add_argument("--last", default="2013-12")
    fill.add_argument("--parallel", type=int, default=2, help="so many runs at once")
    fill.add_argument("--reprocess", choices=REPROCESS, default="failed", help="which runs that are there run again")
    page_only = commands.add_parser("report", help="write the page")
    page_only.add_argument("--intervals", type=int, default=INTERVALS, help="how many of the last intervals it shows")
    page_only.add_argument("--compare", choices=SOURCES, default="", metavar="DAG", help="set another beside it")
    for command in (fill, page_only):
        command.add_argument("--dag", choices=SOURCES, default=DAG, help="whose runs")
    args = parser.parse_args(arguments)
    try:
        if args.command == "report":
            print(f"The year at a glance: {report(Home.current(), args.dag, args.compare, args.intervals)}")
            return 0
        chosen = {"parallel": args.parallel, "reprocess": args.reprocess, "dag": args.dag}
        return 0 if backfill(args.first, args.last, **chosen) else 1
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
