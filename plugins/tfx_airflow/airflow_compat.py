"""Every part of Airflow used here that Airflow does not document for authors of DAGs, in one place.

An upgrade of Airflow may move any of them without notice; tests/plugins/test_airflow_compat.py has a test for each.
What is expensive to import is imported where it is used: every task process loads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

from airflow.sdk import DAG, BaseOperator, Context, DagRunState
from airflow.sdk.exceptions import AirflowRuntimeError, DagRunTriggerException

BACKFILL = "backfill"
SCHEDULED = ("scheduled", BACKFILL)
"""Types of the runs that a timetable made, of Airflow's DagRunType."""
FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")
"""States of a task of which nothing more will become, of Airflow's TaskInstanceState."""
UNFINISHED = ("queued", "running")
"""States of a run that has not ended, of Airflow's DagRunState."""
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


def task_states(dag_id: str, run_id: str, task_ids: Sequence[str], index: int = -1) -> dict[str, str | None]:
    """Returns the states of tasks of any run; callable in a task and in a trigger.

    Args:
      dag_id: The DAG.
      run_id: The run.
      task_ids: Ids of the tasks.
      index: Their map index; -1 for tasks that are not mapped, or not yet.

    Returns:
      The state of each task that has a row with that index, None before it is scheduled. No request where no task is
      asked for: Airflow would answer for all.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    if not task_ids:
        return {}
    states = RuntimeTaskInstance.get_task_states(
        dag_id=dag_id, map_index=index, task_ids=list(task_ids), run_ids=[run_id]
    )
    # Airflow gives a mapped task's state under its id and its index. Asked for those that are not mapped, its client
    # asks for all.
    names = {task_id if index < 0 else f"{task_id}_{index}": task_id for task_id in task_ids}
    return {names[name]: state for name, state in (states.get(run_id) or {}).items() if name in names}


def dag_run_state(dag_id: str, run_id: str) -> str:
    """Returns the state of any run, such as "queued"; callable in a task and in a trigger."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    # An enumeration whose str() is "DagRunState.QUEUED".
    return DagRunState(RuntimeTaskInstance.get_dagrun_state(dag_id=dag_id, run_id=run_id)).value


def count_runs(dag_id: str, date: datetime, states: Sequence[str] = ()) -> int:
    """Returns how many runs of a DAG have a logical date, and one of some states if any are given; in a task only."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return int(RuntimeTaskInstance.get_dr_count(dag_id, logical_dates=[date], states=list(states) or None))


def count_named_runs(dag_id: str, run_ids: Sequence[str] | None, states: Sequence[str]) -> int:
    """Returns how many of some runs of a DAG, or None for all, are there and in one of some states; in a task only."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return int(
        RuntimeTaskInstance.get_dr_count(
            dag_id, run_ids=None if run_ids is None else list(run_ids), states=list(states)
        )
    )


def dag_is_paused(dag_id: str) -> bool | None:
    """Returns whether a DAG is paused, None where Airflow knows none of that id; callable in a task only.

    Raises:
      AirflowRuntimeError: Airflow gave no answer.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        return bool(RuntimeTaskInstance.get_dag(dag_id).is_paused)
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == HTTPStatus.NOT_FOUND:
            return None
        raise


def has_schedule(dag: DAG) -> bool:
    """Returns whether time makes runs of a DAG; otherwise there are neither scheduled runs nor backfills."""
    from airflow.sdk.definitions.timetables.assets import AssetOrTimeSchedule, AssetTriggeredTimetable

    timetable = dag.timetable
    # That of assets alone says that it can be scheduled, too.
    of_assets = isinstance(timetable, AssetTriggeredTimetable) and not isinstance(timetable, AssetOrTimeSchedule)
    return bool(timetable.can_be_scheduled) and not of_assets


def clear_number(run: Any) -> int:
    """Returns how often tasks of a run were cleared so that the run was reset, too."""
    return int(run.clear_number or 0)


def user_of(run: Any) -> str:
    """Returns who triggered a run; "" where nobody did, as for one that is scheduled."""
    name = run.triggering_user_name
    return f"{name} (Airflow)" if name else ""


def max_tries(task: Any) -> int:
    """Returns after how many retries a task instance fails for good; a Clear of a task that has ended raises it."""
    return int(task.max_tries)


def state_store(context: Context) -> Any:
    """Returns what Airflow keeps of a task within its DAG run (get and set), for all its tries."""
    return context["task_state_store"]


def show_as(task: BaseOperator, name: str) -> None:
    """Has the graph show another name than the operator's class."""
    task.custom_operator_name = name


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


def recorded_run_states(dag_id: str, run_ids: Sequence[str]) -> dict[str, str]:
    """Returns the state of those runs of a DAG that Airflow knows, by their ids; in the API server only.

    Whether the user may read the DAG is the caller's to ask.
    """
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        runs = session.query(DagRun.run_id, DagRun.state).filter(DagRun.dag_id == dag_id, DagRun.run_id.in_(run_ids))
        return {run_id: str(DagRunState(state).value) for run_id, state in runs}


def may_read_dag(entity: str = "") -> Any:
    """Returns the dependency of a FastAPI route that refuses users who may not read the route's `dag_id`.

    Args:
      entity: What of the DAG is read, a name of Airflow's DagAccessEntity such as "RUN"; "" is the DAG itself.
    """
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag

    return requires_access_dag(method="GET", access_entity=DagAccessEntity[entity] if entity else None)


def is_signed_in() -> Any:
    """Returns the dependency of a FastAPI route that shows nothing of any DAG: it refuses who has not logged in."""
    from airflow.api_fastapi.core_api.security import requires_authenticated

    return requires_authenticated()


def dag_reader() -> Any:
    """Returns the dependency that gives a FastAPI route what tells of a DAG's id whether the user may read that DAG."""
    from airflow.api_fastapi.core_api import security
    from fastapi import Depends

    signed_in = Depends(security.get_user)

    def reader(user: Any = signed_in) -> Callable[[str], bool]:
        def may_read(dag_id: str) -> bool:
            details = security.DagDetails(id=dag_id, team_name=security.DagModel.get_team_name(dag_id))
            return bool(security.get_auth_manager().is_authorized_dag(method="GET", details=details, user=user))

        return may_read

    return reader
