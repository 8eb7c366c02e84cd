"""judge_release: what is decided on what, how long it watches, and the report that it writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airtight.errors import TerminalError, TransientError
from airtight.rollout import arm_metrics
from airtight.verdict import FILE_NAME
from components import release as module
from tests.components.release.site import JULY, JUNE, PERSON, good
from tests.components.standins import side


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ({"failed": 60}, "60 of 1000 requests to the candidate failed, more than 1.00%"),
        ({"refused": 60}, "60 of 1000 requests to the candidate refused, more than 1.00%"),
        ({"failed": 15}, "failed share is 0.015, allowed is <= 0.01"),
        ({"p99": 80.0}, "p99 ms is 80, allowed is <= 50"),
        ({"mean": 0.6}, "mean answer is 0.6, allowed is within"),
        ({"numbers": 0}, "numbers per answer is 0, allowed is >= 0.99"),
    ],
)
def test_a_worse_candidate_is_taken_back_with_the_reason(site, states, candidate, said):
    release = site.start()
    good(site, **candidate)
    decision = site.judge(release)
    assert decision.promoted == 0
    assert said in decision.reason
    made = site.finish(release, decision)
    assert (made.to_version, made.changed) == (JUNE, 0)
    assert said in made.summary
    assert (site.choice, site.followed) == (PERSON, None)


def test_noise_does_not_decide(site):
    release = site.start()
    good(site, failed=9, p99=30.0, mean=0.23)
    site.there.sides["stable"]["latency_ms"]["p99"] = 2.0
    assert site.judge(release).promoted == 1
    # A few hundred answers are spread by chance; the bounds know that.
    good(site, requests=200, mean=0.24)
    assert site.judge(release).promoted == 1


def test_a_mean_that_stays_while_the_answers_change_is_seen(site):
    release = site.start()
    good(site)
    for name, bins in (("stable", {9: 500, 10: 500}), ("candidate", {0: 500, 19: 500})):
        answers = {"count": 1000, "mean": 0.5, "histogram": [bins.get(place, 0) for place in range(20)]}
        site.there.sides[name]["answers"] = answers
    decision = site.judge(release)
    assert decision.promoted == 0
    assert decision.reason.startswith("Rolled back: answers PSI is ")


@pytest.mark.parametrize(("when_unsure", "promoted"), [("roll_back", 0), ("promote", 1)])
def test_too_few_requests_decide_nothing(site, when_unsure, promoted):
    release = site.start(min_requests=2000)
    good(site)
    decision = site.judge(release, when_unsure=when_unsure)
    assert decision.promoted == promoted
    assert "too few requests to decide (9000 requests to stable, 1000 to the candidate, 2000 each" in decision.reason
    # That it fails is sure with few requests, whatever is to become of unsure ones.
    good(site, requests=30, failed=30)
    decision = site.judge(release, when_unsure=when_unsure)
    assert (decision.promoted, "30 of 30 requests" in decision.reason) == (0, True)


def test_a_candidate_that_breaks_a_rule_is_not_promoted_for_want_of_requests(site):
    release = site.start(min_requests=2000)
    good(site, p99=500.0)
    decision = site.judge(release, when_unsure="promote")
    assert decision.promoted == 0
    assert "too few requests to decide" in decision.reason and "p99 ms is 500" in decision.reason
    with pytest.raises(TerminalError, match="when_unsure"):
        site.judge(release, when_unsure="toss a coin")


def test_a_candidate_that_is_often_not_there_does_not_take_over(site):
    release = site.start()
    good(site)
    site.there.sides["candidate"]["unserved"] = 30
    decision = site.judge(release)
    assert (decision.promoted, "unserved share is 0.02913" in decision.reason) == (0, True)
    site.there.sides["candidate"]["unserved"] = 3
    assert site.judge(release).promoted == 1


def test_no_candidate_is_promoted_without_a_request(site):
    release = site.start(min_requests=2000)
    good(site, requests=0)
    assert site.judge(release, when_unsure="promote").promoted == 0


def test_the_report_shows_both_sides_and_every_rule(site):
    release = site.start()
    good(site, failed=60, p99=80.0)
    decision = site.judge(release)
    folder = Path(decision.uri)
    page = (folder / module.REPORT).read_text()
    for said in (f"Release of {JULY}", "60 of 1000 requests", "failed share", "answers PSI", 'class="fails"', "<svg"):
        assert said in page
    assert "{" not in page.split("</style>")[1], "nothing was left unfilled"
    assert json.loads((folder / module.COUNTS).read_text())["candidate"]["failed"] == 60
    told = json.loads((folder / FILE_NAME).read_text())
    assert (told["gate"], told["passed"], told["reason"]) == ("release", False, decision.reason)


def test_a_side_without_any_answer_can_be_judged(site):
    release = site.start()
    site.there.sides = {}
    decision = site.judge(release)
    assert "too few requests" in decision.reason
    assert "No answer held a number" in (Path(decision.uri) / module.REPORT).read_text()


def test_without_a_task_that_watches_judge_watches_itself_until_it_has_seen_enough(site, monkeypatch):
    release = site.start(minutes=0.0, longest_minutes=60.0, min_requests=500)
    good(site, requests=10)
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        good(site, requests=200 * len(looks))

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert site.judge(release, watched="").promoted == 1
    assert len(looks) == 3


def test_a_router_that_restarts_while_judge_watches_ends_no_release(site, monkeypatch):
    release = site.start(minutes=0.0, longest_minutes=60.0, min_requests=500)
    good(site)
    answer, sleeps = site.there.answer, []
    site.there.answer = lambda path: (503, {})

    def sleep(_: float) -> None:
        sleeps.append(1)
        site.there.answer = answer

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert site.judge(release, watched="").promoted == 1
    assert len(sleeps) == 1
    site.there.answer = lambda path: (503, {})
    release.longest_minutes = 0.0
    with pytest.raises(TransientError, match="router cannot be reached"):
        site.judge(release, watched="")


def test_the_watching_ends_early_late_and_in_between():
    ago = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    told = {"since": ago, "minutes": 10.0, "longest_minutes": 60.0, "requests": 100, "limit": 0.01}

    def over(candidate: dict, **other) -> str:
        sides = {"stable": side(9000), "candidate": candidate}
        counts = {"id": "one", "mode": "canary", "share": 0.1, "sides": sides}
        seen = arm_metrics.Counts.of({"releases": {"toy": counts}}, "toy")
        return arm_metrics.over(seen, **told | other)

    assert over(side()) == ""
    assert over(side(), minutes=4.0).startswith("4 minutes are over")
    assert over(side(90), minutes=4.0) == "", "too few"
    assert over(side(90), minutes=4.0, longest_minutes=5.0).startswith("the longest time of 5 minutes is over")
    assert over(side(20, failed=10)).startswith("10 of 20 requests to the candidate failed")
    assert over(side(3, failed=1)) == "", "one of three may be chance"
    assert over(side(4, failed=4)) == "", "a few are"
    assert over(side(1000, failed=12)) == "", "a little over the limit may be chance"
