"""The graphs: what waits for the run before, and what starts from its champion."""

from __future__ import annotations

import runpy

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError

from airtight.home import ROOT, Home
from pipelines.flight_delays.settings import WARM
from plugins.tfx_airflow import TfxDag
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline

pytestmark = pytest.mark.slow
GATE = "await_previous_push"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    return Home.current()


def compiled_and_rendered(home: Home, source: str) -> tuple[CompiledPipeline, DAG]:
    compiled = CompiledPipeline.read(compile_pipeline(source, home))
    return compiled, TfxDag(source, schedule=None)


def upstream(dag: DAG) -> dict[str, set[str]]:
    return {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}


def constant(compiled: CompiledPipeline, node: str, parameter: str) -> str:
    nodes = {n["pipeline_node"]["node_info"]["id"]: n["pipeline_node"] for n in compiled.ir["nodes"]}
    return nodes[node]["parameters"]["parameters"][parameter]["field_value"]["string_value"]


def test_months_are_learned_side_by_side_and_judged_in_order(home):
    compiled, dag = compiled_and_rendered(home, "flight_delays")
    waits_for = upstream(dag)
    assert waits_for["train"] == {"transform"} and waits_for[GATE] == {"train"}
    assert waits_for["champion"] == {GATE} and waits_for["evaluate"] == {"champion"}
    assert compiled.pipeline == constant(compiled, "push", "model_name") == "flight_delays"


def test_with_a_warm_start_training_waits_too_and_what_is_before_it_does_not(home):
    compiled, dag = compiled_and_rendered(home, WARM.name)
    waits_for = upstream(dag)
    assert waits_for[GATE] == {"transform"} and waits_for["champion"] == {GATE}
    assert waits_for["train"] == {"champion"} and waits_for["evaluate"] == {"train"}
    assert waits_for["monitor"] == {"push"}
    names = (compiled.pipeline, dag.dag_id, constant(compiled, "push", "model_name"))
    assert names == (WARM.name,) * 3, "nothing of it touches the other's"


def dag_of(file: str, name: str) -> DAG:
    return runpy.run_path(str(ROOT / "dags" / file))[name]


def test_what_a_run_leaves_to_a_release_is_released_by_a_dag_of_its_own(home):
    compiled, _ = compiled_and_rendered(home, "flight_delays")
    assert "release" in {parameter.name for parameter in compiled.parameters}
    dag = dag_of("flight_delays.py", "flight_delays")
    assert upstream(dag)["start_release"] == {"push"} and upstream(dag)["report"] == {"push", "monitor"}
    assert dag.get_task("start_release").trigger_dag_id == "flight_delays_release"
    warm, _ = compiled_and_rendered(home, WARM.name)
    assert "release" not in {parameter.name for parameter in warm.parameters}
    assert constant(warm, "push", "release") == "at_once"


def test_a_release_is_watched_between_start_and_judge_and_ended_whatever_becomes_of_them(home):
    compiled_and_rendered(home, "flight_delays_release")
    dag = dag_of("flight_delays_operations.py", "flight_delays_release")
    waits_for = upstream(dag)
    assert (
        waits_for["watch"] == {"start"}
        and {"watch"} <= waits_for["judge"]
        and waits_for["finish"] == {"start", "judge"}
    )
    finish = dag.get_task("finish")
    assert dag.get_task("start").is_setup and finish.is_teardown, "a failure between them stays the run's"
    assert finish.on_failure_fail_dagrun
    assert dag.max_active_runs == 1
    share = dag.params.get_param("share")
    assert share.schema["type"] == "number" and share.description
    for name, wrong in (("share", 0), ("mode", "blue"), ("owner", "me"), ("watched", "long enough")):
        with pytest.raises(ParamValidationError):
            dag.params.get_param(name).resolve(wrong)
    assert set(dag.get_task("start").overrides) == {"owner"} and set(dag.get_task("judge").overrides) == {"watched"}
