"""What a task asks for, and what the node's outcome makes of the task."""

import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airtight.errors import TerminalError, TransientError
from plugins.tfx_airflow import TfxNodeOperator, operator
from runtime.protocol import Outcome, run_key
from tests.tiny_pipeline.running import TINY

MAY = datetime(2013, 5, 1, tzinfo=UTC)
JUNE = datetime(2013, 6, 1, tzinfo=UTC)


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


def context(params=None, interval=(MAY, JUNE), clear_number=0, run_id="scheduled__2013-06-01T00:00:00+00:00"):
    run = SimpleNamespace(
        dag_id="words",
        run_id=run_id,
        data_interval_start=interval[0],
        data_interval_end=interval[1],
        clear_number=clear_number,
    )
    return {"dag_run": run, "ti": SimpleNamespace(id=uuid4(), try_number=2), "params": params or {}}


def run(monkeypatch, answering: Answering, told=None, **arguments):
    monkeypatch.setattr(operator, "Call", answering)
    task = TfxNodeOperator(task_id="write", pipeline=TINY, node="write", **arguments)
    return task.execute(told or context())


def asked(monkeypatch, told, **arguments):
    answering = Answering(Outcome("complete"))
    run(monkeypatch, answering, told, **arguments)
    return answering.requests[0]


def test_the_interval_comes_from_the_run_or_from_the_form(home, monkeypatch):
    request = asked(monkeypatch, context())
    assert request.parameters["interval_start"] == "2013-04-30T20:00:00-04:00", "in the pipeline's zone"
    assert request.parameters["interval_end"] == "2013-05-31T20:00:00-04:00"
    request = asked(monkeypatch, context({"interval": "2013-06"}))
    assert request.parameters["interval_start"] == "2013-06-01T00:00:00-04:00"
    assert request.parameters["interval_end"] == "2013-07-01T00:00:00-04:00"


def test_what_another_task_tells_wins_over_the_form(home, monkeypatch):
    form = {"interval": "2013-06", "text": "typed"}
    assert asked(monkeypatch, context(form)).parameters["text"] == "typed"
    assert asked(monkeypatch, context(form), overrides={"text": "told"}).parameters["text"] == "told"


@pytest.mark.parametrize("interval", [(None, None), (JUNE, JUNE)])
def test_without_any_interval_the_task_fails_at_once(home, monkeypatch, interval):
    with pytest.raises(AirflowFailException, match="no data interval"):
        run(monkeypatch, Answering(Outcome("complete")), context(interval=interval))


def test_params_arrive_in_the_pipelines_types(home, monkeypatch):
    request = asked(monkeypatch, context({"repeat": 5.0, "text": "hi", "unrelated": 1}))
    assert request.parameters | {"interval_start": "", "interval_end": ""} == {
        "repeat": 5,
        "text": "hi",
        "trouble": "none",
        "interval_start": "",
        "interval_end": "",
    }
    assert asked(monkeypatch, context({"a_text": "mine", "text": "other"}), prefix="a_").parameters["text"] == "mine"


def test_a_wrong_param_fails_at_once(home, monkeypatch):
    with pytest.raises(AirflowFailException, match="at most 100"):
        run(monkeypatch, Answering(Outcome("complete")), context({"repeat": 101}))


def test_every_try_is_an_attempt_of_the_same_run(home, monkeypatch):
    first = asked(monkeypatch, context())
    second = asked(monkeypatch, context(clear_number=1))
    assert first.run == second.run == run_key("words", "scheduled__2013-06-01T00:00:00+00:00")
    assert first.attempt != second.attempt
    assert second.labels == {
        "dag_id": "words",
        "run_id": "scheduled__2013-06-01T00:00:00+00:00",
        "try_number": 2,
        "clear_number": 1,
    }
    assert asked(monkeypatch, context(), group="one").run != first.run


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
    said = [(r.name, r.levelname, r.getMessage()) for r in caplog.records if "runs in" not in r.getMessage()]
    assert said == [
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
    task.execute(context())
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


@pytest.mark.parametrize(
    ("needs", "states", "missing"),
    [
        ([["a"], ["b"]], {"a": "success", "b": "success"}, ""),
        ([["a"], ["b"]], {"a": "success", "b": "skipped"}, "because b was"),
        ([["a", "b"]], {"a": "success", "b": "skipped"}, ""),
        ([["a", "b"]], {"a": "skipped", "b": "skipped"}, "because a, b was"),
        ([["a"]], {"a_3": "skipped"}, "because a was"),
    ],
)
def test_a_task_is_skipped_for_want_of_what_it_cannot_do_without(home, monkeypatch, needs, states, missing):
    answering = Answering(Outcome("complete"))
    told = context({"interval": "2013-06"})
    told["ti"].map_index = 3
    told["ti"].get_task_states = lambda **wanted: {run_id: states for run_id in wanted["run_ids"]}
    if missing:
        with pytest.raises(AirflowSkipException, match=missing):
            run(monkeypatch, answering, told, needs=needs)
        assert not answering.requests, "nothing is launched for it"
    else:
        run(monkeypatch, answering, told, needs=needs)
        assert len(answering.requests) == 1
