"""Days are judged by those before them: faults alarm, usual days as rarely as the budget says, few days not at all."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from components import decide
from components.artifacts import DataAlarms, SummarizedDay
from components.data_alarms import data_alarms
from components.schema import Feature
from components.watch import day_summary
from components.watch.clean_past import CleanPast
from components.watch.data_alarms import JUDGEMENT, STATE, State, after
from components.watch.day_statistics import pooled
from components.watch.day_summary import DaySummary, Numbers
from components.watch.fault_rules import is_fault
from tests.components import toy

FEATURES = (
    Feature("amount", "number", ""),
    Feature("heat", "number", ""),
    Feature("size", "number", ""),
    Feature("shop", "category", ""),
)
DAYS = 230


def rows(number: int, count: int = 400) -> dict[str, np.ndarray]:
    """A day whose rows share their heat, have other amounts at weekends, and one of thirty sizes, each day others."""
    rng = np.random.default_rng([7, number])
    weekend = number % 7 >= 5
    shops = rng.choice(["a", "b", "c", ""], count, p=[0.6, 0.28, 0.1, 0.02]).astype(object)
    return {
        "amount": rng.normal(150 if weekend else 100, 20, count),
        "heat": rng.normal(15 + 10 * math.sin(number / 58) + 4 * np.random.default_rng(number).normal(), 1, count),
        "size": rng.choice(np.arange(1.0, 31.0), count, p=rng.dirichlet(np.full(30, 40.0))),
        "shop": shops,
    }


def summary(number: int, columns: dict[str, np.ndarray]) -> DaySummary:
    types = (pa.float32(), pa.float32(), pa.float32(), pa.string())
    columns = {f.name: pa.array(columns[f.name], t, from_pandas=True) for f, t in zip(FEATURES, types, strict=True)}
    return DaySummary.of((date(2013, 1, 7) + timedelta(number)).isoformat(), FEATURES, [pa.table(columns)])


@pytest.fixture(scope="module")
def year():
    """Summaries of usual days, the state before each, and their judgements."""
    summaries = [summary(number, rows(number)) for number in range(DAYS)]
    state, states, judgements = State(), [], []
    for number, day in enumerate(summaries):
        states.append(state)
        state, judgement = after(state, day, summaries[:number])
        judgements.append(judgement)
    return summaries, states, judgements


def test_usual_days_alarm_as_rarely_as_the_budget_says(year):
    _, _, judgements = year
    judged = [judgement for judgement in judgements if not judgement.enough]
    assert len(judged) > 90
    alarms = [judgement for judgement in judgements if judgement.findings]
    assert len(alarms) <= 4
    assert not any(finding.hard for judgement in alarms for finding in judgement.findings)


def test_before_there_are_enough_days_nothing_but_hard_rules_is_said(year):
    summaries, states, judgements = year
    assert judgements[0].enough == "not enough data: no day before it"
    assert "of 91 days" in judgements[60].enough
    assert math.isinf(judgements[60].threshold)
    shifted = rows(60)
    shifted["amount"] += 100
    assert not after(states[60], summary(60, shifted), summaries[:60])[1].findings
    shifted["shop"][:] = ""
    findings = after(states[60], summary(60, shifted), summaries[:60])[1].findings
    assert [(finding.feature, finding.what) for finding in findings] == [("shop", "dead")]


def spoiled(number: int, name: str, value: object, share: float) -> dict[str, np.ndarray]:
    columns = rows(number)
    columns[name][: int(share * 400)] = value
    return columns


@pytest.mark.parametrize(
    ("planted", "what", "hard"),
    [
        (("amount", math.nan, 1.0), "dead", True),
        (("amount", math.nan, 0.2), "missing", True),
        (("amount", 3.0, 1.0), "constant", True),
        (("amount", math.inf, 0.01), "non-finite", True),
        (("shop", "b", 1.0), "constant", True),
        (("shop", "", 0.3), "missing", True),
        (("shop", "z", 0.2), "new", True),
        (("amount", -1.0, 0.1), "code", True),
        (("size", 0.0, 0.06), "code", False),
        (("shop", "c", 0.4), "share of c", False),
    ],
)
def test_a_fault_is_found_on_its_first_day(year, planted, what, hard):
    summaries, states, judgements = year
    for number in range(200, 228, 9):
        before = {finding.what for finding in judgements[number].findings}
        _, judgement = after(states[number], summary(number, spoiled(number, *planted)), summaries[:number])
        faults = {(finding.feature, finding.what, finding.hard) for finding in judgement.findings}
        assert (planted[0], what, hard) in faults, (number, before, judgement)


def test_a_sparse_feature_is_not_dead_and_a_rare_value_not_gone_as_a_hard_rule():
    """Gusts that a tenth of the rows have, and engines of which nearly all have two."""
    features = (Feature("gust", "number", ""), Feature("engines", "number", ""))

    def made(number: int, gusts: int, singles: int) -> DaySummary:
        columns = {"gust": [20.0 + place for place in range(gusts)] + [None] * (300 - gusts)}
        columns["engines"] = [1.0] * singles + [2.0] * (300 - singles)
        table = pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})
        return DaySummary.of((date(2013, 1, 7) + timedelta(number)).isoformat(), features, [table])

    days = [made(number, 30, 5) for number in range(28)]
    assert not after(State(), made(28, 0, 0), days)[1].findings
    assert after(State(), made(28, 0, 300), [made(number, 280, 140) for number in range(28)])[1].findings


def test_the_distance_of_numbers_finds_a_shift_of_half_their_deviation(year):
    summaries, states, _ = year
    for number in range(200, 228, 9):
        shifted = rows(number)
        shifted["amount"] += 10
        _, judgement = after(states[number], summary(number, shifted), summaries[:number])
        assert ("amount", "distance") in {(finding.feature, finding.what) for finding in judgement.findings}


def test_a_young_watch_finds_a_value_below_zero_where_none_was(year):
    """The scores of such a feature come after four months; a feed may break before."""
    summaries, states, _ = year
    day = summary(20, spoiled(20, "amount", -1.0, 0.1))
    (finding,) = after(states[20], day, summaries[:20])[1].findings
    assert (finding.feature, finding.what, is_fault(finding)) == ("amount", "code", True)
    assert finding.words == "amount: is -1 in 10.0% of rows, and no value was below 0 in 20 days"
    once = summary(19, spoiled(19, "amount", -3.0, 0.01))
    assert not after(states[20], day, [*summaries[:19], once])[1].findings, "it is a number that may be below 0"
    frost = rows(20)
    frost["amount"] = np.where(np.arange(400) < 40, -1.0, np.maximum(frost["amount"] - 90, 0))
    assert not after(states[20], summary(20, frost), summaries[:20])[1].findings, "the world's: all values are low"
    few = summary(20, spoiled(20, "amount", -1.0, 0.05))
    assert not after(states[20], few, summaries[:20])[1].findings


def test_a_day_with_a_fault_is_no_measure_of_usual_days(year):
    summaries, states, _ = year
    for planted in (("amount", math.nan, 1.0), ("size", 0.0, 0.06)):
        state, judgement = after(states[200], summary(200, spoiled(200, *planted)), summaries[:200])
        assert [is_fault(finding) for finding in judgement.findings][:1] == [True]
        assert np.array_equal(state.scores, states[200].scores, equal_nan=True)
        of_it = [place for place, (feature, _) in enumerate(states[200].keys) if feature == planted[0]]
        assert np.array_equal(state.level[of_it], states[200].level[of_it], equal_nan=True)


def test_a_score_that_a_fault_had_hides_no_later_shift(year):
    summaries, states, _ = year
    state, judgement = after(states[125], summary(125, spoiled(125, "size", 0.0, 0.2)), summaries[:125])
    assert [finding.hard for finding in judgement.findings if is_fault(finding)] == [False]
    past = [*summaries[:125], summary(125, spoiled(125, "size", 0.0, 0.2))]
    for number in range(126, 130):
        state, _ = after(state, summaries[number], past)
        past.append(summaries[number])
    shifted = rows(130)
    shifted["amount"] += 12
    assert after(state, summary(130, shifted), past)[1].findings


BROKEN = {
    "dead": ("amount", math.nan, 1.0),
    "missing": ("amount", math.nan, 0.2),
    "constant": ("amount", 3.0, 1.0),
    "non-finite": ("amount", math.inf, 0.01),
    "code": ("amount", -1.0, 0.1),
    "code by its score": ("size", 0.0, 0.1),
    "constant category": ("shop", "b", 1.0),
    "dead category": ("shop", "", 1.0),
    "missing category": ("shop", "", 0.3),
    "new": ("shop", "z", 0.2),
}
"""A feature of each kind of fault: which it is like, and what share of its rows the fault turns into what."""
KINDS = {of.name: of.kind for of in FEATURES}
EACH = tuple(Feature(name, KINDS[like], "") for name, (like, _, _) in BROKEN.items())
LONG = 35
"""Days, more than are compared with."""
YOUNG, OLD = 20, 123
"""Days after which a fault begins: before there are scores, and after."""


def day_of_each(number: int, share: float = 0.0) -> DaySummary:
    """A day with a feature of each kind of fault; of a share of its faults, and then with fewer rows."""
    columns, made = rows(number, 150 if share else 400), {}
    for name, (like, value, part) in BROKEN.items():
        column = columns[like].copy()
        column[: math.ceil(share * part * len(column))] = value
        made[name] = pa.array(column, pa.string() if like == "shop" else pa.float32(), from_pandas=True)
    return DaySummary.of((date(2013, 1, 7) + timedelta(number)).isoformat(), EACH, [pa.table(made)])


def judged(state, days, past, accepted=""):
    """The state after days in their order, and the faulty features of each day."""
    faulty, past = [], list(past)
    for number, day in enumerate(days):
        # From the bytes of the day before, as a backfill has them.
        state = State.from_bytes(state.to_bytes()) if number % 9 == 0 else state
        state, judgement = after(state, day, past[-28:], accepted=accepted)
        faulty.append({finding.feature for finding in judgement.findings if is_fault(finding)})
        past.append(day)
    return state, faulty


@pytest.fixture(scope="module")
def usual():
    """Usual days with a feature of each kind of fault, and the states before YOUNG and OLD."""
    days = [day_of_each(number) for number in range(OLD + LONG + 1)]
    young, _ = judged(State(), days[:YOUNG], [])
    old, faulty = judged(young, days[YOUNG:OLD], days[:YOUNG])
    assert not any(faulty)
    return days, {YOUNG: young, OLD: old}


@pytest.mark.parametrize("begins", [YOUNG, OLD], ids=["a young watch", "an old one"])
def test_a_feed_that_stays_broken_is_a_fault_each_day_until_it_is_mended(usual, begins):
    days, states = usual
    expected = {"", *BROKEN} - ({"code by its score"} if begins == YOUNG else set())
    broken = [day_of_each(begins + number, 1.0) for number in range(LONG)]
    state, faulty = judged(states[begins], broken, days[:begins])
    assert [expected - features for features in faulty] == [set()] * LONG
    assert {state.clean.since[name] for name in expected} == {days[begins].day}
    state, faulty = judged(state, days[begins + LONG :][:1], [*days[:begins], *broken])
    assert not expected & faulty[0] and not set(state.clean.since) & expected
    assert {len(state.clean.kept[name]) for name in expected} == {min(begins + 1, 28)}


def test_a_state_that_a_person_accepts_is_the_usual_one_from_then_on(usual):
    days, states = usual
    broken = [day_of_each(OLD + number, 1.0) for number in range(5 + LONG)]
    state, _ = judged(states[OLD], broken[:5], days[:OLD])
    past = [*days[:OLD], *broken[:5]]
    _, early = judged(state, broken[5:6], past, accepted=days[OLD - 1].day)
    assert early[0] == {"", *BROKEN}, "they began after what was accepted"
    state, faulty = judged(state, broken[5:], past, accepted=broken[4].day)
    assert faulty == [set()] * LONG
    assert not state.clean.kept, "they are compared with the last days, as any other"
    worse = day_of_each(OLD + 5 + LONG, 2.5)
    assert {"missing", "missing category"} <= judged(state, [worse], broken)[1][0]


def answered(number: int, shift: float = 0.0, version: int = 1) -> DaySummary:
    """A day of which predictions alone are known."""
    numbers = Numbers()
    numbers.add(np.random.default_rng([3, number]).normal(0.3 + shift, 0.1, 400))
    return DaySummary(
        (date(2013, 1, 7) + timedelta(number)).isoformat(), 400, predicted={"predicted late": numbers}, version=version
    )


def test_predictions_that_shift_alarm_and_are_no_fault_and_another_versions_begin_anew():
    days = [answered(number) for number in range(130)]
    state, _ = judged(State(), days, [])
    _, judgement = after(state, answered(130, 0.1), days)
    assert {finding.feature for finding in judgement.findings} == {"predicted late"}
    assert not any(is_fault(finding) for finding in judgement.findings)
    for number in range(130, 134):
        state, judgement = after(state, answered(number, 0.1, version=2), days[-28:])
        assert not judgement.findings, number
        days.append(answered(number, 0.1, version=2))
    assert State.from_bytes(state.to_bytes()).version == 2
    assert after(state, answered(134, version=2), days[-28:])[1].findings


def test_what_a_model_predicts_of_a_faulty_feature_is_no_part_of_its_usual_predictions():
    def day(number: int, *, broken: bool = False) -> DaySummary:
        columns = spoiled(number, "amount", math.nan, 1.0) if broken else rows(number)
        predictions = answered(number, shift=0.3 if broken else 0.0)
        return replace(summary(number, columns), predicted=predictions.predicted, version=1)

    days = [day(number) for number in range(130)]
    state, _ = judged(State(), days, [])
    of_it = [place for place, (feature, _) in enumerate(state.keys) if feature == "predicted late"]
    level = state.level[of_it]
    broken = [day(number, broken=True) for number in range(130, 150)]
    state, faulty = judged(state, broken, days)
    assert faulty == [{"amount"}] * 20
    assert np.array_equal(state.level[of_it], level, equal_nan=True)
    past = [*days, *broken][-28:]
    assert state.clean.pool(past, 1).predicted == pooled(days[-28:]).predicted
    mended = after(state, day(150), past)
    assert not [finding for finding in mended[1].findings if finding.feature == "predicted late"]
    shifted = replace(day(150), predicted=answered(150, shift=0.2).predicted)
    assert "predicted late" in {finding.feature for finding in after(state, shifted, past)[1].findings}
    accepted, judgement = after(state, day(150, broken=True), past, accepted=broken[-1].day)
    assert judgement.accepted == ("amount",)
    assert accepted.clean.pool(past, 1).predicted == pooled([*broken, day(150, broken=True)]).predicted


def test_the_predictions_of_another_version_are_none_that_a_versions_are_compared_with():
    days = [answered(number, version=1 + (number >= 20)) for number in range(28)]
    assert CleanPast().pool(days, 2).predicted == pooled(days[20:]).predicted
    assert CleanPast().pool(days, 3).predicted == {}


def test_a_fault_is_open_on_a_day_of_too_few_rows(year):
    summaries, states, _ = year
    broken = summary(20, spoiled(20, "amount", math.nan, 1.0))
    state, _ = after(states[20], broken, summaries[:20])
    few = summary(21, {name: values[:5] for name, values in rows(21).items()})
    state, judgement = after(state, few, [*summaries[:20], broken])
    assert {finding.feature for finding in judgement.findings if is_fault(finding)} == {"", "amount"}
    assert f"the fault since {broken.day} is open" in judgement.findings[-1].words


def empty(number: int) -> DaySummary:
    return summary(number, {name: values[:0] for name, values in rows(number).items()})


def test_a_feed_without_rows_is_one_fault_until_it_is_there_again(year):
    summaries, states, _ = year
    dead = [empty(number) for number in range(28, 28 + LONG)]
    state, faulty = judged(states[28], dead, summaries[:28])
    assert faulty == [{""}] * LONG, "also when none of the last days has rows"
    assert dict(state.clean.since) == {"": dead[0].day}
    state, judgement = after(state, summaries[28 + LONG], dead[-28:])
    assert not judgement.findings and not state.clean.since


def test_the_faults_of_a_day_of_too_few_rows_can_be_accepted(year):
    summaries, states, _ = year
    broken = summary(20, spoiled(20, "amount", math.nan, 1.0))
    state, _ = after(states[20], broken, summaries[:20])
    past = [*summaries[:20], broken, empty(21)]
    state, judgement = after(state, empty(21), past[:-1])
    assert dict(state.clean.since) == {"": empty(21).day, "amount": broken.day}
    early, judgement = after(state, empty(22), past, accepted=broken.day)
    assert judgement.accepted == ("amount",) and set(early.clean.since) == {""}
    state, judgement = after(state, empty(22), past, accepted=empty(21).day)
    assert (judgement.accepted, judgement.findings) == (("", "amount"), ())
    _, faulty = judged(state, [empty(23), summary(24, spoiled(24, "amount", math.nan, 1.0))], [*past, empty(22)])
    assert faulty == [set(), set()]


def test_a_weekend_is_held_to_weekends(year):
    """A working day's amounts on a Saturday are none that a Saturday has."""
    summaries, states, _ = year
    saturday = 201
    assert saturday % 7 == 5
    columns = rows(saturday) | {"amount": rows(saturday + 2)["amount"]}
    _, judgement = after(states[saturday], summary(saturday, columns), summaries[:saturday])
    assert any(finding.feature == "amount" for finding in judgement.findings)


