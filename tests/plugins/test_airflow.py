"""A real Airflow: retry, Clear, backfill and cancellation of the tiny pipeline mean what they say."""

import http
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from airtight.rollout import state
from components.modelling.served import HIGHEST, Choice
from runtime.protocol import run_key
from services import state_folder
from tests.components.standins import side
from tests.plugins.airflow_services import Airflow
from tests.waiting import until

pytestmark = pytest.mark.slow


def test_a_pipeline_that_does_not_compile_hides_no_other(airflow):
    errors = until(lambda: airflow.ask("GET", "importErrors")["import_errors"], "the import error")
    assert [Path(error["filename"]).name for error in errors] == ["broken.py"]
    assert "no_such_pipeline" in errors[0]["stack_trace"]


def test_clear_runs_exactly_the_cleared_tasks_again(airflow):
    run = airflow.trigger("clear")
    assert airflow.ended(run) == {task: ("success", 1) for task in ("write", "copy", "count")}
    airflow.clear(run, "copy")
    assert airflow.ended(run) == {"write": ("success", 1), "copy": ("success", 2), "count": ("success", 1)}
    assert {task: len(airflow.executions(run, task)) for task in ("write", "copy", "count")} == {
        "write": 1,
        "copy": 2,
        "count": 1,
    }
    airflow.clear(run, "copy", downstream=True)
    assert airflow.ended(run) == {"write": ("success", 1), "copy": ("success", 3), "count": ("success", 2)}
    assert airflow.executions(run, "copy") == ["COMPLETE"] * 3, "lineage keeps every attempt"


def test_tfx_own_components_run_as_tasks_and_a_condition_decides(airflow):
    run = airflow.ask("POST", "dags/standard/dagRuns", {"dag_run_id": "first", "logical_date": None})["dag_run_id"]
    states = {task: state for task, (state, _) in airflow.ended(run, "standard").items()}
    nodes = ("CsvExampleGen", "StatisticsGen", "SchemaGen", "Trainer", "baseline", "Evaluator", "decide", "Pusher")
    assert states == dict.fromkeys(nodes, "success")
    assert list((airflow.home.path / "pushed").iterdir())
    airflow.ask("POST", "dags/standard/dagRuns", {"dag_run_id": "second", "logical_date": None})
    assert {state for state, _ in airflow.ended("second", "standard").values()} == {"success"}
    outcome = airflow.ask("GET", "dags/standard/dagRuns/second/taskInstances/Trainer/xcomEntries/return_value")["value"]
    assert (outcome if isinstance(outcome, dict) else json.loads(outcome))["state"] == "cached"


def test_what_can_do_without_a_skipped_node_runs_after_it(airflow):
    run = {"dag_run_id": "no", "conf": {"answer": 0}, "logical_date": None}
    airflow.ask("POST", "dags/skips/dagRuns", run)
    states = {task: state for task, (state, _) in airflow.ended("no", "skips").items()}
    ran = {"decide", "no", "after", "optional", "late", "both", "joined", "last"}
    assert states == dict.fromkeys(ran, "success") | dict.fromkeys(
        ("yes", "nested", "required", "second", "mixed"), "skipped"
    )
    assert airflow.ask("GET", "dags/skips/dagRuns/no")["state"] == "success"


def test_a_resolver_that_finds_nothing_yet_is_green_and_the_next_run_finds_what_this_one_made(airflow):
    for run, outputs in (("first", set()), ("second", {"made"})):
        airflow.ask("POST", "dags/nothing_yet/dagRuns", {"dag_run_id": run, "logical_date": None})
        assert set(airflow.ended(run, "nothing_yet").values()) == {("success", 1)}
        entry = airflow.ask("GET", f"dags/nothing_yet/dagRuns/{run}/taskInstances/latest/xcomEntries/return_value")
        outcome = entry["value"] if isinstance(entry["value"], dict) else json.loads(entry["value"])
        assert outcome["execution"]
        assert set(outcome["outputs"]) == outputs


