"""Whether the served model loses more than a challenger on the same rows: a CUSUM and a confidence sequence by day.

The difference of the losses of two models on the same rows has far less noise than either loss: the day's weather is in
both. Its state is a small value that is made of the day before's, so that a backfill comes to the same bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

from airtight.errors import TerminalError
from airtight.rollout.sequential import normal_quantile

WEEK = 7
"""Days in a block: days depend on each other, weeks nearly not."""
_MIN_WEEKS = 4
"""With fewer, the variance of weeks is not known."""
_PLANNED_WEEKS = 13
"""The confidence sequence is tightest here."""


@dataclass(frozen=True)
class Settings:
    """How a difference is judged; `components.watch.calibration.calibrate` makes them.

    Args:
      centre: Mean difference of a day while nothing is wrong, in units of the loss.
      scale: Its standard deviation from day to day, over 0.
      threshold: Level of the CUSUM, in `scale`, over which there is an alarm.
      slack: What is taken from each day's difference, in `scale`: half of the smallest shift that matters.
      days_between: Mean days between false alarms that the threshold was set for.
      error: Chance that the confidence sequence ever lies above the true mean.
      centre_error: Standard error of the centre, in units of the loss: it is the mean of few days.
    """

    centre: float
    scale: float
    threshold: float
    slack: float = 0.25
    days_between: int = 200
    error: float = 0.05
    centre_error: float = 0.0


@dataclass(frozen=True)
class Day:
    """The two models on the labelled rows of a day.

    Args:
      day: ISO 8601.
      served: Name of the served model's version.
      rows: Labelled rows; 0 where no label is known.
      difference: Mean loss of the served model less that of the challenger; what it is without rows does not matter.
    """

    day: str
    served: str
    rows: int
    difference: float


@dataclass(frozen=True)
class State:
    """What is known of a served model after a day.

    Args:
      served: Name of its version.
      day: The last day, ISO 8601.
      days: How many of its days had rows.
      level: Of the CUSUM.
      since: The first day after the level was last 0; empty where it is 0.
      rows: Rows since then.
      lost: What the served model lost more than the challenger on them, summed over rows.
      alarm: The day on which the threshold was first exceeded; empty again once the level is 0.
      weeks: Whole weeks of days with rows.
      mean: Of the weeks' mean differences, less the centre.
      squares: Sum of their squared deviations.
      week: Differences of the days of the week that is not whole, less the centre.
    """

    served: str
    day: str = ""
    days: int = 0
    level: float = 0.0
    since: str = ""
    rows: int = 0
    lost: float = 0.0
    alarm: str = ""
    weeks: int = 0
    mean: float = 0.0
    squares: float = 0.0
    week: tuple[float, ...] = ()

    def to_json(self) -> str:
        """The same bytes for the same state."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> State:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return State(**{**fields, "week": tuple(fields["week"])})

    def lower_bound(self, settings: Settings) -> float:
        """What the mean difference, less the centre, surely exceeds at every look; -inf before the fourth week."""
        if self.weeks < _MIN_WEEKS:
            return -math.inf
        # A few weeks may be alike by chance: no less than weeks of independent days of the null.
        deviation = max(math.sqrt(self.squares / (self.weeks - 1)), settings.scale / math.sqrt(WEEK))
        quantile = normal_quantile(self.weeks / _PLANNED_WEEKS, settings.error)
        # The centre's error is in every week, and does not shrink with their number.
        return self.mean - quantile * math.sqrt(deviation**2 / self.weeks + settings.centre_error**2)


def after(state: State | None, day: Day, settings: Settings) -> State:
    """The state after one more day.

    Args:
      state: After the day before; None where there is none.
      day: The day. Without rows it changes nothing but the date; another served version begins anew.
      settings: How it is judged.

    Raises:
      TerminalError: The day is none after the state's, or its difference is not finite.
    """
    if state is not None and day.day <= state.day:
        raise TerminalError(
            "A day does not come after the day of the state.",
            expected=f"a day after {state.day}",
            received=day.day,
            remedy="Make states in the order of days, each from the day before's.",
        )
    if state is None or state.served != day.served:
        state = State(day.served)
    if not day.rows:
        return replace(state, day=day.day)
    if not math.isfinite(day.difference):
        raise TerminalError(
            "The difference of two losses is not finite.",
            expected="finite losses of both models",
            received=f"{day.difference} on {day.day}",
            remedy="Score the rows again; a model that answers NaN is refused by its gates.",
        )
    excess = day.difference - settings.centre
    level = max(0.0, state.level + excess / settings.scale - settings.slack)
    begun = bool(level and state.level)
    state = replace(
        state,
        day=day.day,
        days=state.days + 1,
        level=level,
        since=(state.since if begun else day.day) if level else "",
        rows=day.rows + (state.rows if begun else 0) if level else 0,
        lost=excess * day.rows + (state.lost if begun else 0.0) if level else 0.0,
        alarm=(state.alarm or (day.day if level > settings.threshold else "")) if level else "",
        week=(*state.week, excess),
    )
    return _with_whole_week(state) if len(state.week) == WEEK else state


def in_words(state: State, settings: Settings, unit: str = "row") -> str:
    """What the state says, in a sentence.

    Args:
      state: The state.
      settings: How it was judged.
      unit: What a row is, such as "ride".
    """
    if not state.days:
        return f"Not enough data: no day of version {state.served} has labels yet."
    if not state.level:
        return f"Version {state.served} loses no more than the challenger."
    lost = f"since {state.since} version {state.served} loses {state.lost / state.rows:.3g} a {unit} to the challenger"
    if not state.alarm:
        return f"No alarm: {lost}, which is within chance ({state.level:.1f} of {settings.threshold:.1f})."
    bound = state.lower_bound(settings)
    sure = f"; over all its weeks it is more than {bound:.3g}, at every look" if bound > 0 else ""
    return f"Alarm since {state.alarm}: {lost}{sure}. By chance this happens once in {settings.days_between} days."


def _with_whole_week(state: State) -> State:
    """Adds the week to mean and squared deviations (Welford 1962)."""
    value, weeks = sum(state.week) / WEEK, state.weeks + 1
    mean = state.mean + (value - state.mean) / weeks
    squares = state.squares + (value - state.mean) * (value - mean)
    return replace(state, weeks=weeks, mean=mean, squares=squares, week=())
