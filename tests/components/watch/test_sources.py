"""Sources of the same day are compared with each other: what the day does to all of them cancels."""

from __future__ import annotations

import math
import random
from datetime import date, timedelta
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from components.schema import Feature
from components.watch.data_alarms import ERROR_DAYS, State, after
from components.watch.day_summary import DaySummary
from components.watch.fault_rules import is_fault
from components.watch.source_sums import Sums, differences

FEATURES = (Feature("heat", "number", ""), Feature("station", "category", ""))
STATIONS = tuple("abcdefghijkl")
ROWS = 30
"""Of each station on a day."""
USUAL_DAYS = 130


def rows(number: int) -> dict[str, np.ndarray]:
    """A day whose heat is another one each day, and nearly the same at each station."""
    rng = np.random.default_rng([5, number])
    station = np.repeat(STATIONS, ROWS)
    own = rng.normal(0, 0.2, len(STATIONS)) + 2 * (np.array(STATIONS) == "c")
    return {"heat": 15 + 8 * rng.normal() + rng.normal(0, 1, len(station)) + np.repeat(own, ROWS), "station": station}


def summary(number: int, columns: dict[str, np.ndarray], sources: tuple[str, ...] = STATIONS) -> DaySummary:
    table = pa.table({"heat": pa.array(columns["heat"], pa.float32(), from_pandas=True), "station": columns["station"]})
    day = (date(2013, 1, 7) + timedelta(number)).isoformat()
    return DaySummary.of(day, FEATURES, [table], source="station", sources=sources)


def judged(sources: tuple[str, ...]) -> tuple[list[DaySummary], State]:
    """Usual days in their order, and the state after them; none alarms."""
    days = [summary(number, rows(number), sources) for number in range(USUAL_DAYS)]
    state, alarms = State(), 0
    # The first days were summarized before there were sources, and all are read as they were stored.
    days[:4] = [summary(number, rows(number), ()) for number in range(4)]
    days = [DaySummary.from_json(day.to_json()) for day in days]
    for number, day in enumerate(days):
        state, judgement = after(State.from_bytes(state.to_bytes()), day, days[max(0, number - 28) : number])
        alarms += bool(judgement.findings)
    assert alarms <= 1
    return days, state


@pytest.fixture(scope="module")
def compared():
    return judged(STATIONS)


def findings(days: tuple[list[DaySummary], State], value: object, station: str = "c", sources=STATIONS):
    """Of a day on which a station's heat is another one."""
    columns = rows(USUAL_DAYS)
    at = columns["station"] == station
    columns["heat"] = np.where(at, value(columns["heat"]), columns["heat"])
    return after(days[1], summary(USUAL_DAYS, columns, sources), days[0])[1].findings


def test_a_fault_at_one_source_is_found_that_the_whole_column_does_not_show(compared):
    assert not findings(compared, lambda heat: heat)
    warmer = findings(compared, lambda heat: heat + 4)
    assert [(finding.feature, finding.what) for finding in warmer][:1] == [("heat", "at c")]
    assert warmer[0].words.startswith("heat: c differs from the other sources by 0.")
    assert " of the usual spread, expected 0.0" in warmer[0].words
    assert not any(is_fault(finding) for finding in warmer), "a station may have been moved"
    assert not findings(judged(()), lambda heat: heat + 4, sources=())


def test_what_all_sources_have_on_a_day_cancels(compared):
    columns = rows(USUAL_DAYS)
    columns["heat"] += 9
    known = after(compared[1], summary(USUAL_DAYS, columns), compared[0])[1].findings
    assert not [finding for finding in known if finding.what.startswith("at ")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda heat: heat * math.nan, "heat: no row of c has a value"),
        (lambda heat: heat * 0 + 17, "heat: all values of c are the same, as on no day before"),
    ],
    ids=["dead", "constant"],
)
def test_a_source_that_is_dead_or_constant_is_a_fault(compared, value, words):
    assert [finding.words for finding in findings(compared, value) if finding.hard] == [words]
    few = {name: column[: -ROWS // 2] for name, column in rows(USUAL_DAYS).items()}
    few["heat"][-ROWS // 2 :] = value(few["heat"][-ROWS // 2 :])
    known = after(compared[1], summary(USUAL_DAYS, few), compared[0])[1].findings
    assert not [finding for finding in known if finding.hard], "so few rows may be so by chance"


def test_sums_are_exact_and_the_same_in_any_order():
    rng = np.random.default_rng(1)
    values = (rng.normal(size=4000) * 10.0 ** rng.integers(-44, 38, 4000)).astype(np.float32)
    values[:6] = np.nan, np.inf, -0.0, 0.0, 1e-45, 3.4e38
    whole = Sums()
    whole.add(values)
    assert (whole.rows, whole.there) == (4000, 3998)
    mean = differences({"all": whole, "zeros": Sums(1, 1, 0, (0.0, 0.0))})["all"]
    assert mean == float(sum(Fraction(float(value)) for value in values[np.isfinite(values)]) / 3998)
    for seed in range(5):
        order = random.Random(seed).sample(range(4000), 4000)
        parts = [Sums() for _ in range(3)]
        for part, places in zip(parts, np.array_split(order, 3), strict=True):
            part.add(values[places])
        parts[2].merge(parts[0])
        parts[2].merge(parts[1])
        assert repr(parts[2]) == repr(whole)
    signs = [Sums(), Sums()]
    for one, zeros in zip(signs, ([-0.0, 0.0], [0.0, -0.0]), strict=True):
        one.add(np.array(zeros, np.float32))
    assert repr(signs[0]) == repr(signs[1])


def test_sources_that_are_gone_leave_the_state(compared):
    days, state = list(compared[0]), compared[1]
    assert ("heat", "at l") in state.keys
    for number in range(USUAL_DAYS, USUAL_DAYS + ERROR_DAYS + 1):
        day = summary(number, rows(number), STATIONS[:-1])
        state, _ = after(state, day, days[-28:])
        days.append(day)
    assert {figure for _, figure in state.keys if figure.startswith("at ")} == {f"at {name}" for name in STATIONS[:-1]}
