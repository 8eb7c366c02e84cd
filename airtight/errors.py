"""Two families of faults: transient ones are retried, terminal ones fail at once.

A decision (a model that is not blessed, data that drifted) is not a fault: it is recorded as an artifact.
"""

from __future__ import annotations

import json
from typing import Any

EXIT_TERMINAL = 64
"""Exit status of a process that failed and must not be tried again."""
EXIT_TRANSIENT = 75
"""Exit status of a process that failed and may be tried again (EX_TEMPFAIL of sysexits.h)."""

MAX_EXAMPLES = 5


class AirtightError(Exception):
    """A fault in words: what was expected, what was received, and what to do.

    Args:
      message: What went wrong, one sentence.
      expected: What would have been right.
      received: What came instead; sequences are shortened to five examples.
      remedy: What the reader should do now.
      step: The node or command in which it happened; the launcher fills it in when it is empty.
    """

    transient = False

    def __init__(
        self, message: str, *, expected: Any = "", received: Any = "", remedy: str = "", step: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = _in_words(expected)
        self.received = _in_words(received)
        self.remedy = remedy
        self.step = step

    @property
    def exit_status(self) -> int:
        """How a process ends that this fault has ended."""
        return EXIT_TRANSIENT if self.transient else EXIT_TERMINAL

    def __str__(self) -> str:
        parts = [f"{self.step}: {self.message}" if self.step else self.message]
        if self.expected:
            parts.append(f"Expected: {self.expected}.")
        if self.received:
            parts.append(f"Received: {self.received}.")
        if self.remedy:
            parts.append(f"What to do: {self.remedy}")
        return " ".join(parts)

    def to_json(self) -> str:
        """Serializes the fault, so that it crosses a process boundary whole."""
        fields = {k: getattr(self, k) for k in ("message", "expected", "received", "remedy", "step")}
        return json.dumps({"transient": self.transient, **fields})

    @staticmethod
    def from_json(text: str) -> AirtightError:
        """The inverse of `to_json`; the family is kept."""
        fields = json.loads(text)
        family = TransientError if fields.pop("transient") else TerminalError
        return family(fields.pop("message"), **fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return AirtightError.from_json, (self.to_json(),)


class TransientError(AirtightError):
    """The same attempt may succeed later: a service is away, a disk is full, a lock is held."""

    transient = True


class TerminalError(AirtightError):
    """No retry can help: the input, the settings or the code must change."""


def _in_words(value: Any) -> str:
    if isinstance(value, str):
        return value.rstrip(".")
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(map(str, value)) if isinstance(value, (set, frozenset)) else list(map(str, value))
        more = f" and {len(items) - MAX_EXAMPLES} more" if len(items) > MAX_EXAMPLES else ""
        return ", ".join(items[:MAX_EXAMPLES]) + more
    return str(value)
