"""push with `release=canary`, and any push during a release: what is served stays until a release is over."""

from __future__ import annotations

import dataclasses

import pytest

from airtight.errors import TerminalError, TransientError
from components.modelling.model_server import SERVER_VARIABLE, ModelServer
from components.modelling.served import CANARY, HIGHEST, RELEASE, STABLE, Choice, Served
from components.rollout import delivery, steps, switch
from tests.components.standins import standing_in
from tests.components.test_push import INTERVAL, JULY, Pusher, model_of

MAY_ENDS = ("2013-05-01T00:00:00-04:00", "2013-06-01T00:00:00-04:00")
MAY, JUNE_1, JULY_1, AUGUST_1 = 201306010400001, 201307010400001, 201308010400001, 201309010400001
PERSON = Choice.only(JUNE_1, at="2013-08-02", by="admin", reason="June is fine")


@pytest.fixture
def pusher(tmp_path, monkeypatch):
    """June is pushed and served."""
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    monkeypatch.setattr(switch, "POLL_S", 0.01)
    pusher = Pusher(tmp_path)
    pusher.served = Served(pusher.root)
    pusher(model_of(tmp_path / "june", "june"), INTERVAL)
    with standing_in(pusher.root) as stand_in:
        pusher.there = stand_in
        yield pusher


def canary(pusher, folder, interval=JULY, **parameters):
    parameters = {"server_url": pusher.there.url, "timeout_s": 5.0, "release": "canary"} | parameters
    made = pusher(model_of(pusher.folder / folder, folder), interval, **parameters)
    return made.get_int_custom_property("awaits_release"), made.get_string_custom_property("reason")


def test_a_newer_version_is_registered_and_the_served_one_stays_before_a_server_can_see_it(pusher, monkeypatch):
    published = delivery._publish

    def publish(*arguments):
        assert pusher.there.labels("toy") == {STABLE: JUNE_1}, "the server has it already"
        published(*arguments)

    monkeypatch.setattr(delivery, "_publish", publish)
    awaits, reason = canary(pusher, "july")
    assert awaits == 1
    assert f"registered only: version {JUNE_1} stays since" in reason
    assert f"(version {JULY_1} waits for its release)" in reason
    choice = pusher.served.choice("toy")
    assert (choice.versions, choice.labels, choice.by) == ((JUNE_1,), {STABLE: JUNE_1}, RELEASE)
    assert choice.reason == f"version {JULY_1} waits for its release"
    # One more is left to the next release.
    awaits, _ = canary(pusher, "july-again")
    assert (awaits, pusher.served.choice("toy").reason) == (1, f"version {JULY_1 + 1} waits for its release")
    # Pushed at once, one that is not the newest is registered only, and says what has to be done.
    _, reason = canary(pusher, "may", MAY_ENDS, release="at_once")
    assert "a release of this one, or `promote`, puts it before the requests" in reason
    assert pusher.there.versions("toy") == {JUNE_1: "AVAILABLE"}
    # And the newest is served, in place of what a release left: no person chose that.
    awaits, reason = canary(pusher, "july-at-once", release="at_once")
    assert (awaits, "the server answers with it" in reason) == (0, True)
    assert pusher.served.choice("toy") == HIGHEST
    assert pusher.there.versions("toy") == {JULY_1 + 2: "AVAILABLE"}


def test_what_took_over_is_recorded_and_what_it_overrode(pusher):
    def push(content, interval=JULY, release="at_once"):
        model = model_of(pusher.folder / "models of this test" / content, content)
        made = pusher(model, interval, server_url=pusher.there.url, timeout_s=5.0, release=release)
        return made.get_int_custom_property("took_over"), made.get_string_custom_property("overridden")

    assert push("may", MAY_ENDS) == (1, ""), "June is served: May was the champion of its time"
    assert push("july", release="canary") == (0, "")
    took_over, overridden = push("july at once")
    assert took_over == 1
    assert overridden.startswith(f"version {JUNE_1}, chosen by a release or a push at ")
    assert overridden.endswith(f": version {JULY_1} waits for its release")
    pusher.served.choose("toy", PERSON)
    assert push("july beside a person's choice") == (0, "")
    assert push("may beside a person's choice", MAY_ENDS) == (1, "")
    assert push("june", INTERVAL) == (1, ""), "it is the very version that the person chose"
    assert push("june again", INTERVAL) == (0, ""), "it is another one"
    pusher.served.choose("toy", trial(HIGHEST))
    assert push("during a release", JULY) == (0, "")
    assert push("may during a release", MAY_ENDS) == (1, "")


