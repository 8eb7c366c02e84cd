"""A run of eight nodes that the cache answers, trigger to end, beside eight no-op Airflow tasks of the same shape.

    python -m benchmarks.cached [--rounds 7]

Starts its own Airflow, with the settings that the demo ships. The two DAGs take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

from benchmarks import plain
from benchmarks.own_services import own_services
from services.airflow_api import Airflow

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


def main() -> None:
    """Prints a table and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    told = parser.parse_args()
    seconds: dict[str, list[float]] = {"plain": [], "cached": []}
    with own_services(DAGS) as (_, airflow):
        for dag_id in seconds:
            airflow.await_dag(dag_id, timeout_s=120)
            # The first run fills the cache, and wakes both.
            print(f"first run of {dag_id}: {seconds_of_run(airflow, dag_id):.2f} s", flush=True)
        for _ in range(told.rounds):
            for dag_id, found in seconds.items():
                found.append(seconds_of_run(airflow, dag_id))
    result = {dag_id: median(found) for dag_id, found in seconds.items()} | {
        "over": median(c - p for c, p in zip(seconds["cached"], seconds["plain"], strict=True))
    }
    print(f"eight no-op tasks     {result['plain']:6.2f} s")
    print(f"eight cached nodes    {result['cached']:6.2f} s")
    print(f"cached over no-op     {result['over']:6.2f} s")
    print(json.dumps({"cached": {name: round(value, 3) for name, value in result.items()}, "all": seconds}))


if __name__ == "__main__":
    main()
