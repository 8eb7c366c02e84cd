"""Sets the threshold of the regret's CUSUM for a stated rate of false alarms, by a block bootstrap of real days."""

from __future__ import annotations

import numpy as np

from airtight.watch.regret import WEEK, Settings

MIN_DAYS = 28
"""Days of the null with fewer of which nothing is calibrated."""
PATHS = 400
SEED = 20130601
_STEPS = 30
_LONGEST = 6
"""Paths are so many times as long as the wanted mean time between alarms: exp(-6) of them have none."""


def calibrate(null: np.ndarray, days_between: int = 200, slack: float = 0.25, error: float = 0.05) -> Settings | None:
    """Settings with which the null gives one alarm in so many days, on average.

    Days depend on each other, so whole weeks are drawn, from any day on and past the end again from the beginning (the
    circular block bootstrap; Politis and Romano 1992). Weeks do not hold all of a strong dependence: of days whose
    neighbours correlate by .6, new days alarm once in some 110 where 200 were wanted, by .3 and less as stated.

    Args:
      null: Differences of days while nothing is wrong, in order, float [days]: those of a served model that is fresh,
        to its challenger.
      days_between: Mean days between false alarms.
      slack: In standard deviations of the null.
      error: Of the confidence sequence.

    Returns:
      None where there are fewer than `MIN_DAYS` days, or they are all the same: not enough data.
    """
    null = np.asarray(null, np.float64)
    null = null[np.isfinite(null)]
    scale = float(null.std()) if len(null) else 0.0
    if len(null) < MIN_DAYS or not scale:
        return None
    centre = float(null.mean())
    paths = drawn((null - centre) / scale, days_between * _LONGEST, np.random.default_rng(SEED))
    low, high = 0.0, 200.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if run_lengths(paths, middle, slack).mean() < days_between else (low, middle)
    return Settings(centre, scale, high, slack, days_between, error)


def drawn(values: np.ndarray, days: int, rng: np.random.Generator, paths: int = PATHS) -> np.ndarray:
    """Paths [paths, days] of weeks of the values, each from any day on."""
    starts = rng.integers(0, len(values), (paths, -(-days // WEEK)))
    places = (starts[..., None] + np.arange(WEEK)).reshape(paths, -1) % len(values)
    return values[places[:, :days]]


def run_lengths(paths: np.ndarray, threshold: float, slack: float) -> np.ndarray:
    """Days until the first alarm of each path [paths, days] of standardized values; its length where there is none."""
    level, lengths = np.zeros(len(paths)), np.full(len(paths), paths.shape[1])
    for day in range(paths.shape[1]):
        level = np.maximum(0.0, level + paths[:, day] - slack)
        lengths[(level > threshold) & (lengths == paths.shape[1])] = day + 1
    return lengths
