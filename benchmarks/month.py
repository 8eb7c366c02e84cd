"""One month from trigger to served, node by node, through the running services.

`python -m benchmarks.month --interval 2013-06 [--runs 3]` prints a markdown table, or JSON with --json. Start the
services and build the lake first (make demo does both). Figures taken while the machine does other work are worthless.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

from airtight.home import Home
from services.airflow_api import Airflow, Task
from services.run_progress import show
from services.settings import Settings

DAG = "flight_delays"


def measure(airflow: Airflow, interval: str) -> tuple[float, list[Task]]:
    """Runs the DAG once.

    Returns:
      Seconds from the trigger to the end of the run as a client sees it, and its tasks.
    """
    airflow.await_dag(DAG, timeout_s=120)
    airflow.unpause(DAG)
    start = time.monotonic()
    run_id = airflow.trigger(DAG, {"interval": interval, "use_cache": False})
    succeeded = show(airflow, DAG, run_id, lambda line: print(line, file=sys.stderr))
    wall = time.monotonic() - start
    if not succeeded:
        raise SystemExit(f"The run failed: {airflow.run_url(DAG, run_id)}")
    return wall, airflow.tasks(DAG, run_id)


def gaps(wall: float, tasks: list[Task]) -> float:
    """Seconds of the run in which no task ran: what the scheduler, and the client's polling, cost."""
    busy, end = 0.0, 0.0
    for task in tasks:
        if task.started and task.ended:
            start, stop = task.started.timestamp(), task.ended.timestamp()
            busy += max(0.0, stop - max(start, end))
            end = max(end, stop)
    return wall - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval", default="2013-06")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    home = Home.current()
    airflow = Airflow.local(Settings.of_running(home), home)
    runs = [measure(airflow, args.interval) for _ in range(args.runs)]
    nodes = [task.id for task in runs[0][1]]
    seconds = {node: [next(t.seconds for t in tasks if t.id == node) for _, tasks in runs] for node in nodes}
    seconds["between the tasks"] = [gaps(wall, tasks) for wall, tasks in runs]
    seconds["**trigger to served**"] = [wall for wall, _ in runs]
    if args.json:
        print(json.dumps({"interval": args.interval, "cores": os.cpu_count(), "seconds": seconds}, indent=1))
        return
    print(f"\n{args.interval} on {os.cpu_count()} cores, {args.runs} run(s), seconds; parallel tasks overlap.\n")
    print("| node | median | lowest | highest |\n|---|---:|---:|---:|")
    for node, values in seconds.items():
        print(f"| {node} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")


if __name__ == "__main__":
    main()
