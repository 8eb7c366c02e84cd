"""Every part of Airflow used here that Airflow does not document for authors of DAGs, in one place.

An upgrade of Airflow may move any of them without notice; tests/plugins/test_airflow_compat.py has a test for each.
What is expensive to import is imported where it is used: every task process loads this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow.sdk import DAG, DagRunState
from airflow.sdk.exceptions import DagRunTriggerException

SCHEDULED = ("scheduled", "backfill")
"""Types of the runs that a timetable made, of Airflow's DagRunType."""
RUN_ID_LENGTH = 250
"""Characters that a run's id may have (airflow.models.base.ID_LEN, whose import opens Airflow's settings)."""


def current_dag() -> DAG | None:
    """Returns the DAG whose `with` block is being executed, or None."""
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    return DagContext.get_current()


def class_and_arguments(task: Any) -> tuple[type, Mapping[str, Any]]:
    """Returns the class of a task's operator and its arguments; of a mapped task those that all indexes share."""
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    return (task.operator_class, task.partial_kwargs) if isinstance(task, MappedOperator) else (type(task), vars(task))


def previous_dag_run(dag_id: str, before: datetime) -> Any | None:
    """Returns the run of a DAG with the latest logical date before an instant, or None; callable in a task only.

    One request to the execution API, which reads one row by an index. Runs without a logical date are not among them.
    """
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import GetPreviousDagRun

    return task_runner.SUPERVISOR_COMMS.send(GetPreviousDagRun(dag_id=dag_id, logical_date=before)).dag_run


def task_state(dag_id: str, run_id: str, task_id: str) -> str:
    """Returns the state of a task of any run, "" while it has none; callable in a task and in a trigger."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id])
    return str((states.get(run_id) or {}).get(task_id) or "")


def dag_run_state(dag_id: str, run_id: str) -> str:
    """Returns the state of any run, such as "queued"; callable in a task and in a trigger."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    # An enumeration whose str() is "DagRunState.QUEUED".
    return DagRunState(RuntimeTaskInstance.get_dagrun_state(dag_id=dag_id, run_id=run_id)).value


def dag_is_active(dag_id: str) -> bool:
    """Returns whether Airflow knows a DAG and it is not paused; callable in a task only."""
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        return not RuntimeTaskInstance.get_dag(dag_id).is_paused
    except AirflowRuntimeError:
        return False


def trigger_once(dag_id: str, run_id: str, conf: dict[str, Any]) -> DagRunTriggerException:
    """Returns the exception by which a task has Airflow trigger a DAG; the task is skipped if the run exists already.

    TriggerDagRunOperator raises the same, but importing it takes longer than a DAG file may.
    """
    return DagRunTriggerException(
        trigger_dag_id=dag_id,
        dag_run_id=run_id,
        conf=conf,
        reset_dag_run=False,
        skip_when_already_exists=True,
        wait_for_completion=False,
        allowed_states=["success"],
        failed_states=["failed"],
        poke_interval=60,
        deferrable=False,
    )


def may_read_dag() -> Any:
    """Returns the dependency of a FastAPI route that refuses users who may not read the route's `dag_id`."""
    from airflow.api_fastapi.core_api.security import requires_access_dag

    return requires_access_dag(method="GET")
