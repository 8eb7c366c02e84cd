"""The replay: what became known when, and in which order."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from components.data.lake import Lake
from pipelines.flight_delays import features
from pipelines.flight_delays.events import Arrival, Departure, Plan, Weather
from pipelines.flight_delays.lake import FLIGHTS, WEATHER
from pipelines.flight_delays.replay import events, messages
from pipelines.flight_delays.streams import STREAM, read
from streaming.windows.__main__ import _span

START = datetime(2013, 6, 13, 16, 0, tzinfo=UTC)


def _at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def _flight(
    number: int, scheduled: float, departed: float | None, arrived: float | None, diverted: bool = False
) -> dict:
    """A flight of four hours; minutes after START."""
    at = _at(scheduled)
    return {
        "flight_id": f"2013-06-13/UA/{number}/EWR",
        "scheduled_departure": at,
        "departed_at": None if departed is None else _at(departed),
        "scheduled_arrival": at + timedelta(hours=4),
        "arrived_at": None if arrived is None else _at(arrived),
        "local_date": at.date(),
        "local_minute": 0,
        "carrier": "UA",
        "flight": number,
        "tailnum": None if departed is None else f"N{number}",
        "origin": "EWR",
        "dest": "IAH",
        "dep_delay": None if departed is None else departed - scheduled,
        "arr_delay": None if arrived is None or diverted else arrived - scheduled - 240,
        "air_time": None,
        "distance": 1400.0,
        "scheduled_minutes": 240.0,
    }


def _observation(minutes: float) -> dict:
    return {"origin": "EWR", "observed_at": _at(minutes), **dict.fromkeys(features.WEATHER, 1.0)}


@pytest.fixture
def lake(tmp_path):
    flights = [
        _flight(1, 0, 10, 260),
        _flight(2, 60, None, None),
        _flight(3, 90, 120, 400, diverted=True),
        _flight(4, 24 * 60, 24 * 60, 28 * 60),
        _flight(5, -23 * 60, 5, 200),
    ]
    weather = [_observation(hour * 60) for hour in range(-2, 8)]
    for table, rows in ((FLIGHTS, flights), (WEATHER, weather)):
        Lake(tmp_path).write(table.name, {START.date(): pa.Table.from_pylist(rows, table.schema)})
    return tmp_path


def test_everything_comes_when_it_becomes_known(lake):
    known = [
        (type(event).__name__, (event.at - START) / timedelta(minutes=1)) for event in events(lake, START, _at(420))
    ]
    assert [minutes for _, minutes in known] == sorted(minutes for _, minutes in known)
    by_kind = {kind: [minutes for of, minutes in known if of == kind] for kind, _ in known}
    assert by_kind["Departure"] == [5, 10, 120]
    assert by_kind["Arrival"] == [200, 260, 400]
    assert by_kind["Plan"] == [0]  # Of the flight of tomorrow; the others were known before.
    assert by_kind["Weather"] == [0, 60, 120, 180, 240, 300, 360]
    # What may be known at an instant comes before what happens at it.
    assert [kind for kind, minutes in known if minutes in (0, 120)] == ["Weather", "Plan", "Weather", "Departure"]


def test_spans_put_together_are_the_whole(lake):
    first, last = _at(-3000), _at(2000)
    whole = list(events(lake, first, last))
    parts = [event for minutes in range(-3000, 2000, 100) for event in events(lake, _at(minutes), _at(minutes + 100))]
    assert parts == whole
    assert Counter(map(type, whole)) == {Plan: 5, Departure: 4, Arrival: 4, Weather: 10}


def test_delays_are_the_lakes_and_a_diverted_flight_has_none(lake):
    arrivals = {event.flight_id[14]: event for event in events(lake, START, _at(420)) if isinstance(event, Arrival)}
    assert (arrivals["1"].delay, arrivals["3"].delay, arrivals["5"].delay) == (20, None, 1340)
    (plan,) = (event for event in events(lake, START, _at(1)) if isinstance(event, Plan))
    assert (plan.scheduled_departure, plan.distance, plan.tailnum) == (_at(24 * 60), 1400.0, "N4")


def test_days_that_the_lake_lacks_are_refused(lake):
    with pytest.raises(TerminalError, match="2014"):
        list(events(lake, datetime(2014, 6, 1, tzinfo=UTC), datetime(2014, 6, 2, tzinfo=UTC)))


def test_messages_bear_the_time_at_which_they_became_known_and_are_read_again(lake):
    known, published = list(events(lake, START, _at(420))), list(messages(lake, START, _at(420)))
    assert [read(message.value) for message in published] == known
    assert [message.published_ms for message in published] == [int(event.at.timestamp() * 1000) for event in known]
    assert {message.key for message in published} <= {b"EWR", *(f"2013-06-13/UA/{n}/EWR".encode() for n in range(6))}


def test_a_bare_day_of_the_command_is_one_of_new_york():
    days = [datetime(2013, 6, 1), datetime(2013, 6, 2, tzinfo=UTC)]
    assert _span(days, STREAM) == (datetime(2013, 6, 1, 4, tzinfo=UTC), days[1])
