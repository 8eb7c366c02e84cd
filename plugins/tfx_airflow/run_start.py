"""With which graph and params a run began: a deployment in its middle changes neither, but the code (adr/0020)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowRescheduleException

from airtight.errors import TerminalError
from airtight.home import Home
from plugins.tfx_airflow import run_tasks
from plugins.tfx_airflow.airflow_compat import FINISHED
from plugins.tfx_airflow.params import SHARED
from runtime import compiled_store
from runtime.compiled_pipeline import CompiledPipeline

if TYPE_CHECKING:
    from plugins.tfx_airflow.operator import TfxNodeOperator

log = logging.getLogger(__name__)

_AGAIN_S = 10
_UNDER_WAY = ("queued", "running", "deferred")
"""States of a task that Airflow no longer holds back for the tasks before it."""


def of_run(
    context: Context, task: TfxNodeOperator, shown: str, home: Home
) -> tuple[Path, CompiledPipeline, dict[str, Any]]:
    """Returns the compiled pipeline with which the run began, its path before it, and the params; its first task says.

    Args:
      context: The task's context.
      task: The task.
      shown: The compiled pipeline that the DAG shows now.
      home: The state folder.

    Raises:
      TerminalError: The pipeline that the DAG shows is gone.
    """
    run = context["dag_run"]
    # A run starts anew when it is cleared after it has ended, and when it is deleted and made again. A DAG may hold
    # nodes of several pipelines without groups around them.
    key = (run.dag_id, task.group, run.run_id, str(run.start_date), task.pipeline)
    compiled = CompiledPipeline.read(compiled_store.path_of_name(shown, home))
    read = {task.prefix + parameter.name for parameter in compiled.parameters} | set(SHARED)
    params = {name: value for name, value in context["params"].items() if name in read}
    record = compiled_store.record_of_run(key, compiled_store.RunRecord(shown, params), home)
    path = compiled_store.path_of_name(record.compiled, home)
    if record.compiled != shown:
        log.warning(
            "The pipeline changed since this run began; it goes on with %s. Clear the run after it has ended: then it "
            "takes the new one.",
            record.compiled,
        )
        compiled = CompiledPipeline.read(path)
    return path, compiled, record.params


def await_upstream(task: TfxNodeOperator, producers: Iterable[str], states: run_tasks.States) -> None:
    """Waits for what the node needs in the run's own pipeline: Airflow orders the tasks as the DAG is now.

    Args:
      task: The task.
      producers: Ids of the tasks that run the nodes before it in the run's pipeline.
      states: Their states. One that has none in this run will not come.

    Raises:
      TerminalError: The DAG has put the task before what it needs.
      AirflowRescheduleException: What the task needs has not ended, which the DAG as it is now does not show.
    """
    waiting = {name: states[name][1] for name in producers if name in states and states[name][1] not in FINISHED}
    later = task.get_flat_relative_ids(upstream=False)
    for name, state in waiting.items():
        if name in later and state not in _UNDER_WAY:
            raise TerminalError(
                f"The pipeline changed since this run began: {task.task_id} comes after {name} in the run, and before "
                "it in the DAG.",
                expected=f"{name} to have ended",
                received=f"its state {state}",
                remedy="Clear the whole run after it has ended, which takes the new pipeline.",
            )
    if waiting:
        log.info("Waiting for %s, which this run needs first.", ", ".join(waiting))
        raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=_AGAIN_S))
