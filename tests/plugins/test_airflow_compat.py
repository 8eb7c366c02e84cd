"""Each undocumented part of Airflow that the plugin uses, as the installed Airflow has it."""

import ast
import inspect
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, TaskGroup
from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType
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
UNKNOWN = comms.ErrorResponse(error=ErrorType.GENERIC_ERROR, detail={"status_code": 404})


class Supervisor:
    """Answers a task's requests with the types of Airflow's own protocol."""

    def send(self, msg):
        if isinstance(msg, comms.GetPreviousDagRun):
            return comms.PreviousDagRunResult(dag_run=RUN if msg.logical_date > NOW else None)
        if isinstance(msg, comms.GetTaskStates):
            return comms.TaskStatesResult(task_states={"scheduled__1": {msg.task_ids[0]: "success"}})
        if isinstance(msg, comms.GetDagRunState):
            return comms.DagRunStateResult(state=DagRunState.QUEUED)
        if isinstance(msg, comms.GetDag) and msg.dag_id != "unknown":
            unused = dict.fromkeys(("bundle_name", "bundle_version", "relative_fileloc", "next_dagrun"))
            is_paused = msg.dag_id == "paused"
            return comms.DagResult(dag_id=msg.dag_id, is_paused=is_paused, owners="", tags=[], **unused)
        raise AirflowRuntimeError(UNKNOWN)


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


def test_task_state():
    assert airflow_compat.task_state("flights", "scheduled__1", "push") == "success"
    assert airflow_compat.task_state("flights", "another", "push") == ""


def test_dag_run_state():
    assert airflow_compat.dag_run_state("flights", "scheduled__1") == "queued"


def test_dag_is_active():
    assert [airflow_compat.dag_is_active(dag) for dag in ("flights", "paused", "unknown")] == [True, False, False]


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
        "airflow.providers.standard.triggers.temporal",
        "airflow.sdk",
        "airflow.sdk.exceptions",
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


def _modules(node):
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
