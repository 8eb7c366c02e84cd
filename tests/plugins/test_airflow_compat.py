"""Each undocumented part of Airflow that the plugin uses, as the installed Airflow has it."""

import ast
import inspect
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, Context, CronDataIntervalTimetable, TaskGroup
from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType, TerminalTIState
from airflow.sdk.exceptions import AirflowRuntimeError, DagRunTriggerException, ErrorType
from airflow.sdk.execution_time import comms, task_runner

from airtight.home import ROOT
from plugins.tfx_airflow import airflow_compat

NOW = datetime(2013, 6, 1, tzinfo=UTC)
RUN = DagRun(
    dag_id="flights",
    run_id="scheduled__1",
    logical_date=NOW,
    data_interval_start=NOW,
    data_interval_end=NOW,
    run_after=NOW,
    start_date=NOW,
    end_date=None,
    run_type=DagRunType.SCHEDULED,
    state=DagRunState.RUNNING,
    consumed_asset_events=[],
    partition_key=None,
)
MONTHLY = CronDataIntervalTimetable("@monthly", timezone="UTC")


class Supervisor:
    """Answers a task's requests with the types of Airflow's own protocol."""

    def send(self, msg):
        if isinstance(msg, comms.GetPreviousDagRun):
            return comms.PreviousDagRunResult(dag_run=RUN if msg.logical_date > NOW else None)
        if isinstance(msg, comms.GetTaskStates):
            of_run = {(-1, "push"): "success", (-1, "report"): None, (2, "push"): "failed"}
            # As Airflow's execution API names them (get_task_instance_states); its client leaves a -1 out.
            states = {
                name if index < 0 else f"{name}_{index}": state
                for (index, name), state in of_run.items()
                if name in msg.task_ids and (msg.map_index < 0 or index == msg.map_index)
            }
            return comms.TaskStatesResult(task_states={"scheduled__1": states})
        if isinstance(msg, comms.GetDRCount) and not msg.logical_dates:
            return comms.DRCount(
                count=int("scheduled__1" in (msg.run_ids or ["scheduled__1"]) and "queued" in msg.states)
            )
        if isinstance(msg, comms.GetDRCount):
            is_ours = msg.logical_dates == [NOW] and (msg.states or ["success"]) == ["success"]
            return comms.DRCount(count=int(is_ours))
        if isinstance(msg, comms.GetDagRunState):
            return comms.DagRunStateResult(state=DagRunState.QUEUED)
        if isinstance(msg, comms.GetDag) and msg.dag_id in ("flights", "paused"):
            unused = dict.fromkeys(("bundle_name", "bundle_version", "relative_fileloc", "next_dagrun"))
            is_paused = msg.dag_id == "paused"
            return comms.DagResult(dag_id=msg.dag_id, is_paused=is_paused, owners="", tags=[], **unused)
        status = 404 if msg.dag_id == "unknown" else 500
        raise AirflowRuntimeError(comms.ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status}))


@pytest.fixture(autouse=True)
def _in_a_task(monkeypatch):
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(), raising=False)


def test_current_dag():
    assert airflow_compat.current_dag() is None
    with DAG("flights", schedule=None) as dag, TaskGroup("group"):
        assert airflow_compat.current_dag() is dag


def test_previous_dag_run():
    run = airflow_compat.previous_dag_run("flights", datetime(2013, 7, 1, tzinfo=UTC))
    assert run.run_type in airflow_compat.SCHEDULED
    assert (run.logical_date, run.conf) == (NOW, None)
    assert airflow_compat.previous_dag_run("flights", NOW) is None


def test_the_types_of_scheduled_runs():
    assert set(airflow_compat.SCHEDULED) < {kind.value for kind in DagRunType}


def test_task_states():
    names = ["push", "report", "unknown"]
    assert airflow_compat.task_states("flights", "scheduled__1", names) == {"push": "success", "report": None}
    assert airflow_compat.task_states("flights", "scheduled__1", names, 2) == {"push": "failed"}
    assert airflow_compat.task_states("flights", "another", names) == {}
    assert airflow_compat.task_states("flights", "scheduled__1", []) == {}


def test_finished_states():
    assert set(airflow_compat.FINISHED) == {state.value for state in TerminalTIState}


def test_dag_run_state():
    assert airflow_compat.dag_run_state("flights", "scheduled__1") == "queued"


def test_count_runs():
    assert airflow_compat.count_runs("flights", NOW) == 1
    assert airflow_compat.count_runs("flights", NOW, ("success",)) == 1
    assert airflow_compat.count_runs("flights", NOW, ("failed",)) == 0
    assert airflow_compat.count_runs("flights", datetime(2013, 7, 1, tzinfo=UTC)) == 0


def test_count_named_runs():
    assert airflow_compat.count_named_runs("flights", ["scheduled__1", "manual__1"], airflow_compat.UNFINISHED) == 1
    assert airflow_compat.count_named_runs("flights", ["scheduled__1"], ("failed",)) == 0
    assert airflow_compat.count_named_runs("flights", None, airflow_compat.UNFINISHED) == 1
    assert set(airflow_compat.UNFINISHED) < {state.value for state in DagRunState}


