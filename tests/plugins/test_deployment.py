"""A real Airflow while its pipelines change: a run ends with the pipeline that it began with."""

from pathlib import Path

import pytest

from airtight.home import Home
from tests.plugins.airflow_services import Airflow
from tests.waiting import until

pytestmark = pytest.mark.slow

DAG = """
from datetime import timedelta
from airflow.sdk import DAG, task_group
from plugins.tfx_airflow import TfxDag, TfxTaskGroup

options = dict(schedule=None, is_paused_upon_creation=False,
               default_args={"retries": 1, "retry_delay": timedelta(seconds=1)})
pipeline = dict(pipeline="beside_words:create", arguments={"gate": GATE})

with DAG("deployed_mapped", **options) as mapped:
    @task_group
    def each(repeat):
        TfxTaskGroup(**pipeline, group_id="steps", overrides={"repeat": repeat})

    each.expand(repeat=[3, 4])

dag = TfxDag(**pipeline, dag_id="deployed", **options)
"""
PIPELINE = """
import time
from pathlib import Path
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from airtight.errors import TransientError
from tests.tiny_pipeline import steps

@component
def hold(words: InputArtifact[steps.Words], held: OutputArtifact[steps.Words], gate: Parameter[str]) -> None:
    '''Waits at the gate.'''
    Path(gate, "waits").write_text("here")
    while not Path(gate, "open").exists():
        time.sleep(0.1)
        if Path(gate, "fail").exists():
            Path(gate, "fail").unlink()
            raise TransientError("Not this time.", remedy="Try again.")
    Path(held.uri, "words.txt").write_text(Path(words.uri, "words.txt").read_text())

def create(gate: str) -> Pipeline:
    text, repeat = RuntimeParameter("{name}", str, "{text}"), RuntimeParameter("repeat", int, {repeat})
    write = steps.write(interval_start="", interval_end="", text=text, repeat=repeat).with_id("write")
    held = hold(words=write.outputs["words"], gate=gate).with_id("hold")
    {order}
    return Pipeline(pipeline_name="deployed", components=[write, held, count])
"""
HOLD_FIRST = 'count = steps.count(words=held.outputs["held"]).with_id("count")'
COUNT_FIRST = 'count = steps.count(words=write.outputs["words"]).with_id("count"); held.add_upstream_node(count)'


SEEN_SOON = {
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "1",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "2",
}
"""So that a change need not be waited for half a minute."""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    with Airflow(Home(tmp_path_factory.mktemp("home")), {}, more=SEEN_SOON) as running:
        yield running


class Deployed:
    """A DAG whose pipeline lies in the DAG folder, beside the DAG file."""

    def __init__(self, airflow: Airflow) -> None:
        self.airflow, self.dags = airflow, airflow.home.path / "airflow-dags"
        self.gate = airflow.home.path / "gate"
        self.gate.mkdir(exist_ok=True)
        (self.dags / "deployed.py").write_text(DAG.replace("GATE", repr(str(self.gate))))

    def deploy(self, name: str, text: str, repeat: int, order: str = HOLD_FIRST) -> None:
        """Changes the pipeline, and waits until the DAG is of it."""
        values = {"{name}": name, "{text}": text, "{repeat}": str(repeat), "{order}": order}
        module = PIPELINE
        for key, value in values.items():
            module = module.replace(key, value)
        (self.dags / "beside_words.py").write_text(module)

        def is_seen() -> bool:
            known = {dag["dag_id"] for dag in self.airflow.ask("GET", "dags")["dags"]}
            params = self.airflow.ask("GET", "dags/deployed/details")["params"] if "deployed" in known else {}
            edges = self.airflow.ask("GET", "dags/deployed/tasks/count")["downstream_task_ids"] if params else []
            return params.get(name, {}).get("value") == text and (edges == ["hold"]) == (order == COUNT_FIRST)

        until(is_seen, f"the DAG has the default {text}")

    def begin(self, run: str, dag: str = "deployed") -> None:
        for file in self.gate.iterdir():
            file.unlink()
        self.airflow.ask("POST", f"dags/{dag}/dagRuns", {"dag_run_id": run, "logical_date": None})
        until((self.gate / "waits").exists, "the second node waits")

    def words(self, run: str, task: str = "hold", dag: str = "deployed", index: int = -1) -> str:
        entry = f"xcomEntries/return_value?deserialize=true&map_index={index}"
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/{entry}"
        value = self.airflow.ask("GET", path)["value"]
        return (Path(value["outputs"]["held"][0]["uri"]) / "words.txt").read_text()


@pytest.fixture(scope="module")
def deployed(airflow):
    return Deployed(airflow)


def test_a_run_ends_with_the_pipeline_it_began_with_and_a_cleared_one_takes_the_new(airflow, deployed):
    deployed.deploy("text", "old", 2)
    deployed.begin("first")
    deployed.deploy("words", "new", 5)
    (deployed.gate / "fail").touch()
    until(lambda: not (deployed.gate / "fail").exists(), "the node fails")
    (deployed.gate / "open").touch()
    ended = airflow.ended("first", "deployed")
    assert ended == {"write": ("success", 1), "hold": ("success", 2), "count": ("success", 1)}, "the retry, too"
    assert deployed.words("first") == "old old"
    body = {"dry_run": False, "dag_run_id": "first", "only_failed": False, "reset_dag_runs": True}
    airflow.ask("POST", "dags/deployed/clearTaskInstances", body)
    assert {state for state, _ in airflow.ended("first", "deployed").values()} == {"success"}
    assert deployed.words("first") == "new new new new new"


def test_a_task_that_the_dag_has_earlier_now_waits_for_what_it_needs_in_the_run(airflow, deployed):
    deployed.deploy("text", "before", 2)
    deployed.begin("second")
    deployed.deploy("text", "after", 3, COUNT_FIRST)
    until(lambda: airflow.tasks("second", "deployed")["count"]["state"] == "up_for_reschedule", "count waits for hold")
    (deployed.gate / "open").touch()
    ended = airflow.ended("second", "deployed")
    assert ended == {"write": ("success", 1), "hold": ("success", 1), "count": ("success", 1)}
    assert deployed.words("second") == "before before"
    log = str(airflow.ask("GET", "dags/deployed/dagRuns/second/taskInstances/count/logs/1"))
    assert "The pipeline changed since this run began" in log
    assert "Counted 2 words" in log


def test_each_index_of_a_mapped_group_waits_for_what_it_needs_in_the_run(airflow, deployed):
    deployed.deploy("text", "before", 1)
    deployed.begin("third", "deployed_mapped")

    def states(node: str) -> list[str]:
        tasks = airflow.ask("GET", "dags/deployed_mapped/dagRuns/third/taskInstances")["task_instances"]
        return [task["state"] for task in tasks if task["task_id"] == f"each.steps.{node}"]

    until(lambda: states("hold") == ["running"] * 2, "both wait at the gate")
    deployed.deploy("text", "after", 2, COUNT_FIRST)
    until(lambda: states("count") == ["up_for_reschedule"] * 2, "each index of count waits for hold")
    (deployed.gate / "open").touch()
    assert set(airflow.ended("third", "deployed_mapped").values()) == {("success", 1)}
    held = [deployed.words("third", "each.steps.hold", "deployed_mapped", index) for index in range(2)]
    assert held == ["before before before", "before before before before"]
