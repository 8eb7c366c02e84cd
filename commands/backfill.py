"""`make year`: every interval of a pipeline by one backfill, and the page on which they are seen at a glance.

python -m commands.backfill --pipeline NAME --first 2013-02 --last 2013-12 --parallel 2
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.interval import Interval
from airtight.supervised import Supervised
from commands import arguments, report
from commands.preparation import compile_pipeline, fill_lake, unpaused
from services.__main__ import up
from services.airflow_api import Airflow
from services.settings import Settings, variable

REPROCESS = ("none", "failed", "completed")
LOOK_S = 5.0
UNHURRIED = {"airflow_idle_ms": 1000, "airflow_heartbeat_s": 5}
"""Settings of the services: with a year of runs before it, a hurried Airflow takes half a core from them."""


def start(home: Home) -> Settings:
    """Starts the local services for many runs, where they do not run yet; gives their settings."""
    for name, value in UNHURRIED.items():
        os.environ.setdefault(variable(name), str(value))
    return up(home)


def backfill(settings: Supervised, home: Home, span: Interval, *, parallel: int, reprocess: str) -> bool:
    """Runs each interval that begins within a span, and writes the page.

    Args:
      settings: The pipeline's.
      home: The state folder.
      span: As `span` gives it.
      parallel: So many runs at once.
      reprocess: One of `REPROCESS`: which of the runs that are there already run again.

    Returns:
      Whether every run succeeded.

    Raises:
      AirtightError: The services do not come up, or Airflow refuses the backfill.
    """
    dag = settings.name
    airflow = Airflow.local(start(home), home)
    fill_lake(settings, home)
    compile_pipeline(settings, home)
    unpaused(airflow, dag)
    started = time.monotonic()
    # Airflow's last day is included.
    last = span.end - timedelta(seconds=1)
    number = airflow.backfill(dag, span.start, last, parallel=parallel, reprocess=reprocess)
    print(f"\nBackfill {number} of {dag}, {span}, {parallel} at once: {airflow.url}/dags/{dag}", flush=True)
    states = _follow(airflow, settings, number, span, started)
    failed = sorted(name for name, state in states.items() if state != "success")
    failures = f"; FAILED: {', '.join(failed)}" if failed else ""
    print(f"{len(states)} runs in {time.monotonic() - started:.0f} s{failures}")
    print(f"The intervals at a glance: {report.write(settings, home)}")
    print(f"In Airflow's UI:           {airflow.url}/dags/{dag}/plugin/year")
    return bool(states) and not failed


def span(settings: Supervised, first: str = "", last: str = "") -> Interval:
    """The time in which the intervals begin.

    Args:
      settings: The pipeline's.
      first: The first interval, such as 2013-02; "" for the first of the DAG.
      last: The last interval; "" for the last of the DAG.

    Raises:
      TerminalError: An interval that is none, or neither argument nor settings say where to end.
    """
    if not last and settings.last is None:
        raise TerminalError(
            f"Nobody says which interval of {settings.name} is the last one to run.",
            expected="--last, an interval such as 2013-12, or `last` in the pipeline's settings",
            received="neither",
            remedy="Give --last.",
        )
    begin = Interval.parse(first or f"{settings.first}", settings.zone).start
    if last:
        return Interval(begin, Interval.parse(last, settings.zone).end)
    return Interval(begin, Interval.parse(f"{settings.last}", settings.zone).start)


def _follow(airflow: Airflow, settings: Supervised, number: int, span: Interval, started: float) -> dict[str, str]:
    """Prints what each run does until the backfill has ended; returns the state of each interval."""
    printed: dict[str, str] = {}
    dag = settings.name
    while True:
        ended = airflow.backfill_ended(number)
        states = {}
        for run in airflow.runs_of_span(dag, span.start, span.end):
            ends = (datetime.fromisoformat(run[f"data_interval_{end}"]) for end in ("start", "end"))
            name, state = report.short(Interval(*ends), settings.zone), str(run["state"])
            states[name] = state
            if state == "running":
                state += f": {', '.join(t.id for t in airflow.tasks(dag, run['dag_run_id']) if t.active)}"
            if printed.get(name) != state and not state.endswith(": "):
                printed[name] = state
                print(f"{time.monotonic() - started:6.0f} s  {name}  {state}", flush=True)
        if ended:
            return states
        time.sleep(LOOK_S)


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 1 where a run failed, 64 or 75 for a fault."""
    parser = arguments.parser("commands.backfill", __doc__ or "")
    parser.add_argument("--first", default="", help="the first interval; by default the DAG's first")
    parser.add_argument("--last", default="", help="the last interval; by default the DAG's last")
    parser.add_argument("--parallel", type=int, default=2, help="so many runs at once")
    parser.add_argument("--reprocess", choices=REPROCESS, default="failed", help="which runs that are there run again")

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        wanted = span(settings, chosen.first, chosen.last)
        options = {"parallel": chosen.parallel, "reprocess": chosen.reprocess}
        return 0 if backfill(settings, Home.current(), wanted, **options) else 1

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
