"""The DAG that a compiled pipeline becomes."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from airflow.sdk import DAG, Param, task_group
from airflow.sdk.exceptions import ParamValidationError

from airtight.errors import TerminalError, TransientError
from airtight.parameters import Parameter
from plugins.tfx_airflow import TfxDag, TfxTaskGroup
from plugins.tfx_airflow.params import form, values
from runtime import fresh_pipelines
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import Node
from runtime.compiled_store import current, folder_of, path_of, publish
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

    serialized = DagSerialization.to_dict(TfxDag(TINY, schedule=None))
    json.dumps(serialized)
    assert {task["__var"]["task_id"] for task in serialized["dag"]["tasks"]} == {"write", "copy", "count"}


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
    compiled = current(TINY, home)
    optional = replace(compiled, parameters=(Parameter("reason", "str", ""),))
    reason = form(optional)["reason"]
    assert (reason.resolve(), reason.resolve(None), reason.schema["type"]) == ("", None, ["null", "string"])
    assert values(optional, {"reason": None, "interval": "2013-06"}, (None, None))["reason"] == ""
    assert form(replace(optional, required=("reason",)))["reason"].schema["type"] == "string"


def test_options_of_nodes_reach_airflow(home):
    compiled = current(TINY, home)
    chosen = replace(
        compiled.nodes[0],
        retries=4,
        timeout_s=60,
        trigger="ALL_UPSTREAM_NODES_COMPLETED",
        airflow={"pool": "gpu", "retry_delay_s": 5, "cold": True, "depends_on_past": True, "resources": {"gpus": 1}},
    )
    publish(replace(compiled, nodes=(chosen, *compiled.nodes[1:])), home)
    task = TfxDag(TINY, schedule=None, default_args={"retries": 1}).get_task("write")
    assert (task.retries, task.execution_timeout, task.trigger_rule) == (4, timedelta(seconds=60), "all_done")
    assert (task.pool, task.retry_delay, task.cold, task.depends_on_past) == ("gpu", timedelta(seconds=5), True, True)
    assert task.resources.gpus.qty == 1


def test_what_ends_a_resource_is_a_teardown_and_a_failure_of_the_run(home):
    from airflow.serialization.serialized_objects import DagSerialization

    compiled = current(TINY, home)
    last = replace(compiled.nodes[2], ends="write", trigger="LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS")
    publish(replace(compiled, nodes=(*compiled.nodes[:2], last)), home)
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


REQUIRED = {"parameters": (Parameter("n", "int", 0),), "required": ("n",)}


def test_two_groups_may_share_a_required_parameter(home):
    publish(replace(current(TINY, home), **REQUIRED), home)
    with DAG("twice", schedule=None) as dag:
        TfxTaskGroup(TINY, group_id="first")
        TfxTaskGroup(TINY, group_id="second")
    assert dag.params.get_param("n").schema["type"] == "integer"
    assert not dag.params.get_param("n").has_value


@pytest.mark.parametrize(
    ("own", "received"),
    [
        (Param("a", type="string"), "type string"),
        ("seven", "the default 'seven'"),
        (Param("seven", description="Mine."), "the default 'seven'"),
    ],
)
def test_a_dags_own_param_of_another_type_is_refused_by_name(home, own, received):
    with DAG("around", schedule=None, params={"repeat": own}), pytest.raises(TerminalError) as caught:
        TfxTaskGroup(TINY)
    assert "The DAG around has a param repeat of its own" in caught.value.message
    assert (caught.value.expected, caught.value.received) == ("type integer", received)
    with pytest.raises(TerminalError, match="The DAG mine has a param repeat"):
        TfxDag(TINY, dag_id="mine", schedule=None, params={"repeat": own})


def test_a_dags_own_param_of_the_same_type_wins(home):
    narrow = Param(2, type="integer", maximum=5)
    with DAG("around", schedule=None, params={"repeat": narrow, "interval": "2013-06"}) as dag:
        TfxTaskGroup(TINY)
    assert dag.params.get_param("repeat").schema == {"type": "integer", "maximum": 5}
    assert dag.params["interval"] == "2013-06"
    field = TfxDag(TINY, schedule=None, params={"repeat": 7}).params.get_param("repeat")
    assert (field.value, field.schema["maximum"], field.description) == (7, 100, "How often.")
    with pytest.raises(TerminalError, match="does not fit"):
        TfxDag(TINY, schedule=None, params={"interval": 6})


def test_names_that_airflow_refuses_are_made_safe(home):
    compiled = current(TINY, home)
    odd = (replace(compiled.nodes[0], id="my write", task="my_write"), *compiled.nodes[1:])
    odd = tuple(replace(n, upstream=("my write",) if n.upstream == ("write",) else n.upstream) for n in odd)
    publish(replace(compiled, pipeline="my own: pipeline", nodes=odd), home)
    dag = TfxDag(TINY, schedule=None)
    assert dag.dag_id == "my_own__pipeline"
    assert edges(dag)["my_write"] == {"copy"}
    assert dag.get_task("my_write").node == "my write"
    with DAG("around", schedule=None):
        assert TfxTaskGroup(TINY).group_id == "my_own__pipeline"


def test_a_relative_ir_file_is_refused_and_two_files_never_share_a_compiled_pipeline(home, tmp_path):
    with pytest.raises(TerminalError, match="depends on where"):
        TfxDag("ir/pipeline.pbtxt", schedule=None)
    assert folder_of("/srv/ir/a.b.json", home) != folder_of("/srv/ir/a/b.json", home)
    assert folder_of("x:create", home, {"n": 1}) != folder_of("x:create", home, {"n": 2})
    assert folder_of("x:create", home, {}) == folder_of("x:create", home)


def test_a_task_group_outside_of_a_dag_is_refused(home):
    with pytest.raises(TerminalError, match="outside of a DAG"):
        TfxTaskGroup(TINY)


def test_a_fresh_compiled_pipeline_is_not_compiled_again(home, monkeypatch):
    monkeypatch.setattr(fresh_pipelines, "call", lambda *_: pytest.fail("compiled"))
    TfxDag(TINY, schedule=None)


@pytest.mark.parametrize("damage", ["missing", "stale", "format", "another"])
def test_a_missing_or_stale_compiled_pipeline_is_compiled_again(home, monkeypatch, damage):
    whole, path = current(TINY, home), path_of(TINY, home)
    if damage == "missing":
        path.unlink()
    elif damage == "stale":
        path.unlink()  # It would be taken again, as what it is made of is there.
        publish(replace(whole, sources={"tests/tiny_pipeline/steps.py": "0"}), home)
    elif damage == "another":
        # As two sources whose names are equal would be, were the name all that is looked at.
        replace(whole, source="another:create").write(path)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    requests = []

    def compile_again(request, _launcher):
        requests.append(request.pipeline)
        path.unlink(missing_ok=True)
        publish(whole, home)
        return Outcome("complete")

    monkeypatch.setattr(fresh_pipelines, "call", compile_again)
    assert TfxDag(TINY, schedule=None).has_task("write")
    assert requests == [TINY]


def test_what_is_stale_right_after_it_was_compiled_is_an_error_that_names_the_difference(home, monkeypatch):
    other = replace(current(TINY, home), sources={"tests/tiny_pipeline/steps.py": "0"})
    path_of(TINY, home).unlink()
    publish(other, home)
    monkeypatch.setattr(fresh_pipelines, "call", lambda *_: Outcome("complete"))
    with pytest.raises(TransientError, match=r"tests/tiny_pipeline/steps\.py changed"):
        TfxDag(TINY, schedule=None)


def test_a_pipeline_that_does_not_compile_is_an_import_error_that_names_it(home, monkeypatch):
    fault = TerminalError("The pipeline broken does not compile.", received="ValueError: no")
    monkeypatch.setattr(fresh_pipelines, "call", lambda *_: Outcome.failure(fault))
    with pytest.raises(TerminalError, match=r"broken does not compile.*ValueError: no"):
        TfxDag("broken", schedule=None)


def test_the_graph_shows_no_edge_that_another_way_says(home):
    compile_pipeline("tests.tiny_pipeline.champion:create_pipeline", home)
    dag = TfxDag("tests.tiny_pipeline.champion:create_pipeline", schedule=None)
    assert dag.get_task("push").upstream_task_ids == {"train"}, "ingest comes before train"
    assert dag.get_task("evaluate").upstream_task_ids == {"train", "champion"}
    assert dag.get_task("train").upstream_task_ids == {"ingest"}


def test_a_dense_graph_is_walked_once(home):
    compiled = current(TINY, home)
    names = [f"step_{number}" for number in range(40)]
    nodes = tuple(Node(name, "Step", tuple(names[:place])) for place, name in enumerate(names))
    publish(replace(compiled, nodes=nodes), home)
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
    compiled = current(TINY, home)

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
    publish(replace(compiled, nodes=nodes), home)
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


def test_a_gate_needs_what_all_behind_it_need(home):
    waits = {"after_previous": "push"}
    nodes = (
        Node("decide", "D", ()),
        Node("other", "O", ()),
        Node("yes", "Y", ("decide",), (("decide",),), may_skip=True),
        Node("judge", "J", ("decide", "other", "yes"), (("decide",), ("other",)), **waits),
        Node("compare", "C", ("decide", "yes"), (("decide",),), **waits),
        Node("push", "P", ("judge",), (("judge",),), **waits),
    )
    assert graph(home, *nodes).get_task("await_previous_push").needs == [["decide"]]


def test_a_task_group_may_be_mapped_and_takes_values_of_each_index(home):
    from airflow.serialization.serialized_objects import DagSerialization

    def mapped() -> DAG:
        with DAG("mapped", schedule=None) as dag:

            @task_group
            def one(text):
                TfxTaskGroup(TINY, group_id="tiny", overrides={"text": text})

            one.expand(text=["a", "b"])
        return dag

    first, second = (json.dumps(DagSerialization.to_dict(mapped()), sort_keys=True) for _ in range(2))
    assert first == second, "it is the same at each parse"
    task = mapped().get_task("one.tiny.write")
    assert (task.group, list(task.overrides)) == ("one.tiny", ["text"])


def graph(home, *nodes: Node) -> DAG:
    """The DAG of a pipeline of these nodes."""
    publish(replace(current(TINY, home), nodes=nodes), home)
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
    trigger_rules = rules(dag)
    assert (
        trigger_rules["await_previous_judge"]
        == trigger_rules["judge"]
        == trigger_rules["use"]
        == trigger_rules["succeeded"]
        == "none_failed"
    )
    assert trigger_rules["ends"] == "all_done_setup_success"
    assert ["await_previous_judge"] in dag.get_task("judge").needs
    assert dag.get_task("await_previous_judge").needs == [["decide"]], "without it nothing is judged"
    with DAG("around", schedule=None):
        group = TfxTaskGroup(TINY, group_id="inside")
    assert group.children["inside.use"].needs == [["inside.decide"], ["inside.yes"]]
