"""A run for June says the same whenever it runs: absurd values are planted in its future, and nothing of it may change.

Each test shows beside it that the plant is seen by those who may see it; otherwise it could not fail.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tfx.types import standard_artifacts

from airtight.interval import Interval
from components.data import examples as reading
from components.measures import drift
from pipelines.flight_delays import clock, features, settings
from pipelines.flight_delays.lake import FLIGHTS, TABLES
from pipelines.flight_delays.tests import small_lake
from pipelines.flight_delays.tests.small_lake import Rows, bytes_of, ingested, rows_of, transformed, write
from pipelines.flight_delays.transform import transform as make

pytestmark = pytest.mark.slow

INTERVAL = Interval.parse("2013-06-10/2013-06-13T16:10", clock.ZONE)
"""It ends in the midst of a day, of an hour and of thunderstorms: files, hours and delays reach over its end."""
VALIDATION_DAYS = 4
FIRST, LAST = date(2013, 5, 24), date(2013, 6, 16)
LATER = datetime(2013, 12, 1, tzinfo=UTC)
MINUTES = 10_000.0
WEATHER = 1e6
EVENTS = (("departed_at", "dep_delay"), ("arrived_at", "arr_delay"))
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def real(flight_lake: Path) -> Rows:
    """Three and a half weeks of the lake."""
    return small_lake.read(flight_lake, FIRST, LAST)


@pytest.fixture(scope="module")
def run(spark, tmp_path_factory) -> Callable[..., standard_artifacts.Examples]:
    """Runs ingest and transform on a lake, for `INTERVAL` or another one."""

    def run(lake: Path, interval: Interval = INTERVAL, **parameters: Any) -> standard_artifacts.Examples:
        folder = tmp_path_factory.mktemp("run")
        return transformed(ingested(lake, interval, folder, **parameters), folder, validation_days=VALIDATION_DAYS)

    return run


def as_it_was(rows: Rows, now: datetime) -> Rows:
    """What could be written at an instant: no event, observation or schedule of later, and no column of later."""

    def known(flight: dict[str, Any]) -> dict[str, Any]:
        unknown = [name for event in EVENTS if not (flight[event[0]] and flight[event[0]] < now) for name in event]
        return {**flight, **dict.fromkeys((*unknown, *(("air_time",) if "arrived_at" in unknown else ())))}

    flights = [known(flight) for flight in rows["flights"] if flight["scheduled_departure"] < now]
    weather = [row for row in rows["weather"] if row["observed_at"] + clock.WEATHER_LAG <= now]
    return {**rows, "flights": flights, "weather": weather}


def planted(rows: Rows, now: datetime) -> Rows:
    """The same until an instant; whatever becomes known then or later is absurd, much of it at that very instant."""
    dice = random.Random(7)

    def absurd(flight: dict[str, Any]) -> dict[str, Any]:
        changed = dict(flight)
        for at, delay in EVENTS:
            # Cancelled flights leave after all, ten thousand minutes late.
            if flight[at] is None or flight[at] >= now:
                changed[at] = now + dice.choice([0, 1, 600, 36_000]) * SECOND
                changed[delay] = MINUTES
                changed["air_time"] = MINUTES
        if flight["scheduled_departure"] >= now and dice.random() < 0.3:
            changed |= {"carrier": "ZZ", "dest": "XXX", "tailnum": "N0NE", "distance": 1e9, "scheduled_minutes": -1.0}
            changed["flight_id"] += "/new"
        return changed

    def storm(row: dict[str, Any]) -> dict[str, Any]:
        known = row["observed_at"] + clock.WEATHER_LAG
        return row if known <= now else row | dict.fromkeys(features.WEATHER, WEATHER)

    return {
        "flights": [absurd(flight) for flight in rows["flights"]],
        "weather": [storm(row) for row in rows["weather"]],
        "planes": [*rows["planes"], {"tailnum": "N0NE", "year": 1e4, "seats": 10**6, "engines": 99, "model": "new"}],
        "airports": [*rows["airports"], {"faa": "XXX", "name": "new", "tzone": clock.ZONE}],
        "airlines": [*rows["airlines"], {"carrier": "ZZ", "name": "new"}],
    }


def contents(examples: standard_artifacts.Examples, *splits: str) -> dict[str, list[bytes]]:
    return {name: bytes_of(examples, name) for name in splits}


def ids(examples: standard_artifacts.Examples, *splits: str) -> set[str]:
    return {i for name in splits for i in rows_of(examples, name)["flight_id"].to_pylist()}


def by_id(rows: pa.Table) -> dict[str, dict[str, Any]]:
    """Features, as text, and label of each flight."""
    return {
        row["flight_id"]: {name: str(row[name]) for name in (*features.SCHEMA.names, features.SCHEMA.label)}
        for row in rows.to_pylist()
    }


@pytest.fixture(scope="module")
def then(run, real, tmp_path_factory) -> standard_artifacts.Examples:
    """The examples of a run at the very end of the interval, which could see nothing of later."""
    return run(write(tmp_path_factory.mktemp("then") / "lake", as_it_was(real, INTERVAL.end)))


@pytest.fixture(scope="module")
def absurd_lake(real, tmp_path_factory) -> Path:
    """The lake of later, when everything that became known after the interval's end is absurd."""
    return write(tmp_path_factory.mktemp("absurd") / "lake", planted(real, INTERVAL.end))


