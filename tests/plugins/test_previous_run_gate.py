"""The gate between runs of one DAG: what it waits for, when it goes on, and what it says when it cannot."""

import asyncio
from datetime import datetime
from types import SimpleNamespace
from typing import ClassVar
from zoneinfo import ZoneInfo

import pytest
from airflow.sdk import DAG, DagRunState
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRuntimeError,
    AirflowSkipException,
    ErrorType,
    TaskDeferred,
)
from airflow.sdk.execution_time import comms, task_runner

from airtight.home import Home
from plugins.tfx_airflow import previous_run_gate
from plugins.tfx_airflow.params import GO_ON, STOP
from plugins.tfx_airflow.previous_run_gate import AwaitPrevious, TaskEnded

ZONE = "America/New_York"


def month(number: int) -> datetime:
    return datetime(2013, number, 1, tzinfo=ZoneInfo(ZONE))


def run(
    number: int, *, months: int = 1, conf: dict | None = None, kind: str = "scheduled", at: datetime | None = None
) -> SimpleNamespace:
    """A run whose interval begins with a month; `at` is its logical date where that is another instant."""
    start = month(number)
    return SimpleNamespace(
        dag_id="flights",
        run_id=f"run-{number}" if at is None else f"{kind}-{number}-{at:%m%d}",
        run_type=kind,
        logical_date=at or start,
        data_interval_start=start,
        data_interval_end=month(number + months),
        conf=conf,
    )


class Airflow:
    """What the task's supervisor would answer."""

    def __init__(self, runs: list[SimpleNamespace]) -> None:
        self.runs = {run.run_id: run for run in runs}
        self.tasks: dict[str, str | None] = {}
        self.states: dict[str, str] = {}
        self.went_on: set[tuple[str, int]] = set()
        """Runs, and map indexes in them, whose gate has returned."""
        self.requests = 0

    def send(self, request: comms.GetPreviousDagRun) -> SimpleNamespace:
        self.requests += 1
        dated = [run for run in self.runs.values() if run.logical_date is not None]
        earlier = [run for run in dated if run.logical_date < request.logical_date]
        return SimpleNamespace(dag_run=max(earlier, key=lambda run: run.logical_date, default=None))

    def get_task_states(self, *, dag_id: str, map_index: int, task_ids: list[str], run_ids: list[str]) -> dict:
        name = task_ids[0] if map_index < 0 else f"{task_ids[0]}_{map_index}"
        return {run_id: {name: self.tasks.get(run_id if map_index < 0 else (run_id, map_index))} for run_id in run_ids}

    def get_dagrun_state(self, *, dag_id: str, run_id: str) -> DagRunState:
        return DagRunState(self.states.get(run_id, "running"))

    def add(self, *runs: SimpleNamespace) -> None:
        self.runs |= {run.run_id: run for run in runs}


@pytest.fixture
def airflow(monkeypatch):
    there = Airflow([run(number) for number in (2, 3, 4, 5)])
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", there, raising=False)
    monkeypatch.setattr(
        task_runner,
        "RuntimeTaskInstance",
        SimpleNamespace(get_task_states=there.get_task_states, get_dagrun_state=there.get_dagrun_state),
    )
    return there


def gate_of(schedule: str | None = "@monthly", **arguments) -> AwaitPrevious:
    with DAG("flights", schedule=schedule, start_date=month(1)):
        return AwaitPrevious(task_id="await_previous_push", until="push", zone=ZONE, **arguments)


class Task(SimpleNamespace):
    """A task instance of the gate."""

    def xcom_pull(self, task_ids: str, *, run_id: str, map_indexes: int) -> dict | None:
        assert task_ids == "await_previous_push"
        went_on = (run_id, map_indexes) in task_runner.SUPERVISOR_COMMS.went_on
        return {"run": "", "state": ""} if went_on else None


def context_of(of: SimpleNamespace, index: int = -1, **params) -> dict:
    values = {"interval": None, "when_previous_failed": STOP, **params}
    return {"dag_run": of, "ti": Task(map_index=index), "params": values}


def wait(
    of: SimpleNamespace, *, event: dict | None = None, gate: AwaitPrevious | None = None, index: int = -1, **params
):
    return (gate or gate_of()).execute(context_of(of, index, **params), event)


@pytest.mark.parametrize("state", ["success", "skipped"])
def test_it_goes_on_when_the_task_of_the_run_before_has_ended(airflow, state):
    airflow.tasks = {"run-3": state, "run-2": "failed"}
    airflow.went_on = {("run-3", -1)}
    assert wait(run(4)) == {"run": "run-3", "state": state}


