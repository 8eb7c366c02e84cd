"""What people did about alarms: they acknowledged one, or silenced them until an instant. The audit log keeps both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airtight.audit.log import AuditLog

ACKNOWLEDGED, SILENCED, UNSILENCED = ACTS = ("alarm acknowledged", "alarms silenced", "silence ended")
SILENCE = "silence"
BETWEEN = "; "
"""Between the alarms of a day, in its summary."""
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

    @property
    def effect(self) -> str:
        """What it does to an alarm, in a sentence without its end."""
        by = f"by {self.by or 'a command'}: {self.reason}"
        if self.act == ACKNOWLEDGED:
            return f"acknowledged {by}"
        which = f"“{self.alarm}” " if self.alarm else ""
        return f"{which}silenced until {self.until[:16].replace('T', ' ')} {by}"

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


def summary_of(day: str, alarms: Iterable[str]) -> str:
    """The alarms of a day in a sentence; `alarms_in` takes it apart.

    Args:
      day: ISO 8601.
      alarms: The words of each, without an end.
    """
    return f"{day}: {BETWEEN.join(alarms)}."


def alarms_in(day: str, summary: str) -> list[str]:
    """The words of each alarm in a day's summary.

    Args:
      day: ISO 8601.
      summary: As `summary_of` makes it.
    """
    return summary.removeprefix(f"{day}: ").removesuffix(".").split(BETWEEN)


def quieting(done: Iterable[AlarmAct], day: str, words: str, instant: datetime) -> AlarmAct | None:
    """The act because of which nobody is notified of an alarm: an acknowledgement, or a silence; None for none.

    It quiets people alone: whatever decides knows of the alarm.

    Args:
      done: Acts about alarms, the oldest first.
      day: The local day that alarms, ISO 8601.
      words: Of the alarm.
      instant: With its zone.
    """
    done = list(done)
    acknowledged = next((act for act in reversed(done) if act.concerns(day)), None)
    return acknowledged or next((s for s in open_silences(done, instant) if words.startswith(s.alarm)), None)


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
