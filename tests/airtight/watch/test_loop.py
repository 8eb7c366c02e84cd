"""The state of a watch, day by day: fits as the lineage shows them, faults, what is awaited, and equal bytes."""

import itertools
import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from airtight.errors import TerminalError
from airtight.watch import regret
from airtight.watch.brakes import Brakes
from airtight.watch.loop import Fault, Observation, Rules, State, Training, after
from airtight.watch.policies import policy_of
from airtight.watch.settings import Watch

FIRST = date(2013, 3, 1)
SETTINGS = regret.Settings(centre=0.0, scale=0.01, threshold=5.0)


def instant(number):
    return f"{FIRST + timedelta(days=number)}T00:00:00+00:00"


def seen(number, served=1, regret=0.0, **more):
    fields = {"rows": 900, "loss": 0.4 + regret, "challengers": {0: 0.4, 28: 0.41}} | more
    return Observation(str(FIRST + timedelta(days=number)), instant(number), instant(number + 1), served, **fields)


def faults(number, words, since=None, feature=""):
    day, began = (str(FIRST + timedelta(days=n)) for n in (number, number if since is None else since))
    return (Fault(day, words, began, feature),)


def rules(policy="airtight.watch.policies:every?n=3", **more):
    fields = {"cost": 0.0, "fresh_days": 28, "days_between": 200, "fault_days": 3, "outcome_days": 3} | more
    return Rules(policy_of(policy), fields.pop("brakes", Brakes()), **fields)


def calibrate(differences, days_between):
    return SETTINGS if len(differences) >= 5 else None


def watched(days, by=None, state=None):
    """The last state and the decisions of days; each state goes through its bytes."""
    decisions, by, state = [], by or rules(), state or State()
    for day in days:
        state, decision = after(State.from_json(state.to_json()), day, by, calibrate)
        decisions.append(decision)
    return state, decisions


def test_without_a_served_version_nothing_is_retrained():
    state, (decision,) = watched([seen(0, served=0, rows=0)])
    assert (decision.action, state.periods) == ("keep", ())
    assert "no version is served" in decision.reason and state.in_words() == "No version is served."


def test_a_decision_is_made_once_and_its_training_is_waited_for():
    days = [seen(0), seen(1), seen(2)]
    state, decisions = watched(days)
    assert [decision.action for decision in decisions] == ["keep", "keep", "retrain"]
    assert state.awaited == instant(3)
    begun = Training(instant(3))
    _, decisions = watched([seen(3, trainings=(begun,)), seen(4, trainings=(begun,))], state=state)
    assert [(d.action, "under way" in d.reason) for d in decisions] == [("keep", True)] * 2
    done = (Training(instant(3), 7),)
    state, decisions = watched([seen(3, served=7, trainings=done), seen(4, served=7, trainings=done)], state=state)
    assert [(fit.version, fit.fit.period, fit.fit.accepted) for fit in state.fits] == [(1, 0, True), (7, 3, True)]
    assert "has served 2 of 3" in decisions[-1].reason and state.awaited == ""


def test_a_decision_of_which_no_training_came_is_made_again():
    """As in a backfill, which triggers nothing."""
    _, decisions = watched([seen(number) for number in range(5)])
    assert [decision.action for decision in decisions] == ["keep", "keep", "retrain", "retrain", "retrain"]


@pytest.mark.parametrize("outcome", [0, None], ids=["refused by its gates", "failed before them"])
def test_trainings_that_come_to_nothing_again_and_again_are_held_back_longer_and_longer(outcome):
    state, retrained = State(), []
    for number in range(40):
        trainings = tuple(Training(end, outcome) for end in retrained)
        state, (decision,) = watched([seen(number, trainings=trainings)], state=state)
        if decision.action == "retrain":
            retrained.append(instant(number + 1))
    between = [date.fromisoformat(b[:10]) - date.fromisoformat(a[:10]) for a, b in itertools.pairwise(retrained)]
    assert [days.days for days in between] == sorted(days.days for days in between)
    assert between[-1].days >= 8, "the cooldown doubles"
    assert not any(known.fit.accepted for known in state.fits[1:])


