"""judge_release: what is decided on what, how long it watches, and the report that it writes."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airtight.errors import TerminalError, TransientError
from airtight.rollout import rules
from airtight.rollout.arm_metrics import Arm, Counts
from airtight.rollout.rules import Margins
from airtight.verdict import FILE_NAME, Verdict
from components import release as module
from components.rollout import judging
from tests.components.release.site import JULY, JUNE, PERSON, good
from tests.components.standins import side


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ({"failed": 60}, "failed share is 0.06, stable's 0: a difference of 0.06 (at least "),
        ({"refused": 80}, "refused share is 0.08, stable's 0: a difference of 0.08 (at least "),
        ({"slow": 80.0}, "slow share is 0.1, stable's 0: a difference of 0.1 (at least "),
        ({"mean": 0.6}, "mean answer is 0.6, stable's 0.21: a difference of 0.39 (at least "),
        ({"not_finite": 1000}, "not finite share is 1, stable's 0: a difference of 1 (at least "),
        ({"unserved": 80}, "unserved share is 0.07407, stable's 0: a difference of 0.074 (at least "),
    ],
)
def test_a_worse_candidate_is_taken_back_with_the_reason(site, states, candidate, reason):
    release = site.start()
    good(site, **candidate)
    decision = site.judge(release)
    assert decision.promoted == 0
    assert decision.reason.startswith("Rolled back: ") and reason in decision.reason
    made = site.finish(release, decision)
    assert (made.to_version, made.changed) == (JUNE, 0)
    assert reason in made.summary
    assert (site.choice, site.followed) == (PERSON, None)


@pytest.mark.parametrize(
    ("candidate", "rule"),
    [({"failed": 15}, "failed share"), ({"refused": 15}, "refused share"), ({"unserved": 10}, "unserved share")],
)
def test_what_may_be_chance_takes_nobody_back_and_promotes_nobody(site, candidate, rule):
    release = site.start()
    good(site, **candidate)
    decision = site.judge(release)
    assert decision.promoted == 0
    assert decision.reason.startswith("Not promoted: nothing is decided over 9000 requests to stable")
    assert f"open are {rule};" in decision.reason
    assert "still needed are about " in decision.reason, "and it says how long it would have taken"


def test_noise_does_not_decide(site):
    release = site.start()
    good(site, slow=45.0, mean=0.23)
    assert site.judge(release).promoted == 1
    # One in two hundred is as many as the stable version fails, as far as anybody can tell.
    site.there.sides = {"stable": side(36_000, failed=180), "candidate": side(4000, failed=20)}
    assert site.judge(release).promoted == 1


def test_slow_is_what_takes_twice_as_long_as_the_stable_version(site):
    release = site.start()
    site.there.sides = {"stable": side(9000, slow=60.0), "candidate": side(slow=80.0)}
    assert site.judge(release).promoted == 1
    site.there.sides = {"stable": side(9000, slow=60.0), "candidate": side(slow=150.0)}
    assert "slow share is 0.1" in site.judge(release).reason


def test_a_mean_that_stays_while_the_answers_change_is_seen(site):
    release = site.start()
    good(site)
    for name, bins in (("stable", {9: 450, 10: 450}), ("candidate", {0: 450, 19: 450})):
        answers = site.there.sides[name]["answers"]
        count = answers["means"]["count"]
        answers["kinds"] = [count * bins.get(place - 2, 0) / 900 for place in range(23)]
    decision = site.judge(release)
    assert decision.promoted == 0
    assert decision.reason.startswith("Rolled back: answers: a difference of ")


def test_answers_too_large_for_a_spread_prove_nothing(site):
    release = site.start()
    good(site)
    for arm in site.there.sides.values():
        arm["answers"]["means"] |= {"total": 1e300, "squares": math.inf}
    assert "open are mean answer;" in site.judge(release).reason


def test_a_model_that_is_meant_to_answer_otherwise_is_accepted_by_a_setting(site):
    release = site.start(answers="any")
    good(site, mean=0.6)
    decision = site.judge(release)
    assert decision.promoted == 1
    checks = {check.name: check for check in Verdict.read(Path(decision.uri)).checks}
    assert (checks["mean answer"].passed, checks["mean answer"].severity) == (False, "warning")
    # That it fails decides as before.
    good(site, mean=0.6, failed=60)
    assert site.judge(release).promoted == 0


@pytest.mark.parametrize(("when_unsure", "promoted"), [("roll_back", 0), ("promote", 1)])
def test_too_few_requests_decide_nothing(site, when_unsure, promoted):
    release = site.start(min_requests=2000)
    good(site)
    decision = site.judge(release, when_unsure=when_unsure)
    assert decision.promoted == promoted
    assert "open are at least 2000 requests to each" in decision.reason
    # That it fails is sure with few requests, whatever is to become of unsure ones.
    site.there.sides = {"stable": side(270), "candidate": side(30, failed=30)}
    decision = site.judge(release, when_unsure=when_unsure)
    assert (decision.promoted, "failed share is 1" in decision.reason) == (0, True)


def test_a_candidate_whose_figures_are_over_a_margin_is_not_promoted_for_want_of_requests(site):
    release = site.start(min_requests=2000)
    good(site, failed=15)
    decision = site.judge(release, when_unsure="promote")
    assert decision.promoted == 0
    assert "so far failed share is 0.015" in decision.reason
    with pytest.raises(TerminalError, match="when_unsure"):
        site.judge(release, when_unsure="toss a coin")


def test_requests_that_are_not_spread_as_the_share_says_promote_nobody(site):
    release = site.start()
    site.there.sides = {"stable": side(9000), "candidate": side(3000)}
    decision = site.judge(release)
    assert (decision.promoted, "open are candidate's share" in decision.reason) == (0, True)


def test_the_start_tells_how_many_requests_are_needed(site):
    site.there.models = {"toy": {"requests": 20_000, "failed": 100, "refused": 600}}
    release = site.start()
    assert "By 20000 requests before, of which 100 failed and 600 were refused, it needs about " in release.summary
    more = rules.needed(Arm(requests=20_000, failed=100, refused=600), "canary", 0.1, Margins()).more
    assert f"about {round(more, -3):,.0f} requests" in release.summary
    site.promote(site.propose("previous"))
    assert "it needs about " in site.start(max_more_failed=0.005).summary, "and a narrower margin needs more"
    assert (
        rules.needed(Arm(), "canary", 0.1, Margins(failed=0.005)).more
        > 2 * rules.needed(Arm(), "canary", 0.1, Margins(failed=0.02)).more
    )


def test_a_router_of_an_older_version_is_named(site):
    release = site.start()
    site.there.format = 1
    with pytest.raises(TerminalError, match="does not count what the rules of a release need"):
        site.judge(release)


@pytest.mark.parametrize("settings", [{"max_more_failed": 0.0}, {"answers": "better"}, {"share": 1.0}, {"share": 0.0}])
def test_settings_with_which_nothing_could_be_decided_are_refused(site, settings):
    with pytest.raises(TerminalError):
        site.start(**settings)
    assert (site.choice, site.followed) == (PERSON, None)


def test_no_candidate_is_promoted_without_a_request(site):
    release = site.start(min_requests=2000)
    good(site, requests=0)
    assert site.judge(release, when_unsure="promote").promoted == 0


def test_the_report_shows_both_versions_and_every_rule(site):
    release = site.start()
    good(site, failed=60, slow=80.0)
    decision = site.judge(release)
    folder = Path(decision.uri)
    page = (folder / module.REPORT).read_text()
    for text in (f"Release of {JULY}", "failed share", "<td>answers</td>", 'class="fails"', "<svg", "not quality"):
        assert text in page
    assert "{" not in page.split("</style>")[1], "nothing was left unfilled"
    assert json.loads((folder / module.COUNTS).read_text())["candidate"]["failed"] == 60
    verdict = json.loads((folder / FILE_NAME).read_text())
    assert (verdict["gate"], verdict["passed"], verdict["reason"]) == ("release", False, decision.reason)


def test_an_arm_without_any_answer_can_be_judged(site):
    release = site.start()
    site.there.sides = {}
    decision = site.judge(release)
    assert "at least 200 requests to each" in decision.reason
    assert "No answer held a number" in (Path(decision.uri) / module.REPORT).read_text()


def test_without_a_task_that_watches_judge_watches_itself_until_it_is_decided(site, monkeypatch):
    release = site.start(minutes=0.0, longest_minutes=60.0, min_requests=500)
    looks = []

    def sleep(_: float) -> None:
        looks.append(1)
        site.there.sides = {"stable": side(2700 * len(looks)), "candidate": side(300 * len(looks))}

    sleep(0)
    monkeypatch.setattr(judging.time, "sleep", sleep)
    assert site.judge(release, watched="").promoted == 1
    assert len(looks) > 1


def test_where_figures_moved_since_the_watch_saw_it_decided_judge_waits_for_them(site, monkeypatch):
    release = site.start(minutes=0.0, longest_minutes=60.0)
    good(site, failed=7)
    looks = []

    def sleep(seconds: float) -> None:
        if seconds == judging.POLL_S:  # Other threads of the process sleep, too.
            looks.append(1)
            good(site)

    monkeypatch.setattr(judging.time, "sleep", sleep)
    assert site.judge(release, watched="It is decided: all 8 rules hold").promoted == 1
    assert looks == [1]


def test_a_router_that_restarts_while_judge_watches_ends_no_release(site, monkeypatch):
    release = site.start(minutes=0.0, longest_minutes=60.0, min_requests=500)
    good(site)
    answer, sleeps = site.there.answer, []
    site.there.answer = lambda path: (503, {})

    def sleep(_: float) -> None:
        sleeps.append(1)
        site.there.answer = answer

    monkeypatch.setattr(judging.time, "sleep", sleep)
    assert site.judge(release, watched="").promoted == 1
    assert len(sleeps) == 1
    site.there.answer = lambda path: (503, {})
    release.longest_minutes = 0.0
    with pytest.raises(TransientError, match="router cannot be reached"):
        site.judge(release, watched="")


def test_the_watching_ends_early_late_and_in_between():
    ago = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    settings = {"since": ago, "minutes": 10.0, "longest_minutes": 60.0, "margins": Margins(requests=100)}

    def over(stable: dict, candidate: dict, **other) -> str:
        arms = {"stable": stable, "candidate": candidate}
        counts = {"id": "one", "format": 2, "mode": "canary", "share": 0.1, "sides": arms}
        return rules.over(Counts.of({"releases": {"toy": counts}}, "toy"), **settings | other)

    assert over(side(9000), side()) == "", "it is decided, and its minutes are not over"
    assert over(side(9000), side(), minutes=4.0).startswith("It is decided: all 8 rules hold")
    assert over(side(810), side(90), minutes=4.0) == "", "too few"
    assert over(side(810), side(90), minutes=4.0, longest_minutes=5.0).startswith(
        "The longest time of 5 minutes is over, and nothing is decided over 810 requests"
    )
    assert over(side(180), side(20, failed=10)).startswith("It is decided: failed share is 0.5")
    assert over(side(27), side(3, failed=1)) == "", "one of three may be chance"
    assert over(side(9000), side(1000, failed=15)) == "", "a little over the margin may be chance"
