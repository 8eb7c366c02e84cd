"""The states of the tasks of the present run: what they decide about a task of the same run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from airflow.sdk import Context

from plugins.tfx_airflow.airflow_compat import task_states

States = dict[str, tuple[int, str | None]]
"""Map index and state of each task that has a row in the run, by its id."""


def map_index(task: Any) -> int:
    """Returns the map index of a task instance; -1 for one that is not mapped."""
    return -1 if task.map_index is None else int(task.map_index)


def states(context: Context, task_ids: Collection[str]) -> States:
    """Returns the states of tasks of the run: of the task's own index, else of those that are not mapped.

    Args:
      context: The task's context.
      task_ids: Ids of the tasks.
    """
    run, states_by_task = context["dag_run"], States()
    for index in dict.fromkeys([map_index(context["ti"]), -1]):
        ids = sorted(set(task_ids) - states_by_task.keys())
        of_index = task_states(run.dag_id, run.run_id, ids, index)
        states_by_task |= {task_id: (index, state) for task_id, state in of_index.items()}
    return states_by_task


def missing(needs: Sequence[Sequence[str]], of_tasks: States) -> list[str]:
    """Returns the ids of the tasks that were skipped and without which there is nothing to do.

    Args:
      needs: For each thing that is needed, ids of the tasks of which one at least must not have been skipped.
      of_tasks: Their states.
    """
    skipped = {task_id for task_id, (_, state) in of_tasks.items() if state == "skipped"}
    return sorted({name for tasks in needs if skipped.issuperset(tasks) for name in tasks})