def test_a_version_that_awaits_its_release_is_under_way_and_then_counts_as_refused():
    pushed = (Training(instant(3), 7),)
    state, decisions = watched([seen(n, trainings=pushed if n >= 3 else ()) for n in range(8)])
    assert "a release of its version has no outcome yet" in decisions[3].reason
    assert [(known.version, known.fit.accepted) for known in state.fits][:2] == [(1, True), (0, False)]


def test_a_version_that_is_taken_back_is_no_fit_that_helped():
    days = [
        seen(n, trainings=(Training(instant(2), 7),) if n >= 2 else (), served=7 if n in (2, 3) else 1)
        for n in range(6)
    ]
    state, _ = watched(days)
    assert [(known.version, known.fit.accepted) for known in state.fits] == [(1, True), (7, False)]
    assert state.served == 1
    again, _ = watched([seen(6, 7, trainings=(Training(instant(2), 7),))], state=state)
    assert [(known.version, known.fit.accepted) for known in again.fits] == [(1, True), (7, True)], "a person wants it"


def test_a_rollback_to_a_version_from_before_the_watch_goes_on():
    state, _ = watched([seen(0, served=5), seen(1, served=3)])
    assert [(known.version, known.fit.accepted) for known in state.fits] == [(3, True), (5, False)]


def test_a_fault_blocks_training_for_some_days_and_nothing_is_compared_on_it():
    """A challenger learns a fault before the served model does; that is no reason to retrain."""
    broken = seen(2, regret=5.0, faults=faults(2, "delay: code is .1, expected 0"))
    state, decisions = watched([seen(0), seen(1), broken, seen(3), seen(4), seen(5)])
    assert [d.action for d in decisions] == ["keep", "keep", "fix_data", "fix_data", "fix_data", "retrain"]
    assert "2013-03-03: delay: code is .1" in decisions[2].reason
    assert state.periods[2].challengers == {} and state.periods[2].regret() == 0


def test_a_day_that_is_judged_again_without_its_fault_blocks_nothing():
    before, _ = watched([seen(0), seen(1)])
    _, (broken,) = watched([seen(2, faults=faults(2, "dead"))], state=before)
    _, (mended,) = watched([seen(2)], state=before)
    assert (broken.action, mended.action) == ("fix_data", "retrain")


def test_a_fault_that_stays_blocks_until_it_is_over_or_accepted():
    broken = [seen(n, faults=faults(n, f"dead on day {n}", 2)) for n in range(2, 40)]
    state, decisions = watched([seen(0), seen(1), *broken])
    assert {decision.action for decision in decisions[2:]} == {"fix_data"}
    assert decisions[-1].reason.endswith("until the data are mended: 2013-04-09: dead on day 39"), "it is one fault"
    _, over = watched([seen(40), seen(41), seen(42)], state=state)
    assert [decision.action for decision in over] == ["fix_data", "fix_data", "retrain"]
    _, (accepted,) = watched([seen(40, accepted=seen(39).day)], state=state)
    assert accepted.action == "retrain"
    _, (early,) = watched([seen(40, accepted=seen(1).day)], state=state)
    assert early.action == "fix_data", "it began after what was accepted"


def test_a_fault_blocks_on_though_another_features_began_on_the_same_day_and_is_open():
    both = (*faults(2, "heat: dead", feature="heat"), *faults(2, "size: dead", feature="size"))
    days = [seen(0), seen(1), seen(2, faults=both), seen(3, faults=faults(3, "size: dead", 2, "size"))]
    _, decisions = watched(days)
    assert decisions[-1].reason.endswith("2013-03-03: heat: dead; 2013-03-04: size: dead"), "heat's day still counts"


