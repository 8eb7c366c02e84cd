"""What a task asks for, and what the node's outcome makes of the task."""

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from uuid import uuid4

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, NEVER_EXPIRE
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)
from airflow.sdk.execution_time import comms, task_runner

from airtight.errors import TerminalError, TransientError
from airtight.parameters import Parameter
from plugins.tfx_airflow import TfxNodeOperator, operator
from runtime.compiled_store import current, name_of, path_of_name, publish
from runtime.protocol import NodeRequest, Outcome, run_key
from tests.tiny_pipeline.running import TINY

MAY = datetime(2013, 5, 1, tzinfo=UTC)
JUNE = datetime(2013, 6, 1, tzinfo=UTC)
SCHEDULED = "scheduled__2013-06-01T00:00:00+00:00"


class Answering:
    """Stands for the launcher: notes requests, gives one outcome and some lines."""

    def __init__(self, outcome: Outcome, lines=()) -> None:
        self.outcome, self._lines, self.where = outcome, lines, "the warm launcher"
        self.requests, self.launchers, self.stopped = [], [], 0

    def __call__(self, request, launcher, **places):
        self.requests.append(request)
        self.places = places
        self.launchers.append(launcher)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def lines(self):
        return iter(self._lines)

    def stop(self):
        self.stopped += 1


class Store(dict):
    """What Airflow keeps of a task within a DAG run."""

    def set(self, key, value, *, retention):
        assert retention is NEVER_EXPIRE
        self[key] = json.loads(json.dumps(value))


class Task(SimpleNamespace):
    """A task instance; its upstream tasks ended as `states` says, with such executions."""

    def xcom_push(self, key, value):
        self.pushed[key] = value

    def xcom_pull(self, task_ids, key, map_indexes):
        assert key == "execution"
        return self.executions.get((task_ids, map_indexes))

    def send(self, msg):
        """Answers as the task's supervisor does."""
        assert isinstance(msg, comms.GetTaskStates)
        self.asked_for.append((msg.map_index, *msg.task_ids))
        states = {
            # As Airflow's execution API names them (get_task_instance_states); its client leaves a -1 out.
            name if index < 0 else f"{name}_{index}": state
            for (name, index), state in self.states.items()
            if name in msg.task_ids and (msg.map_index < 0 or index == msg.map_index)
        }
        return comms.TaskStatesResult(task_states={run_id: states for run_id in msg.run_ids})


def context(params=None, interval=(MAY, JUNE), run_id=SCHEDULED, store=None, run=None, **task):
    dag_run = SimpleNamespace(
        dag_id="words", run_id=run_id, data_interval_start=interval[0], data_interval_end=interval[1]
    )
    # Each its own run, as the record of a run goes by its start.
    vars(dag_run).update(
        {"clear_number": 0, "start_date": datetime.now(UTC), "triggering_user_name": None} | (run or {})
    )
    defaults = {"try_number": 2, "max_tries": 0, "map_index": -1, "states": {}, "executions": {}, "pushed": {}}
    defaults["asked_for"] = []
    return {
        "dag_run": dag_run,
        "ti": Task(id=uuid4(), **(defaults | task)),
        "params": params or {},
        "task_state_store": Store() if store is None else store,
    }


def execute(monkeypatch, answering: Answering, task, task_context=None):
    task_context = task_context or context()
    monkeypatch.setattr(operator, "Call", answering)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", task_context["ti"], raising=False)
    return task.execute(task_context)


def run(monkeypatch, answering: Answering, task_context=None, **arguments):
    task = TfxNodeOperator(**{"task_id": "write", "pipeline": TINY, "node": "write", **arguments})
    return execute(monkeypatch, answering, task, task_context)


def request_of(monkeypatch, task_context, **arguments):
    answering = Answering(Outcome("complete"))
    run(monkeypatch, answering, task_context, **arguments)
    return answering.requests[0]


def test_the_interval_comes_from_the_run_or_from_the_form(home, monkeypatch):
    request = request_of(monkeypatch, context())
    assert request.parameters["interval_start"] == "2013-04-30T20:00:00-04:00", "in the pipeline's zone"
    assert request.parameters["interval_end"] == "2013-05-31T20:00:00-04:00"
    request = request_of(monkeypatch, context({"interval": "2013-06"}))
    assert request.parameters["interval_start"] == "2013-06-01T00:00:00-04:00"
    assert request.parameters["interval_end"] == "2013-07-01T00:00:00-04:00"


