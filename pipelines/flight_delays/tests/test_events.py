"""The messages of flights: what is read, and what is poison, by which reason."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from airtight.import_string import load
from pipelines.flight_delays import events
from pipelines.flight_delays.events import Arrival, Departure, Event, Flight, Plan, Weather, encode
from pipelines.flight_delays.streams import STREAM, read
from streaming.windows.messages import MAX_BYTES, BadMessage, Message
from streaming.windows.messages import read as judge

AT = datetime(2013, 6, 13, 16, 5, tzinfo=UTC)
PUBLISHED = int(AT.timestamp() * 1000)
SAME = {"carrier": "UA", "flight": 7, "tailnum": "N1", "origin": "EWR", "dest": "IAH"}
MOVED = {"schema": 1, "at": AT, "flight_id": "2013-06-13/UA/7/EWR", **SAME}
DEPARTURE, DIVERTED = Departure(**MOVED, delay=5), Arrival(**MOVED, delay=None)
PLAN = Plan(
    **MOVED, scheduled_departure=AT + timedelta(days=1), scheduled_arrival=AT + timedelta(days=1, hours=4), distance=9.5
)
WEATHER = Weather(
    schema=1,
    at=AT,
    origin="EWR",
    observed_at=AT - timedelta(hours=1),
    **dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"), 1.5),
    wind_gust=None,
)
ALL = (PLAN, DEPARTURE, DIVERTED, WEATHER)


def decode(value: bytes, published_ms: int) -> Event:
    """As the stream reads it."""
    judge(load(STREAM.parse), STREAM, Message(b"", value, published_ms))
    return read(value)


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_what_is_written_is_read(event):
    assert decode(encode(event), PUBLISHED) == event
    assert json.loads(encode(event))["at"] == "2013-06-13T16:05:00Z"


def test_what_a_newer_producer_adds_is_passed_over():
    assert decode(_with(schema=2, gate="A1"), PUBLISHED) == Departure(**{**MOVED, "schema": 2}, delay=5)


def test_keys_keep_a_flight_and_an_airport_together():
    assert {events.key(event) for event in ALL} == {b"2013-06-13/UA/7/EWR", b"EWR"}


def _with(**changes) -> bytes:
    message = {**json.loads(encode(DEPARTURE)), **changes}
    return json.dumps({name: value for name, value in message.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "no value"),
        (b" " * (MAX_BYTES + 1), "too large"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (encode(DEPARTURE)[:-1], "no JSON"),
        (encode(DEPARTURE) + b"x", "no JSON"),
        (b"NaN", "no JSON"),
        (b"[" * 100_000, "wrong schema"),
        (b"[]", "wrong schema"),
        (b"null", "wrong schema"),
        (b"{}", "wrong schema"),
        (_with(kind="landing"), "wrong schema"),
        (_with(kind=...), "wrong schema"),
        (_with(schema=0), "wrong schema"),
        (_with(schema=...), "wrong schema"),
        (_with(delay="5"), "wrong schema"),
        (_with(delay=5.5), "wrong schema"),
        (_with(delay=None), "wrong schema"),
        (_with(delay=10**12), "wrong schema"),
        (_with(origin="E|R"), "wrong schema"),
        (_with(carrier=""), "wrong schema"),
        (_with(flight=-1), "wrong schema"),
        (_with(flight_id=""), "wrong schema"),
        (_with(at="2013-06-13T16:05:00"), "wrong schema"),
        (_with(at="soon"), "wrong schema"),
        (_with(at="2013-06-13T16:10:01Z"), "ahead"),
        (_with(at="2013-06-14T16:05:00Z"), "ahead"),
        (encode(PLAN).replace(b"16:05:00Z", b"16:05:30Z"), "wrong schema"),
    ],
)
def test_what_is_poison_says_why(value, reason):
    with pytest.raises(BadMessage) as refused:
        decode(value, PUBLISHED)
    assert refused.value.reason == reason and refused.value.detail


def test_a_clock_may_differ_by_five_minutes_and_an_event_may_be_two_hours_late():
    assert decode(_with(at="2013-06-13T16:10:00Z"), PUBLISHED).at == AT + timedelta(minutes=5)
    assert decode(_with(at="2013-06-13T16:05:00+02:00"), PUBLISHED).at == AT - timedelta(hours=2)
    with pytest.raises(BadMessage, match="late"):
        decode(_with(at="2013-06-13T14:04:59Z"), PUBLISHED)


def test_the_clock_of_a_plan_is_new_yorks():
    def at(scheduled: datetime) -> Flight:
        arrival = scheduled + timedelta(minutes=100)
        return Flight(**SAME, scheduled_departure=scheduled, scheduled_arrival=arrival, distance=1.0)

    summer, winter = at(datetime(2013, 7, 1, 3, 59, tzinfo=UTC)), at(datetime(2013, 1, 1, 5, 0, tzinfo=UTC))
    assert (summer.local_minute, str(summer.local_day)) == (23 * 60 + 59, "2013-06-30")
    assert (winter.local_minute, str(winter.local_day)) == (0, "2013-01-01")
    assert winter.scheduled_minutes == 100 and winter.usual_id == "2013-01-01/UA/7/EWR"


def test_no_number_of_the_weather_is_infinite():
    with pytest.raises(BadMessage):
        decode(encode(WEATHER).replace(b'"temp":1.5', b'"temp":1e999'), PUBLISHED)
    assert math.isfinite(WEATHER.temp)