def test_a_person_approves_that_another_version_is_served_or_rejects_it(airflow):
    june, july = 201307010400001, 201308010400001
    airflow.start_model_server(june, july)
    body = airflow.propose("rejected", reason="July looks odd")
    assert f"| version | {july} (the highest) | **{june}** |" in body
    assert "Reason: July looks odd" in body
    states = airflow.answer("rejected", "Reject")
    assert states == {"propose": "success", "approve": "success", "promote": "skipped"}
    assert airflow.served.choice("flight_delays").pinned == 0
    airflow.propose("approved", version=str(june), reason="July is worse")
    assert set(airflow.answer("approved", "Approve", note="seen").values()) == {"success"}
    choice = airflow.served.choice("flight_delays")
    assert (choice.pinned, choice.reason) == (june, "July is worse")
    path = "dags/flight_delays_promote/dagRuns/approved/taskInstances/promote/xcomEntries/return_value?deserialize=true"
    (promotion,) = airflow.ask("GET", path)["value"]["outputs"]["promotion"]
    approval = promotion["properties"]["approval"]
    assert approval.startswith(f"{state_folder.USER} at 20")
    assert approval.endswith(": seen")
    assert choice.by == approval
    # Who approved is told by the approval, and by nobody on the form.
    with pytest.raises(urllib.error.HTTPError) as refused:
        airflow.propose("pretended", approval="somebody else")
    assert refused.value.code == http.HTTPStatus.BAD_REQUEST


def test_a_release_is_watched_judged_and_finished_and_a_failure_in_between_takes_it_back(airflow):
    june, july = 201307010400001, 201308010400001
    airflow.start_model_server(june, july)
    airflow.served.choose("flight_delays", Choice.only(june))
    airflow.router.sides = {"stable": side(20), "candidate": side(20)}
    release = {"share": 0.5, "minutes": 0.0, "min_requests": 100}

    def begin(run: str, version: int) -> None:
        body = {"dag_run_id": run, "conf": {"version": str(version), **release}, "logical_date": None}
        airflow.ask("POST", "dags/flight_delays_release/dagRuns", body)
        until(lambda: airflow.tasks(run, "flight_delays_release")["watch"]["state"] == "deferred", f"{run} is watched")
        trial = state.read(airflow.home.models_root)["flight_delays"]
        assert (trial.candidate, trial.share) == (version, 0.5)

    begin("good", july)
    airflow.router.sides = {"stable": side(2000), "candidate": side(2000)}
    ended = airflow.ended("good", "flight_delays_release")
    assert {task: state for task, (state, _) in ended.items()} == dict.fromkeys(
        ("start", "watch", "judge", "finish", "succeeded"), "success"
    )
    choice = airflow.served.choice("flight_delays")
    assert (choice.pinned, choice.is_a_persons) == (july, True)

    airflow.router.sides = {"stable": side(20), "candidate": side(20)}
    begin("stopped", june)
    path = "dags/flight_delays_release/dagRuns/stopped"
    airflow.ask("PATCH", f"{path}/taskInstances/watch", {"new_state": "failed"})
    states = {task: state for task, (state, _) in airflow.ended("stopped", "flight_delays_release").items()}
    assert states == {
        "start": "success",
        "watch": "failed",
        "judge": "upstream_failed",
        "succeeded": "upstream_failed",
        "finish": "success",
    }
    assert airflow.ask("GET", path)["state"] == "failed", "that it was ended in good order makes no run green"
    choice = airflow.served.choice("flight_delays")
    assert (choice.versions, choice.release) == ((july,), "")
    assert state.read(airflow.home.models_root) == {}
    airflow.served.choose("flight_delays", HIGHEST)


def test_the_outputs_are_in_the_xcom(airflow):
    run = airflow.trigger("xcom", repeat=2)
    airflow.ended(run)
    path = f"dags/words/dagRuns/{run}/taskInstances/write/xcomEntries/return_value?deserialize=true"
    outcome = airflow.ask("GET", path)["value"]
    (words,) = outcome["outputs"]["words"]
    assert (Path(words["uri"]) / "words.txt").read_text() == "word word"
    assert words["properties"]["interval_start"] == "2013-06-01T00:00:00-04:00"