def test_half_the_rows_are_an_alarm_and_none_at_all_are_not_judged(year):
    summaries, states, _ = year
    few = summary(201, {name: values[:150] for name, values in rows(201).items()})
    findings = after(states[201], few, summaries[:201])[1].findings
    assert ("", "rows", True) in {(finding.feature, finding.what, finding.hard) for finding in findings}
    state, judgement = after(states[201], summary(201, {n: v[:0] for n, v in rows(201).items()}), summaries[:201])
    assert judgement.enough == "not enough data: 0 rows"
    assert [finding.what for finding in judgement.findings] == ["rows"]
    assert len(state.scores) == len(states[201].scores)


def test_a_feature_that_is_new_or_gone_is_no_fault_of_the_others(year):
    summaries, states, _ = year
    day = summary(201, rows(201))
    day.numbers["other"] = day.numbers["amount"]
    del day.numbers["heat"]
    state, judgement = after(states[201], day, summaries[:201])
    assert not judgement.findings
    assert ("other", "missing") in state.keys


def test_a_backfill_comes_to_the_same_bytes_as_running_daily(year):
    summaries, states, judgements = year
    for number in (0, 1, 40, 180):
        state = State.from_bytes(states[number].to_bytes())
        state, judgement = after(state, summaries[number], summaries[:number])
        assert state.to_bytes() == states[number + 1].to_bytes()
        assert repr(judgement) == repr(judgements[number])


