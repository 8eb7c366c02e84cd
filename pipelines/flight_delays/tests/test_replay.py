"""The replay: what became known when, in which order, at which pace, and what Kafka is told."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from kafka.errors import KafkaTimeoutError

from airtight.errors import TerminalError, TransientError
from components.data.lake import Lake
from pipelines.flight_delays import features, replay
from pipelines.flight_delays.events import Arrival, Departure, Plan, Weather
from pipelines.flight_delays.lake import FLIGHTS, WEATHER
from pipelines.flight_delays.replay import Pace, events, publish, shuffled
from pipelines.flight_delays.streams import read

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
    told = [
        (type(event).__name__, (event.at - START) / timedelta(minutes=1)) for event in events(lake, START, _at(420))
    ]
    assert [minutes for _, minutes in told] == sorted(minutes for _, minutes in told)
    by_kind = {kind: [minutes for of, minutes in told if of == kind] for kind, _ in told}
    assert by_kind["Departure"] == [5, 10, 120]
    assert by_kind["Arrival"] == [200, 260, 400]
    assert by_kind["Plan"] == [0]  # Of the flight of tomorrow; the others were known before.
    assert by_kind["Weather"] == [0, 60, 120, 180, 240, 300, 360]
    # What may be known at an instant comes before what happens at it.
    assert [kind for kind, minutes in told if minutes in (0, 120)] == ["Weather", "Plan", "Weather", "Departure"]


def test_spans_put_together_are_the_whole(lake):
    first, last = _at(-3000), _at(2000)
    whole = list(events(lake, first, last))
    parts = [event for minutes in range(-3000, 2000, 100) for event in events(lake, _at(minutes), _at(minutes + 100))]
    assert parts == whole
    assert Counter(map(type, whole)) == {Plan: 5, Departure: 4, Arrival: 4, Weather: 10}


def test_delays_are_the_lakes_and_a_diverted_flight_has_none(lake):
    told = {event.flight_id[14]: event for event in events(lake, START, _at(420)) if isinstance(event, Arrival)}
    assert (told["1"].delay, told["3"].delay, told["5"].delay) == (20, None, 1340)
    (plan,) = (event for event in events(lake, START, _at(1)) if isinstance(event, Plan))
    assert (plan.scheduled_departure, plan.distance, plan.tailnum) == (_at(24 * 60), 1400.0, "N4")


def test_days_that_the_lake_lacks_are_refused(lake):
    with pytest.raises(TerminalError, match="2014"):
        list(events(lake, datetime(2014, 6, 1, tzinfo=UTC), datetime(2014, 6, 2, tzinfo=UTC)))


def test_shuffled_events_come_late_by_chance_and_by_so_much_at_most(lake):
    whole = list(events(lake, _at(-2000), _at(2000)))
    told = list(shuffled(whole, 90, seed=7))
    assert told == list(shuffled(whole, 90, seed=7)) != list(shuffled(whole, 90, seed=8))
    assert [arrived for arrived, _ in told] == sorted(arrived for arrived, _ in told)
    assert all(timedelta() <= arrived - event.at <= timedelta(minutes=90) for arrived, event in told)
    assert [event for _, event in told] != whole and len(told) == len(whole)
    assert [event for _, event in shuffled(whole, 0, seed=7)] == whole


class _Future:
    def __init__(self, failed: bool) -> None:
        self._failed = failed

    def add_errback(self, call):
        if self._failed:
            call(KafkaTimeoutError())


class _Producer:
    """Keeps what it is sent."""

    def __init__(self, fails: tuple[int, ...] = (), breaks_at: int = -1) -> None:
        self.sent: list[dict] = []
        self.flushed: list[int] = []
        self._fails, self._breaks_at = fails, breaks_at

    def send(self, topic, **told):
        number = len(self.sent)
        if number == self._breaks_at:
            raise KafkaTimeoutError("no broker")
        self.sent.append({"topic": topic, **told})
        return _Future(number in self._fails)

    def flush(self):
        self.flushed.append(len(self.sent))


def _arriving(lake):
    return [(event.at, event) for event in events(lake, START, _at(420))]


def test_messages_bear_the_time_of_the_replay_and_are_read_again(lake):
    producer, arriving = _Producer(), _arriving(lake)
    assert publish(producer, "t", arriving, Pace(START, 0)) == len(arriving) == len(producer.sent)
    assert [read(sent["value"]) for sent in producer.sent] == [event for _, event in arriving]
    assert {each["topic"] for each in producer.sent} == {"t"}
    assert producer.flushed[-1] == len(arriving) and {each["partition"] for each in producer.sent} == {None}


def test_a_shuffled_message_bears_the_time_at_which_it_arrives(lake):
    producer = _Producer()
    told = [(event.at + timedelta(minutes=30), event) for _, event in _arriving(lake)]
    publish(producer, "t", told, Pace(START, 0))
    assert [each["timestamp_ms"] for each in producer.sent] == [int(at.timestamp() * 1000) for at, _ in told]


def test_only_the_partitions_asked_for_each_flight_in_one(lake):
    producer = _Producer()
    publish(producer, "t", [(event.at, event) for event in events(lake, _at(-2000), _at(2000))], Pace(START, 0), [1, 3])
    where = Counter((each["key"], each["partition"]) for each in producer.sent)
    assert len(where) == len({key for key, _ in where}) and {partition for _, partition in where} == {1, 3}


def test_the_pace_is_the_clocks(lake):
    clock = [100.0]
    pace = Pace(START, 3600, now=lambda: clock[0], sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    producer = _Producer()
    publish(producer, "t", _arriving(lake), pace)
    # The last event comes after 400 minutes.
    assert clock[0] == pytest.approx(100 + 400 / 60)
    assert pace.due_s(_at(0)) == 0.0


def test_what_is_not_confirmed_is_a_fault_that_says_where_to_go_on(lake):
    arriving = _arriving(lake)
    with pytest.raises(TransientError, match=arriving[3][1].at.isoformat().replace("+", r"\+")):
        publish(_Producer(fails=(3, 5)), "t", arriving, Pace(START, 0))
    with pytest.raises(TransientError, match=arriving[4][1].at.isoformat().replace("+", r"\+")):
        publish(_Producer(breaks_at=4), "t", arriving, Pace(START, 0))
    # Of events that arrive late some may not have been sent that happened before.
    since = (arriving[4][0] - timedelta(minutes=90)).isoformat().replace("+", r"\+")
    with pytest.raises(TransientError, match=since):
        publish(_Producer(breaks_at=4), "t", arriving, Pace(START, 0), spread=timedelta(minutes=90))


def test_the_command_reads_days_of_new_york_and_instants():
    told = replay._parser().parse_args(["--from", "2013-06-01", "--to", "2013-06-02T00:00:00Z", "--speed", "max"])
    assert told.start == datetime(2013, 6, 1, 4, tzinfo=UTC) and told.end == datetime(2013, 6, 2, tzinfo=UTC)
    assert told.speed == 0.0
    for wrong in (["--from", "june"], ["--speed", "-1"], ["--partitions", "a"]):
        with pytest.raises(SystemExit):
            replay._parser().parse_args(["--from", "2013-06-01", "--to", "2013-06-02", *wrong])