def test_a_run_in_time_and_a_backfill_make_the_same_bytes(run, real, then, absurd_lake):
    assert contents(run(absurd_lake), *then.splits) == contents(then, *then.splits)
    # The plant reaches into the files of the interval: flights that were in the air, and the rest of its last day.
    late = [flight for flight in real["flights"] if INTERVAL.start <= flight["scheduled_departure"] < INTERVAL.end]
    assert sum(flight["arrived_at"] is not None and flight["arrived_at"] >= INTERVAL.end for flight in late) > 50
    assert rows_of(then, "test").num_rows > 2000


def test_a_split_holds_what_was_known_when_it_ended_and_all_of_it(real, then):
    first = datetime.combine(FIRST, time(), INTERVAL.start.tzinfo)
    validation = INTERVAL.start - timedelta(days=VALIDATION_DAYS)
    spans = {
        "train": (first, validation, INTERVAL.start),
        "validation": (validation, INTERVAL.start, INTERVAL.start),
        "test": (INTERVAL.start, INTERVAL.end, INTERVAL.end),
    }
    for name, (start, end, known_by) in spans.items():
        assert ids(then, name) == {
            flight["flight_id"]
            for flight in real["flights"]
            if start <= flight["scheduled_departure"] < end
            and flight["arr_delay"] is not None
            and flight["arrived_at"] < known_by
        }


def test_what_became_known_after_the_history_changes_nothing_that_is_learned(run, real, then, tmp_path):
    other = run(write(tmp_path / "lake", planted(real, INTERVAL.start)))
    assert contents(other, "train", "validation") == contents(then, "train", "validation")
    # A label that came after the history's end is nowhere: nobody could have learned from it, and it is not judged.
    crossing = {
        flight["flight_id"]
        for flight in real["flights"]
        if flight["scheduled_departure"] < INTERVAL.start <= (flight["arrived_at"] or INTERVAL.start)
    }
    assert len(crossing) > 20
    for examples in (then, other):
        assert not crossing & ids(examples, *examples.splits)
    assert "ZZ" in rows_of(other, "test")["carrier"].to_pylist()
    # What the monitor compares with, and what the network knows of words and numbers, is of the training rows alone.
    reference = reading.features(rows_of(then, "train"), features.SCHEMA)
    watched = [reading.features(rows_of(examples, "test"), features.SCHEMA) for examples in (then, other)]
    for feature in features.SCHEMA.features:
        measures = [drift.measure(feature, reference[feature.name], interval[feature.name]) for interval in watched]
        assert measures[0].bins == measures[1].bins
        assert np.array_equal(measures[0].reference, measures[1].reference)
    moved = drift.measure(features.SCHEMA.features[0], reference["carrier"], watched[1]["carrier"])
    assert moved.new == ("ZZ",)


DELAY_H = int(settings.SETTINGS.default("label_delay_hours"))
"""How long the flagship waits for labels."""


def test_labels_that_came_while_the_run_waited_are_the_test_rows_alone(run, real, then, absurd_lake, tmp_path):
    judged_at = INTERVAL.end + timedelta(hours=DELAY_H)
    waited = run(write(tmp_path / "then", as_it_was(real, judged_at)), label_delay_hours=DELAY_H)
    later = run(write(tmp_path / "later", planted(real, judged_at)), label_delay_hours=DELAY_H)
    assert contents(later, *waited.splits) == contents(waited, *waited.splits)
    assert ids(waited, "test") > ids(then, "test")
    # What became known meanwhile is a label of the interval, and nothing else: no feature, and no row to learn from.
    meanwhile = run(absurd_lake, label_delay_hours=DELAY_H)
    assert contents(meanwhile, "train", "validation") == contents(waited, "train", "validation")
    before, after = (by_id(rows_of(examples, "test")) for examples in (waited, meanwhile))
    assert before.keys() <= after.keys()
    assert not {name for i in before for name in _changed(before[i], after[i])}
    assert sum(before[i][features.SCHEMA.label] != after[i][features.SCHEMA.label] for i in before) > 20


def test_the_first_rows_of_a_window_look_back_as_far_as_those_of_the_whole_history(run, flight_lake, tmp_path):
    lake = write(tmp_path / "lake", small_lake.read(flight_lake, date(2013, 1, 1), date(2013, 2, 19)))
    interval = Interval.parse("2013-02-18/2013-02-20", clock.ZONE)

    def learned(**window: int) -> dict[str, dict[str, Any]]:
        return by_id(rows_of(run(lake, interval=interval, **window), "train"))

    in_whole = learned()
    for lookback_days, same in ((features.LOOKBACK_DAYS, True), (7, False)):
        in_window = learned(window_days=7, lookback_days=lookback_days)
        assert 1000 < len(in_window) < len(in_whole)
        changed = {name for i in in_window for name in _changed(in_whole[i], in_window[i])}
        assert bool(changed) is not same, changed


