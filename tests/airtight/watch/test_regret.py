"""The state of a day is made of the day before's alone, says what it knows in words, and errs as often as it states."""

from __future__ import annotations

import random
from datetime import date, timedelta

import pytest

from airtight.errors import TerminalError
from airtight.watch import regret
from airtight.watch.regret import Day, Settings, State, after, in_words

SETTINGS = Settings(centre=-0.001, scale=0.01, threshold=5.0)


def days(differences, served="7", rows=100, first=date(2013, 6, 1)):
    return [Day((first + timedelta(n)).isoformat(), served, rows, value) for n, value in enumerate(differences)]


def state_after(known, state=None, settings=SETTINGS):
    for day in known:
        state = after(state, day, settings)
    return state


def noise(count, seed=0, mean=-0.001):
    rng = random.Random(seed)
    return [rng.gauss(mean, 0.01) for _ in range(count)]


def test_a_backfill_comes_to_the_same_bytes_as_running_daily():
    known = days([*noise(40), *noise(40, 1, 0.02)])
    at_once, text = state_after(known), None
    for day in known:
        text = after(State.from_json(text) if text else None, day, SETTINGS).to_json()
    assert text == at_once.to_json()
    # A day that is cleared and run again, and all after it.
    again = State.from_json(state_after(known[:30]).to_json())
    assert state_after(known[30:], again).to_json() == text


def test_a_shift_is_an_alarm_with_its_first_day_and_its_amount():
    state = state_after(days([*[-0.001] * 20, *[0.03] * 25]))
    assert (state.since, state.alarm) == ("2013-06-21", "2013-06-22")
    words = in_words(state, SETTINGS, "flight")
    assert "since 2013-06-21 version 7 loses 0.031 a flight to the challenger" in words
    assert "once in 200 days" in words
    assert "it is more than" in in_words(state_after(days([0.03] * 40)), SETTINGS)


def test_an_alarm_ends_when_the_loss_was_made_good():
    state = state_after(days([*[0.03] * 3, *[-0.03] * 5]))
    assert (state.level, state.since, state.alarm, state.lost) == (0, "", "", 0)
    assert in_words(state, SETTINGS) == "Version 7 loses no more than the challenger."


def test_another_version_begins_anew():
    state = state_after(days([0.03] * 10))
    state = after(state, Day("2013-06-20", "8", 100, 0.0), SETTINGS)
    assert (state.served, state.days, state.alarm) == ("8", 1, "")


def test_a_day_without_labels_changes_nothing_but_the_date():
    state = state_after(days([0.004] * 3))
    empty = after(state, Day("2013-06-04", "7", 0, float("nan")), SETTINGS)
    assert empty == State(**{**vars(state), "day": "2013-06-04"})
    first = after(None, Day("2013-06-04", "7", 0, 0.0), SETTINGS)
    assert in_words(first, SETTINGS).startswith("Not enough data")


def test_days_out_of_order_and_losses_that_are_none_are_refused():
    state = state_after(days([0.0]))
    with pytest.raises(TerminalError, match="does not come after"):
        after(state, Day("2013-06-01", "7", 1, 0.0), SETTINGS)
    with pytest.raises(TerminalError, match="not finite"):
        after(state, Day("2013-06-02", "7", 1, float("inf")), SETTINGS)


def test_the_bound_is_above_the_truth_as_rarely_as_it_states_and_is_not_idle():
    ever, detected = 0, 0
    for seed in range(200):
        state, above = None, False
        for day in days(noise(364, seed)):
            state = after(state, day, SETTINGS)
            above |= state.lower_bound(SETTINGS) > 0
        ever += above
        detected += state_after(days(noise(182, seed, 0.003))).lower_bound(SETTINGS) > 0
    assert ever <= 14
    assert detected > 190


def test_before_the_fourth_week_nothing_is_sure():
    state = state_after(days([1.0] * 27))
    assert state.lower_bound(SETTINGS) == -float("inf")
    assert regret.WEEK * 4 > state.days
