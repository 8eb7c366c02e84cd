"""The DAG that a compiled pipeline becomes."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError

from airtight.errors import TerminalError
from airtight.parameters import Parameter
from plugins.tfx_airflow import TfxDag, TfxTaskGroup
from plugins.tfx_airflow.params import form, values
from runtime import client
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline, Node, path_of
from runtime.protocol import Outcome
from tests.tiny_pipeline.running import TINY


def edges(dag: DAG) -> dict[str, set[str]]:
    return {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}


def test_one_task_for_each_node_with_its_edges_and_documentation(home):
    dag = TfxDag(TINY, schedule=None)
    assert dag.dag_id == "tiny"
    assert edges(dag) == {"write": {"copy"}, "copy": {"count"}, "count": set()}
    assert dag.doc_md.startswith("# Words")
    assert "Writes the text" in dag.get_task("write").doc_md
    assert "`words`: Words" in dag.get_task("write").doc_md
    assert "write" in dag.get_task("write").operator_name


def test_it_can_be_serialized_as_the_scheduler_does(home):
    from airflow.serialization.serialized_objects import DagSerialization

    told = DagSerialization.to_dict(TfxDag(TINY, schedule=None))
    json.dumps(told)
    assert {task["__var"]["task_id"] for task in told["dag"]["tasks"]} == {"write", "copy", "count"}


def test_the_trigger_form_is_typed(home):
    params = TfxDag(TINY, schedule=None, params={"more": 1}).params
    assert dict(params) == {"interval": None, "text": "word", "repeat": 3, "trouble": "none", "more": 1}
    repeat = params.get_param("repeat")
    assert repeat.schema == {"type": "integer", "minimum": 0, "maximum": 100}
    assert repeat.description == "How often."
    for name, wrong in [("repeat", 101), ("repeat", "3"), ("interval", "June"), ("text", 3)]:
        with pytest.raises(ParamValidationError):
            params.get_param(name).resolve(wrong)
    for right in ("2013-06", "2013-06-14", "2013-06-01/2013-07-01", None):
        assert params.get_param("interval").resolve(right) == right


def test_a_text_that_is_empty_by_default_may_stay_empty_on_the_form(home):
    compiled = CompiledPipeline.read(path_of(TINY, home))
    optional = replace(compiled, parameters=(Parameter("reason", "str", ""),))
    reason = form(optional)["reason"]
    assert (reason.resolve(), reason.resolve(None), reason.schema["type"]) == ("", None, ["null", "string"])
    assert values(optional, {"reason": None, "interval": "2013-06"}, (None, None))["reason"] == ""
    assert form(replace(optional, required=("reason",)))["reason"].schema["type"] == "string"


def test_options_of_nodes_reach_airflow(home):
    path = path_of(TINY, home)
    compiled = CompiledPipeline.read(path)
    chosen = replace(
        compiled.nodes[0],
        retries=4,
        timeout_s=60,
        trigger="ALL_UPSTREAM_NODES_COMPLETED",
        airflow={"pool": "gpu", "retry_delay_s": 5, "cold": True, "depends_on_past": True, "resources": {"gpus": 1}},
    )
    replace(compiled, nodes=(chosen, *compiled.nodes[1:])).write(path)
    task = TfxDag(TINY, schedule=None, default_args={"retries": 1}).get_task("write")
    assert (task.retries, task.execution_timeout, task.trigger_rule) == (4, timedelta(seconds=60), "all_done")
    assert (task.pool, task.retry_delay, task.cold, task.depends_on_past) == ("gpu", timedelta(seconds=5), True, True)
    assert task.resources.gpus.qty == 1


def test_what_ends_a_resource_is_a_teardown_and_a_failure_of_the_run(home):
    from airflow.serialization.serialized_objects import DagSerialization

    path = path_of(TINY, home)
    compiled = CompiledPipeline.read(path)
    last = replace(compiled.nodes[2], ends="write", trigger="LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS")
    replace(compiled, nodes=(*compiled.nodes[:2], last)).write(path)
    dag = TfxDag(TINY, schedule=None)
    assert edges(dag) == {
        "write": {"copy", "count"},
        "copy": {"count", "succeeded"},
        "count": set(),
        "succeeded": set(),
    }, "with the teardown as its only end, a run whose copy failed would be green"
    begins, ends = dag.get_task("write"), dag.get_task("count")
    assert begins.is_setup
    assert (ends.is_teardown, ends.trigger_rule, ends.on_failure_fail_dagrun) == (True, "all_done_setup_success", True)
    dag.check_cycle()
    dag.validate()
    json.dumps(DagSerialization.to_dict(dag))


def test_a_task_group_stands_inside_a_dag(home):
    with DAG("around", schedule=None) as dag:
        first = TfxTaskGroup(TINY, group_id="first", prefix="first_")
        second = TfxTaskGroup(TINY, group_id="second", prefix="second_")
        first >> second
    assert edges(dag)["first.count"] == {"second.write"}
    assert {"interval", "first_text", "second_text"} <= set(dag.params)
    assert dag.get_task("first.write").group != dag.get_task("second.write").group


def test_a_task_group_outside_of_a_dag_is_refused(home):
    with pytest.raises(TerminalError, match="outside of a DAG"):
        TfxTaskGroup(TINY)


def test_a_fresh_compiled_pipeline_is_not_compiled_again(home, monkeypatch):
    monkeypatch.setattr(client, "call", lambda *_: pytest.fail("compiled"))
    TfxDag(TINY, schedule=None)


@pytest.mark.parametrize("damage", ["missing", "stale", "format"])
def test_a_missing_or_stale_compiled_pipeline_is_compiled_again(home, monkeypatch, damage):
    path = path_of(TINY, home)
    whole = path.read_text()
    told = json.loads(whole)
    if damage == "missing":
        path.unlink()
    elif damage == "stale":
        path.write_text(json.dumps(told | {"sources": {"tests/tiny_pipeline/steps.py": "0"}}))
    else:
        path.write_text(json.dumps(told | {"format": 0}))
    asked = []

    def compile_again(request, _launcher):
        asked.append(request.pipeline)
        path.write_text(whole)
        return Outcome("complete")

    monkeypatch.setattr(client, "call", compile_again)
    assert TfxDag(TINY, schedule=None).has_task("write")
    assert asked == [TINY]


def test_a_pipeline_that_does_not_compile_is_an_import_error_that_names_it(home, monkeypatch):
    fault = TerminalError("The pipeline broken does not compile.", received="ValueError: no")
    monkeypatch.setattr(client, "call", lambda *_: Outcome.failure(fault))
    with pytest.raises(TerminalError, match=r"broken does not compile.*ValueError: no"):
        TfxDag("broken", schedule=None)


def test_the_graph_shows_no_edge_that_another_way_says(home):
    compile_pipeline("tests.tiny_pipeline.champion:create_pipeline", home)
    dag = TfxDag("tests.tiny_pipeline.champion:create_pipeline", schedule=None)
    assert dag.get_task("push").upstream_task_ids == {"train"}, "ingest comes before train"
    assert dag.get_task("evaluate").upstream_task_ids == {"train", "champion"}
    assert dag.get_task("train").upstream_task_ids == {"ingest"}


def test_a_dense_graph_is_walked_once(home):
    path = path_of(TINY, home)
    compiled = CompiledPipeline.read(path)
    names = [f"step_{number}" for number in range(40)]
    nodes = tuple(Node(name, "Step", tuple(names[:place])) for place, name in enumerate(names))
    replace(compiled, nodes=nodes).write(path)
    assert edges(TfxDag(TINY, schedule=None)) == {
        name: {after} if after else set() for name, after in zip(names, [*names[1:], ""], strict=True)
    }


def test_the_form_asks_whether_to_use_the_cache(home):
    compile_pipeline("benchmarks.steps:create_five", home)
    fields = TfxDag("benchmarks.steps:create_five", schedule=None).params
    assert fields["use_cache"] is True
    assert fields.get_param("use_cache").schema["type"] == "boolean"
    assert "use_cache" not in TfxDag(TINY, schedule=None).params, "nothing of that pipeline is cached"


def test_what_waits_for_the_run_before_stands_behind_one_gate_that_asks_late(home):
    path = path_of(TINY, home)
    compiled = CompiledPipeline.read(path)

    def node(name, *upstream, waits=False):
        return Node(name, "Step", upstream, after_previous="push" if waits else "")

    nodes = (
        node("ingest"),
        node("champion", "ingest", waits=True),
        node("train", "ingest"),
        node("evaluate", "ingest", "train", "champion", waits=True),
        node("push", "evaluate"),
        node("monitor", "train"),
    )
    replace(compiled, nodes=nodes).write(path)
    dag = TfxDag(TINY, schedule=None)
    assert edges(dag) == {
        "ingest": {"train"},
        "train": {"await_previous_push", "monitor"},
        "await_previous_push": {"champion"},
        "champion": {"evaluate"},
        "evaluate": {"push"},
        "push": set(),
        "monitor": set(),
    }
    assert dag.get_task("await_previous_push").until == "push"
    assert dag.params.get_param("when_previous_failed").schema["enum"] == ["stop", "go_on"]
    with DAG("several", schedule=None):
        group = TfxTaskGroup(TINY, group_id="ours")
    assert group["await_previous_push"].until == "ours.push"


def graph(home, *nodes: Node) -> DAG:
    """The DAG of a pipeline of these nodes."""
    path = path_of(TINY, home)
    replace(CompiledPipeline.read(path), nodes=nodes).write(path)
    return TfxDag(TINY, schedule=None)


def rules(dag: DAG) -> dict[str, str]:
    return {task.task_id: task.trigger_rule.value for task in dag.tasks}


def test_a_pipeline_in_which_nothing_is_skipped_has_the_usual_rule(home):
    dag = graph(home, Node("a", "A", ()), Node("b", "B", ("a",)), Node("c", "C", ("a", "b"), (("b",),)))
    assert set(rules(dag).values()) == {"all_success"}
    assert not any(task.needs for task in dag.tasks)


def test_what_can_do_without_a_skipped_node_runs_after_it(home):
    nodes = (
        Node("decide", "D", ()),
        Node("yes", "Y", ("decide",), (("decide",),), may_skip=True),
        Node("no", "N", ("decide",), (("decide",),), may_skip=True),
        Node("after", "A", ("yes",)),
        Node("required", "R", ("yes",), (("yes",),)),
        Node("second", "S", ("required",), (("required",),)),
        Node("late", "L", ("second",)),
        Node("both", "B", ("decide", "required"), (("decide",), ("required",))),
        Node("joined", "J", ("no", "yes"), (("no", "yes"),)),
    )
    dag = graph(home, *nodes)
    waiting = {"after", "late", "both", "joined"}
    usual = {node.id for node in nodes} - waiting
    assert rules(dag) == dict.fromkeys(usual, "all_success") | dict.fromkeys(waiting, "none_failed")
    needs = {task.task_id: task.needs for task in dag.tasks if task.needs}
    assert needs == {
        # What decides is skipped only with the whole pipeline.
        "after": [["decide"]],
        "late": [["decide"]],
        "both": [["decide"], ["required"]],
        "joined": [["no", "yes"], ["decide"]],
    }
    assert edges(dag)["decide"] == {"yes", "no", "both"}


def test_a_gate_and_the_end_of_a_resource_come_after_skipped_nodes(home):
    dag = graph(
        home,
        Node("decide", "D", ()),
        Node("yes", "Y", ("decide",), (("decide",),), may_skip=True),
        Node("judge", "J", ("decide", "yes"), (("decide",),), after_previous="judge"),
        Node("use", "U", ("decide", "yes"), (("decide",), ("yes",))),
        Node("ends", "E", ("use",), ends="decide", trigger="LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS"),
    )
    found = rules(dag)
    assert found["await_previous_judge"] == found["judge"] == found["use"] == found["succeeded"] == "none_failed"
    assert found["ends"] == "all_done_setup_success"
    assert ["await_previous_judge"] in dag.get_task("judge").needs
    with DAG("around", schedule=None):
        group = TfxTaskGroup(TINY, group_id="inside")
    assert group.children["inside.use"].needs == [["inside.decide"], ["inside.yes"]]