def test_days_out_of_order_are_refused(year):
    summaries, states, _ = year
    with pytest.raises(TerminalError, match="does not come after"):
        after(states[10], summaries[9], summaries[:9])


def test_what_a_broken_feed_does_blocks_training_and_a_shift_does_not(year):
    """A tenth of a column that becomes -1 is a fault; prices that rise by a standard deviation are the world's."""
    summaries, states, _ = year
    broken = spoiled(200, "amount", -1, 0.1)
    findings = after(states[200], summary(200, broken), summaries[:200])[1].findings
    assert [(finding.feature, finding.what) for finding in findings if is_fault(finding)] == [("amount", "code")]
    shifted = rows(200)
    shifted["amount"] += 20
    findings = after(states[200], summary(200, shifted), summaries[:200])[1].findings
    assert findings and not any(is_fault(finding) for finding in findings)


def test_a_fault_is_handed_on_with_its_feature_and_its_first_day(tmp_path, year):
    summaries, states, _ = year
    of, past = [], [*summaries[:20], summary(20, spoiled(20, "amount", math.nan, 1.0))]
    state, _ = after(states[20], past[-1], past[:-1])
    for number, day in enumerate([*past, summary(21, spoiled(21, "amount", math.nan, 1.0))]):
        of.append(toy.artifact(SummarizedDay, tmp_path / str(number)))
        of[-1].interval_start, of[-1].interval_end = toy.INTERVAL
        of[-1].day = day.day
        (tmp_path / str(number) / day_summary.FILE).write_text(day.to_json())
    before, alarms = (toy.artifact(DataAlarms, tmp_path / name) for name in ("before", "alarms"))
    (tmp_path / "before" / STATE).write_bytes(state.to_bytes())
    data_alarms.test_call(summary=of[-1], alarms=alarms, past=of[:-1], before=[before])
    judgement = json.loads((tmp_path / "alarms" / JUDGEMENT).read_text())
    (fault,) = decide._faults(judgement, judgement["day"])
    assert (fault.feature, fault.since, fault.day) == ("amount", past[-1].day, "2013-01-28")