def test_what_is_not_pushed_took_nothing_over(pusher):
    made = pusher(model_of(pusher.folder / "july", "july"), JULY, blessed=(1, 0))
    assert (made.get_int_custom_property("pushed"), made.get_int_custom_property("took_over")) == (0, 0)


def test_a_server_that_has_not_loaded_anything_yet_does_not_take_the_newest_untried(pusher, monkeypatch):
    monkeypatch.setattr(ModelServer, "available", lambda *_: set())
    with pytest.raises(TransientError, match="serves no version of toy to compare"):
        canary(pusher, "july")
    assert pusher.served.versions("toy") == [JUNE_1]
    assert pusher.served.choice("toy") == HIGHEST


def test_where_there_is_nothing_to_compare_with_it_is_served_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    pusher = Pusher(tmp_path)
    with standing_in(pusher.root) as pusher.there:
        awaits, reason = canary(pusher, "june", INTERVAL)
    assert (awaits, "the server answers with it" in reason) == (0, True)
    assert Served(pusher.root).choice("toy") == HIGHEST


def test_an_earlier_one_and_one_beside_a_persons_choice_are_left_to_nobody(pusher):
    awaits, reason = canary(pusher, "may", MAY_ENDS)
    assert (awaits, "registered only" in reason) == (0, True)
    assert pusher.served.choice("toy") == HIGHEST
    pusher.served.choose("toy", PERSON)
    awaits, reason = canary(pusher, "july")
    assert (awaits, "promoted by hand" in reason) == (0, True)
    assert pusher.served.choice("toy") == PERSON


@pytest.mark.parametrize("fault", [TerminalError, TransientError])
def test_what_is_not_published_keeps_nobody_waiting(pusher, monkeypatch, fault):
    def fail(*_):
        raise fault("no", expected="room", received="none", remedy="Make some.")

    monkeypatch.setattr(delivery, "_publish", fail)
    with pytest.raises(fault):
        canary(pusher, "july")
    assert pusher.served.choice("toy") == HIGHEST


@pytest.mark.parametrize("fault", [TerminalError, TransientError])
def test_what_a_release_refused_is_not_served_because_a_newer_version_is_taken_back(pusher, monkeypatch, fault):
    canary(pusher, "july")
    left = pusher.served.choice("toy")
    chosen_when_taken_back = []

    def fail(*_):
        assert pusher.served.choice("toy") == HIGHEST
        raise fault("no", expected="a server that loads it", received="none", remedy="Look.")

    def take_back(path):
        chosen_when_taken_back.append(pusher.served.choice("toy"))
        take_back_files(path)

    take_back_files = delivery._take_back
    with monkeypatch.context() as patched:
        patched.setattr(delivery, "await_served", fail)
        patched.setattr(delivery, "_take_back", take_back)
        with pytest.raises(fault):
            canary(pusher, "july-at-once", release="at_once")
    assert chosen_when_taken_back == [left], "else the server would take what the release refused in between"
    assert (pusher.served.choice("toy"), pusher.served.versions("toy")) == (left, [JUNE_1, JULY_1])
    assert pusher.there.versions("toy") == {JUNE_1: "AVAILABLE"}


def test_a_version_that_was_there_and_takes_over_when_the_push_is_tried_again_says_in_whose_place(pusher, monkeypatch):
    def fail(*_):
        raise TransientError("no", expected="a server", received="none", remedy="Start it.")

    canary(pusher, "july")
    left = pusher.served.choice("toy")
    again = {"server_url": pusher.there.url, "timeout_s": 5.0, "release": "at_once"}
    with monkeypatch.context() as patched, pytest.raises(TransientError):
        patched.setattr(delivery, "await_served", fail)
        pusher(model_of(pusher.folder / "again", "july"), JULY, **again)
    assert (pusher.served.choice("toy"), pusher.served.versions("toy")) == (left, [JUNE_1, JULY_1])
    made = pusher(model_of(pusher.folder / "retry", "july"), JULY, **again)
    assert made.get_string_custom_property("overridden") == left.in_words
    assert pusher.served.choice("toy") == HIGHEST


