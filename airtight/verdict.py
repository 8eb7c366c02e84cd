"""A gate's verdict in plain words: metric, threshold, baseline, and whether it holds."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from airtight.files import write_text

FILE_NAME = "verdict.json"
"""The name of a verdict inside an artifact's folder."""


@dataclass(frozen=True)
class Check:
    """One thing a gate looked at.

    Args:
      name: What was measured, such as "auc" or "orders.item is in items".
      passed: Whether it holds.
      value: What was measured; None where there is no number.
      threshold: The bound, with its direction, such as ">= 0.65"; empty where there is none.
      baseline: The figure it was compared with; None where there is none.
      severity: A failed "blocking" check fails the gate, a failed "warning" is only told.
      note: One sentence for a person.
      interval: Lower and upper bound of `value`, or of what it is a bound of; None where there is none.
    """

    name: str
    passed: bool
    value: float | None = None
    threshold: str = ""
    baseline: float | None = None
    severity: Literal["blocking", "warning"] = "blocking"
    note: str = ""
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        line = f"{'ok  ' if self.passed else 'FAIL' if self.severity == 'blocking' else 'warn'} {self.name}"
        if self.value is not None:
            line += f" = {self.value:.6g}"
        if self.threshold:
            line += f", bound {self.threshold}"
        if self.baseline is not None:
            line += f", baseline {self.baseline:.6g}"
        return f"{line}. {self.note}" if self.note else line


@dataclass(frozen=True)
class Verdict:
    """What one gate decided, and on what grounds.

    Args:
      gate: The step that decided, such as "evaluate".
      interval: The data interval it judged, as text.
      checks: What it looked at, in order.
      reason: One sentence for a person; made from the checks when empty.
    """

    gate: str
    interval: str
    checks: tuple[Check, ...]
    reason: str = ""

    @property
    def passed(self) -> bool:
        """True when no blocking check failed."""
        return all(check.passed or check.severity == "warning" for check in self.checks)

    def __str__(self) -> str:
        failed = [check for check in self.checks if not check.passed and check.severity == "blocking"]
        warned = [check for check in self.checks if not check.passed and check.severity == "warning"]
        words = self.reason or (
            f"{len(self.checks) - len(failed) - len(warned)} of {len(self.checks)} checks hold"
            + (f", {len(warned)} warn" if warned else "")
            + (f"; failed: {', '.join(check.name for check in failed[:5])}" if failed else "")
        )
        return f"{self.gate} {'passed' if self.passed else 'did not pass'} for {self.interval}: {words}"

    def write(self, folder: Path) -> None:
        """Writes `verdict.json` into `folder`, atomically."""
        # JSON has no NaN; a metric that does not exist is null.
        checks = [{name: _finite(value) for name, value in asdict(check).items()} for check in self.checks]
        head = {"gate": self.gate, "interval": self.interval, "passed": self.passed, "summary": str(self)}
        write_text(
            folder / FILE_NAME, json.dumps({**head, "reason": self.reason, "checks": checks}, indent=1, allow_nan=False)
        )

    @classmethod
    def read(cls, folder: Path) -> Verdict:
        """Reads what `write` wrote."""
        payload = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        checks = tuple(Check(**{**check, "interval": _pair(check.get("interval"))}) for check in payload["checks"])
        return cls(payload["gate"], payload["interval"], checks, payload["reason"])


def _finite(value: Any) -> Any:
    """A value as JSON takes it: None for a number that is not finite, and for an interval with such an end."""
    numbers = value if isinstance(value, tuple) else (value,)
    is_finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
    return value if is_finite else None


def _pair(ends: list[float] | None) -> tuple[float, float] | None:
    return (ends[0], ends[1]) if ends else None
