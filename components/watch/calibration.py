"""Sets the threshold of the regret's CUSUM for a stated rate of false alarms, by a block bootstrap of real days.

Centre and scale are themselves known from few days, and the CUSUM adds up the centre's error day by day. So each
simulated path is judged by a centre and a scale of its own, those of as many days as there are of the null.
"""

from __future__ import annotations

import numpy as np

from airtight.rollout.sequential import student_ratio
from airtight.watch.regret import WEEK, Settings

MIN_DAYS = 28
"""Days of the null with fewer of which nothing is calibrated."""
PATHS = 400
SEED = 20130601
_STEPS = 20
_HIGHEST = 200.0
_LONGEST = 3
"""Paths are so many times as long as the wanted mean time between alarms."""


def calibrate(null: np.ndarray, days_between: int = 200, slack: float = 0.25, error: float = 0.05) -> Settings | None:
    """Settings with which fresh days give one alarm in so many days, on average over what the null might have been.

    Days depend on each other, so whole weeks are drawn, from any day on and past the end again from the beginning (the
    circular block bootstrap; Politis and Romano 1992). Weeks do not hold all of a strong dependence.

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
    centre, count, rng = float(null.mean()), len(null), np.random.default_rng(SEED)
    paths, samples = (drawn((null - centre) / scale, days, rng) for days in (days_between * _LONGEST, count))
    # How much weeks vary is itself known from few.
    widened = student_ratio(count // WEEK - 1)
    scales = samples.std(axis=1, keepdims=True)
    paths = (paths - widened * samples.mean(axis=1, keepdims=True)) / np.where(scales > 0, scales, 1.0)
    # Weeks that are drawn of few vary less around the mean of these few than new weeks do.
    paths *= np.sqrt(count / (count - WEEK))
    low, high = 0.0, _HIGHEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        is_low = alarms(paths, middle, slack) * days_between > paths.size
        low, high = (middle, high) if is_low else (low, middle)
    weeks = null[count % WEEK :].reshape(-1, WEEK).mean(axis=1)
    centre_error = float(weeks.std(ddof=1) / np.sqrt(len(weeks))) * widened
    return Settings(centre, scale, high, slack, days_between, error, centre_error)


def drawn(values: np.ndarray, days: int, rng: np.random.Generator, paths: int = PATHS) -> np.ndarray:
    """Paths [paths, days] of weeks of the values, each from any day on."""
    starts = rng.integers(0, len(values), (paths, -(-days // WEEK)))
    places = (starts[..., None] + np.arange(WEEK)).reshape(paths, -1) % len(values)
    return values[places[:, :days]]


def alarms(paths: np.ndarray, threshold: float, slack: float) -> int:
    """How many alarms paths [paths, days] of standardized values give, where each begins anew after an alarm."""
    level, count = np.zeros(len(paths)), 0
    for values in paths.T:
        level = np.maximum(0.0, level + values - slack)
        count += int(np.count_nonzero(level > threshold))
        level[level > threshold] = 0.0
    return count


def run_lengths(paths: np.ndarray, threshold: float, slack: float) -> np.ndarray:
    """Days until the first alarm of each path [paths, days] of standardized values; its length where there is none."""
    level, lengths = np.zeros(len(paths)), np.full(len(paths), paths.shape[1])
    for day in range(paths.shape[1]):
        level = np.maximum(0.0, level + paths[:, day] - slack)
        lengths[(level > threshold) & (lengths == paths.shape[1])] = day + 1
    return lengths
