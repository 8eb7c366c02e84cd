"""Bounds that hold at every look: how often they err when looked at again and again, and what they cost."""

from __future__ import annotations

import math

import pytest

from airtight.rollout.sequential import Bets, normal_quantile

ALPHA = 0.05


def crossings(p: float, stable: float, candidate: float, margin: float, *, trials: int, requests: int) -> float:
    """How often the difference of two arms is refuted to be `margin` at some look, where it is that."""
    np = pytest.importorskip("numpy")
    rng, crossed = np.random.default_rng(5), 0
    for _ in range(trials):
        assigned = rng.random(requests) < p
        bad = rng.random(requests) < np.where(assigned, candidate, stable)
        ours, theirs = np.cumsum(bad & ~assigned), np.cumsum(bad & assigned)
        for seen in range(50, requests, 50):
            counts = ((1 / p, int(theirs[seen])), (-1 / (1 - p), int(ours[seen])))
            bets = Bets((*counts, (0.0, seen + 1 - int(theirs[seen]) - int(ours[seen]))), -1 / (1 - p), 1 / p)
            if bets.below(margin) >= math.log(1 / ALPHA):
                crossed += 1
                break
    return crossed / trials


@pytest.mark.parametrize(("p", "stable", "candidate"), [(0.1, 0.005, 0.015), (0.5, 0.05, 0.06), (0.1, 0.0, 0.01)])
def test_looking_again_and_again_does_not_raise_the_error(p, stable, candidate):
    assert crossings(p, stable, candidate, 0.01, trials=200, requests=4000) <= ALPHA


def test_what_is_clear_is_found_soon():
    assert crossings(0.5, 0.01, 0.01, 0.05, trials=50, requests=1500) >= 0.9


def test_bounds_are_where_the_evidence_is_reached():
    bets = Bets(((10.0, 12), (-1 / 0.9, 90), (0.0, 9898)), -1 / 0.9, 10.0)
    assert bets.below(bets.upper(ALPHA)) == pytest.approx(math.log(1 / ALPHA), abs=1e-3)
    assert bets.above(bets.lower(ALPHA)) == pytest.approx(math.log(1 / ALPHA), abs=1e-3)
    assert bets.lower(ALPHA) < 12 / 1000 - 90 / 9000 < bets.upper(ALPHA)
    assert bets.upper(0.005) > bets.upper(ALPHA) and bets.lower(0.005) < bets.lower(ALPHA)


def test_no_observation_and_no_failure_prove_nothing_by_themselves():
    nothing = Bets(((0.0, 0),), -1.0, 1.0)
    assert (nothing.lower(ALPHA), nothing.upper(ALPHA)) == (-1.0, 1.0)
    # A hundred requests without a failure do not tell 1 % from none: its square root of a variance is not 0.
    assert Bets(((0.0, 100),), -1.0, 1.0).upper(ALPHA) > 0.01


def test_totals_of_pairs_are_weaker_evidence_than_the_pairs():
    pairs = Bets(((1.0, 5), (-1.0, 5), (0.0, 990)), -1.0, 1.0)
    totals = Bets(((1.0, 45), (-1.0, 45), (0.0, 910)), -1.0, 1.0)
    assert totals.upper(ALPHA) > pairs.upper(ALPHA)
    assert totals.lower(ALPHA) < pairs.lower(ALPHA)


@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_a_mean_may_be_looked_at_all_the_time(alpha):
    np = pytest.importorskip("numpy")
    rng = np.random.default_rng(3)
    looks = np.arange(50, 5000, 25)
    crossed = 0
    for _ in range(400):
        sums = np.cumsum(rng.normal(size=5000))[looks - 1]
        crossed += any(
            total / count - normal_quantile(count / 1000, alpha) / math.sqrt(count) > 0
            for total, count in zip(sums.tolist(), looks.tolist(), strict=True)
        )
    assert crossed / 400 <= alpha
    assert 1.64 < normal_quantile(1.0, 0.05) < 2.8, "it costs what looking costs, and not more"