def test_a_transient_fault_is_retried_and_a_terminal_one_is_not(airflow):
    once = airflow.trigger("once", trouble=f"once:{airflow.home.path / 'once'}")
    terminal = airflow.trigger("terminal", trouble="terminal")
    assert airflow.ended(once) == {"write": ("success", 1), "copy": ("success", 2), "count": ("success", 1)}
    ended = airflow.ended(terminal)
    assert (ended["copy"], ended["count"][0]) == (("failed", 1), "upstream_failed")
    path = f"dags/words/dagRuns/{terminal}/taskInstances/copy/logs/1"
    log = json.dumps(airflow.ask("GET", path))
    assert "Expected: good words. Received: a, b. What to do: Write others." in log
    assert "Trouble asked for: terminal" in log


def test_a_node_that_is_killed_is_run_again(airflow):
    run = airflow.trigger("kill", trouble="kill")
    ended = airflow.ended(run)
    assert ended["copy"] == ("failed", 3)
    assert airflow.executions(run, "copy") == ["FAILED"] * 3
    assert not list(airflow.home.pipeline_root("tiny").glob("copy/copied/*/half.txt"))


def test_marking_a_running_task_failed_stops_its_processes(airflow):
    note = airflow.home.path / "pids"
    run = airflow.trigger("cancel", trouble=f"sleep:{note}")
    until(lambda: note.exists() and len(note.read_text().split()) == 2, "the node sleeps")
    pids = note.read_text().split()
    airflow.ask("PATCH", f"dags/words/dagRuns/{run}/taskInstances/copy", {"new_state": "failed"})
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "node and child are gone")
    until(lambda: "RUNNING" not in airflow.executions(run, "copy"), "no execution stays open")


def test_marking_an_upstream_done_that_never_ran_is_told(airflow):
    run = airflow.trigger("marked", trouble="terminal")
    airflow.ended(run)
    airflow.ask("PATCH", f"dags/words/dagRuns/{run}/taskInstances/copy", {"new_state": "success"})
    airflow.clear(run, "count")
    state, tries = airflow.ended(run)["count"]
    assert state == "failed"
    log = json.dumps(airflow.ask("GET", f"dags/words/dagRuns/{run}/taskInstances/count/logs/{tries}"))
    assert "The upstream node copy has no output in this run" in log


def test_a_task_skipped_by_hand_stops_and_what_comes_after_says_so(airflow):
    note = airflow.home.path / "skipped_pids"
    run = airflow.trigger("skipped", trouble=f"sleep:{note}")
    until(lambda: note.exists() and len(note.read_text().split()) == 2, "the node sleeps")
    pids = note.read_text().split()
    airflow.ask("PATCH", f"dags/words/dagRuns/{run}/taskInstances/copy", {"new_state": "skipped"})
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "node and child are gone")
    ended = airflow.ended(run)
    assert (ended["copy"][0], ended["count"][0]) == ("skipped", "skipped")
    until(lambda: airflow.executions(run, "copy") == ["FAILED"], "the stopped attempt is closed")
    airflow.clear(run, "count")
    state, _ = airflow.ended(run)["count"]
    # Airflow skips it again for its upstream's sake, or lets it run and fail in words; never is it green.
    assert state in ("skipped", "failed"), state


def test_when_the_scheduler_and_its_tasks_are_killed_the_next_one_brings_the_run_home(airflow):
    note = airflow.home.path / "interrupted"
    run = airflow.trigger("interrupted", trouble=f"long_once:{note}")
    until(lambda: note.exists() and note.read_text(), "the node is at work")
    airflow.kill_scheduler()
    until(lambda: not Path(f"/proc/{note.read_text()}").exists(), "the node ends with its task")
    airflow.start_scheduler()
    ended = airflow.ended(run)
    assert {task: state for task, (state, _) in ended.items()} == dict.fromkeys(("write", "copy", "count"), "success")
    assert airflow.executions(run, "copy") == ["FAILED", "COMPLETE"]
    assert airflow.executions(run, "write") == ["COMPLETE"]


