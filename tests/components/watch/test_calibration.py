"""The threshold gives the rate of false alarms that it states, on days that depend on each other too."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from airtight.watch.regret import Day, Settings, after
from components.watch.calibration import MIN_DAYS, alarms, calibrate, run_lengths


def weather(days: int, seed: int, memory: float = 0.6) -> np.ndarray:
    """An autoregressive series of standard deviation 1."""
    rng = np.random.default_rng(seed)
    values = np.zeros(days)
    for day in range(1, days):
        values[day] = memory * values[day - 1] + np.sqrt(1 - memory**2) * rng.normal()
    return values


@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_new_days_alarm_as_often_as_stated(memory):
    lengths = []
    for seed in range(9):
        settings = calibrate(0.01 * weather(300, seed, memory) - 0.002)
        new = (0.01 * weather(10_000, 100 + seed, memory) - 0.002 - settings.centre) / settings.scale
        lengths.append(run_lengths(new.reshape(10, 1000), settings.threshold, settings.slack).mean())
    assert 100 < np.median(lengths) < 330


@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_after_as_few_fresh_days_as_there_may_be_false_alarms_are_as_rare_and_bounds_as_sure_as_stated(memory):
    """The centre of 28 days is off by .19 standard deviations, which a CUSUM adds up and weeks do not average out."""
    seen, false, above = 0, 0, 0
    for seed in range(40):
        settings = calibrate(0.01 * weather(MIN_DAYS, seed, memory) - 0.002)
        new = 0.01 * weather(2184, 1000 + seed, memory) - 0.002
        paths = (new.reshape(6, 364) - settings.centre) / settings.scale
        seen, false = seen + paths.size, false + alarms(paths, settings.threshold, settings.slack)
        for path in new.reshape(6, 364):
            above += ever_above(path, settings)
    assert seen / false > 120, "200 are stated, and a few of the worst calibrations weigh much"
    assert above / 240 < 0.07


def ever_above(differences: np.ndarray, settings: Settings) -> bool:
    """Whether the bound excludes 0, the truth, at any look."""
    state, first = None, date(2013, 1, 1)
    for number, value in enumerate(differences.tolist()):
        state = after(state, Day((first + timedelta(number)).isoformat(), "1", 9, value), settings)
        if state.lower_bound(settings) > 0:
            return True
    return False


def test_the_state_and_the_calibration_count_alike():
    null = 0.01 * weather(300, 1)
    settings = calibrate(null)
    new = np.append(0.01 * weather(100, 2), 0.03 + 0.01 * weather(50, 3))
    state, first = None, 0
    for number, value in enumerate(new):
        state = after(state, Day((date(2013, 1, 1) + timedelta(number)).isoformat(), "1", 9, value), settings)
        first = first or (number + 1 if state.alarm else 0)
    paths = (new[None] - settings.centre) / settings.scale
    assert run_lengths(paths, settings.threshold, settings.slack).tolist() == [first]


def test_rarer_false_alarms_want_a_higher_threshold():
    null = weather(300, 0)
    thresholds = [calibrate(null, days).threshold for days in (50, 200, 800)]
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == 3


def test_too_few_days_or_days_that_are_all_the_same_calibrate_nothing():
    assert calibrate(weather(27, 0)) is None
    assert calibrate(np.zeros(100)) is None
    assert calibrate(np.full(100, np.nan)) is None
