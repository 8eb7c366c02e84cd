"""What holds a training that a watch decided: runs that no decision can know of yet.

A decision knows trainings by the lineage. One that waits (its DAG is paused, its pool is full), or that failed before
it had a dataset, has left nothing there; Airflow alone knows of it. One that a schedule or a person began holds it as
well: trainings are one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

from airtight.watch.brakes import Brakes
from plugins.tfx_airflow.airflow_compat import UNFINISHED, count_named_runs


def held_by(dag_id: str, day: str, run_id: str, brakes: Brakes) -> str:
    """Returns which run holds a training, in words; "" where none does. In a task only.

    Args:
      dag_id: The training DAG.
      day: Of the decision, ISO 8601.
      run_id: Of the training that was decided; those of earlier decisions of the same policy differ by the day alone.
        Those that failed hold it, too.
      brakes: Their cooldown, in days, and the longest one, which is as far as earlier decisions are looked at.
    """
    before = {number: date.fromisoformat(day) - timedelta(days=number) for number in range(1, 1 + brakes.longest)}
    # The newest first.
    ages = {run_id.replace(day, other.isoformat(), 1): number for number, other in before.items()}

    def has(runs: Iterable[str], *states: str) -> bool:
        return count_named_runs(dag_id, list(runs), states) > 0

    unfinished = count_named_runs(dag_id, None, UNFINISHED)
    # The decision's own is there where the task is retried.
    if unfinished and unfinished > count_named_runs(dag_id, [run_id], UNFINISHED):
        earlier = next((run for run in ages if has([run], *UNFINISHED)), "") if has(ages, *UNFINISHED) else ""
        holds = f"The run {earlier} of an earlier decision" if earlier else f"Another run of {dag_id}"
        return f"{holds} is queued or running"
    failed: list[str] = []
    for run in ages if has(ages, "failed") else ():
        if has([run], "success"):
            break
        failed += [run] if has([run], "failed") else []
    if failed and ages[failed[0]] < (wait := brakes.after(len(failed))):
        return f"The run {failed[0]} failed, and the cooldown lasts {wait} days; clear it, or trigger one by hand"
    return ""
