"""start_release and finish_release: what the files say at every moment, whatever comes in between."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tfx.types.standard_artifacts import ModelEvaluation, PushedModel

from airtight.errors import TerminalError, TransientError
from airtight.rollout import arm_metrics, state
from airtight.verdict import FILE_NAME, Verdict
from components import promote as promotion
from components import release as module
from components.artifacts import Promotion
from components.modelling import registered
from components.modelling.model_server import ModelServer
from components.modelling.served import CANARY, HIGHEST, RELEASE, STABLE, Choice, Served
from components.rollout import steps
from tests.components.release.site import JULY, JUNE, MAY, PERSON, check, good
from tests.components.standins import standing_in


def test_a_release_gives_the_candidate_its_share_and_changes_nothing_else(site, states):
    release = site.start(share=0.2, mode="split", minutes=3.0, min_requests=50)
    assert (release.stable, release.candidate, release.mode, release.share) == (JUNE, JULY, "split", 0.2)
    record = json.loads((Path(release.uri) / module.RECORD).read_text())
    assert (record["release"], record["margins"]) == (release.release, release.margins)
    assert json.loads(release.margins)["requests"] == 50
    assert not {"min_requests", "max_more_failed"} & {*record, *release.PROPERTIES}, "the margins hold both"
    choice, followed = states[-1]
    assert (choice.versions, choice.labels) == ((JUNE, JULY), {STABLE: JUNE, CANARY: JULY})
    assert choice.settled == PERSON, "what a person chose is not forgotten"
    assert (followed.id, followed.stable, followed.candidate, followed.share) == (release.release, JUNE, JULY, 0.2)
    assert [release_state.share for _, release_state in states if release_state] == [0.0, 0.0, 0.0, 0.2], (
        "first idle, then its share"
    )


def test_answers_are_compared_in_the_range_that_evaluate_measured(site, states):
    pushed, evaluation = site.artifacts.new(PushedModel), site.artifacts.new(ModelEvaluation)
    for made in (pushed, evaluation):
        made.set_string_custom_property("interval_start", "2013-05-01T00:00:00+00:00")
        made.set_string_custom_property("interval_end", "2013-06-01T00:00:00+00:00")
    pushed.set_int_custom_property("pushed", 1)
    pushed.set_int_custom_property("version", JUNE)
    pushed.set_string_custom_property("model_digest", "june")
    evaluation.set_string_custom_property("current_model_digest", "june")
    evaluation.set_float_custom_property("answers_low", -20.0)
    evaluation.set_float_custom_property("answers_high", 480.0)
    release = site.start(pushed=[pushed], evaluations=[evaluation])
    followed = states[-1][1]
    assert (followed.low, followed.high) == (-20, 480), "those of the version that is served"
    good(site)
    decision = site.judge(release)
    assert "units of the range from -20 to 480" in (Path(decision.uri) / module.REPORT).read_text()


def test_a_good_candidate_takes_over_under_the_label_stable(site, states):
    release = site.start()
    good(site)
    decision = site.judge(release)
    assert decision.promoted == 1
    assert decision.reason.startswith("Promoted: all 8 rules hold over 9000 requests to stable, 1000 to the candidate")
    made = site.finish(release, decision)
    assert (made.from_version, made.to_version, made.changed) == (JUNE, JULY, 1)
    assert made.overridden == f"version {JUNE}, chosen by admin at 2013-08-02: June is fine"
    assert made.as_of == "2013-08-01T04:00:00+00:00", "the end of the latest month of which there is a version"
    assert site.choice == Choice.only(JULY, at=site.choice.at, by="admin", reason=decision.reason), (
        "what takes the place of a person's choice is not a push's to replace, either"
    )
    assert site.followed is None
    assert [release_state.share for _, release_state in states if release_state][-3:] == [0.1, 1.0, 1.0]


def test_a_candidate_that_takes_the_place_of_nobodys_choice_is_a_releases(site):
    site.served.choose("toy", dataclasses.replace(PERSON, by=RELEASE, reason=f"version {JULY} waits for its release"))
    release = site.start()
    good(site)
    site.finish(release, site.judge(release))
    assert (site.choice.pinned, site.choice.by) == (JULY, RELEASE)


def test_a_shadow_that_takes_over_answers_before_the_other_is_unloaded(site, states):
    release = site.start(mode="shadow", share=1.0)
    good(site)
    pairs = {"count": 1000, "differing": 400, "largest_difference": 0.3, "mean_difference": 0.01}
    site.there.pairs = pairs | {"differences": {"count": 1000, "total": 10.0, "squares": 0.2}}
    decision = site.judge(release)
    checks = {check.name: check for check in Verdict.read(Path(decision.uri)).checks}
    assert (checks["mean difference"].value, checks["mean difference"].passed) == (0.01, True)
    assert "400 of 1000 requests that both answered" in (Path(decision.uri) / module.REPORT).read_text()
    assert site.finish(release, decision).to_version == JULY
    modes = [release_state.mode for _, release_state in states if release_state]
    assert modes.index("canary") == modes.count("shadow"), "from then on it answers"


@pytest.mark.parametrize(
    ("before", "candidate", "why"),
    [
        (PERSON, JULY, f"version {JUNE} was chosen by admin at 2013-08-02, and a push does not override a person."),
        (HIGHEST, JUNE, f"{JULY} is served, which is newer."),
        (HIGHEST, JULY, "it is served already."),
    ],
)
def test_what_a_push_asks_for_gives_way_to_a_person_and_to_a_newer_version(site, states, before, candidate, why):
    site.served.choose("toy", before)
    states.clear()
    release = site.start(candidate, asked_by="push")
    message = f"No release of version {candidate} of toy was begun: {why}"
    assert (release.release, release.candidate, release.summary) == ("", candidate, message)
    decision = site.judge(release)
    assert (decision.promoted, decision.reason) == (0, message)
    verdict = json.loads((Path(decision.uri) / FILE_NAME).read_text())
    assert (verdict["checks"], verdict["reason"]) == ([], message)
    assert message in (Path(decision.uri) / module.REPORT).read_text()
    for made in (site.finish(release, decision), site.finish(release)):
        assert (made.changed, made.to_version, made.approval) == (0, release.stable, RELEASE)
        assert made.summary == f"{message} Nothing was changed."
    assert (site.choice, site.followed, states) == (before, None, []), "nothing was changed, and nothing is a fault"


def test_what_a_push_asks_for_is_begun_where_the_served_version_was_left_to_it(site):
    stays = Choice.only(JUNE, at="2013-08-02", by=RELEASE, reason="version 201308010400001 waits for its release")
    site.served.choose("toy", stays)
    release = site.start(asked_by="push")
    assert site.followed.until == site.choice.until > release.since


def test_what_began_and_could_not_be_written_down_is_taken_back(site, states, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(OSError, match="no space left"):
        site.start()
    assert [release_state.share for _, release_state in states if release_state][-1] == 0.0, "it had begun"
    assert (site.choice, site.followed) == (PERSON, None)


def test_who_is_served_already_or_is_not_there_is_not_released(site):
    for version, message in (
        (JUNE, "is served already"),
        ("201309010400001", "no such version"),
        ("x", "no such version"),
    ):
        with pytest.raises(TerminalError, match=message):
            site.start(version)
    with pytest.raises(TerminalError, match="share cannot be used"):
        site.start(share=0.0)
    with pytest.raises(TerminalError, match="needs live requests") as refused:
        site.start(router_url="")
    assert arm_metrics.VARIABLE in refused.value.received
    with pytest.raises(TerminalError, match="cannot be"):
        site.start(mode="blue")
    assert (site.choice, site.followed) == (PERSON, None)


@pytest.mark.parametrize("before", [PERSON, HIGHEST])
def test_what_cannot_begin_is_taken_back(site, states, before):
    site.served.choose("toy", before)
    candidate = JULY if before == PERSON else MAY
    site.there.broken = {candidate}
    with pytest.raises(TerminalError, match=f"{candidate} of toy is broken"):
        site.start(candidate)
    assert (site.choice, site.followed) == (before, None)
    site.there.broken, site.there.follows = set(), False
    with pytest.raises(TransientError, match="router did not follow"):
        site.start(candidate, timeout_s=0.1)
    site.there.follows = True
    assert (site.choice, site.followed) == (before, None)
    with pytest.raises(TransientError, match="router cannot be reached"):
        site.start(candidate, router_url="http://127.0.0.1:9")
    assert (site.choice, site.followed) == (before, None)


def test_where_the_highest_is_served_it_is_again_but_never_the_candidate_that_was_taken_back(site, states):
    site.served.choose("toy", HIGHEST)
    release = site.start(MAY)
    site.finish(release)
    assert site.choice == HIGHEST
    # A push that the server has not loaded yet is the highest, and not what answers.
    site.there.broken = {JULY}
    site.served.choose("toy", dataclasses.replace(PERSON, by=RELEASE, reason=f"version {JULY} waits for its release"))
    site.there.broken = set()
    release = site.start("latest")
    assert "was not judged" in site.finish(release).reason
    assert (site.choice.versions, site.choice.by) == ((JUNE,), RELEASE)
    assert (
        site.choice.reason
        == f"version {JULY} was tried and taken back: It was not judged: the step before failed or was stopped."
    )


@pytest.mark.parametrize("is_killed", [False, True], ids=["at once", "killed before it could say so"])
def test_what_is_served_because_a_release_ended_has_a_record(site, is_killed):
    site.served.choose("toy", HIGHEST)
    release = site.start(MAY)
    august = 201309010400001
    place = site.served.root / "toy" / str(august)
    place.mkdir()
    (place / "saved_model.pb").write_text("pushed meanwhile, and registered only")
    if is_killed:
        with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
            patched.setattr(module, "_write", kill)
            site.finish(release)
    made = site.finish(release)
    assert site.there.versions("toy") == {august: "AVAILABLE"}
    assert (made.to_version, made.took_over, made.interval_end) == (august, 1, "2013-09-01T04:00:00+00:00")
    assert registered.champions("toy", [], [made], datetime(2013, 9, 2, tzinfo=UTC)) == [august]


def test_a_release_that_takes_its_candidate_back_leaves_no_champion(site):
    release = site.start()
    good(site, failed=500)
    made = site.finish(release, site.judge(release))
    assert (made.to_version, made.took_over, made.overridden) == (JUNE, 0, "")
    assert registered.champions("toy", [], [made], datetime(2013, 9, 2, tzinfo=UTC)) == []


def test_one_release_at_a_time_and_one_that_was_broken_off_is_taken_back(site, states, monkeypatch):
    first = site.start(owner="run-1")
    with pytest.raises(TerminalError, match="is under way") as refused:
        site.start(MAY, owner="run-2")
    assert "make rollback" in refused.value.remedy
    assert (site.choice.release, site.followed.id) == (first.release, first.release)
    again = site.start(owner="run-1")
    assert again.release != first.release
    assert site.choice.settled == PERSON
    monkeypatch.setattr(module, "GRACE", timedelta(hours=-2))
    broken_off = site.start(MAY, owner="run-1")
    later = site.start(JULY, owner="run-3")
    assert (site.followed.id, site.choice.settled) == (later.release, PERSON)
    made = site.finish(broken_off)
    assert "had been ended before" in made.summary
    assert site.followed.id == later.release, "what is another's is left alone"


class Killed(BaseException):
    """As a process that is gone: nothing is cleaned up."""


def kill(*_) -> None:
    raise Killed


def kill_at(monkeypatch, number: int) -> None:
    """Kills after so many writes of either file."""
    left = [number]
    choose, write, end = Served.choose, state.write, steps.end

    def counting(function):
        def wrapped(*arguments):
            if left[0] == 0:
                raise Killed
            function(*arguments)
            left[0] -= 1

        return wrapped

    def ending(*arguments, **keywords):
        if left[0] == 0:
            raise Killed
        end(*arguments, **keywords)

    monkeypatch.setattr(Served, "choose", counting(choose))
    monkeypatch.setattr(state, "write", counting(write))
    monkeypatch.setattr(steps, "end", ending)


@pytest.mark.parametrize("number", range(5))
def test_a_start_that_is_killed_is_cleared_away_by_the_next_and_by_a_rollback(site, number):
    for cleared_by in ("start", "rollback"):
        with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
            kill_at(patched, number)
            site.start(owner="run-1")
        check(site.choice, site.followed)
        if cleared_by == "start":
            release = site.start(owner="run-1")
            assert site.followed.id == release.release
            assert site.choice.settled == PERSON
            site.finish(release)
            assert (site.choice, site.followed) == (PERSON, None)
        else:
            site.promote(site.propose("previous" if number else JUNE))
            assert (site.choice.versions, site.followed) == ((JUNE,), None)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("wins", [True, False])
def test_a_finish_that_is_killed_goes_on_where_it_was_and_a_promotion_clears_it_away(site, wins, number):
    release = site.start()
    good(site, failed=0 if wins else 500)
    decision = site.judge(release)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, number)
        site.finish(release, decision)
    check(site.choice, site.followed)
    made = site.finish(release, decision)
    assert (made.to_version, made.took_over) == (JULY if wins else JUNE, int(wins)), "also where that was done already"
    assert (site.choice.versions, site.choice.release, site.followed) == ((made.to_version,), "", None)
    assert site.promote(site.propose(MAY)).to_version == MAY


@pytest.mark.parametrize(("requested", "gets"), [("previous", JUNE), (JULY, JULY), (MAY, MAY), ("latest", JULY)])
@pytest.mark.parametrize("before", [PERSON, HIGHEST])
def test_a_promotion_during_a_release_ends_it(site, states, requested, gets, before):
    site.served.choose("toy", before)
    candidate = JULY if before == PERSON else MAY
    release = site.start(candidate)
    proposal = site.propose(requested)
    stable = release.stable
    gets = stable if requested == "previous" else gets
    assert f"A release tries {candidate} since" in proposal.summary
    assert proposal.served == stable
    made = site.promote(proposal)
    assert (made.from_version, made.to_version) == (stable, gets)
    assert f"The release of version {candidate} was ended." in made.summary
    chosen = [f"version {JUNE}, chosen by admin at 2013-08-02: June is fine"] if before == PERSON else []
    assert made.overridden == "; ".join([*chosen, f"the release of version {candidate}"])
    assert (site.choice.release, site.followed) == ("", None)
    assert site.choice.versions == (() if requested == "latest" else (gets,))
    with pytest.raises(TerminalError, match="no longer under way"):
        site.judge(release)
    finished = site.finish(release)
    assert finished.changed == int(gets != stable), "it is told, and nothing is done"
    assert finished.took_over == int(gets == candidate), "another version's promotion tells of that"


def test_a_proposal_of_before_the_release_does_not_end_it(site):
    site.served.choose("toy", HIGHEST)
    proposal = site.propose(MAY)
    release = site.start(JUNE)
    with pytest.raises(TerminalError, match="out of date"):
        site.promote(proposal)
    assert site.followed.id == release.release


def test_a_router_that_is_away_does_not_hold_up_a_rollback(site, states):
    site.start()
    site.named = {**site.named}
    made = site.artifacts.new(Promotion)
    promotion.promote.EXECUTOR_SPEC.executor_class._FUNCTION(
        proposal=site.propose("previous"), promotion=made, router_url="http://127.0.0.1:9", **site.named
    )
    assert (site.choice.versions, site.followed) == ((JUNE,), None)


def test_of_several_servers_a_version_is_there_when_all_have_it(site, tmp_path):
    with standing_in(site.served.root) as second:
        both = ModelServer(f"{site.there.url}, {second.url}")
        site.served.choose("toy", Choice((JUNE, JULY), {STABLE: JULY}))
        assert both.available("toy") == {JUNE, JULY}
        assert both.labelled("toy", STABLE) == JULY
        second.broken = {JULY}
        assert both.available("toy") == {JUNE}
        assert both.available_anywhere("toy") == {JUNE, JULY}
        assert (both.versions("toy")[JULY].state, both.versions("toy")[JULY].error) == ("END", "no graph")
        assert both.labelled("toy", STABLE) == 0
        site.named["server_url"] = f"{site.there.url},{second.url}"
        site.served.choose("toy", PERSON)
        with pytest.raises(TerminalError, match="is broken"):
            site.start()
        assert (site.choice, site.followed) == (PERSON, None)
    both.close()
    with pytest.raises(TransientError, match="cannot be reached"):
        both.available("toy")


def test_what_is_no_router_is_told(site):
    with pytest.raises(TerminalError, match="address is not usable"):
        arm_metrics.status("localhost")
    site.there.answer = lambda path: (200, {"other": 1})
    with pytest.raises(TransientError, match="router cannot be reached") as refused:
        arm_metrics.status(site.there.url)
    assert "other" in refused.value.received