def test_what_another_task_tells_wins_over_the_form(home, monkeypatch):
    form = {"interval": "2013-06", "text": "typed"}
    assert request_of(monkeypatch, context(form)).parameters["text"] == "typed"
    assert request_of(monkeypatch, context(form), overrides={"text": "told"}).parameters["text"] == "told"


@pytest.mark.parametrize("interval", [(None, None), (JUNE, JUNE)])
def test_without_any_interval_the_task_fails_at_once(home, monkeypatch, interval):
    with pytest.raises(AirflowFailException, match="no data interval"):
        run(monkeypatch, Answering(Outcome("complete")), context(interval=interval))


def test_params_arrive_in_the_pipelines_types(home, monkeypatch):
    request = request_of(monkeypatch, context({"repeat": 5.0, "text": "hi", "unrelated": 1}))
    assert request.parameters | {"interval_start": "", "interval_end": ""} == {
        "repeat": 5,
        "text": "hi",
        "trouble": "none",
        "interval_start": "",
        "interval_end": "",
    }
    assert (
        request_of(monkeypatch, context({"a_text": "mine", "text": "other"}), prefix="a_").parameters["text"] == "mine"
    )


def test_a_wrong_param_fails_at_once(home, monkeypatch):
    with pytest.raises(AirflowFailException, match="at most 100"):
        run(monkeypatch, Answering(Outcome("complete")), context({"repeat": 101}))


def test_every_try_is_an_attempt_of_the_same_run(home, monkeypatch):
    first = request_of(monkeypatch, context())
    second = request_of(monkeypatch, context(run={"clear_number": 1}))
    assert first.run == second.run == run_key("words", "", "", "scheduled__2013-06-01T00:00:00+00:00", TINY)
    of_dag = request_of(monkeypatch, context(), compiled=name_of(current(TINY, home), home))
    assert of_dag.run == run_key("words", "", "", "scheduled__2013-06-01T00:00:00+00:00")
    assert first.attempt != second.attempt
    assert second.labels == {
        "dag_id": "words",
        "run_id": "scheduled__2013-06-01T00:00:00+00:00",
        "try_number": 2,
        "clear_number": 1,
    }
    others = [request_of(monkeypatch, task_context, **arguments).run for task_context, arguments in OTHER_RUNS]
    assert len({first.run, *others}) == 1 + len(OTHER_RUNS)


OTHER_RUNS = [
    (context(), {"group": "one"}),
    (context(map_index=0), {}),
    (context(map_index=1), {}),
    (context(map_index=0), {"group": "one"}),
    (context(run_id="0.scheduled__2013-06-01T00:00:00+00:00"), {}),
]


def test_a_retry_is_answered_by_the_tries_before_it_alone(home, monkeypatch):
    store = Store()

    def request(task_context=None, retries=2, **task):
        task = {"max_tries": 2, "store": store} | task
        return request_of(
            monkeypatch, context(run={"start_date": JUNE} | (task_context or {}), **task), retries=retries
        )

    first, second, third = request(), request(), request()
    assert (first.earlier, first.unreported, first.again) == ((), (), False)
    assert (second.earlier, second.unreported) == ((first.attempt,),) * 2
    assert (third.earlier, third.unreported) == ((first.attempt, second.attempt),) * 2
    known = [first.attempt, second.attempt, third.attempt]
    series = [
        ({"clear_number": 1}, 3, 2),  # a Clear
        ({"clear_number": 1}, 4, 2),  # a Clear that leaves the run as it is
        ({"clear_number": 1}, 4, 1),  # such a one, and the DAG has fewer retries now
        ({"clear_number": 1, "start_date": MAY}, 4, 1),  # a run that took over the row of one that was deleted
    ]
    for task_context, max_tries, retries in series:
        cleared = request(task_context, retries, max_tries=max_tries)
        assert (cleared.earlier, cleared.unreported) == (tuple(known), ())
        retried = request(task_context, retries, max_tries=max_tries)
        assert retried.unreported == (cleared.attempt,)
        known += [cleared.attempt, retried.attempt]
    deleted_and_created_again = request(store=Store())
    assert (deleted_and_created_again.earlier, deleted_and_created_again.unreported) == ((), ())
    emptied_on_success = request({"clear_number": 1}, max_tries=3, store=Store())
    assert emptied_on_success.again
    fewer_retries_since_the_run_was_created = request(retries=1, try_number=1, store=Store())
    assert not fewer_retries_since_the_run_was_created.again


