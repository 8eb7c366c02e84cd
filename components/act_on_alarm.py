"""act_on_alarm: a person acknowledges an alarm, or silences alarms until an instant; the audit log keeps it."""

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.audit.log import AuditLog
from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.parameters import check_choice
from airtight.watch.alarm_acts import BY_ACTION, SILENCE
from components.artifacts import AlarmAct
from components.rollout.anchoring import anchor_in

log = logging.getLogger(__name__)

ACT = "act.json"
LONGEST_DAYS = 90
"""A silence ends after so many days at the latest: what is silenced for good is a rule to be changed."""


@component
def act_on_alarm(
    act: OutputArtifact[AlarmAct],
    model_name: Parameter[str],
    action: Parameter[str],
    alarm: Parameter[str] = "",
    until: Parameter[str] = "",
    reason: Parameter[str] = "",
    approval: Parameter[str] = "",
) -> None:
    """Writes down what was done about alarms, for those who notify and for the pages; it changes nothing else.

    Args:
      act: Gets `act.json`.
      model_name: The model.
      action: acknowledge, silence, or end_silence.
      alarm: The local day whose alarm it is about, ISO 8601, or the beginning of the alarms' words; empty is all.
      until: When a silence ends, ISO 8601; in UTC where it has no offset.
      reason: Why.
      approval: Who approved it, when, and what they noted.

    Raises:
      TerminalError: There is no such action, there is no reason, or a silence has no end that lies ahead.
    """
    check_choice("action", action, tuple(BY_ACTION))
    if not reason.strip():
        raise _refusal("a reason", "none", "Say why.")
    end = _end(until) if action == SILENCE else ""
    if action == "acknowledge" and not alarm:
        raise _refusal("the day whose alarm is acknowledged", "none", "Give the alarm's day, such as 2013-06-14.")
    anchor = AuditLog(model_name).append(BY_ACTION[action], reason=reason, alarm=alarm, until=end, approval=approval)
    anchor_in(act, anchor)
    act.model, act.act, act.alarm, act.until = model_name, BY_ACTION[action], alarm, end
    act.reason, act.approval = reason, approval
    record = {name: getattr(act, name) for name in AlarmAct.PROPERTIES}
    write_text(Path(act.uri) / ACT, json.dumps(record, indent=1))
    log.info("%s %s %s: %s", act.act, alarm, f"until {end}" if end else "", reason)


def _end(until: str) -> str:
    """The end of a silence, ISO 8601 with its offset."""
    now = datetime.now(UTC)
    expected = f"an instant after {now.isoformat(timespec='minutes')}, at most {LONGEST_DAYS} days ahead"
    try:
        end = datetime.fromisoformat(until.strip())
    except ValueError as error:
        raise _refusal(expected, repr(until), "Give the silence an end, such as 2013-06-20T09:00.") from error
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    if not now < end <= now + timedelta(days=LONGEST_DAYS):
        raise _refusal(expected, until, "Give the silence another end.")
    return end.isoformat(timespec="seconds")


def _refusal(expected: str, received: str, remedy: str) -> TerminalError:
    return TerminalError("That cannot be done about alarms.", expected=expected, received=received, remedy=remedy)
