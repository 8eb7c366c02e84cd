"""How often releases err: a small version of `benchmarks.releases`, by the same code and seeds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airtight.rollout.rules import PROMOTE, ROLL_BACK, UNDECIDED, Margins
from airtight.rollout.state import CANARY, SHADOW, SPLIT
from benchmarks.releases import EQUAL, Traffic, needed, release

WIDE = Margins(failed=0.05, refused=0.05, slow=0.05, mean=0.1, distribution=0.2)
"""Which a few thousand requests decide."""
BUSY = Traffic(failed=0.02, refused=0.05, share=0.5)


def ended(traffic: Traffic, trials: int, margins: Margins | None = None) -> dict[str, int]:
    decisions = [release(traffic, seed, margins).decision for seed in range(trials)]
    return {decision: decisions.count(decision) for decision in (PROMOTE, ROLL_BACK, UNDECIDED)}


@pytest.mark.parametrize(
    "name", [f"{traffic}, 2,000 requests" for traffic in ("2 % failures, 5 % refused", "1 % batches of 1,000 rows")]
)
def test_an_equal_candidate_is_not_taken_back(name):
    """Old rules took back 40 % and 98 % of them."""
    assert ended(EQUAL[name], 20)[ROLL_BACK] == 0


@pytest.mark.parametrize("mode", [CANARY, SHADOW])
def test_an_equal_candidate_is_promoted_by_the_requests_that_were_needed(mode):
    traffic = replace(BUSY, mode=mode, batches=0.01)
    outcome = ended(replace(traffic, requests=int(needed(traffic, WIDE))), 20, WIDE)
    assert outcome[PROMOTE] >= 16 and outcome[ROLL_BACK] == 0


@pytest.mark.parametrize(
    "worse", [{"more_failed": 0.05}, {"more_refused": 0.05}, {"more_slow": 0.05}, {"shift": 0.1}], ids=str
)
def test_a_candidate_that_is_as_much_worse_as_a_margin_is_hardly_ever_promoted(worse):
    assert ended(replace(BUSY, **worse, requests=3000), 20, WIDE)[PROMOTE] <= 2


@pytest.mark.parametrize("mode", [CANARY, SHADOW, SPLIT])
def test_a_bad_candidate_is_taken_back_early(mode):
    traffic = replace(BUSY, mode=mode, more_failed=0.5, requests=4000)
    results = [release(traffic, seed) for seed in range(5)]
    assert {result.decision for result in results} == {ROLL_BACK}
    assert max(result.requests for result in results) <= 2000


def test_callers_who_are_refused_do_not_take_a_candidate_back_by_where_they_fall():
    """Counted by requests, as if a caller's were drawn one by one, 4 of 20 of these are taken back."""
    traffic = Traffic(failed=0.0, refused=0.1, mode=SPLIT, share=0.5, callers=60, requests=4000)
    assert ended(traffic, 10, replace(Margins(), refused=0.02))[ROLL_BACK] == 0


def test_narrower_margins_and_smaller_shares_need_more_requests():
    tenth = needed(replace(BUSY, share=0.1), Margins())
    assert tenth > 2 * needed(BUSY, Margins())
    assert needed(BUSY, Margins(failed=0.005)) > 2 * needed(BUSY, Margins())
    assert needed(BUSY, WIDE) < needed(BUSY, Margins())