def test_a_state_of_before_faults_had_a_beginning_is_read():
    state, _ = watched([seen(0), seen(1, faults=faults(1, "dead"))])
    old = json.loads(state.to_json())
    old["faults"] = [[fault["day"], fault["words"]] for fault in old["faults"]]
    assert State.from_json(json.dumps(old)) == state


def test_regret_alarms_with_settings_from_fresh_days_and_says_since_when():
    days = [seen(n, regret=0.0 if n < 10 else 0.03) for n in range(20)]
    state, _ = watched(days, rules("airtight.watch.policies:never", fresh_days=7))
    assert state.settings == SETTINGS
    assert state.alarm == "2013-03-12"
    assert "since 2013-03-11 version 1 loses 0.03 a flight" in state.in_words("flight")


@pytest.mark.parametrize(("cheaper", "staleness", "retrains"), [(0.03, 0.03, True), (-0.03, 0.0, False)])
def test_policies_act_on_what_the_served_model_loses_beyond_an_equal_challenger(cheaper, staleness, retrains):
    """A cheap challenger loses more while the served model is fresh, or a better one less: that is no staleness."""

    def centred(differences, days_between):
        return replace(SETTINGS, centre=sum(differences) / len(differences)) if len(differences) >= 5 else None

    by, state, decisions = rules("airtight.watch.policies:cusum?limit=0.3&slack=0", fresh_days=6), State(), []
    for number in range(20):
        regret = -cheaper + (staleness if number >= 6 else 0.0)
        state, decision = after(state, seen(number, regret=regret), by, centred)
        decisions.append(decision.action)
    assert ("retrain" in decisions[6:]) == retrains
    assert state.periods[19].challengers == {0: 0.4, 28: 0.41}, "what was measured is kept as it is"


def test_a_day_without_labels_changes_the_date_alone():
    state, _ = watched([seen(n) for n in range(6)])
    later, _ = watched([seen(6, rows=0)], state=state)
    assert replace(later, regret=None) == replace(state, day="2013-03-07", awaited=later.awaited, regret=None)


def test_days_come_in_their_order():
    state, _ = watched([seen(3)])
    with pytest.raises(TerminalError, match="does not come after"):
        watched([seen(3)], state=state)
    with pytest.raises(TerminalError, match="no state of a watch"):
        State.from_json('{"day": 1}')


def test_a_gap_is_passed_over():
    state, _ = watched([seen(0), seen(9)])
    assert [period.start for period in state.periods] == ["2013-03-01", "2013-03-10"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": "airtight.watch.policies:every?m=3"}, "cannot be called so"),
        ({"policy": "every second day"}, "an import string"),
        ({"lengths": (28,)}, "lengths"),
        ({"judge_days": 0}, "judge_days"),
        ({"notify": ("slack",)}, "import strings"),
        ({"release": "shadow"}, "canary or at_once"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong, message):
    with pytest.raises(TerminalError, match=message):
        Watch(**wrong)


def test_a_backfill_comes_to_the_bytes_of_the_days_as_they_were_watched():
    """Daily, a training runs when it is decided; in the backfill all have run, and count from their intervals on."""
    run: list[Training] = []

    def day(number):
        # What ended by then, as the lineage is asked.
        trainings = tuple(training for training in run if training.end <= instant(number))
        served = max((training.version or 1 for training in trainings), default=1)
        return seen(number, served, regret=0.001 * (number % 5), trainings=trainings)

    daily, state = [], State()
    for number in range(30):
        state, decision = after(state, day(number), rules(), calibrate)
        daily.append((state.to_json(), decision))
        if decision.action == "retrain":
            run.append(Training(instant(number + 1), 0 if len(run) == 1 else number + 2))
    assert len(run) > 3
    backfilled, state = [], State()
    for number in range(30):
        state, decision = after(State.from_json(state.to_json()), day(number), rules(), calibrate)
        backfilled.append((state.to_json(), decision))
    assert backfilled == daily
