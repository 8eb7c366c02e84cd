"""Features from the online store against the reference, and what is missing, expired or refused."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airtight.errors import TerminalError, TransientError
from pipelines.flight_delays import clock, features, online
from pipelines.flight_delays.events import Arrival, Departure, Event, Flight, Plan, Weather, minute
from pipelines.flight_delays.features import OVERDUE, WINDOWS
from pipelines.flight_delays.replay import events_of
from pipelines.flight_delays.streams import STREAM
from pipelines.flight_delays.tests import odd_flights, plain_totals, reference
from streaming.windows.sqlite_store import SqliteStore

YEAR = (datetime(2012, 12, 30, tzinfo=UTC), datetime(2014, 1, 3, tzinfo=UTC))


def _flight(row: dict) -> Flight:
    return Flight(**{name: row[name] for name in Flight.__struct_fields__})


@pytest.fixture(scope="module")
def odd(flight_lake: Path):
    """Tables, rows, the ids of the sample and what the reference says of them."""
    tables = odd_flights.tables(flight_lake)
    rows = {name: table.to_pylist() for name, table in tables.items()}
    sampled = odd_flights.sample(rows)
    return tables, rows, sampled, reference.Walk(**rows).features_of(sampled)


def _differing(made: dict[str, dict], expected: dict[str, dict]) -> list:
    differ = []
    for flight_id, answer in expected.items():
        assert list(made[flight_id]) == list(features.SCHEMA.names)
        for feature in features.SCHEMA.features:
            here, there = (odd_flights.plain(row[feature.name], feature.kind) for row in (made[flight_id], answer))
            if here != there and not (feature.kind == "number" and math.isnan(here) and math.isnan(there)):
                differ.append((flight_id, feature.name, here, there))
    return differ


@pytest.mark.slow
def test_odd_flights_equal_the_reference_in_a_store_of_everything(odd, tmp_path):
    tables, rows, sampled, expected = odd
    store = SqliteStore(tmp_path / "online.sqlite", replace(STREAM, keep_days=10_000))
    plain_totals.put(store, list(events_of(tables["flights"], tables["weather"], *YEAR)))
    planes = {row["tailnum"]: row for row in rows["planes"]}
    flights = [row for row in rows["flights"] if row["flight_id"] in sampled]
    answers = online.known([_flight(row) for row in flights], store, planes)
    assert (
        _differing({row["flight_id"]: answer.features for row, answer in zip(flights, answers, strict=True)}, expected)
        == []
    )
    assert {answer.behind_minutes for answer in answers} == {0}
    assert all(
        answer.as_of == clock.cutoff(row["scheduled_departure"]) for row, answer in zip(flights, answers, strict=True)
    )


@pytest.mark.slow
def test_odd_flights_equal_the_reference_as_the_stream_goes_by(odd, tmp_path):
    """The store holds what became known before the cut-off, and forgets what is old."""
    tables, rows, sampled, expected = odd
    store = SqliteStore(tmp_path / "online.sqlite", STREAM)
    planes = {row["tailnum"]: row for row in rows["planes"]}
    flights = [row for row in rows["flights"] if row["flight_id"] in sampled]
    coming = events_of(tables["flights"], tables["weather"], *YEAR)
    held: list[Event] = []
    made, event = {}, next(coming)
    for row in sorted(flights, key=lambda flight: flight["scheduled_departure"]):
        cutoff = clock.cutoff(row["scheduled_departure"])
        # Weather that comes at the very instant is known: it is that of an hour which is over.
        while event.at < cutoff or (event.at == cutoff and isinstance(event, Weather)):
            held.append(event)
            event = next(coming)
        plain_totals.put(store, held, minute(cutoff))
        held = [one for one in held if minute(one.at) >= minute(cutoff)]  # Its minute is not over.
        made[row["flight_id"]] = online.features_of(_flight(row), store, planes)
    assert _differing(made, expected) == []


DEPARTURE = datetime(2013, 6, 13, 16, 0, tzinfo=UTC)
CUTOFF = clock.cutoff(DEPARTURE)
SAME = {"carrier": "UA", "flight": 7, "tailnum": "N1", "origin": "EWR", "dest": "IAH"}
PLAN = {
    **SAME,
    "scheduled_departure": DEPARTURE.isoformat(),
    "scheduled_arrival": (DEPARTURE + timedelta(hours=4)).isoformat(),
    "distance": 1400.0,
}


def _plan(flight_id: str, scheduled: datetime, **other) -> Plan:
    fields = {**SAME, "distance": 1400.0, "scheduled_arrival": scheduled + timedelta(hours=4), **other}
    at = scheduled - timedelta(days=1)
    return Plan(schema=1, at=at, flight_id=flight_id, scheduled_departure=scheduled, **fields)


def _stream(minutes_before: int) -> list[Event]:
    """A small world: everything in it happened some minutes before the cut-off."""
    at = CUTOFF - timedelta(minutes=minutes_before)
    weather = dict.fromkeys(features.WEATHER, 1.0) | {"wind_gust": None}
    observed = at.replace(minute=0) - timedelta(hours=1)
    return [
        _plan("before", at - timedelta(hours=5)),
        _plan("due", at - timedelta(minutes=60), tailnum="N2", carrier="AA"),
        Departure(schema=1, at=at - timedelta(hours=5, minutes=-20), flight_id="before", delay=20, **SAME),
        Weather(schema=1, at=observed + timedelta(hours=1), origin="EWR", observed_at=observed, **weather),
        Departure(schema=1, at=at, flight_id="other", delay=30, **SAME),
        Arrival(schema=1, at=at, flight_id="before", delay=None, **SAME),
        Arrival(schema=1, at=at, flight_id="another", delay=-4, **SAME),
    ]


def _lookup(path: Path, minutes_before: int, watermark: int = 0) -> online.Lookup:
    store = SqliteStore(path / "online.sqlite", STREAM)
    plain_totals.put(store, _stream(minutes_before), minute(CUTOFF) - watermark)
    return online.Lookup(store, lambda: {"N1": {"year": 2003.0, "manufacturer": "M", "model": None, "seats": 100}})


def test_a_plan_is_filled_in(tmp_path):
    (row,), (fresh,) = _lookup(tmp_path, 10)([PLAN])
    assert fresh == {"cutoff": CUTOFF, "as_of": CUTOFF, "behind_minutes": 0}
    assert row["weekday"] == "Thu" and row["local_minute"] == 12 * 60 and row["scheduled_minutes"] == 240
    assert row["plane_age"] == 10 and row["plane_manufacturer"] == "M" and row["plane_model"] == ""
    assert math.isnan(row["plane_engines"]) and math.isnan(row["wind_gust"]) and row["temp"] == 1.0
    assert row["departures_count_origin_2h"] == 1 and row["departures_late_share_origin_1h"] == 1.0
    assert row["arrivals_mean_delay_carrier_flight_28d"] == -4.0
    assert row["overdue_count_origin"] == 1 and row["overdue_mean_minutes_all"] == 70.0
    assert row["overdue_count_origin_carrier"] == 0 and math.isnan(row["overdue_mean_minutes_origin_carrier"])
    assert (row["tail_departure_delay"], row["tail_departure_age"]) == (30, 10)
    # Diverted and an hour late, counted from the clock at its destination.
    assert row["tail_previous_delay"] == 60 and row["tail_slack"] == 40 + 60 - 60 - 240 - 20 + 20
    # Its own plan is not in the store, and yet it is one of the hour's departures.
    assert row["scheduled_departures_origin"] == 1


def test_the_last_full_hour_is_asked_for_weather_and_no_other(tmp_path):
    (row,), _ = _lookup(tmp_path, 100)([PLAN])
    assert math.isnan(row["temp"])


def test_a_store_that_lags_answers_as_it_was_when_it_ends(tmp_path):
    (now,), (fresh,) = _lookup(tmp_path / "lags", 25, watermark=15)([PLAN])
    assert fresh == {"cutoff": CUTOFF, "as_of": CUTOFF - timedelta(minutes=15), "behind_minutes": 15}
    # As a flight a quarter of an hour earlier would have been told at its cut-off.
    assert now["tail_departure_age"] == 10 and now["overdue_mean_minutes_all"] == 70.0
    assert now["departures_count_origin_2h"] == 1


def test_a_store_that_lost_something_says_from_when_it_is_whole(tmp_path):
    lookup = _lookup(tmp_path, 10)
    lookup._store.set_whole_from(minute(CUTOFF) - 30)
    _, (fresh,) = lookup([PLAN])
    assert fresh["whole_from"] == CUTOFF - timedelta(minutes=30)


def test_values_expire_when_the_store_ends_longer_before_the_cutoff_than_they_look_back(tmp_path):
    (row,), (fresh,) = _lookup(tmp_path, 165, watermark=160)([PLAN])
    assert fresh["behind_minutes"] == 160
    for window in WINDOWS:
        for measure in window.measures:
            value = row[window.feature(measure)]
            if window.hours > 2:
                assert not math.isnan(value), window
            elif measure == "count":
                assert value == 0, window
            else:
                assert math.isnan(value), window
    assert row["overdue_count_all"] == 1 and row["tail_departure_delay"] == 30 and row["temp"] == 1.0
    (row,), _ = _lookup(tmp_path / "later", 205, watermark=200)([PLAN])
    assert math.isnan(row["temp"]) and row["tail_departure_delay"] == 30
    assert {row[overdue.count] for overdue in OVERDUE} == {0}
    (row,), _ = _lookup(tmp_path / "much later", 1505, watermark=1500)([PLAN])
    assert math.isnan(row["tail_departure_delay"]) and math.isnan(row["tail_previous_delay"])
    assert row["arrivals_count_carrier_flight_28d"] == 1


def test_without_an_aircraft_its_features_are_missing(tmp_path):
    (row,), _ = _lookup(tmp_path, 10)([{**PLAN, "tailnum": None}])
    assert {name for name, value in row.items() if name.startswith("tail_") and not math.isnan(value)} == set()
    assert row["plane_manufacturer"] == "" and row["departures_count_origin_2h"] == 1


def test_its_own_plan_in_the_store_is_not_counted_twice(tmp_path):
    lookup = _lookup(tmp_path, 10)
    own = _plan("2013-06-13/UA/7/EWR", DEPARTURE)
    plain_totals.put(lookup._store, [own])
    assert lookup([PLAN])[0][0]["scheduled_departures_origin"] == 1
    assert lookup([{**PLAN, "flight_id": "another"}])[0][0]["scheduled_departures_origin"] == 2


@pytest.mark.parametrize(
    ("bad", "received"),
    [
        ({"origin": 5}, "instances[1].origin"),
        ({"origin": "a|b"}, "instances[1].origin"),
        ({"flight": "7"}, "instances[1].flight"),
        ({"distance": None}, "instances[1].distance"),
        ({"scheduled_departure": "yesterday"}, "instances[1].scheduled_departure"),
        ({"scheduled_departure": "2013-06-13T12:00:00"}, "instances[1].scheduled_departure"),
        ({"scheduled_departure": "2013-06-13T16:00:30Z"}, "instances[1].scheduled_departure"),
        ({"scheduled_arrival": PLAN["scheduled_departure"]}, "instances[1].scheduled_arrival"),
        ({"gate": "A1"}, "gate"),
    ],
)
def test_a_bad_plan_is_refused_by_its_field(tmp_path, bad, received):
    with pytest.raises(TerminalError) as refused:
        _lookup(tmp_path, 10)([PLAN, {**PLAN, **bad}])
    assert received in refused.value.received and "instances[1]" in refused.value.received


@pytest.mark.parametrize("name", [name for name in PLAN])
def test_a_field_that_lacks_is_named(tmp_path, name):
    with pytest.raises(TerminalError, match=name):
        _lookup(tmp_path, 10)([{key: value for key, value in PLAN.items() if key != name}])


@pytest.mark.parametrize("instances", [[None], ["x"], [[]]])
def test_what_is_no_object_is_refused(tmp_path, instances):
    with pytest.raises(TerminalError, match=r"instances\[0\]"):
        _lookup(tmp_path, 10)(instances)


def test_too_many_are_refused(tmp_path):
    with pytest.raises(TerminalError, match="1001"):
        _lookup(tmp_path, 10)([PLAN] * 1001)


def test_without_a_store_it_is_not_the_requests_fault(tmp_path):
    lookup = online.Lookup(SqliteStore(tmp_path / "none" / "online.sqlite", STREAM), dict)
    with pytest.raises(TransientError, match="store of the stream flight_delays cannot be used"):
        lookup([PLAN])
    assert not (tmp_path / "none").exists()
    lookup._store.write([])
    with pytest.raises(TransientError, match="empty"):
        lookup([PLAN])