def trial(after, **fields):
    """July is tried beside June."""
    return Choice(
        (JUNE_1, JULY_1),
        {STABLE: JUNE_1, CANARY: JULY_1},
        **{"at": "2013-08-03", "by": RELEASE, "trial": JULY_1, "release": "one", "until": "2999-08-04T00:00:00Z"}
        | fields,
        after=after,
    )


@pytest.mark.parametrize("release", ["canary", "at_once"])
def test_during_a_release_a_push_registers_only_and_says_which_release(pusher, release):
    pusher(model_of(pusher.folder / "july", "july"), JULY)
    both = trial(HIGHEST)
    pusher.served.choose("toy", both)
    assert pusher.served.choice("toy") == both, "all of it is kept in the file"
    assert (both.pinned, both.settled) == (0, HIGHEST)
    awaits, reason = canary(pusher, "july-again", release=release)
    assert awaits == int(release == "canary")
    assert f"a release tries version {JULY_1} beside {JUNE_1} since 2013-08-03" in reason
    chosen = pusher.served.choice("toy")
    if release == "canary":
        # Whatever becomes of the candidate, the newest is not served untried when the release has ended.
        assert (chosen.after.versions, chosen.after.by) == ((JUNE_1,), RELEASE)
        assert steps.settled_after(chosen, pusher.served.versions("toy"), "no").versions == (JUNE_1,)
    assert dataclasses.replace(chosen, after=HIGHEST) == both
    # The very candidate, pushed again, is no other one.
    pusher.served.choose("toy", dataclasses.replace(both, trial=JULY_1 + 1, versions=(JUNE_1, JULY_1 + 1)))
    made = pusher(model_of(pusher.folder / "again", "july-again"), JULY, release=release, server_url=pusher.there.url)
    assert made.get_int_custom_property("awaits_release") == 0
    assert f"a release tries it beside {JUNE_1}" in made.get_string_custom_property("reason")


@pytest.mark.parametrize("release", ["canary", "at_once"])
def test_a_release_that_nobody_ended_in_time_holds_up_no_push(pusher, release):
    pusher(model_of(pusher.folder / "july", "july"), JULY)
    pusher.served.choose("toy", trial(HIGHEST, until="2013-08-04T00:00:00Z"))
    awaits, reason = canary(pusher, "july-again", release=release)
    chosen = pusher.served.choice("toy")
    assert chosen.release == ""
    if release == "canary":
        assert (awaits, chosen.versions, chosen.by) == (1, (JUNE_1,), RELEASE)
    else:
        assert (awaits, "the server answers with it" in reason, chosen) == (0, True, HIGHEST)


def test_of_two_pushes_at_once_the_later_version_is_served_and_the_earlier_one_says_so(pusher, monkeypatch):
    pusher.served.choose("toy", dataclasses.replace(PERSON, by=RELEASE))
    change = switch.change

    def changing_while_another_pushes(*arguments):
        (pusher.root / "toy" / str(AUGUST_1)).mkdir()
        change(*arguments)

    monkeypatch.setattr(switch, "change", changing_while_another_pushes)
    _, reason = canary(pusher, "july", release="at_once")
    assert f"registered only: version {AUGUST_1} is of a later interval and stays the served one" in reason
    assert pusher.served.choice("toy") == HIGHEST


def test_a_release_of_what_is_beside_a_persons_choice_leaves_no_later_push_to_a_release(pusher):
    pusher(model_of(pusher.folder / "july", "july"), JULY)
    both = trial(PERSON)
    pusher.served.choose("toy", both)
    awaits, reason = canary(pusher, "july-again")
    assert (awaits, "a release tries" in reason) == (0, True)
    assert pusher.served.choice("toy") == both
