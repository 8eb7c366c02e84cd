"""What follows a watch's decision, task by task: who is notified of what, what is triggered, when a watch is missed."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk import Asset, BaseNotifier
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    DagRunTriggerException,
    TaskDeferred,
)

from airtight.audit.log import AuditLog
from airtight.watch.alarm_acts import ACKNOWLEDGED, SILENCED
from airtight.watch.brakes import Brakes
from plugins.tfx_airflow import training_hold, watch
from plugins.tfx_airflow.watch import AnnounceDay, AnnounceRollback, CheckWatch, StartTraining

DAY = "2013-07-03"
RETRAIN = {
    **{"day": DAY, "action": "retrain", "reason": "regret", "run_id": f"watch__{DAY}__1a2b3c4d", "window_days": 56},
    **{"trains": "2013-06-27/2013-07-04", "alarm_since": "2013-07-01", "regret": "Version 7 loses .03.", "version": 7},
}
HEARD = []


def hear(context):
    HEARD.append(context["watch"])


class Pager(BaseNotifier):
    template_fields = ("text",)

    def __init__(self, text="class: {{ watch.event }}"):
        super().__init__()
        self.text = text

    def notify(self, context):
        HEARD.append(self.text)


PAGER = Pager("{{ watch.pipeline }}, {{ watch.day }}: {{ watch.words }}")


def busy(context):
    HEARD.append("busy")
    raise ConnectionError("the line is busy")


class Store(dict):
    def set(self, key, value, retention):
        self[key] = value


@pytest.fixture(autouse=True)
def _nobody_has_heard(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    monkeypatch.setattr(training_hold, "count_named_runs", lambda dag_id, run_ids, states: 0)
    HEARD.clear()


def context(run_type="scheduled", params=None, store=None, **outputs):
    """The context of a task, where tasks before it have made artifacts with these properties."""
    xcoms = {task: {"outputs": {key: [{"properties": made}]}} for task, (key, made) in outputs.items()}
    start = datetime(2013, 7, 3, tzinfo=UTC)
    run = {"data_interval_start": start, "data_interval_end": start + timedelta(days=1)}
    return {
        "ti": SimpleNamespace(xcom_pull=lambda task_ids: xcoms[task_ids]),
        "dag_run": SimpleNamespace(run_type=run_type, **run),
        "params": params or {},
        "task_state_store": Store() if store is None else store,
        "outlet_events": {},
    }


def start(decision=RETRAIN, brakes=None, release="", **more):
    task = StartTraining(task_id="retrain", trigger_dag_id="flights", brakes=brakes, release=release)
    return task.execute(context(decide=("decision", decision), **more))


def test_retraining_is_triggered_under_the_decisions_id_with_its_interval():
    with pytest.raises(DagRunTriggerException) as triggered:
        start()
    raised = triggered.value
    assert (raised.trigger_dag_id, raised.dag_run_id) == ("flights", RETRAIN["run_id"])
    assert raised.conf == {"interval": "2013-06-27/2013-07-04", "window_days": 56}
    assert raised.skip_when_already_exists and not raised.reset_dag_run


def test_a_model_that_the_watch_has_trained_is_tried_on_live_requests_first():
    with pytest.raises(DagRunTriggerException) as triggered:
        start(release="canary")
    assert triggered.value.conf["release"] == "canary"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"decision": {"action": "fix_data", "reason": "dead"}}, "fix_data: dead"),
        ({"run_type": "backfill"}, f"would have triggered flights as watch__{DAY}"),
        ({"params": {"when_decided": "report"}}, "reports only"),
    ],
)
def test_all_else_is_skipped_with_what_it_would_have_done(more, reason):
    with pytest.raises(AirflowSkipException, match=reason):
        start(**more)


@pytest.mark.parametrize(
    ("runs", "held"),
    [
        ({1: "queued"}, "The run watch__2013-07-02__1a2b3c4d of an earlier decision is queued or running"),
        ({20: "running"}, "watch__2013-06-13__1a2b3c4d of an earlier decision is queued or running"),
        ({3: "failed"}, "watch__2013-06-30__1a2b3c4d failed, and the cooldown lasts 4 days"),
        ({4: "failed"}, ""),
        ({4: "failed", 9: "failed"}, "watch__2013-06-29__1a2b3c4d failed, and the cooldown lasts 8 days"),
        ({4: "failed", 6: "success", 9: "failed"}, ""),
        ({1: "success"}, ""),
        ({}, ""),
    ],
    ids=["queued", "running", "failed", "long ago", "failed again", "succeeded between", "succeeded", "none"],
)
def test_a_training_that_no_decision_knows_of_yet_holds_the_next_one(monkeypatch, runs, held):
    states = {
        RETRAIN["run_id"].replace(DAY, (date.fromisoformat(DAY) - timedelta(days=number)).isoformat()): state
        for number, state in runs.items()
    }
    monkeypatch.setattr(training_hold, "count_named_runs", counting(states))
    with pytest.raises(AirflowSkipException if held else DagRunTriggerException, match=held or None):
        start(brakes=Brakes(cooldown=2))


def counting(states):
    return lambda _, ids, wanted: sum(states.get(run) in wanted for run in (states if ids is None else ids))


@pytest.mark.parametrize(
    "run", ["scheduled__2013-06", "manual__1", f"watch__{DAY}__another1", "watch__2013-07-02__old1"]
)
def test_a_training_that_anybody_began_holds_the_next_one(monkeypatch, run):
    """One at a time: also a scheduled one, and one of a policy that has been changed since."""
    monkeypatch.setattr(training_hold, "count_named_runs", counting({run: "running"}))
    with pytest.raises(AirflowSkipException, match="Another run of flights is queued or running"):
        start()
    monkeypatch.setattr(training_hold, "count_named_runs", counting({run: "success", RETRAIN["run_id"]: "running"}))
    with pytest.raises(DagRunTriggerException):
        start()


def test_where_no_training_is_unfinished_none_is_looked_for_one_by_one(monkeypatch):
    calls = []
    monkeypatch.setattr(training_hold, "count_named_runs", lambda _, ids, states: calls.append((ids, states)) or 0)
    assert training_hold.held_by("flights", DAY, RETRAIN["run_id"], Brakes(cooldown=2)) == ""
    (_, unfinished), (ids, _) = calls
    assert calls == [(None, unfinished), (ids, ("failed",))]


def announce(notify, decision=RETRAIN, alarms=None, **more):
    asset = Asset(name="flights_watch", uri="airtight://flights/watch")
    task = AnnounceDay(task_id="announce", pipeline="flights", notify=notify, asset=asset)
    made = context(decide=("decision", decision), data_alarms=("alarms", alarms or {}), **more)
    made["outlet_events"] = {asset: SimpleNamespace()}
    task.execute(made)
    return made["outlet_events"][asset].extra


def test_each_kind_of_notifier_hears_of_each_event():
    names = [f"{__name__}:{name}" for name in ("hear", "Pager", "PAGER")]
    alarms = {"alarm": 1, "summary": f"{DAY}: size is missing."}
    extra = announce(names, RETRAIN | {"alarm_since": DAY}, alarms)
    assert [event["event"] for event in HEARD[:3]] == ["alarm", "alarm", "decision"]
    words = [f"{DAY}: size is missing.", "Version 7 loses .03.", "retrain: regret."]
    assert [event["words"] for event in HEARD[:3]] == words
    assert HEARD[2]["run_id"] == RETRAIN["run_id"]
    assert HEARD[3:6] == ["class: alarm", "class: alarm", "class: decision"]
    assert HEARD[6] == f"flights, {DAY}: {DAY}: size is missing."
    assert (extra["action"], extra["run_id"], extra["day"]) == ("retrain", RETRAIN["run_id"], DAY)


def test_an_alarm_is_announced_on_its_first_day_and_a_day_that_is_as_usual_not_at_all():
    announce([f"{__name__}:hear"], RETRAIN | {"action": "keep"})
    assert HEARD == []


TWO_ALARMS = {"alarm": 1, "summary": f"{DAY}: rows: 212, where such weekdays have 900; size: no row has a value."}
LATER = (datetime.now(UTC) + timedelta(hours=1)).isoformat()


@pytest.mark.parametrize(
    ("act", "details", "words"),
    [
        (ACKNOWLEDGED, {"alarm": DAY}, []),
        (ACKNOWLEDGED, {"alarm": "2013-07-02"}, [TWO_ALARMS["summary"], "Version 7 loses .03."]),
        (SILENCED, {"until": LATER}, []),
        (SILENCED, {"until": LATER, "alarm": "rows:"}, [f"{DAY}: size: no row has a value.", "Version 7 loses .03."]),
        (SILENCED, {"until": LATER, "alarm": "Version"}, [TWO_ALARMS["summary"]]),
        (SILENCED, {"until": "2013-07-03T12:00:00+00:00"}, [TWO_ALARMS["summary"], "Version 7 loses .03."]),
    ],
    ids=["acknowledged", "another day's", "silenced", "one of the day", "the regret", "a silence that is over"],
)
def test_nobody_is_notified_of_an_alarm_that_is_acknowledged_or_silenced(act, details, words):
    AuditLog("flights").append(act, reason="known", **details)
    extra = announce([f"{__name__}:hear"], RETRAIN | {"alarm_since": DAY, "data_alarm": 1}, TWO_ALARMS)
    assert [event["words"] for event in HEARD if event["event"] == "alarm"] == words
    assert [event["action"] for event in HEARD if event["event"] == "decision"] == ["retrain"]
    assert extra["data_alarm"] == 1, "others see the alarm"


def test_everybody_is_notified_where_the_audit_log_cannot_be_read():
    AuditLog("flights").file.mkdir(parents=True)
    announce([f"{__name__}:hear"], RETRAIN | {"action": "keep"}, TWO_ALARMS)
    assert [event["words"] for event in HEARD] == [TWO_ALARMS["summary"]]


def test_a_notifier_that_fails_keeps_no_other_from_hearing_and_is_called_again_alone():
    names, store = [f"{__name__}:busy", f"{__name__}:hear"], Store()
    for count in (1, 2):
        with pytest.raises(AirflowException, match="busy"):
            announce(names, store=store)
        assert HEARD.count("busy") == count
    assert len([event for event in HEARD if event != "busy"]) == 1


def test_a_backfill_notifies_nobody():
    with pytest.raises(AirflowSkipException):
        announce([f"{__name__}:hear"], run_type="backfill")
    assert HEARD == []


@pytest.mark.parametrize(
    ("promotion", "is_rollback"),
    [
        ({"from_version": 7, "to_version": 5, "approval": "ada at 2013-07-04"}, True),
        ({"from_version": 5, "to_version": 5, "approval": "release r-1"}, True),
        ({"from_version": 5, "to_version": 7, "approval": "release r-1"}, False),
        ({"from_version": 5, "to_version": 5, "approval": "release"}, False),
        ({"from_version": 5, "to_version": 5, "approval": "ada at 2013-07-04"}, False),
        ({"from_version": 7, "to_version": 5, "approval": "release", "took_over": 1}, True),
        ({"from_version": 7, "to_version": 5, "approval": "release", "took_over": 0}, False),
    ],
    ids=[
        *("a person", "a release took it back", "promoted", "never begun", "as it was", "lost after its promotion"),
        "another version serves meanwhile",
    ],
)
def test_a_rollback_is_announced(promotion, is_rollback):
    task = AnnounceRollback(task_id="announce", of="finish", pipeline="flights", notify=[f"{__name__}:hear"])
    task.execute(context(finish=("promotion", promotion | {"summary": "Back.", "as_of": "2013-07-01T00:00:00"})))
    rollback = {"event": "rollback", "pipeline": "flights", "day": "2013-07-01", "words": "Back."}
    assert HEARD == [rollback] * is_rollback


def check(late_hours=6.0, **more):
    task = CheckWatch(
        task_id="check",
        watch_dag_id="flights_watch",
        pipeline="flights",
        label_delay_hours=24,
        late_hours=late_hours,
        notify=[f"{__name__}:hear"],
    )
    return task.execute(context(**more))


@pytest.mark.parametrize(
    ("runs", "is_paused", "received"),
    [(0, True, "no run; the DAG is paused"), (0, None, "no such DAG"), (1, False, "failed, or has not ended")],
)
def test_a_watch_that_has_not_run_is_missed(monkeypatch, runs, is_paused, received):
    monkeypatch.setattr(watch, "count_runs", lambda dag_id, date, states=(): 0 if states else runs)
    monkeypatch.setattr(watch, "dag_is_paused", lambda dag_id: is_paused)
    with pytest.raises(AirflowFailException, match=received):
        check()
    assert [(event["event"], event["day"]) for event in HEARD] == [("missing", DAY)]


def test_a_watch_that_has_time_left_is_waited_for_and_one_that_has_run_is_not(monkeypatch):
    monkeypatch.setattr(watch, "count_runs", lambda dag_id, date, states=(): 0)
    ages = (datetime.now(UTC) - datetime(2013, 7, 4, tzinfo=UTC)).total_seconds() / 3600
    with pytest.raises(TaskDeferred):
        check(late_hours=ages)
    monkeypatch.setattr(watch, "count_runs", lambda dag_id, date, states=(): 1)
    assert check().endswith("has succeeded.")
    assert HEARD == []