def test_backfill_reprocesses_failed_runs_alone(airflow):
    span = ("2013-07-01T04:00:00Z", "2013-08-01T04:00:00Z")
    airflow.backfill("words", *span)
    runs = airflow.ask("GET", "dags/words/dagRuns?run_type=backfill&limit=100")["dag_runs"]
    # Airflow names a run after the end of its interval.
    ends = ("backfill__2013-08-01", "backfill__2013-09-01")
    july, august = sorted(run["dag_run_id"] for run in runs if run["dag_run_id"].startswith(ends))
    airflow.ask("PATCH", f"dags/words/dagRuns/{july}", {"state": "failed"})
    airflow.backfill("words", *span, "failed")
    attempts = {
        run: len(airflow.executions(run_key("words", "", "", run).removeprefix("words."), "write"))
        for run in (july, august)
    }
    assert attempts == {july: 2, august: 1}


@pytest.mark.parametrize(("reprocess", "grows"), [("none", 0), ("completed", 2)])
def test_backfill_reprocesses_what_it_says(airflow, reprocess, grows):
    def backfill(behaviour: str) -> None:
        span = {"from_date": "2013-03-01T05:00:00Z", "to_date": "2013-04-01T04:00:00Z"}
        form = {"dag_id": "words", **span, "reprocess_behavior": behaviour, "max_active_runs": 2}
        with airflow.busy_database():
            made = airflow.ask("POST", "backfills", form)
        airflow.backfilled(made)

    backfill("none")
    before = len(airflow.executions("backfill", "write"))
    backfill(reprocess)
    assert airflow.executions("backfill", "write") == ["COMPLETE"] * (before + grows)


class Ordered:
    """The DAG whose steps note when they begin, and its backfills."""

    def __init__(self, airflow: Airflow, notes: Path) -> None:
        self.airflow = airflow
        self.notes = notes
        notes.mkdir()

    def backfill(self, first: int, last: int, reprocess: str = "none") -> dict[int, str]:
        """Backfills months of 2013, all at once; gives the state of each in the end."""
        span = (f"2013-{month:02}-01T04:00:00Z" for month in (first, last))
        self.airflow.backfill("ordered", *span, reprocess, at_once=4, dag_run_conf={"notes": str(self.notes)})
        return {month: state for month, (_, state) in self.runs().items() if first <= month <= last}

    def runs(self) -> dict[int, tuple[str, str]]:
        """Id and state of each month's run."""
        dag_runs = self.airflow.ask("GET", "dags/ordered/dagRuns?limit=100")["dag_runs"]
        return {int(run["data_interval_start"][5:7]): (run["dag_run_id"], run["state"]) for run in dag_runs}

    def noted(self) -> list[str]:
        return (self.notes / "order").read_text().splitlines()

    def mark(self, month: int, state: str) -> None:
        """Gives a month's push another state, as a person does."""
        path = f"dags/ordered/dagRuns/{self.runs()[month][0]}/taskInstances/push"
        self.airflow.ask("PATCH", path, {"new_state": state})

    def cleared(self, month: int) -> dict[str, str]:
        """Clears a month's gate with what is behind it; gives the states of its tasks in the end."""
        run = self.runs()[month][0]
        self.airflow.clear(run, "await_previous_push", dag="ordered", downstream=True)
        self.airflow.ended(run, "ordered")
        return self.states(month)

    def states(self, month: int) -> dict[str, str]:
        return {name: task["state"] for name, task in self.airflow.tasks(self.runs()[month][0], "ordered").items()}


def test_a_backfill_learns_side_by_side_and_its_gates_pass_in_order(airflow):
    ordered = Ordered(airflow, airflow.home.path / "in_order")
    assert ordered.backfill(4, 7) == dict.fromkeys((4, 5, 6, 7), "success")
    noted = ordered.noted()
    gates = [words for words in noted if not words.startswith("learn")]
    assert gates == [f"{step} {month}" for month in (4, 5, 6, 7) for step in ("judge", "push")]
    assert noted.index("learn 7") < noted.index("judge 4"), "what is before the gates runs side by side"
    for month in (5, 6, 7):
        run = ordered.runs()[month][0]
        path = f"dags/ordered/dagRuns/{run}/taskInstances/await_previous_push"
        assert airflow.ask("GET", path)["try_number"] == 1
        log = str(airflow.ask("GET", f"{path}/logs/1"))
        assert log.count("Waiting for push of") == 1, "it is put off once, until push has ended"


