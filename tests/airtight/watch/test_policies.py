"""What policies decide of a history, and what holds them back."""

from __future__ import annotations

import pytest

from airtight.errors import TerminalError
from airtight.watch import policies
from airtight.watch.brakes import Brakes, helped
from airtight.watch.history import ALL, Fit, History, Period


def history(*losses: tuple[float, float], fits: tuple[Fit, ...] = (Fit(0),), **known: object) -> History:
    """Periods of 100 rows with the losses of served model and challenger."""
    periods = tuple(Period(f"2013-{n + 1:02}", 100, served, {ALL: other}) for n, (served, other) in enumerate(losses))
    return History(periods, fits, **known)


GROWING = history((0.5, 0.5), (0.52, 0.5), (0.55, 0.5))


@pytest.mark.parametrize(
    ("name", "known", "action"),
    [
        ("never", GROWING, "keep"),
        ("every?n=3", GROWING, "retrain"),
        ("every?n=4", GROWING, "keep"),
        ("threshold?limit=0.09", GROWING, "retrain"),
        ("threshold?limit=0.09&periods=2", GROWING, "keep"),
        ("cusum?limit=0.09&slack=0.02", GROWING, "retrain"),
        ("cusum?limit=0.11&slack=0.02", GROWING, "keep"),
        ("threshold", history(), "keep"),
        ("cusum", history(), "keep"),
        ("cost_aware", history(), "keep"),
    ],
)
def test_built_in_policies_are_named_with_their_parameters(name, known, action):
    assert policies.policy_of(f"airtight.watch.policies:{name}")(known).action == action


def test_a_fit_is_made_when_staleness_lost_or_to_come_reaches_its_cost():
    lost = [(0.5, 0.5), (0.52, 0.5), (0.54, 0.5)]
    for cost, lookahead, action in ((0.05, 0, "retrain"), (0.07, 0, "keep"), (0.07, 1, "retrain"), (0.13, 2, "keep")):
        decision = policies.cost_aware(history(*lost, cost=cost), lookahead=lookahead)
        assert decision.action == action, (cost, lookahead, decision.reason)
    assert "a fit costs 0.13" in decision.reason


def test_the_cost_of_a_fit_may_be_a_share_of_the_loss():
    known = history((0.5, 0.5), (0.52, 0.5), (0.54, 0.5))
    for cost, action in ((0.11, "retrain"), (0.13, "keep")):
        assert policies.cost_aware(known, lookahead=0, cost=cost).action == action


def test_rows_weigh_what_staleness_costs():
    few = Period("2013-02", 1, 0.9, {ALL: 0.5})
    known = History((Period("2013-01", 199, 0.5, {ALL: 0.5}), few), (Fit(0),), cost=0.01)
    assert policies.cost_aware(known).action == "keep"


def test_regret_counts_only_since_the_fit():
    known = history((0.6, 0.5), (0.6, 0.5), (0.5, 0.5), fits=(Fit(0), Fit(2)), cost=0.1)
    for name in ("threshold", "cusum", "cost_aware"):
        assert getattr(policies, name)(known).action == "keep"


def test_the_best_length_of_history_is_that_of_the_best_challengers_of_late():
    periods = tuple(Period("", 10, 0.5, {ALL: 0.5, 3: 0.6 if n < 6 else 0.4}) for n in range(12))
    known = History(periods, (Fit(0),))
    assert policies.every(known, 1, policies.BEST).length == 3
    assert policies.cusum(known, length=policies.BEST).action == "retrain"
    assert policies.every(History(periods[:6], (Fit(0),)), 1, policies.BEST).length == ALL
    assert policies.every(History((), (Fit(0),)), 1, policies.BEST).length == ALL
    with pytest.raises(TerminalError, match="no such length"):
        policies.every(known, 1, "longest")


@pytest.mark.parametrize("name", ["every?m=2", "History", "nothing:here"])
def test_a_name_that_is_no_policy_is_refused_in_words(name):
    with pytest.raises(TerminalError):
        policies.policy_of(name if ":" in name else f"airtight.watch.policies:{name}")


def test_open_faults_of_the_data_block_training():
    decision = Brakes().decide(policies.every, history((9.0, 0.5), faults=("dest: constant",)))
    assert (decision.action, "dest: constant" in decision.reason) == ("fix_data", True)


def test_there_is_one_training_at_a_time():
    assert Brakes().decide(policies.every, history((9.0, 0.5), training=True)).action == "keep"


def test_a_budget_is_held_over_all_periods_or_the_last_ones():
    known = history(*[(9.0, 0.5)] * 6, fits=(Fit(0), Fit(1), Fit(4)))
    for brakes, action in ((Brakes(budget=3), "keep"), (Brakes(budget=4), "retrain")):
        assert brakes.decide(policies.every, known).action == action
    assert Brakes(budget=2, budget_periods=3).decide(policies.every, known).action == "retrain"
    assert Brakes(budget=2, budget_periods=5).decide(policies.every, known).action == "keep"


def serving(saved: dict[int, float], fits: tuple[Fit, ...], periods: int) -> History:
    """Periods in which the model before the served one loses so much more, by period."""
    known = [Period("", 10, 0.5, {ALL: 0.5}, 0.5 + saved[n] if n in saved else None) for n in range(periods)]
    return History(tuple(known), fits)


def test_the_cooldown_doubles_for_each_fit_in_vain_and_ends_with_one_that_helped():
    brakes, fits = Brakes(cooldown=2, longest=7), (Fit(0), Fit(2), Fit(4), Fit(8))
    in_vain = {2: -0.1, 3: 0.0, 4: -0.1, 5: -0.1, 8: -0.1}
    assert brakes.wait(serving({}, fits[:1], 2)) == 2
    assert brakes.wait(serving(in_vain, fits[:2], 4)) == 4
    assert brakes.wait(serving(in_vain, fits, 9)) == 7
    assert brakes.wait(serving(in_vain | {8: 0.1}, fits, 9)) == 2
    assert brakes.decide(policies.every, serving(in_vain, fits[:2], 5)).action == "keep"
    assert brakes.decide(policies.every, serving(in_vain, fits[:2], 6)).action == "retrain"


def test_a_fit_that_the_gates_refused_was_in_vain_and_serves_nothing():
    known = history((0.5, 0.5), (0.6, 0.5), fits=(Fit(0), Fit(1, accepted=False)))
    assert helped(known, 1) is False
    assert known.served == Fit(0)
    assert Brakes(cooldown=1).wait(known) == 2


def test_limits_that_are_none_are_refused():
    for brakes in ({"cooldown": 0}, {"cooldown": 9, "longest": 8}, {"budget": -1}):
        with pytest.raises(TerminalError):
            Brakes(**brakes)
