"""What is known of the quality of each day's predictions: ripe or not, figures, estimate, as one JSON object a day."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from airtight.files import write_text

FILE = "days.jsonl"
"""Of a `LabelQuality` artifact: its days, in order."""
UNRIPE, RIPENING, RIPE = STATES = ("unripe", "ripening", "ripe")


@dataclass(frozen=True)
class DaySettings:
    """When a day's figures count, and what is said of a day.

    Args:
      unripe_below: Share of settled predictions below which figures say nothing.
      ripe_from: Share from which they are the day's.
      close_after_days: Days after which a day is ripe whatever lacks: no label is waited for any longer.
      gap_hours: Hours without an answer from which a note says so.

    Raises:
      TerminalError: They do not follow each other.
    """

    unripe_below: float = 0.5
    ripe_from: float = 0.99
    close_after_days: int = 30
    gap_hours: float = 12.0

    def __post_init__(self) -> None:
        if not 0 <= self.unripe_below <= self.ripe_from <= 1 or self.close_after_days < 1:
            raise TerminalError(
                "The settings of days cannot be used.",
                expected="0 <= unripe_below <= ripe_from <= 1, and at least one day",
                received=str(self),
                remedy="Correct the settings.",
            )


@dataclass(frozen=True)
class DayQuality:
    """One day of predictions, as it was known at an instant.

    Args:
      day: Local, ISO 8601.
      known_by: Labels that were known before this instant count, ISO 8601.
      state: One of STATES.
      rows: Predictions that were answers.
      labelled: Of them, how many labels are known.
      never: How many will have none: it was told so, or the day is closed.
      pending: How many labels have not come.
      contradicted: How many have labels that say different things.
      early: How many have a label from before their answer.
      corrected: How many labels had another value before.
      unanswered: Requests without an answer.
      unpredicted: Labels of rows of which there is no prediction.
      beside: Predictions of versions that were asked beside.
      not_finite: Labelled predictions that are none of the task's: then there are no figures.
      gap_hours: The longest time of the day without an answer.
      digest: Of predictions and labels.
      reopened: How often a ripe day's labels or predictions changed.
      blocks: What intervals are drawn from.
      figures: Value, lower and upper bound by name; by metric of the task.
      slices: Likewise: `slice`, `rows`, `figures` where there are enough.
      versions: Likewise: `version`, `beside`, `rows`, `figures`.
      pairs: `day_rows.Pair` as objects.
      estimate: Expected metrics by name, as of the first time that the day was seen; empty where nothing was fitted.
      estimate_error: Estimate less value by metric, once the day is ripe.
      notes: What a person should know, in sentences.
    """

    day: str
    known_by: str
    state: str = UNRIPE
    rows: int = 0
    labelled: int = 0
    never: int = 0
    pending: int = 0
    contradicted: int = 0
    early: int = 0
    corrected: int = 0
    unanswered: int = 0
    unpredicted: int = 0
    beside: int = 0
    not_finite: int = 0
    gap_hours: float = 24.0
    digest: str = ""
    reopened: int = 0
    blocks: str = ""
    figures: Mapping[str, list[float | None]] = field(default_factory=dict)
    slices: list[Mapping[str, Any]] = field(default_factory=list)
    versions: list[Mapping[str, Any]] = field(default_factory=list)
    pairs: list[Mapping[str, Any]] = field(default_factory=list)
    estimate: Mapping[str, float] = field(default_factory=dict)
    estimate_error: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def settled(self) -> float:
        """Share of the predictions whose label is known, or known to come never or to be of no use."""
        return 1 - self.pending / self.rows if self.rows else 0.0

    @property
    def in_words(self) -> str:
        """Such as "93 % ripe"; rounded down, so that 100 % is all."""
        if not self.rows:
            return "no predictions"
        return {UNRIPE: "unripe", RIPE: "ripe"}.get(self.state, f"{int(100 * self.settled)} % ripe")

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self), "in_words": self.in_words}, sort_keys=True, allow_nan=False)

    @classmethod
    def of_json(cls, text: str) -> DayQuality:
        """The inverse of `to_json`."""
        payload = json.loads(text)
        payload.pop("in_words", None)
        return cls(**payload)


def settled_state(day: DayQuality, age_days: int, settings: DaySettings, before: DayQuality | None) -> DayQuality:
    """The day with its state, how often it was reopened, what became of its estimate, and notes.

    Args:
      day: As counted.
      age_days: Whole days from the day to the instant by which labels were known.
      settings: When it is ripe.
      before: The same day as it was known before; None the first time.
    """
    notes = []
    if age_days >= settings.close_after_days and day.pending:
        day = replace(day, never=day.never + day.pending, pending=0)
    state = RIPE if day.settled >= settings.ripe_from else RIPENING if day.settled >= settings.unripe_below else UNRIPE
    if not day.rows:
        state = UNRIPE
    reopened = before.reopened if before else 0
    if before and before.state == RIPE and before.digest != day.digest:
        reopened += 1
        notes.append("It was ripe, and its labels or predictions changed since.")
    estimate = before.estimate if before and before.estimate else day.estimate
    error = {
        name: expected - value
        for name, expected in estimate.items()
        if state == RIPE and (value := (day.figures.get(name) or [None])[0]) is not None
    }
    return replace(
        day,
        state=state,
        reopened=reopened,
        estimate=estimate,
        estimate_error=error,
        notes=[*notes, *_notes(day, settings)],
    )


def _notes(day: DayQuality, settings: DaySettings) -> list[str]:
    """What the counts say that a person should know."""
    notes = []
    if not day.rows:
        notes.append(
            f"No prediction is known, and {day.unpredicted:,} labels are."
            if day.unpredicted
            else "No prediction is known."
        )
        return notes
    if day.gap_hours >= settings.gap_hours:
        notes.append(f"Nothing was answered for {day.gap_hours:g} hours.")
    if day.never:
        notes.append(f"{day.never:,} predictions get no label.")
    if day.unpredicted:
        notes.append(f"{day.unpredicted:,} labels are of rows of which no prediction is known.")
    if day.contradicted:
        notes.append(f"{day.contradicted:,} rows have labels of one instant that contradict each other; none counts.")
    if day.early:
        notes.append(
            f"{day.early:,} labels are older than their prediction, and do not count: clocks are apart, or the "
            "answer was known."
        )
    if day.not_finite:
        notes.append(f"{day.not_finite:,} labelled predictions are none of the task's; the day has no figures.")
    return notes


def write(path: Path, days: Iterable[DayQuality]) -> None:
    """Writes `days.jsonl`, in the order of days."""
    write_text(path, "".join(f"{day.to_json()}\n" for day in sorted(days, key=lambda day: day.day)))


def read(folder: Path) -> dict[str, DayQuality]:
    """The days of an artifact by day, in order.

    Raises:
      TerminalError: The file cannot be read.
    """
    path = folder / FILE
    try:
        days = [DayQuality.of_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise TerminalError(
            "The quality of earlier days cannot be read.",
            expected=f"{FILE} as label_quality writes it",
            received=f"{path}: {error}",
            remedy="Clear the run of the day before, then this one.",
        ) from error
    return {day.day: day for day in days}
