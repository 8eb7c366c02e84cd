"""A real Airflow: what a run, a try and a mapped index are, and whose results they see."""

import json
import os
import signal
from pathlib import Path

import pytest

from airtight.home import Home
from benchmarks.killer import descendants
from runtime.protocol import run_key
from tests.plugins.airflow_services import DAGS, Airflow
from tests.tiny_pipeline.running import TINY
from tests.waiting import until

pytestmark = pytest.mark.slow

MAPPED = f"""
from datetime import timedelta
from airflow.sdk import DAG, task_group
from plugins.tfx_airflow import TfxNodeOperator, TfxTaskGroup

retries = {{"retries": 2, "retry_delay": timedelta(seconds=1)}}
shared = {{"schedule": None, "is_paused_upon_creation": False, "default_args": retries}}

with DAG("mapped", **shared):

    @task_group
    def one(text, trouble):
        TfxTaskGroup({TINY!r}, group_id="tiny", overrides={{"text": text, "trouble": trouble}})

    one.expand_kwargs(INDICES)

with DAG("expanded", **shared):
    node = {{"pipeline": {TINY!r}}}
    write = TfxNodeOperator.partial(task_id="write", node="write", **node).expand(
        overrides=[{{"text": "one"}}, {{"text": "two"}}])
    copy = TfxNodeOperator.partial(task_id="copy", node="copy", **node).expand(overrides=[{{}}, {{}}])
    write >> copy

with DAG("lenient", **shared):
    write = TfxNodeOperator(task_id="first", node="write", **node)
    copy = TfxNodeOperator(task_id="second", node="copy", **node)
    count = TfxNodeOperator(task_id="third", node="count", trigger_rule="always", retries=500, **node)
    write >> copy >> count
"""


def indices(home: Home) -> list[dict[str, str]]:
    """The arguments of each index; the second meets trouble once."""
    return [
        {"text": "one", "trouble": "none"},
        {"text": "two", "trouble": f"once:{home.path / 'mapped_once'}"},
        {"text": "three", "trouble": "none"},
    ]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    with Airflow(home, {"words": DAGS, "mapped": f"INDICES = {indices(home)!r}\n{MAPPED}"}) as running:
        yield running


def words(airflow: Airflow, run: str, task: str = "write", dag: str = "words", index: int = -1) -> str:
    """What a task wrote, by its XCom."""
    path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value?deserialize=true&map_index={index}"
    outcome = airflow.ask("GET", path)["value"]
    ((artifact,),) = outcome["outputs"].values()
    return (Path(artifact["uri"]) / "words.txt").read_text()