def test_the_first_run_waits_for_nothing(airflow):
    assert wait(run(2)) == {"run": "", "state": ""}


@pytest.mark.parametrize("state", [None, "running", "up_for_retry", "queued", "deferred", "restarting"])
def test_it_waits_without_a_worker_while_the_task_has_not_ended(airflow, state):
    airflow.tasks = {"run-3": state}
    with pytest.raises(TaskDeferred) as deferred:
        wait(run(4))
    assert deferred.value.method_name == "execute"
    kind, settings = deferred.value.trigger.serialize()
    assert kind == "plugins.tfx_airflow.previous_run_gate.TaskEnded"
    assert settings == {"dag_id": "flights", "run_id": "run-3", "awaited": "push", "index": -1}
    airflow.tasks = {"run-3": "success"}
    assert wait(run(4), event={"stuck": False})["state"] == "success"


@pytest.mark.parametrize("state", ["failed", "upstream_failed"])
def test_a_failed_run_before_stops_it_and_says_how_to_go_on(airflow, state):
    airflow.tasks = {"run-3": state}
    with pytest.raises(AirflowFailException) as refused:
        wait(run(4))
    for phrase in ("await_previous_push", "run-3 (2013-03-01", state, "mark its task push as success", GO_ON):
        assert phrase in str(refused.value)
    assert wait(run(4), when_previous_failed=GO_ON) == {"run": "run-3", "state": state}


def test_a_gap_is_no_obstacle_and_is_told(airflow, capsys):
    del airflow.runs["run-4"]
    airflow.tasks = {"run-3": "success"}
    assert wait(run(5))["run"] == "run-3"
    assert "No scheduled run covers 2013-04-01T00:00:00-04:00 to 2013-05-01T00:00:00-04:00" in capsys.readouterr().out


def test_runs_with_an_interval_of_the_form_wait_for_the_schedule_and_are_not_waited_for(airflow):
    by_hand = run(4, conf={"interval": "2013-09"})
    airflow.runs["run-4"] = by_hand
    airflow.tasks = {"run-3": "success", "run-4": "running"}
    assert wait(run(5))["run"] == "run-3"
    assert wait(by_hand, interval="2013-04")["run"] == "run-3"


TRIGGERED = ("manual", "operator_triggered", "asset_triggered", "asset_materialization")


@pytest.mark.parametrize("kind", TRIGGERED)
def test_a_run_that_was_triggered_meanwhile_is_not_taken_for_the_run_before(airflow, kind):
    """In the middle of April somebody triggers the DAG, whose interval is then March, and March is long over."""
    triggered = run(3, kind=kind, at=month(4).replace(day=15))
    airflow.add(triggered)
    airflow.tasks = {"run-3": "success", triggered.run_id: "success", "run-4": "running"}
    with pytest.raises(TaskDeferred) as deferred:
        wait(run(5))
    assert deferred.value.trigger.serialize()[1]["run_id"] == "run-4"


def test_several_triggered_runs_of_any_logical_date_are_passed_over(airflow):
    moments = [month(1), month(3).replace(day=2), month(4).replace(day=3), month(4).replace(day=29), month(9)]
    airflow.add(*(run(interval, kind="manual", at=at) for interval in (1, 3, 4) for at in moments))
    without = SimpleNamespace(**vars(run(4, kind="manual", at=month(2))) | {"logical_date": None, "run_id": "undated"})
    airflow.add(without, run(4, kind="manual", at=month(4).replace(day=20), conf={"interval": "2013-04"}))
    airflow.tasks = dict.fromkeys(airflow.runs, "failed") | {"run-4": "success"}
    assert wait(run(5)) == {"run": "run-4", "state": "success"}


def test_a_triggered_run_waits_for_the_scheduled_run_before_its_interval(airflow):
    airflow.tasks = {"run-3": "running", "run-4": "success"}
    with pytest.raises(TaskDeferred) as deferred:
        wait(run(4, kind="manual", at=month(9)))
    assert deferred.value.trigger.serialize()[1]["run_id"] == "run-3"


def test_a_backfilled_run_is_waited_for(airflow):
    airflow.add(SimpleNamespace(**vars(run(4)) | {"run_type": "backfill"}))
    airflow.tasks = {"run-4": "success", "run-3": "failed"}
    assert wait(run(5))["run"] == "run-4"


def test_behind_a_gap_the_run_that_ends_last_counts_though_it_starts_earlier(airflow):
    """February to April in one run, of another schedule, ends after March alone does."""
    airflow.runs.clear()
    airflow.add(run(2, months=3), run(3))
    airflow.tasks = {"run-2": "success", "run-3": "failed"}
    assert wait(run(6))["run"] == "run-2"


