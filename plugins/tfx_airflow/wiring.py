"""What DAG files put after a pipeline's tasks."""

from __future__ import annotations

import sys

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from plugins.tfx_airflow.release import StartRelease


def add_report(dag: DAG, module: str, *options: str, after: tuple[str, ...] = ("push", "monitor")) -> BashOperator:
    """Has a page of all runs written when a run's last tasks are done.

    Args:
      dag: The pipeline's DAG.
      module: `python -m module report` writes the page.
      *options: Further words of that command.
      after: Ids of those tasks.

    Returns:
      The task `report`.
    """
    with dag:
        report = BashOperator(
            task_id="report",
            bash_command=" ".join([sys.executable, "-m", module, "report", *options]),
            doc_md="Writes the page of all runs that the tab **Year** shows.",
        )
    [dag.get_task(task) for task in after] >> report
    return report


def add_release(dag: DAG, releases: str, push: str = "push") -> StartRelease:
    """Has a version released that the run's push left to a release.

    Args:
      dag: The pipeline's DAG.
      releases: Id of the DAG that releases.
      push: Id of the task that pushes.

    Returns:
      The task `start_release`, which is skipped where nothing was left.
    """
    with dag:
        start = StartRelease(task_id="start_release", trigger_dag_id=releases, push=push)
    dag.get_task(push) >> start
    return start
