"""When a pipeline runs, and over which intervals, by the times of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from components.scaffold.forms import Fit

_LEAST_DAYS = 5
_INTERVALS, _FEWEST_INTERVALS = 6, 3
_ROWS = 100
"""An interval should have so many rows, to be judged on."""


@dataclass(frozen=True)
class Schedule:
    """The intervals of a pipeline.

    Args:
      name: "hourly", "daily" and so on.
      cron: When an interval ends and the next one starts.
      validation_days: Last days of the history that are kept from training.
      first: Day on which the first interval starts that has enough before it.
      last: Day on which the last whole interval ends.
      interval: The last whole interval, as people type it.
      fit: The times.
    """

    name: str
    cron: str
    validation_days: int
    first: date
    last: date
    interval: str
    fit: Fit


@dataclass(frozen=True)
class _Rhythm:
    name: str
    cron: str
    days: float
    validation_days: int
    floor: Callable[[date], date]
    """The start of the interval that a day is in."""


def _month(day: date, months: int) -> date:
    return date(day.year, (day.month - 1) // months * months + 1, 1)


_RHYTHMS = (
    _Rhythm("monthly", "0 0 1 * *", 30.4, 14, lambda day: _month(day, 1)),
    _Rhythm("weekly", "0 0 * * 1", 7, 7, lambda day: day - timedelta(days=day.weekday())),
    _Rhythm("daily", "0 0 * * *", 1, 3, lambda day: day),
    _Rhythm("hourly", "0 * * * *", 1 / 24, 3, lambda day: day),
)
_LONGER = (
    _Rhythm("yearly", "0 0 1 1 *", 365.25, 30, lambda day: _month(day, 12)),
    _Rhythm("quarterly", "0 0 1 */3 *", 91.3, 21, lambda day: _month(day, 3)),
)


def propose_schedule(fit: Fit, rows: int) -> Schedule | None:
    """The longest rhythm up to a month of which the data have six, or a longer one where a month has few rows.

    Args:
      fit: The times.
      rows: Rows of the table.

    Returns:
      The schedule; None where the times span too few days for any.
    """
    first, last = fit.span
    days = (last - first).days + 1
    if days < _LEAST_DAYS:
        return None
    fitting = [rhythm for rhythm in _RHYTHMS if days / rhythm.days >= _INTERVALS + rhythm.validation_days / rhythm.days]
    fitting = [rhythm for rhythm in fitting if rhythm.name != "hourly" or fit.clock] or [_RHYTHMS[2]]
    chosen = fitting[0]
    if rows / days * chosen.days < _ROWS:
        longer = [rhythm for rhythm in (*reversed(_LONGER), *_RHYTHMS) if rhythm.days > chosen.days]
        longer = sorted(longer, key=lambda rhythm: rhythm.days)
        enough = [rhythm for rhythm in longer if days / rhythm.days >= _FEWEST_INTERVALS]
        with_rows = [rhythm for rhythm in enough if rows / days * rhythm.days >= _ROWS]
        chosen = with_rows[0] if with_rows else (enough[-1] if enough else chosen)
    return _scheduled(chosen, fit)


def _scheduled(rhythm: _Rhythm, fit: Fit) -> Schedule:
    first_day, last_day = fit.span
    # A day of which only some is there counts as whole: hours that are missing do not end an interval.
    end = rhythm.floor(last_day + timedelta(days=1))
    start = rhythm.floor(end - timedelta(days=1))
    needed = first_day + timedelta(days=max(2 * rhythm.validation_days, round(rhythm.days)))
    first = rhythm.floor(needed)
    while first < needed:
        first = rhythm.floor(first + timedelta(days=max(1, round(rhythm.days * 1.1))))
    interval = f"{start}/{end}"
    if rhythm.name == "monthly":
        interval = f"{start:%Y-%m}"
    elif rhythm.name in ("daily", "hourly"):
        interval = f"{start}"
    return Schedule(rhythm.name, rhythm.cron, rhythm.validation_days, min(first, start), end, interval, fit)