def test_it_asks_for_no_more_runs_than_it_must(airflow):
    airflow.runs.clear()
    airflow.add(*(run(number) for number in range(1, 11)))
    airflow.tasks = dict.fromkeys(airflow.runs, "success")
    assert wait(run(11))["run"] == "run-10" and airflow.requests == 1
    del airflow.runs["run-10"]
    airflow.requests = 0
    assert wait(run(11))["run"] == "run-9" and airflow.requests <= 3


def test_a_dag_without_a_schedule_asks_for_no_run_however_many_were_triggered(airflow):
    airflow.runs.clear()
    airflow.add(*(run(1, kind="manual", at=month(2).replace(day=day)) for day in range(1, 29)))
    assert wait(run(5, kind="manual", at=month(9)), gate=gate_of(schedule=None)) == {"run": "", "state": ""}
    assert airflow.requests == 0


def test_one_index_of_a_mapped_gate_waits_for_the_same_index(airflow):
    airflow.tasks = {("run-3", 0): "running", ("run-3", 1): "success"}
    assert wait(run(4), index=1) == {"run": "run-3", "state": "success"}
    with pytest.raises(TaskDeferred) as deferred:
        wait(run(4), index=0)
    assert deferred.value.trigger.serialize()[1]["index"] == 0


def test_where_all_behind_it_is_skipped_a_failed_run_before_is_no_obstacle(airflow):
    airflow.tasks = {"run-3": "failed", "run-4": "skipped"}
    gate = gate_of(needs=[["train"]])
    with pytest.raises(AirflowSkipException, match="because train was skipped"):
        wait(run(4), gate=gate)
    airflow.tasks["run-4"] = "success"
    with pytest.raises(AirflowFailException):
        wait(run(4), gate=gate)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_run_that_was_skipped_without_waiting_leaves_the_order_to_the_run_before_it(airflow, index):
    def states(**states: str) -> None:
        airflow.tasks = {
            name.replace("_", "-") if index < 0 else (name.replace("_", "-"), index): state
            for name, state in states.items()
        }

    states(run_2="success", run_3="running", run_4="skipped")
    with pytest.raises(TaskDeferred) as deferred:
        wait(run(5), index=index)
    assert deferred.value.trigger.serialize()[1]["run_id"] == "run-3"
    states(run_2="success", run_3="failed", run_4="skipped")
    with pytest.raises(AirflowFailException, match=r"push of the run before, run-3 .* did not succeed"):
        wait(run(5), index=index, event={"stuck": False})
    assert wait(run(5), index=index, when_previous_failed=GO_ON) == {"run": "run-3", "state": "failed"}
    states(run_2="failed", run_3="success", run_4="skipped")
    assert wait(run(5), index=index) == {"run": "run-3", "state": "success"}
    airflow.went_on = {("run-4", index)}
    states(run_3="failed", run_4="skipped")
    assert wait(run(5), index=index) == {"run": "run-4", "state": "skipped"}, "it went on without run-3"


def test_where_all_runs_before_were_skipped_there_is_nothing_to_wait_for(airflow):
    airflow.tasks = dict.fromkeys(airflow.runs, "skipped")
    assert wait(run(6)) == {"run": "", "state": ""}


def test_a_run_before_without_an_extent_that_was_skipped_is_passed_over(airflow):
    """Of a schedule that gives no intervals."""
    airflow.runs["run-4"].data_interval_end = month(4)
    airflow.tasks = {"run-3": "running", "run-4": "skipped"}
    with pytest.raises(TaskDeferred) as deferred:
        wait(run(5))
    assert deferred.value.trigger.serialize()[1]["run_id"] == "run-3"


def test_a_mapped_run_that_was_marked_as_success_before_it_was_expanded_counts_as_skipped(airflow):
    airflow.tasks = {("run-3", 1): "running", "run-4": "skipped"}
    airflow.states = {"run-4": "success"}
    with pytest.raises(TaskDeferred) as deferred:
        wait(run(5), index=1)
    assert deferred.value.trigger.serialize()[1]["run_id"] == "run-3"


def test_a_run_that_left_the_queue_meanwhile_is_waited_for(airflow):
    airflow.tasks = {"run-3": "running", "run-4": "skipped"}
    with pytest.raises(TaskDeferred):
        wait(run(5), event={"stuck": True})


