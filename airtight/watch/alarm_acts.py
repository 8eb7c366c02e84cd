"""What people did about alarms: they acknowledged one, or silenced them until an instant. The audit log keeps both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airtight.audit.log import AuditLog

ACKNOWLEDGED, SILENCED, UNSILENCED = ACTS = ("alarm acknowledged", "alarms silenced", "silence ended")
SILENCE = "silence"
BY_ACTION = {"acknowledge": ACKNOWLEDGED, SILENCE: SILENCED, "end_silence": UNSILENCED}
"""What a person may do on the trigger form, and how the audit log calls it."""


@dataclass(frozen=True)
class AlarmAct:
    """One line of the audit log about alarms.

    Args:
      act: One of `ACTS`.
      at: When, ISO 8601, UTC.
      alarm: The local day whose alarm it is, ISO 8601; empty for all alarms, or a beginning of their words.
      until: When a silence ends, ISO 8601; empty else.
      reason: Why.
      by: Who did it.
      dag_id: The DAG by which it was done; empty for a command.
    """

    act: str
    at: str
    alarm: str
    until: str
    reason: str
    by: str
    dag_id: str = ""

    @property
    def in_words(self) -> str:
        """The act in a sentence without its end."""
        about = f" {self.alarm}" if self.alarm else ""
        until = f" until {self.until[:16].replace('T', ' ')}" if self.until else ""
        return f"{self.act}{about}{until} by {self.by or 'a command'}: {self.reason}"

    def concerns(self, day: str) -> bool:
        """Whether it was done about the alarm of a day."""
        return self.act == ACKNOWLEDGED and self.alarm == day


def acts(log: AuditLog) -> list[AlarmAct]:
    """All acts about alarms, the oldest first.

    Args:
      log: The pipeline's audit log.
    """
    lines, _ = log.lines()
    return [_of(line.entry) for line in lines if line.entry and line.entry.get("act") in ACTS]


def open_silences(done: Iterable[AlarmAct], instant: datetime) -> list[AlarmAct]:
    """The silences that hold at an instant: not over, and not ended by somebody.

    Args:
      done: Acts about alarms, the oldest first.
      instant: With its zone.
    """
    held: dict[str, AlarmAct] = {}
    for act in done:
        if act.act == SILENCED and datetime.fromisoformat(act.until) > instant:
            held[act.alarm] = act
        elif act.act in (SILENCED, UNSILENCED):
            held.pop(act.alarm, None)
    return list(held.values())


def is_silenced(done: Iterable[AlarmAct], words: str, instant: datetime) -> bool:
    """Whether an alarm is silenced: by a silence of all alarms, or of those whose words begin as it says.

    Args:
      done: Acts about alarms, the oldest first.
      words: Of the alarm.
      instant: With its zone.
    """
    return any(words.startswith(silence.alarm) for silence in open_silences(done, instant))


def _of(entry: dict[str, Any]) -> AlarmAct:
    details, by = entry.get("details", {}), entry.get("by", {})
    return AlarmAct(
        str(entry["act"]),
        str(entry.get("at", "")),
        str(details.get("alarm", "")),
        str(details.get("until", "")),
        str(entry.get("reason", "")),
        str(details.get("approval") or by.get("user", "")),
        str(by.get("dag_id", "")),
    )
