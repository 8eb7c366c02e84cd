"""What a pipeline says of its watch and of its late labels, two frozen objects in its `Supervised` settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from airtight.errors import TerminalError
from airtight.watch.brakes import Brakes
from airtight.watch.history import ALL
from airtight.watch.policies import policy_of

_IMPORT_STRING = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """The settings of a watch. Periods are those of its schedule, as a rule days.

    Args:
      policy: Decides about retraining, `package.module:function?name=value`; the default of the form's `policy`.
      brakes: Hold every policy.
      cost: What a fit costs, as the sum of losses per row and period that it must save.
      schedule: Cron expression of the periods.
      first: Local day of the first period; None is the pipeline's first day.
      judge_days: The last days before a decision are kept from the retrained model: its gates judge it on them.
      lengths: Histories that challengers learn from, in days; 0 is all of it, and must be among them.
      fresh_days: A served model counts as fresh for so many days; their losses beside the challenger's say what chance
        does.
      days_between: Mean days between false alarms of the regret.
      fault_days: A fault of the data blocks training for so many days from the last day that has it on, unless that is
        judged again without it or a training accepts it.
      outcome_days: A training, and the release of what it pushed, must have come to an end within so many days.
      alarms_a_year: Alarms about data that there may be by chance; the default of the form's field.
      release: How a training that the watch decided brings its model before the requests: "canary" tries it on live
        requests first, "at_once" is for a model that few or none ask. Nothing, where the pipeline has no releases.
      unit: What a row is, such as "ride".
      source: Category feature of the schema that says which of several sources a row comes from, such as a shop or a
        station; what one differs from the others is watched, too. Nothing, where there are none.
      notify: Import strings of notifiers for alarms, decisions, rollbacks, and a watch that did not run: Airflow's
        notifiers, their classes, or functions of the context. They find what happened under `watch` in the context.
      late_hours: A watch that has not succeeded so many hours after its labels are known is reported as missing.
      dag: Further arguments of the DAG.

    Raises:
      TerminalError: A setting that cannot be used.
    """

    policy: str = "airtight.watch.policies:cusum?limit=1.5&slack=0.02"
    brakes: Brakes = field(default_factory=lambda: Brakes(cooldown=7))
    cost: float = 0.0
    schedule: str = "0 0 * * *"
    first: date | None = None
    judge_days: int = 7
    lengths: tuple[int, ...] = (ALL,)
    fresh_days: int = 28
    days_between: int = 200
    fault_days: int = 3
    outcome_days: int = 3
    alarms_a_year: float = 4.0
    release: Literal["canary", "at_once"] = "canary"
    unit: str = "row"
    source: str = ""
    notify: tuple[str, ...] = ()
    late_hours: float = 6.0
    dag: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _IMPORT_STRING.fullmatch(self.policy.partition("?")[0]):
            raise _refused("policy", "an import string, and parameters as in a URL", self.policy)
        if self.policy.startswith("airtight."):
            # Others are loaded when the pipeline is compiled: they may import what is too heavy for a DAG file.
            policy_of(self.policy)
        least = {"judge_days": 1, "fresh_days": 1, "days_between": 2, "fault_days": 1, "outcome_days": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise _refused(name, f"at least {minimum}", getattr(self, name))
        if self.release not in ("canary", "at_once"):
            raise _refused("release", "canary or at_once", self.release)
        if ALL not in self.lengths or any(length < 0 for length in self.lengths):
            raise _refused("lengths", f"{ALL} for all of the history, and numbers of days", self.lengths)
        for name in self.notify:
            if not _IMPORT_STRING.fullmatch(name):
                raise _refused("notify", "import strings, package.module:attribute", name)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How a pipeline's predictions are judged as their labels come, and a promotion with them.

    Args:
      function: Import string of the function (table) -> DataFrame that makes the labels; "" is the transform, which is
        dearer. It gives what names a row, the schema's time, the labels and `label_known_at`.
      join: Columns that name a row, separated by commas; "" is the time and the keys of the schema, for the log its
        first key.
      log_root: Folder of the prediction log, whose answers are judged; "" has the rows scored anew.
      days: So many days are looked at each time, and read of the lake. A label that comes later counts no more.
      schedule: Cron expression of the intervals.
      first: Local day of the first interval; None is the pipeline's first day.
      dag: Further arguments of the DAG.

    Raises:
      TerminalError: A setting that cannot be used.
    """

    function: str = ""
    join: str = ""
    log_root: str = ""
    days: int = 30
    schedule: str = "0 0 * * *"
    first: date | None = None
    dag: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.days < 1:
            raise _refused("days", "at least 1", self.days, of="Labels")
        if self.log_root and "," in self.join.strip(", "):
            expected = "with log_root one column, whose values clients send as x-request-id"
            raise _refused("join", expected, self.join, of="Labels")


def _refused(name: str, expected: str, received: object, of: str = "Watch") -> TerminalError:
    return TerminalError(
        f"The settings of a pipeline's {of} cannot be used: {name}.",
        expected=expected,
        received=repr(received),
        remedy=f"Correct {name} in the pipeline's {of}.",
    )