def test_dag_is_paused():
    assert [airflow_compat.dag_is_paused(dag) for dag in ("flights", "paused", "unknown")] == [False, True, None]
    with pytest.raises(AirflowRuntimeError):
        airflow_compat.dag_is_paused("out of reach")


@pytest.mark.parametrize(
    ("schedule", "has_one"),
    [
        ("@monthly", True),
        ("@once", True),
        (None, False),
        ([Asset("data")], False),
        (AssetOrTimeSchedule(timetable=MONTHLY, assets=[Asset("data")]), True),
    ],
)
def test_has_schedule(schedule, has_one):
    assert airflow_compat.has_schedule(DAG("flights", schedule=schedule, start_date=NOW)) is has_one


def test_what_a_clear_raises():
    assert airflow_compat.clear_number(RUN.model_copy(update={"clear_number": 2})) == 2
    assert airflow_compat.clear_number(RUN.model_copy(update={"clear_number": None})) == 0
    task = task_runner.RuntimeTaskInstance.model_construct(max_tries=3)
    assert airflow_compat.max_tries(task) == 3
    assert "max_tries" in task_runner.RuntimeTaskInstance.model_fields


def test_who_triggered_a_run():
    assert airflow_compat.user_of(RUN.model_copy(update={"triggering_user_name": "ada"})) == "ada (Airflow)"
    assert airflow_compat.user_of(RUN) == ""


def test_state_store():
    assert "task_state_store" in Context.__annotations__
    assert airflow_compat.state_store({"task_state_store": "the store"}) == "the store"


def test_show_as():
    from airflow.serialization.serialized_objects import OperatorSerialization

    task = BashOperator(task_id="task", bash_command="true")
    airflow_compat.show_as(task, "Trainer")
    assert OperatorSerialization.serialize_operator(task)["_operator_name"] == "Trainer"


def test_trigger_once_names_every_argument_that_the_exception_has():
    raised = airflow_compat.trigger_once("releases", "one", {"version": "1"})
    assert isinstance(raised, DagRunTriggerException)
    assert (raised.trigger_dag_id, raised.dag_run_id, raised.conf) == ("releases", "one", {"version": "1"})
    assert raised.skip_when_already_exists and not raised.deferrable and not raised.wait_for_completion


def test_run_id_length():
    from airflow.models.base import ID_LEN

    assert airflow_compat.RUN_ID_LENGTH == ID_LEN


def test_may_read_dag():
    dependency = airflow_compat.may_read_dag()
    assert list(inspect.signature(dependency).parameters) == ["request", "user"]


def test_class_and_arguments():
    with DAG("mapped", schedule=None):
        plain = BashOperator(task_id="plain", bash_command="true")
        mapped = BashOperator.partial(task_id="mapped", cwd="/").expand(bash_command=["true", "false"])
    class_, arguments = airflow_compat.class_and_arguments(plain)
    assert (class_, arguments["bash_command"]) == (BashOperator, "true")
    class_, arguments = airflow_compat.class_and_arguments(mapped)
    assert (class_, arguments["cwd"]) == (BashOperator, "/")


def test_no_other_module_imports_what_airflow_does_not_document():
    documented = {
        "airflow.plugins_manager",
        "airflow.providers.standard.operators.bash",
        "airflow.providers.standard.operators.empty",
        "airflow.providers.standard.operators.hitl",
        "airflow.providers.standard.triggers.temporal",
        "airflow.sdk",
        "airflow.sdk.exceptions",
        # Of the documented `assigned_users`.
        "airflow.sdk.execution_time.hitl",
        "airflow.triggers.base",
    }
    imported = {
        (path.name, module)
        for path in (ROOT / "plugins").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in _modules(node)
        if module.startswith("airflow.") and module not in documented
    }
    assert {file for file, _ in imported} == {Path(airflow_compat.__file__).name}


def test_no_other_module_uses_its_undocumented_names():
    names = {"clear_number", "custom_operator_name", "get_task_states", "max_tries", "task_state_store"}
    names |= {"triggering_user_name"}
    used = {
        (path.name, name)
        for path in (ROOT / "plugins").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (getattr(node, "attr", None), getattr(node, "value", None))
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Constant) and isinstance(name, str) and name in names
    }
    # The lineage has labels of its own.
    used -= {("operator.py", "clear_number")}
    assert {file for file, _ in used} == {Path(airflow_compat.__file__).name}
    assert {name for _, name in used} == names


def _modules(node):
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_recorded_run_states(monkeypatch):
    from airflow.models.dagrun import DagRun
    from airflow.models.tasklog import LogTemplate
    from airflow.utils import session
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    engine = create_engine("sqlite://")
    for model in (LogTemplate, DagRun):
        model.__table__.create(engine)
    monkeypatch.setattr(session, "create_session", lambda: Session(engine))
    with Session(engine) as filled:
        filled.add_all(
            DagRun(dag_id=dag, run_id=run, run_type="manual", run_after=NOW, state=DagRunState.QUEUED)
            for dag, run in (("flights", "a"), ("flights", "b"), ("words", "c"))
        )
        filled.commit()
    assert airflow_compat.recorded_run_states("flights", ["a", "c", "none"]) == {"a": "queued"}