def test_two_pipelines_in_one_dag_do_not_mix(home, monkeypatch):
    other = f"{TINY}_other"
    compiled = replace(current(TINY, home), source=other, parameters=())
    publish(compiled, home)
    same_run = {"run": {"start_date": JUNE}}
    ours = request_of(monkeypatch, context(**same_run))
    others = request_of(monkeypatch, context(**same_run), pipeline=other)
    assert others.compiled == str(path_of_name(name_of(compiled, home), home)) != ours.compiled
    assert others.run != ours.run


@pytest.mark.parametrize("is_alone", [True, False])
def test_an_operator_that_stands_alone_shares_no_outputs_with_the_dag_around_it(home, monkeypatch, is_alone):
    shown = name_of(current(TINY, home), home)
    with DAG("words", schedule=None):
        write, copy = (
            TfxNodeOperator(task_id=f"task_{node}", pipeline=TINY, node=node, compiled=compiled)
            for node, compiled in (("write", shown if is_alone else ""), ("copy", "" if is_alone else shown))
        )
        write >> copy
    ended = {"states": {("task_write", -1): "success"}, "executions": {("task_write", -1): 7}}
    assert requested(monkeypatch, copy, context(**ended)).inputs == {}


def tasks(**arguments):
    """The tasks of the tiny pipeline in a DAG."""
    with DAG("words", schedule=None):
        made = {
            node: TfxNodeOperator(task_id=f"task_{node}", pipeline=TINY, node=node, **arguments)
            for node in ("write", "copy", "count")
        }
        made["write"] >> EmptyOperator(task_id="between") >> made["copy"] >> made["count"]
    return made


def requested(monkeypatch, task, task_context) -> NodeRequest:
    answering = Answering(Outcome("complete"))
    execute(monkeypatch, answering, task, task_context)
    return answering.requests[0]


@pytest.mark.parametrize(
    ("index", "upstream", "expected"),
    [
        (-1, {-1: ("success", 7)}, ({"write": 7}, ())),
        (-1, {-1: ("success", None)}, ({}, ())),
        (-1, {-1: ("skipped", 7)}, ({}, ())),
        (-1, {-1: ("failed", 7)}, ({}, ())),
        (-1, {-1: (None, 7)}, ({}, ("write",))),
        (-1, {-1: ("up_for_retry", 7)}, ({}, ("write",))),
        (-1, {0: ("success", 7)}, ({}, ())),
        (1, {0: ("success", 7), 1: ("success", 8)}, ({"write": 8}, ())),
        (1, {0: ("success", 7), 1: ("skipped", 8)}, ({}, ())),
        (1, {-1: ("success", 7)}, ({"write": 7}, ())),
    ],
)
def test_inputs_are_what_the_tasks_upstream_report_in_this_run(home, monkeypatch, index, upstream, expected):
    states = {("task_write", number): state for number, (state, _) in upstream.items()}
    executions = {("task_write", number): execution for number, (_, execution) in upstream.items()}
    task_context = context({"interval": "2013-06"}, map_index=index, states=states, executions=executions)
    request = requested(monkeypatch, tasks()["copy"], task_context)
    assert (request.inputs, request.pending) == expected


def test_a_resolver_is_sent_what_all_nodes_before_it_made_in_this_run(home, monkeypatch):
    """What a cleared run has made anew counts for it in the place of what it made before."""
    before = current(TINY, home)
    resolving = [replace(node, type="Resolver") if node.id == "count" else node for node in before.nodes]
    states = {("task_write", -1): "success", ("task_copy", -1): "success"}
    executions = {("task_write", -1): 7, ("task_copy", -1): 8}
    for nodes, inputs in ((before.nodes, {"copy": 8}), (tuple(resolving), {"write": 7, "copy": 8})):
        publish(replace(before, nodes=nodes), home)
        task_context = context({"interval": "2013-06"}, states=states, executions=executions)
        assert requested(monkeypatch, tasks()["count"], task_context).inputs == inputs


def test_the_execution_is_an_xcom_of_its_own(home, monkeypatch):
    task_context = context()
    run(monkeypatch, Answering(Outcome("complete", execution=3)), task_context, do_xcom_push=False)
    assert task_context["ti"].pushed == {"execution": 3}
    task_context = context()
    with pytest.raises(AirflowSkipException):
        run(monkeypatch, Answering(Outcome("skipped")), task_context)
    assert task_context["ti"].pushed == {}


def test_the_outcome_is_the_xcom(home, monkeypatch):
    outputs = {"words": [{"type": "Words", "uri": "/x"}]}
    assert run(monkeypatch, Answering(Outcome("cached", execution=3, outputs=outputs))) == {
        "state": "cached",
        "execution": 3,
        "outputs": outputs,
    }


