"""The graphs: what waits for the run before, and what starts from its champion."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG

from airtight.home import Home
from pipelines.flight_delays import settings
from plugins.tfx_airflow import TfxDag
from runtime.bundle import Bundle
from runtime.compile import compile_pipeline

pytestmark = pytest.mark.slow
GATE = "await_previous_push"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    return Home.current()


def compiled(home: Home, source: str) -> tuple[Bundle, DAG]:
    bundle = Bundle.read(compile_pipeline(source, home))
    return bundle, TfxDag(source, schedule=None)


def upstream(dag: DAG) -> dict[str, set[str]]:
    return {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}


def constant(bundle: Bundle, node: str, parameter: str) -> str:
    nodes = {n["pipeline_node"]["node_info"]["id"]: n["pipeline_node"] for n in bundle.ir["nodes"]}
    return nodes[node]["parameters"]["parameters"][parameter]["field_value"]["string_value"]


def test_months_are_learned_side_by_side_and_judged_in_order(home):
    bundle, dag = compiled(home, "flight_delays")
    told = upstream(dag)
    assert told["train"] == {"transform"} and told[GATE] == {"train"}
    assert told["champion"] == {GATE} and told["evaluate"] == {"champion"}
    assert bundle.pipeline == constant(bundle, "push", "model_name") == "flight_delays"


def test_with_a_warm_start_training_waits_too_and_what_is_before_it_does_not(home):
    bundle, dag = compiled(home, settings.WARM_PIPELINE)
    told = upstream(dag)
    assert told[GATE] == {"transform"} and told["champion"] == {GATE}
    assert told["train"] == {"champion"} and told["evaluate"] == {"train"}
    assert told["monitor"] == {"transform"}
    names = (bundle.pipeline, dag.dag_id, constant(bundle, "push", "model_name"))
    assert names == (settings.WARM_NAME,) * 3, "nothing of it touches the other's"
