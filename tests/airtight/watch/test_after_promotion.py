"""The first ripe days after a promotion: what is taken back, what stays, and how often equals are taken back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from airtight.errors import TerminalError
from airtight.watch.after_promotion import (
    KEPT,
    LEAST_DAYS,
    TAKE_BACK,
    UNDECIDED,
    WATCHING,
    PairedDay,
    Settings,
    bound,
    judge,
)


def days(differences: list[float], variance: float = 1e-4, rows: int = 900) -> list[PairedDay]:
    return [PairedDay(f"2013-06-{n + 1:02}", rows, value, variance) for n, value in enumerate(differences)]


def test_a_worse_version_is_taken_back_on_the_day_that_shows_it_and_not_before_the_third():
    standing = judge(days([0.2, 0.21, 0.19, 0.2]), 5, Settings())
    assert (standing.outcome, standing.days, standing.decided_on) == (TAKE_BACK, LEAST_DAYS, "2013-06-03")
    assert 0 < standing.lower < standing.difference == pytest.approx(0.2)
    assert "loses +0.2 a row" in standing.reason
    assert judge(days([0.2, 0.2]), 3, Settings()).outcome == WATCHING


def test_a_better_version_is_kept_after_its_days_and_later_days_do_not_matter():
    standing = judge(days([-0.02, -0.01, 0.0, -0.03, -0.02, -0.01, -0.02, 5.0]), 20, Settings())
    assert (standing.outcome, standing.days, standing.decided_on) == (KEPT, 7, "2013-06-07")


def test_days_may_come_in_any_order_and_rows_weigh():
    few = [PairedDay("2013-06-02", 10, 1.0, None), *days([0.0])]
    assert judge(few, 3, Settings()).difference == pytest.approx(10 / 910)
    mixed = days([0.1, 0.2, 0.3, 0.2])
    assert judge(mixed[::-1], 5, Settings()) == judge(mixed, 5, Settings())


def test_days_that_differ_widen_the_bound_more_than_rows_alone_say():
    alike, apart = (bound(days(values, 1e-6), Settings())[1] for values in ([0.1] * 3, [0.0, 0.1, 0.2]))
    assert apart < 0 < alike
    assert bound(days([0.1, 0.1]), Settings())[1] == -math.inf


def wrong(version: int, former: int, rows: int = 900) -> PairedDay:
    return PairedDay("2013-06-03", rows, 0.0, 1e-4, version, former)


@pytest.mark.parametrize(
    ("of_version", "of_former", "rows", "is_taken_back"),
    [(1, 0, 900, True), (900, 0, 0, True), (900, 1, 0, True), (0, 900, 0, False), (4, 3, 900, False)],
)
def test_a_version_that_answers_no_predictions_where_the_former_champion_does_is_taken_back(
    of_version, of_former, rows, is_taken_back
):
    standing = judge([*days([0.0]), wrong(of_version, of_former, rows)], 4, Settings())
    assert standing.outcome == (TAKE_BACK if is_taken_back else WATCHING)
    if is_taken_back:
        assert (standing.days, standing.decided_on) == (1, "2013-06-03")
        assert f"on 2013-06-03 {of_version} of its answers were no predictions, such as NaN" in standing.reason
    assert standing.days == (2 if rows and not is_taken_back else 1)


def test_rows_of_which_one_version_made_no_prediction_are_left_out_and_said():
    standing = judge([*days([0.1, 0.1]), wrong(0, 5)], 4, Settings())
    assert (standing.days, standing.rows) == (3, 2700) and "(5 more, of which one" in standing.reason


def test_a_margin_is_allowed():
    assert judge(days([0.2] * 3), 4, Settings(margin=0.25)).outcome == WATCHING


def test_without_days_nothing_is_decided_until_its_time_is_over():
    assert judge([], 59, Settings()).outcome == WATCHING
    standing = judge(days([0.0, 0.0]), 60, Settings())
    assert standing.outcome == UNDECIDED and "2 of 7 ripe days" in standing.reason


@pytest.mark.parametrize("wrong", [{"days": 2}, {"error": 0.0}, {"error": 0.9}, {"margin": -1.0}, {"longest_days": 3}])
def test_settings_that_decide_nothing_are_refused(wrong):
    with pytest.raises(TerminalError, match="days after a promotion"):
        Settings(**wrong)


@pytest.mark.parametrize("day_effect", [0.0, 0.01, 0.05])
def test_equals_are_taken_back_as_rarely_as_the_error_says_whatever_days_have_in_common(day_effect):
    rng, taken, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        differences = rng.normal(0, math.hypot(0.01, day_effect), 7).tolist()
        taken += judge(days(differences, 0.01**2), 8, Settings()).outcome == TAKE_BACK
    assert taken / trials <= 0.05


def test_a_version_that_loses_three_standard_deviations_of_a_day_is_found():
    rng = np.random.default_rng(1)
    taken_back = [
        judge(days(rng.normal(0.03, 0.01, 7).tolist(), 0.005**2), 8, Settings()).outcome == TAKE_BACK
        for _ in range(200)
    ]
    assert np.mean(taken_back) > 0.9