def test_a_failed_month_stops_the_gates_behind_it_and_a_person_lets_them_go_on(airflow):
    ordered = Ordered(airflow, airflow.home.path / "stopped")
    (ordered.notes / "fail-9").touch()
    assert ordered.backfill(8, 11) == {8: "success", 9: "failed", 10: "failed", 11: "failed"}
    for month in (10, 11):
        assert ordered.states(month) == {
            "learn": "success",
            "await_previous_push": "failed",
            "judge": "upstream_failed",
            "push": "upstream_failed",
        }
    october = ordered.runs()[10][0]
    log = airflow.ask("GET", f"dags/ordered/dagRuns/{october}/taskInstances/await_previous_push/logs/1")
    assert "push of the run before" in str(log) and "mark its task push as success" in str(log)
    ordered.mark(10, "skipped")
    assert ordered.cleared(11)["await_previous_push"] == "failed", "October has not waited for September"
    ordered.mark(10, "failed")
    # As the message says: without September.
    ordered.mark(9, "success")
    again = {"dag_run_id": october, "task_ids": ["await_previous_push"], "include_downstream": True}
    options = {"dry_run": False, "only_failed": True, "include_future": True, "reset_dag_runs": True}
    airflow.ask("POST", "dags/ordered/clearTaskInstances", again | options)
    until(lambda: [ordered.runs()[month][1] for month in (10, 11)] == ["success"] * 2, "October and November go on")
    assert [words for words in ordered.noted() if words.startswith("push")] == ["push 8", "push 10", "push 11"]
    assert ordered.noted().count("learn 10") == 1, "what had been learned was not learned again"
    ordered.mark(10, "skipped")
    ordered.mark(9, "failed")
    assert ordered.cleared(11)["push"] == "success", "October's gate has gone on"


def test_two_backfills_of_one_dag_do_not_overlap_and_running_runs_are_left_alone(airflow):
    ordered = Ordered(airflow, airflow.home.path / "overlap")
    span = {"from_date": "2014-01-01T05:00:00Z", "to_date": "2014-02-01T05:00:00Z", "max_active_runs": 4}
    body = {"dag_id": "ordered", **span, "dag_run_conf": {"notes": str(ordered.notes)}}
    first = airflow.ask("POST", "backfills", body)
    with pytest.raises(urllib.error.HTTPError) as refused:
        airflow.ask("POST", "backfills", body)
    assert refused.value.code == http.HTTPStatus.CONFLICT
    until(lambda: airflow.ask("GET", f"backfills/{first['id']}")["completed_at"], "the first backfill ends")
    assert [words for words in ordered.noted() if words.startswith("push")] == ["push 1", "push 2"]


def test_a_run_triggered_by_hand_in_between_is_not_taken_for_the_run_before(airflow):
    """The trigger form proposes now as the logical date: in the middle of January that is a run of December."""
    ordered = Ordered(airflow, airflow.home.path / "by_hand")
    notes = {"notes": str(ordered.notes)}
    by_hand = {"dag_run_id": "middle-of-january", "logical_date": "2013-01-15T12:00:00Z", "conf": notes}
    run = airflow.ask("POST", "dags/ordered/dagRuns", by_hand)
    assert run["data_interval_end"] == "2013-01-01T05:00:00Z"
    assert {state for state, _ in airflow.ended("middle-of-january", "ordered").values()} == {"success"}
    (ordered.notes / "hold-1").touch()
    span = {"from_date": "2013-01-01T05:00:00Z", "to_date": "2013-02-01T05:00:00Z", "max_active_runs": 2}
    made = airflow.ask("POST", "backfills", {"dag_id": "ordered", **span, "dag_run_conf": notes})
    january, february = (ordered.runs()[month][0] for month in (1, 2))
    gate = "await_previous_push"
    until(lambda: airflow.tasks(february, "ordered")[gate]["state"] in ("deferred", "success"), "February's gate")
    log = str(airflow.ask("GET", f"dags/ordered/dagRuns/{february}/taskInstances/{gate}/logs/1"))
    assert f"Waiting for push of {january}" in log
    (ordered.notes / "hold-1").unlink()
    airflow.backfilled(made)
    gates = [words for words in ordered.noted() if not words.startswith("learn")]
    assert gates == ["judge 12", "push 12", "judge 1", "push 1", "judge 2", "push 2"]
