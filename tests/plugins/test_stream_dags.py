"""The DAGs that keep streams running: each names a declaration that there is."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions._internal.contextmanager import DagContext

from airtight.home import ROOT
from streaming.learning.declaration import declared as learning_of
from streaming.windows.declaration import declared, modules_of

LEARNING = "flight_delays_learning_stream"


def parsed(name: str) -> tuple[dict[str, DAG], dict[str, Any]]:
    """What Airflow finds in a file, by the DAG's id, and the names of its module."""
    kept = DagContext.current_autoregister_module_name, set(DagContext.autoregistered_dags)
    DagContext.current_autoregister_module_name = __name__
    DagContext.autoregistered_dags.clear()
    try:
        names = runpy.run_path(str(ROOT / "dags" / f"{name}.py"))
        return {dag.dag_id: dag for dag, _ in DagContext.autoregistered_dags}, names
    finally:
        DagContext.current_autoregister_module_name = kept[0]
        DagContext.autoregistered_dags.clear()
        DagContext.autoregistered_dags.update(kept[1])


@pytest.mark.parametrize("file", ["flight_delays_stream", "bike_demand_stream"])
def test_each_stream_has_a_dag_that_keeps_it_running_and_one_that_stops_it(file: str) -> None:
    dags, names = parsed(file)
    streams = names.get("STREAMS", {"bike_demand": {"declaration": "bike_demand"}})
    wanted = {f"{stream}_{what}" for stream in streams for what in ("stream", "stop")}
    assert {*dags} - {LEARNING} == wanted <= {*names}, "Airflow finds them in the module, too"
    for stream, settings in streams.items():
        dag, stop = dags[f"{stream}_stream"], dags[f"{stream}_stop"]
        assert (dag.is_paused_upon_creation, dag.max_active_runs, dag.max_consecutive_failed_dag_runs) == (True, 1, 12)
        assert dag.catchup is False and dag.timetable.__class__.__name__ == "ContinuousTimetable"
        assert [*dag.task_dict] == ["ensure", "watch"]
        assert dag.get_task("watch").upstream_task_ids == {"ensure"}
        assert f"`{dag.dag_id}`" in dag.doc_md
        assert [*stop.task_dict] == ["stop"]
        for task in (*dag.tasks, *stop.tasks):
            assert (task.stream, task.declaration) == (stream, settings["declaration"])
        assert declared(settings["declaration"]).name == stream
        assert all(find_spec(module) for module in modules_of(settings["declaration"]))


def test_the_learner_runs_one_after_the_other() -> None:
    dag = parsed("flight_delays_stream")[0][LEARNING]
    assert (dag.max_active_runs, dag.catchup, dag.is_paused_upon_creation) == (1, False, True)
    (task,) = dag.tasks
    assert find_spec(task.module)
    assert learning_of(task.arguments[0]).report == LEARNING.removesuffix("_stream")
    assert task.arguments[1:3] == ("--topic", "--server")
