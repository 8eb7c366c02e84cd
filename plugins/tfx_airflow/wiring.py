"""What DAG files put after a pipeline's tasks."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Context

from plugins.tfx_airflow.release import StartRelease


class ModuleOperator(BashOperator):
    """Runs `python -m module arguments` with the Python that runs the task, which need not be the one that parses.

    Args:
      module: Dotted name of the module.
      arguments: The command's arguments.
      **kwargs: As for BashOperator, except for `bash_command`. Nothing of it is a template or a script's file.
    """

    template_fields = ()
    template_ext = ()

    def __init__(self, *, module: str, arguments: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(bash_command=f'exec "$PYTHON" {shlex.join(["-m", module, *arguments])}', **kwargs)

    def execute(self, context: Context) -> Any:
        """Runs the command; a status other than 0 fails the task."""
        self.env, self.append_env = {"PYTHON": sys.executable}, True
        return super().execute(context)


def add_report(
    dag: DAG, *options: str, module: str = "commands.report", after: tuple[str, ...] = ("push", "monitor")
) -> ModuleOperator:
    """Adds the task that writes a page about all runs when a run's last tasks are done.

    Args:
      dag: The pipeline's DAG.
      *options: Arguments of the command, such as "--pipeline" and the pipeline's name.
      module: `python -m module` writes the page.
      after: Ids of the tasks that it waits for.

    Returns:
      The task `report`.
    """
    with dag:
        report = ModuleOperator(
            task_id="report",
            module=module,
            arguments=options,
            doc_md="Writes the page of all runs that the tab **Year** shows.",
        )
    [dag.get_task(task) for task in after] >> report
    return report


def add_release(dag: DAG, releases: str, push: str = "push") -> StartRelease:
    """Adds the task that starts a release of the version that the run's push left to one.

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
