"""act_on_alarm: what a person does about alarms stands in the audit log, and holds for as long as it says."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airtight.audit.actor import Actor, acting
from airtight.audit.log import AuditLog
from airtight.audit.verify import OPEN, verify
from airtight.errors import TerminalError
from airtight.watch import alarm_acts
from components.act_on_alarm import ACT, act_on_alarm
from components.artifacts import AlarmAct
from tests.components.standins import Artifacts

SOON = datetime.now(UTC) + timedelta(days=2)


@pytest.fixture
def do(tmp_path):
    artifacts = Artifacts(tmp_path)

    def act(action, **given):
        made = artifacts.new(AlarmAct)
        labels = {"dag_id": "toy_alarms", "run_id": "manual", "user": "ada (Airflow)"}
        with acting(Actor("toy_alarms", "act_on_alarm", "key", made.uri, made.uri, labels)):
            act_on_alarm.EXECUTOR_SPEC.executor_class._FUNCTION(
                act=made, model_name="toy", action=action, **{"reason": "seen", **given}
            )
        return made

    return act


def test_an_acknowledgement_is_about_one_day_and_says_who_did_it(do):
    made = do("acknowledge", alarm="2013-06-14", approval="bob at 09:12: known")
    assert (made.act, made.alarm, made.until) == (alarm_acts.ACKNOWLEDGED, "2013-06-14", "")
    (act,) = alarm_acts.acts(AuditLog("toy"))
    assert act.concerns("2013-06-14") and not act.concerns("2013-06-15")
    assert act.in_words == "alarm acknowledged 2013-06-14 by bob at 09:12: known: seen"
    assert act.dag_id == "toy_alarms"
    assert made.get_string_custom_property("audit_log") == "toy", "the line has its anchor"
    assert json.loads((Path(made.uri) / ACT).read_text())["approval"] == "bob at 09:12: known"


def test_an_acknowledgement_quiets_the_alarms_of_its_day_alone(do):
    do("acknowledge", alarm="2013-06-14", approval="bob at 09:12")
    acts, now = alarm_acts.acts(AuditLog("toy")), datetime.now(UTC)
    assert alarm_acts.quieting(acts, "2013-06-14", "dead: humid", now).effect == "acknowledged by bob at 09:12: seen"
    assert alarm_acts.quieting(acts, "2013-06-15", "dead: humid", now) is None


def test_a_silence_holds_until_its_end_or_until_it_is_ended(do):
    do("silence", alarm="rows:", until=SOON.isoformat())
    log, before, after = AuditLog("toy"), SOON - timedelta(hours=1), SOON + timedelta(hours=1)

    def quieting(words, instant):
        return alarm_acts.quieting(alarm_acts.acts(log), "2013-06-14", words, instant)

    silence = quieting("rows: 212", before)
    assert silence.effect == f"“rows:” silenced until {SOON:%Y-%m-%d %H:%M} by ada (Airflow): seen"
    assert not quieting("dead: humid", before)
    assert not quieting("rows: 212", after)
    do("silence", until=SOON.replace(tzinfo=None).isoformat())
    assert quieting("dead: humid", before).alarm == "", "of all alarms"
    assert len(alarm_acts.open_silences(alarm_acts.acts(log), before)) == 2
    do("end_silence")
    assert not quieting("dead: humid", before)
    assert quieting("rows: 212", before), "the other one holds"
    assert not [finding for finding in verify(log, [], lambda by: OPEN) if finding.kind != "note"]


def test_the_alarms_of_a_day_are_in_its_summary():
    alarms = ["rows: 212, where such weekdays have 900", "size: no row has a value"]
    assert alarm_acts.alarms_in("2013-06-14", alarm_acts.summary_of("2013-06-14", alarms)) == alarms


@pytest.mark.parametrize(
    ("action", "given"),
    [
        ("snooze", {}),
        ("acknowledge", {"alarm": ""}),
        ("acknowledge", {"alarm": "2013-06-14", "reason": " "}),
        ("silence", {"until": ""}),
        ("silence", {"until": "tomorrow"}),
        ("silence", {"until": "2013-06-14"}),
        ("silence", {"until": (SOON + timedelta(days=400)).isoformat()}),
    ],
)
def test_what_cannot_be_done_is_refused_and_written_down_nowhere(do, action, given):
    with pytest.raises(TerminalError):
        do(action, **given)
    assert not alarm_acts.acts(AuditLog("toy"))
