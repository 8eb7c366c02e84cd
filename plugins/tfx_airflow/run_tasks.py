"""The states of the tasks of the present run: what they decide about a task of the same run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from airflow.sdk import Context

from plugins.tfx_airflow.airflow_compat import task_states

States = dict[int, dict[str, str | None]]
"""By map index, in the order in which they count, the states of the tasks that have that index."""


def map_index(task: Any) -> int:
    """Returns the map index of a task instance; -1 for one that is not mapped."""
    return -1 if task.map_index is None else int(task.map_index)


def states(context: Context, task_ids: Iterable[str]) -> States:
    """Returns the states of tasks of the run: of the task's own index, and of those that are not mapped.

    Args:
      context: The task's context.
      task_ids: Ids of the tasks. One that has no row in the run is missing in the answer.
    """
    run, ids = context["dag_run"], sorted(set(task_ids))
    return {
        index: task_states(run.dag_id, run.run_id, ids, index)
        for index in dict.fromkeys([map_index(context["ti"]), -1])
    }


def missing(needs: Sequence[Sequence[str]], of_tasks: States) -> list[str]:
    """Returns the ids of the tasks that were skipped and without which there is nothing to do.

    Args:
      needs: For each thing that is needed, ids of the tasks of which one at least must not have been skipped.
      of_tasks: Their states.
    """
    skipped = {name for of_index in of_tasks.values() for name, state in of_index.items() if state == "skipped"}
    return sorted({name for tasks in needs if skipped.issuperset(tasks) for name in tasks})
