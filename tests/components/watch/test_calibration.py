"""The threshold gives the rate of false alarms that it states, on days that depend on each other too."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from airtight.watch.regret import Day, after
from components.watch.calibration import calibrate, run_lengths


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
