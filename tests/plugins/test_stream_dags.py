"""The DAGs that keep programs running: each names a program, a module and a topic that there are."""

from __future__ import annotations

import configparser
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions._internal.contextmanager import DagContext

from airtight.home import ROOT
from pipelines.flight_delays.topics import TOPICS
from services.supervisor import CONFIGURATION, ON_DEMAND, PROGRAMS

FILE = ROOT / "dags" / "flight_delays_stream.py"
CONF = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
CONF.read(CONFIGURATION)


@pytest.fixture(scope="module")
def parsed() -> tuple[dict[str, DAG], dict[str, dict]]:
    """What Airflow finds in the file, by the DAG's id, and the declaration."""
    kept = DagContext.current_autoregister_module_name, set(DagContext.autoregistered_dags)
    DagContext.current_autoregister_module_name = __name__
    DagContext.autoregistered_dags.clear()
    try:
        told = runpy.run_path(str(FILE))
        return {dag.dag_id: dag for dag, _ in DagContext.autoregistered_dags}, told["DAGS"]
    finally:
        DagContext.current_autoregister_module_name = kept[0]
        DagContext.autoregistered_dags.clear()
        DagContext.autoregistered_dags.update(kept[1])


def test_each_program_has_a_dag_of_its_own_which_starts_paused_and_runs_one_after_the_other(parsed) -> None:
    dags, declared = parsed
    assert set(dags) == {f"{stream}_stream" for stream in declared}
    for dag in dags.values():
        assert (dag.is_paused_upon_creation, dag.max_active_runs, dag.max_consecutive_failed_dag_runs) == (True, 1, 3)
        assert dag.catchup is False and dag.timetable.__class__.__name__ == "ContinuousTimetable"
        assert [*dag.task_dict] == ["ensure", "watch"]
        assert dag.get_task("watch").upstream_task_ids == {"ensure"}
        assert dag.doc_md and all(f"`{other}`" in dag.doc_md for other in dags)


def test_what_is_declared_is_there(parsed) -> None:
    dags, declared = parsed
    topics, records = {topic.name for topic in TOPICS}, set()
    for stream, told in declared.items():
        ensure, watch = dags[f"{stream}_stream"].get_task("ensure"), dags[f"{stream}_stream"].get_task("watch")
        assert (ensure.stream, ensure.program, ensure.module) == (watch.stream, watch.program, watch.module)
        assert (ensure.stream, ensure.topic, ensure.needs) == (stream, told["topic"], told["needs"])
        assert told["program"] in ON_DEMAND and set(told["needs"]) <= set(PROGRAMS) and told["topic"] in topics
        # What is started is the module whose code is compared, and it leaves a record of that name.
        assert CONF[f"program:{told['program']}"]["command"].startswith(f"python -m {told['module']}")
        found = find_spec(told["module"])
        assert found is not None and found.origin is not None
        assert f'"{stream}"' in Path(found.origin).read_text(encoding="utf-8")
        records.add((told["program"], CONF[f"program:{told['program']}"]["command"]))
    assert len(records) == len(declared)