def log_of(airflow: Airflow, run: str, task: str, number: int, dag: str = "words") -> str:
    return json.dumps(airflow.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{number}"))


def delete(airflow: Airflow, run: str, dag: str = "words") -> None:
    airflow.ask("DELETE", f"dags/{dag}/dagRuns/{run}")


ALL_DONE = {task: ("success", 1) for task in ("write", "copy", "count")}


def test_a_run_that_is_deleted_and_created_again_runs_and_shows_its_own_values(airflow):
    airflow.trigger("again", text="old")
    assert airflow.ended("again") == ALL_DONE
    delete(airflow, "again")
    airflow.trigger("again", text="new")
    assert airflow.ended("again") == ALL_DONE
    assert words(airflow, "again") == words(airflow, "again", "copy") == "new new new"
    assert airflow.executions("again", "copy") == ["COMPLETE"] * 2


def test_a_backfill_after_its_runs_were_deleted_runs_again(airflow):
    def backfill() -> list[str]:
        airflow.backfill("words", "2013-10-01T04:00:00Z", "2013-10-01T04:00:00Z")
        runs = airflow.ask("GET", "dags/words/dagRuns?run_type=backfill&limit=100")["dag_runs"]
        return [run["dag_run_id"] for run in runs]

    (run,) = backfill()
    assert airflow.ended(run) == ALL_DONE
    delete(airflow, run)
    assert backfill() == [run]
    assert airflow.ended(run) == ALL_DONE
    assert airflow.executions("backfill", "write") == ["COMPLETE"] * 2


def test_a_clear_that_leaves_the_run_as_it_is_runs_the_node_again(airflow):
    note = airflow.home.path / "left"
    run = airflow.trigger("left", trouble=f"wait:{note}")
    until(note.exists, "the run is under way")
    airflow.clear(run, "write", reset_dag_runs=False)
    until(lambda: airflow.executions(run, "write") == ["COMPLETE"] * 2, "the node has run again")
    note.with_suffix(".go").touch()
    assert airflow.ended(run) == {"write": ("success", 2), "copy": ("success", 1), "count": ("success", 1)}
    assert airflow.ask("GET", f"dags/words/dagRuns/{run}")["state"] == "success"


def test_a_node_whose_task_died_before_it_reported_its_success_is_not_run_twice(airflow):
    note = airflow.home.path / "unreported"
    run = airflow.trigger("unreported", trouble=f"wait:{note}")
    until(note.exists, "the node is at work")
    for pid in (airflow.scheduler.pid, *descendants(airflow.scheduler.pid)):
        os.kill(pid, signal.SIGSTOP)
    note.with_suffix(".go").touch()
    until(lambda: airflow.executions(run, "copy") == ["COMPLETE"], "the node has succeeded, and nobody hears it")
    airflow.kill_scheduler()
    airflow.start_scheduler()
    states = {task: state for task, (state, _) in airflow.ended(run).items()}
    assert states == dict.fromkeys(("write", "copy", "count"), "success")
    assert airflow.executions(run, "copy") == ["COMPLETE"]
    assert "its task died before reporting it" in log_of(airflow, run, "copy", airflow.tasks(run)["copy"]["try_number"])
    airflow.clear(run, "copy")
    assert airflow.ended(run)["copy"][0] == "success"
    assert airflow.executions(run, "copy") == ["COMPLETE"] * 2, "a Clear runs it again all the same"


def test_a_task_marked_done_in_a_run_created_again_has_no_output_of_the_run_that_was_deleted(airflow):
    airflow.trigger("marked")
    assert airflow.ended("marked") == ALL_DONE
    delete(airflow, "marked")
    airflow.trigger("marked", trouble="terminal")
    assert airflow.ended("marked")["copy"][0] == "failed"
    airflow.ask("PATCH", "dags/words/dagRuns/marked/taskInstances/copy", {"new_state": "success"})
    airflow.clear("marked", "count")
    state, number = airflow.ended("marked")["count"]
    assert state == "failed"
    assert "The upstream node copy has no output in this run" in log_of(airflow, "marked", "count", number)


def test_a_consumer_waits_for_a_producer_that_runs_again_and_takes_nothing_of_one_that_was_skipped(airflow):
    note = airflow.home.path / "lenient"
    note.with_suffix(".go").touch()
    run = airflow.trigger("lenient", "lenient", trouble=f"wait:{note}")
    assert {state for state, _ in airflow.ended(run, "lenient").values()} == {"success"}
    tries = airflow.tasks(run, "lenient")["third"]["try_number"]
    assert "The upstream node copy has not ended yet" in log_of(airflow, run, "third", 1, "lenient")
    note.with_suffix(".go").unlink()
    airflow.clear(run, "second", "third", dag="lenient")
    until(lambda: airflow.tasks(run, "lenient")["third"]["try_number"] > tries + 1, "the consumer is tried again")
    assert airflow.tasks(run, "lenient")["second"]["state"] == "running"
    note.with_suffix(".go").touch()
    assert {state for state, _ in airflow.ended(run, "lenient").values()} == {"success"}
    airflow.ask("PATCH", f"dags/lenient/dagRuns/{run}/taskInstances/second", {"new_state": "skipped"})
    airflow.clear(run, "third", dag="lenient")
    state, number = airflow.ended(run, "lenient")["third"]
    assert state == "failed"
    assert "The upstream node copy has no output in this run" in log_of(airflow, run, "third", number, "lenient")


def executions(airflow: Airflow, dag: str, group: str, run: str, task: str, *pipeline: str) -> list[int]:
    """How many executions each index has; an operator that stands alone names its pipeline."""
    keys = [run_key(dag, group, str(index), run, *pipeline) for index in range(3)]
    return [len(airflow.executions_of(key, task)) for key in keys]


def test_each_index_of_a_mapped_task_group_is_a_run_for_itself(airflow):
    run = airflow.trigger("indices", "mapped")

    def tries() -> dict[tuple[str, int], tuple[str, int]]:
        airflow.ended(run, "mapped")
        tasks = airflow.ask("GET", f"dags/mapped/dagRuns/{run}/taskInstances")["task_instances"]
        return {(t["task_id"], t["map_index"]): (t["state"], t["try_number"]) for t in tasks}

    def copied() -> list[str]:
        return [words(airflow, run, "one.tiny.copy", "mapped", index) for index in range(3)]

    tasks = [(f"one.tiny.{node}", index) for node in ("write", "copy", "count") for index in range(3)]
    expected = dict.fromkeys(tasks, ("success", 1)) | {("one.tiny.copy", 1): ("success", 2)}
    assert tries() == expected
    assert copied() == ["one one one", "two two two", "three three three"]
    assert executions(airflow, "mapped", "one.tiny", run, "copy") == [1, 2, 1]
    airflow.clear(run, ("one.tiny.write", 2), dag="mapped", downstream=True)
    cleared = {(f"one.tiny.{node}", 2): ("success", 2) for node in ("write", "copy", "count")}
    assert tries() == expected | cleared
    assert copied() == ["one one one", "two two two", "three three three"]
    assert executions(airflow, "mapped", "one.tiny", run, "write") == [1, 1, 2]
    assert executions(airflow, "mapped", "one.tiny", run, "copy") == [1, 2, 2]


def test_each_index_of_an_expanded_operator_is_a_run_for_itself(airflow):
    run = airflow.trigger("operators", "expanded")
    assert {state for state, _ in airflow.ended(run, "expanded").values()} == {"success"}
    assert [words(airflow, run, "copy", "expanded", index) for index in range(2)] == ["one one one", "two two two"]
    airflow.clear(run, ("copy", 1), dag="expanded")
    airflow.ended(run, "expanded")
    assert executions(airflow, "expanded", "", run, "copy", TINY) == [1, 2, 0]
    assert [words(airflow, run, "copy", "expanded", index) for index in range(2)] == ["one one one", "two two two"]


def test_another_airflow_on_the_same_metadata_store_runs_its_own(airflow):
    """As after the loss of Airflow's database; and as two Airflows do that share a store."""
    airflow.trigger("shared", text="old")
    assert airflow.ended("shared") == ALL_DONE
    with Airflow(airflow.home, {"words": DAGS}, "second") as other:
        other.trigger("shared", text="new")
        assert other.ended("shared") == ALL_DONE
        assert words(other, "shared", "copy") == "new new new"
        airflow.clear("shared", "copy")
        assert airflow.ended("shared")["copy"] == ("success", 2)
        assert words(airflow, "shared", "copy") == "old old old", "each sees its own outputs"
        other.clear("shared", "copy")
        assert other.ended("shared")["copy"] == ("success", 2)
        assert words(other, "shared", "copy") == "new new new"
        assert airflow.executions("shared", "copy") == ["COMPLETE"] * 4