def test_faults_become_the_right_kind_of_failure(home, monkeypatch):
    with pytest.raises(AirflowFailException, match="wrong"):
        run(monkeypatch, Answering(Outcome.failure(TerminalError("wrong"))))
    with pytest.raises(AirflowException, match="away") as caught:
        run(monkeypatch, Answering(Outcome.failure(TransientError("away"))))
    assert not isinstance(caught.value, AirflowFailException)
    with pytest.raises(AirflowSkipException, match="nothing to do"):
        run(monkeypatch, Answering(Outcome("skipped", summary="nothing to do")))


def test_lines_keep_their_level_and_name(home, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    lines = ["loose", "WARNING a.b: careful", "  more of it", "ERROR c: bad", "INFO d: fine"]
    run(monkeypatch, Answering(Outcome("complete"), lines))
    logged = [(r.name, r.levelname, r.getMessage()) for r in caplog.records if "runs in" not in r.getMessage()]
    assert logged == [
        ("node", "INFO", "loose"),
        ("a.b", "WARNING", "careful"),
        ("a.b", "WARNING", "  more of it"),
        ("c", "ERROR", "bad"),
        ("d", "INFO", "fine"),
    ]


def test_on_kill_stops_the_node_that_runs(home, monkeypatch):
    answering = Answering(Outcome("complete"))
    monkeypatch.setattr(operator, "Call", answering)
    task = TfxNodeOperator(task_id="write", pipeline=TINY, node="write")
    task.on_kill()
    execute(monkeypatch, answering, task)
    task.on_kill()
    assert answering.stopped == 1


def test_cold_asks_for_a_process_of_its_own(home, monkeypatch):
    for cold in (True, False):
        answering = Answering(Outcome("complete"))
        run(monkeypatch, answering, cold=cold)
        assert answering.launchers == [None if cold else home.launcher_socket]


def test_a_node_is_sent_where_the_pipeline_wants_it(home, monkeypatch):
    answering = Answering(Outcome("complete"))
    run(monkeypatch, answering, image="an/image:1")
    assert answering.places == {"interpreter": "", "image": "an/image:1"}
    run(monkeypatch, answering, interpreter="/other/python", cold=True)
    assert answering.places == {"interpreter": "/other/python", "image": ""}
    assert answering.launchers[-1] is None


def test_the_cache_is_switched_off_on_the_form(home, monkeypatch):
    answering = Answering(Outcome("complete"))
    run(monkeypatch, answering)
    run(monkeypatch, answering, context(params={"use_cache": False}))
    assert [request.use_cache for request in answering.requests] == [True, False]


class DagNow:
    """A run that began with one pipeline, and a DAG that shows another one since."""

    def __init__(self, home, **new):
        self.home, self.before = home, current(TINY, home)
        self.now = replace(self.before, **new)
        self.start = datetime.now(UTC)
        publish(self.now, home)

    def context(self, params=None, start=None, index=-1, states=None):
        return context(params, run={"start_date": start or self.start}, map_index=index, states=states or {})

    def request(self, monkeypatch, shown, task_context, node="write", upstream=("write", "copy", "count"), **arguments):
        """The request of a node in a DAG that has the tasks in this order."""
        with DAG("words", schedule=None):
            in_order = [
                TfxNodeOperator(
                    task_id=f"task_{name}", pipeline=TINY, node=name, compiled=name_of(shown, self.home), **arguments
                )
                for name in dict.fromkeys([*upstream, node])
            ]
            for before, after in pairwise(in_order):
                before >> after
        (task,) = (task for task in in_order if task.node == node)
        return requested(monkeypatch, task, task_context)

    def begin(self, monkeypatch, params=None):
        return self.request(monkeypatch, self.before, self.context(params))


RENAMED = {"parameters": (Parameter("words", "str", "other"), Parameter("repeat", "int", 7))}


def test_a_run_goes_on_with_the_pipeline_and_the_params_that_it_began_with(home, monkeypatch):
    dag = DagNow(home, **RENAMED)
    first = dag.begin(monkeypatch, {"text": "typed", "repeat": 2, "trouble": "none"})
    # Airflow fills the DAG's params of now into the run's context.
    now = dag.context({"words": "other", "repeat": 7}, states={("task_write", -1): "success"})
    second = dag.request(monkeypatch, dag.now, now, node="copy")
    assert second.compiled == first.compiled == str(path_of_name(name_of(dag.before, home), home))
    assert second.parameters == first.parameters
    assert (second.parameters["text"], second.parameters["repeat"]) == ("typed", 2)


def test_a_cleared_run_takes_the_pipeline_of_now_and_a_retry_does_not(home, monkeypatch):
    dag = DagNow(home, **RENAMED)
    dag.begin(monkeypatch)
    again = dag.request(monkeypatch, dag.now, dag.context())
    assert again.compiled == str(path_of_name(name_of(dag.before, home), home)), "a retry of the same run"
    cleared = dag.request(monkeypatch, dag.now, dag.context({"repeat": 7}, start=datetime.now(UTC)))
    assert cleared.compiled == str(path_of_name(name_of(dag.now, home), home))
    assert (cleared.parameters["words"], cleared.parameters["repeat"]) == ("other", 7)


def test_a_clear_of_one_task_of_a_run_that_goes_on_leaves_its_pipeline(home, monkeypatch):
    dag = DagNow(home, **RENAMED)
    first = dag.begin(monkeypatch)
    task_context = dag.context()
    task_context["dag_run"].clear_number = 1
    assert dag.request(monkeypatch, dag.now, task_context).compiled == first.compiled


COUNT_FIRST = ("write", "count", "copy")


@pytest.mark.parametrize("index", [-1, 1])
def test_a_task_waits_for_what_it_needs_in_the_pipeline_that_the_run_began_with(home, monkeypatch, index):
    dag = DagNow(home, **RENAMED)
    dag.begin(monkeypatch)

    def request(state):
        states = {("task_copy", 0): "failed", ("task_copy", index): state}
        task_context = dag.context(index=index, states=states)
        return dag.request(monkeypatch, dag.now, task_context, "count", COUNT_FIRST)

    with pytest.raises(AirflowRescheduleException):
        request("running")
    with pytest.raises(AirflowFailException, match="comes after task_copy in the run, and before it in the DAG"):
        request(None)
    assert request("success").node == "count"


def test_a_task_that_the_run_does_not_have_is_not_waited_for(home, monkeypatch):
    dag = DagNow(home, **RENAMED)
    dag.begin(monkeypatch)
    assert dag.request(monkeypatch, dag.now, dag.context(), "count", COUNT_FIRST).node == "count"
    assert dag.request(monkeypatch, dag.now, dag.context(), "count", ("write",)).node == "count"


def test_a_node_that_the_runs_pipeline_does_not_have_fails_in_words(home, monkeypatch):
    before = current(TINY, home)
    dag = DagNow(home, nodes=(*before.nodes, replace(before.nodes[0], id="new", task="new")))
    dag.begin(monkeypatch)
    with pytest.raises(AirflowFailException, match="has no node 'new'"):
        dag.request(monkeypatch, dag.now, dag.context(), node="new")


@pytest.mark.parametrize(
    ("index", "asked_for"),
    [
        (-1, [(-1, "elsewhere", "task_copy", "task_write")]),
        (1, [(1, "elsewhere", "task_copy", "task_write"), (-1, "elsewhere", "task_write")]),
    ],
)
def test_the_state_of_each_task_is_asked_for_once(home, monkeypatch, index, asked_for):
    states = {("task_copy", 0): "failed", ("task_copy", 1): "success", ("task_write", -1): "success"}
    task_context = context({"interval": "2013-06"}, map_index=index, states=states)
    requested(monkeypatch, tasks(needs=[["task_write"], ["elsewhere"]])["count"], task_context)
    assert task_context["ti"].asked_for == asked_for


@pytest.mark.parametrize(
    ("needs", "states", "missing"),
    [
        ([["a"], ["b"]], {"a": "success", "b": "success"}, ""),
        ([["a"], ["b"]], {"a": "success", "b": "skipped"}, "because b was"),
        ([["a", "b"]], {"a": "success", "b": "skipped"}, ""),
        ([["a", "b"]], {"a": "skipped", "b": "skipped"}, "because a, b was"),
        ([["a"]], {("a", 3): "skipped"}, "because a was"),
    ],
)
def test_a_task_is_skipped_for_want_of_what_it_cannot_do_without(home, monkeypatch, needs, states, missing):
    answering = Answering(Outcome("complete"))
    by_index = {task if isinstance(task, tuple) else (task, -1): state for task, state in states.items()}
    task_context = context({"interval": "2013-06"}, map_index=3, states=by_index)
    if missing:
        with pytest.raises(AirflowSkipException, match=missing):
            run(monkeypatch, answering, task_context, needs=needs)
        assert not answering.requests, "nothing is launched for it"
    else:
        run(monkeypatch, answering, task_context, needs=needs)
        assert len(answering.requests) == 1