@pytest.fixture
def other_dags(monkeypatch, airflow, capsys):
    """Runs the gate of a DAG, and gives what it logs; `paused` says which DAGs Airflow knows."""

    class Dags:
        paused: ClassVar[dict[str, bool]] = {"flights": False, "paused": True, "flights_copy": False}

        def is_paused(self, dag_id: str) -> bool | None:
            return self.paused.get(dag_id)

        def judge(self, dag_id: str, pipeline: str = "a/pipeline") -> str:
            first = SimpleNamespace(**vars(run(2)) | {"dag_id": dag_id})
            gate_of(pipeline=pipeline).execute(context_of(first))
            return capsys.readouterr().out

    dags = Dags()
    monkeypatch.setattr(previous_run_gate, "dag_is_paused", dags.is_paused)
    return dags


def test_another_dag_of_the_same_pipeline_is_warned_of_while_it_is_active(other_dags):
    judge = other_dags.judge
    assert "runs the pipeline" not in judge("flights")
    assert "runs the pipeline" not in judge("flights"), "it is not another one of itself"
    assert "runs the pipeline" not in judge("flights", "another"), "nor is one of another pipeline"
    assert "flights runs the pipeline a/pipeline too" in judge("paused")
    assert "runs the pipeline" not in judge("flights")
    assert "flights runs the pipeline a/pipeline too" in judge("flights_copy")


def test_a_dag_that_is_gone_is_forgotten(other_dags):
    other_dags.judge("flights")
    folder = Home.current().gates("a/pipeline")
    other_dags.paused = {"flights_copy": False}
    assert "runs the pipeline" not in other_dags.judge("flights_copy")
    assert [file.name for file in folder.iterdir()] == ["flights_copy"]


def test_a_state_folder_that_cannot_be_written_is_no_obstacle(other_dags):
    folder = Home.current().gates("a/pipeline")
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    assert "It is not known whether another DAG runs the pipeline a/pipeline too" in other_dags.judge("flights")


def test_an_airflow_that_does_not_answer_says_nothing_of_a_dag(other_dags, monkeypatch):
    other_dags.judge("flights")
    refusal = comms.ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 500})

    def refuse(dag_id):
        raise AirflowRuntimeError(refusal)

    monkeypatch.setattr(previous_run_gate, "dag_is_paused", refuse)
    assert "It is not known whether another DAG" in other_dags.judge("flights_copy")
    assert (Home.current().gates("a/pipeline") / "flights").exists()


def test_a_run_whose_interval_overlaps_is_not_before(airflow):
    airflow.runs["run-3"] = run(3, months=2)
    airflow.tasks = {"run-2": "success", "run-3": "running"}
    assert wait(run(4))["run"] == "run-2"


@pytest.mark.parametrize(("of_run", "outcome"), [("success", "success"), ("failed", "refused")])
def test_of_a_run_that_was_marked_by_hand_its_own_state_counts(airflow, of_run, outcome):
    airflow.states = {"run-3": of_run}
    if outcome == "refused":
        with pytest.raises(AirflowFailException):
            wait(run(4))
    else:
        assert wait(run(4))["state"] == "success"


def test_a_run_before_that_cannot_start_is_told(airflow, monkeypatch):
    monkeypatch.setattr(previous_run_gate, "QUEUED_S", 0.05)
    monkeypatch.setattr(TaskEnded, "poll_s", 0.02)
    monkeypatch.setattr(TaskEnded, "settle_s", 0.0)
    airflow.states = {"run-3": "queued"}

    async def first():
        async for event in TaskEnded(dag_id="flights", run_id="run-3", awaited="push").run():
            return event.payload

    assert asyncio.run(asyncio.wait_for(first(), 5)) == {"stuck": True}
    with pytest.raises(AirflowFailException, match=r"run-3 .* does not start.*max_active_runs"):
        wait(run(4), event={"stuck": True})


def test_the_trigger_fires_once_the_task_has_ended(airflow, monkeypatch):
    monkeypatch.setattr(TaskEnded, "poll_s", 0.01)
    monkeypatch.setattr(TaskEnded, "settle_s", 0.0)
    states = iter([None, "running", "success"])
    airflow.get_task_states = lambda *, task_ids, **_: {"run-3": {"push": next(states)} if task_ids == ["push"] else {}}
    monkeypatch.setattr(task_runner.RuntimeTaskInstance, "get_task_states", airflow.get_task_states)

    trigger = TaskEnded(dag_id="flights", run_id="run-3", awaited="push")
    # As Airflow's triggerer does, which by that names the trigger's own task.
    trigger.task_instance = SimpleNamespace(task_id="await_previous_push")

    async def first():
        async for event in trigger.run():
            return event.payload

    assert asyncio.run(asyncio.wait_for(first(), 5)) == {"stuck": False}
