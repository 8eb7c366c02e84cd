"""A run of eight nodes that the cache answers, trigger to end, beside eight no-op Airflow tasks of the same shape.

    python -m benchmarks.cached [--rounds 7]

Starts its own Airflow, with the settings that the demo ships. The two DAGs take turns; figures are medians. What the
nodes compute, in the launcher's children, is given as CPU time, too: on a busy machine it says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

from benchmarks import plain
from benchmarks.own_services import own_services
from services.airflow_api import Airflow
from services.supervisor import Supervisor

DAGS = f"""{plain.DAG}
from plugins.tfx_airflow import TfxDag

cached = TfxDag("benchmarks.steps:create_eight", dag_id="cached", schedule=None, is_paused_upon_creation=False)
"""


def seconds_of_run(airflow: Airflow, dag_id: str) -> float:
    """Seconds from the trigger until the API tells that the run has ended well."""
    start = time.monotonic()
    run = airflow.trigger(dag_id, {})
    while (state := airflow.run_state(dag_id, run)) not in ("success", "failed"):
        time.sleep(0.05)
    if state != "success":
        raise SystemExit(f"A run of {dag_id} failed: {airflow.run_url(dag_id, run)}")
    return time.monotonic() - start


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints a table and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"plain": [], "cached": []}
    computing: list[float] = []
    with own_services(DAGS) as (home, airflow):
        for dag_id in seconds:
            airflow.await_dag(dag_id, timeout_s=120)
            # The first run fills the cache, and wakes both.
            print(f"first run of {dag_id}: {seconds_of_run(airflow, dag_id):.2f} s", flush=True)
        launcher = next(program.pid for program in Supervisor(home).programs() if program.name == "launcher")
        for _ in range(args.rounds):
            for dag_id, durations in seconds.items():
                before = cpu_seconds(launcher)
                durations.append(seconds_of_run(airflow, dag_id))
                if dag_id == "cached":
                    computing.append(cpu_seconds(launcher) - before)
    result = {dag_id: median(durations) for dag_id, durations in seconds.items()} | {
        "over": median(c - p for c, p in zip(seconds["cached"], seconds["plain"], strict=True)),
        "computing": median(computing),
    }
    print(f"eight no-op tasks     {result['plain']:6.2f} s")
    print(f"eight cached nodes    {result['cached']:6.2f} s")
    print(f"cached over no-op     {result['over']:6.2f} s")
    print(f"the nodes' CPU time   {result['computing']:6.2f} s")
    print(json.dumps({"cached": {name: round(value, 3) for name, value in result.items()}, "all": seconds}))


if __name__ == "__main__":
    main()
