"""A run's progress at a terminal: one line for each task that ends, and in full what a failed one said."""

from __future__ import annotations

from collections.abc import Callable

from services.airflow_api import Airflow, LogLine


def show(airflow: Airflow, dag_id: str, run_id: str, write: Callable[[str], None]) -> bool:
    """Tells a run's progress, one line for each task that ends, and in full what a failed one said.

    Returns:
      Whether the run succeeded.
    """
    for task in airflow.follow(dag_id, run_id):
        if task.state == "running":
            continue
        log = airflow.log(dag_id, run_id, task)
        write(f"  {task.id:13} {task.state:15} {task.seconds:6.1f} s  {summary(log)}")
        if task.state in ("failed", "up_for_retry"):
            for line in errors(log):
                write(f"      {line}")
            write(f"      Log: {airflow.task_url(dag_id, run_id, task)}")
    return airflow.run_state(dag_id, run_id) == "success"


def summary(log: list[LogLine]) -> str:
    """The last thing that a node said of itself, one line: the step's own words, or else the launcher's."""
    for own in (("components.", "pipelines."), ("runtime.",)):
        messages = [line.text for line in log if line.level == "info" and line.logger.startswith(own)]
        if messages:
            return messages[-1].splitlines()[0]
    return ""


def errors(log: list[LogLine], most: int = 12) -> list[str]:
    """The lines of the last errors in a log, for a person."""
    lines = [text for line in log if line.level in ("error", "critical") for text in line.text.splitlines()]
    return lines[-most:]