def test_corrections_are_read_by_those_who_ask_for_the_lake_of_now(run, absurd_lake, then, tmp_path):
    before = ingested(absurd_lake, INTERVAL, tmp_path, lake_version="then").digest
    corrected = small_lake.read(absurd_lake, FIRST, FIRST + timedelta(days=2))
    for flight in corrected["flights"]:
        flight.update(dep_delay=MINUTES, arr_delay=-MINUTES, distance=1e9, carrier="ZZ")
    for row in corrected["weather"]:
        row.update(dict.fromkeys(features.WEATHER, WEATHER))
    for plane in corrected["planes"]:
        plane.update(year=0.0, seats=10**6, model="corrected")
    write(absurd_lake, corrected, LATER)
    assert ingested(absurd_lake, INTERVAL, tmp_path, lake_version="then").digest == before
    assert contents(run(absurd_lake, lake_version="then"), *then.splits) == contents(then, *then.splits)
    assert ingested(absurd_lake, INTERVAL, tmp_path, lake_version="now").digest != before


STORM = (date(2013, 6, 12), date(2013, 6, 13))
WATCHED = datetime(2013, 6, 13, 17, tzinfo=UTC)
"""From when on a flight is looked for whose cut-off is watched to the second."""


@pytest.fixture(scope="module")
def made(spark, real, tmp_path_factory) -> Callable[[list[dict[str, Any]]], dict[str, dict[str, Any]]]:
    """What Spark makes of flights, by flight."""

    def made(flights: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("tables")
        for table in TABLES:
            rows = flights if table is FLIGHTS else real[table.name]
            pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / f"{table.name}.parquet")
        rows = make(lambda name: spark.read.parquet(str(folder / f"{name}.parquet"))).toArrow().to_pylist()
        return {row["flight_id"]: {name: str(row[name]) for name in features.SCHEMA.names} for row in rows}

    return made


def _watched(flights: list[dict[str, Any]]) -> dict[str, Any]:
    """A flight whose aircraft is still on its way at the cut-off, so that a leak would show in what it did."""
    last: dict[str, dict[str, Any]] = {}
    for flight in flights:
        before = last.get(flight["tailnum"])
        cutoff = clock.cutoff(flight["scheduled_departure"])
        if cutoff >= WATCHED and before and before["departed_at"] and before["departed_at"] >= cutoff:
            return flight
        if flight["tailnum"]:
            last[flight["tailnum"]] = flight
    raise AssertionError("There is no such flight.")


def _all_at(flights: list[dict[str, Any]], cutoff: datetime, *moments: datetime) -> list[dict[str, Any]]:
    """Every event of the six hours after a cut-off happens at one of these moments in turn, absurdly late."""
    turns = itertools.cycle(moments)
    moved = []
    for flight in flights:
        changed = dict(flight)
        for at, delay in EVENTS:
            if flight[at] and cutoff <= flight[at] < cutoff + timedelta(hours=6):
                changed |= {at: next(turns), delay: MINUTES}
        moved.append(changed)
    return moved


def test_a_second_after_the_cutoff_of_one_flight(real, made):
    flights = sorted(
        (flight for flight in real["flights"] if flight["local_date"] in STORM),
        key=lambda flight: (flight["scheduled_departure"], flight["flight_id"]),
    )
    watched = _watched(flights)
    cutoffs = {flight["flight_id"]: clock.cutoff(flight["scheduled_departure"]) for flight in flights}
    name, cutoff = watched["flight_id"], cutoffs[watched["flight_id"]]
    before = made(flights)
    # At the very instant of the cut-off nothing is known of it yet, nor a second after it.
    after = made(_all_at(flights, cutoff, cutoff, cutoff + SECOND))
    assert after[name] == before[name]
    assert not {i: _changed(before[i], after[i]) for i, at in cutoffs.items() if at <= cutoff and before[i] != after[i]}
    later = next(f for f in flights if f["origin"] == watched["origin"] and cutoffs[f["flight_id"]] > cutoff + SECOND)
    seen = _changed(before[later["flight_id"]], after[later["flight_id"]])
    assert {"departures_mean_delay_origin_1h", "departures_count_all_2h", "overdue_count_origin"} <= seen
    # A second before it, the flight sees them too: its aircraft, its airport, its carrier, all of New York.
    seen = _changed(before[name], made(_all_at(flights, cutoff, cutoff - SECOND))[name])
    assert {"tail_previous_delay", "tail_departure_delay", "departures_mean_delay_origin_carrier_1h"} <= seen
    assert {"departures_count_origin_2h", "departures_count_all_2h", "arrivals_count_origin_2h"} <= seen


def _changed(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in features.SCHEMA.names if one[name] != other[name]}
