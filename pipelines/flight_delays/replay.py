"""Publishes the flights and the weather of the lake as they became known, at a speed-up.

    python -m pipelines.flight_delays.replay --from 2013-06-01 --to 2013-06-08 --speed 3600

The clock of the replay starts at --from, and each message bears the time on it as its timestamp. A replay
that is broken off prints the instant from which to go on; what is published twice then counts once, by kind and flight.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.home import Home
from components.data.lake import Lake
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.events import PLAN_LEAD, SCHEMA, Arrival, Departure, Event, Plan, Weather, encode, key
from streaming.windows.messages import Message

_LOG = logging.getLogger(__name__)

SPEED = 3600.0
"""Seconds of the replay in one second: an hour."""
PROGRESS_S = 5.0
SETTINGS: dict[str, Any] = {
    "enable_idempotence": True,
    "acks": "all",
    "linger_ms": 20,
    "batch_size": 1 << 18,
    "compression_type": "gzip",
    "max_block_ms": 60_000,
}
"""Of Kafka's producer: a message that is sent again, because nobody confirmed it, is written once."""
_CHUNK = 20_000
_BEFORE, _AFTER = timedelta(days=4), timedelta(days=2)
"""A flight departs and arrives within so long after its scheduled day, and is planned so long before it."""
_KINDS = (Weather, Plan, Departure, Arrival)
"""In this order at one instant: what a prediction of that instant may know comes first."""
_SAME = ("flight_id", "carrier", "flight", "tailnum", "origin", "dest")
_COLUMNS: dict[type, tuple[str, ...]] = {
    Plan: (*_SAME, "scheduled_departure", "scheduled_arrival", "distance"),
    Departure: (*_SAME, "departed_at", "dep_delay"),
    Arrival: (*_SAME, "arrived_at", "arr_delay"),
    Weather: ("origin", "observed_at", *features.WEATHER),
}


def events(lake: Path, start: datetime, end: datetime) -> Iterator[Event]:
    """What became known in [start, end), in that order; of one instant in the order of `_KINDS`.

    Args:
      lake: Folder of the lake; its newest versions are read.
      start: An instant.
      end: An instant.

    Raises:
      TerminalError: The lake has no flights or no weather.
    """
    days = (clock.local_day(start - _BEFORE), clock.local_day(end + _AFTER))
    flights, weather = (_read(Lake(lake), name, *days) for name in ("flights", "weather"))
    return events_of(flights, weather, start, end)


def events_of(flights: pa.Table, weather: pa.Table, start: datetime, end: datetime) -> Iterator[Event]:
    """The same of tables, with the columns of the lake's."""
    of_kind = {Plan: flights, Departure: flights, Arrival: flights, Weather: weather}
    known = {
        Plan: _micros(flights, "scheduled_departure") - PLAN_LEAD // timedelta(microseconds=1),
        Departure: _micros(flights, "departed_at"),
        Arrival: _micros(flights, "arrived_at"),
        Weather: _micros(weather, "observed_at") + clock.WEATHER_LAG // timedelta(microseconds=1),
    }
    at = np.concatenate([known[kind] for kind in _KINDS])
    kinds = np.concatenate([np.full(len(known[kind]), number) for number, kind in enumerate(_KINDS)])
    rows = np.concatenate([np.arange(len(known[kind])) for kind in _KINDS])
    first, last = (int(moment.timestamp() * 1_000_000) for moment in (start, end))
    chosen = np.flatnonzero((at >= first) & (at < last))
    chosen = chosen[np.lexsort((rows[chosen], kinds[chosen], at[chosen]))]
    for begin in range(0, len(chosen), _CHUNK):
        part = chosen[begin : begin + _CHUNK]
        made: dict[int, Event] = {}
        for number, kind in enumerate(_KINDS):
            places = np.flatnonzero(kinds[part] == number)
            table = of_kind[kind].select(_COLUMNS[kind]).take(pa.array(rows[part[places]]))
            made.update(zip(places.tolist(), map(_MAKERS[kind], *(c.to_pylist() for c in table.columns)), strict=True))
        yield from (made[place] for place in range(len(part)))


def messages(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """What became known in [start, end), as it would be published at once; raises as `events`."""
    for event in events(lake, start, end):
        yield Message(key(event), encode(event), round(event.at.timestamp() * 1000))


def shuffled(known: Iterable[Event], minutes: float, seed: int) -> Iterator[tuple[datetime, Event]]:
    """Events as they would arrive if each were delayed by chance; with the instant of its arrival.

    Args:
      known: In the order of `at`.
      minutes: The longest delay; 0 for none.
      seed: Of the chance.
    """
    dice = random.Random(seed)
    held: list[tuple[datetime, int, Event]] = []
    for number, event in enumerate(known):
        while held and held[0][0] <= event.at:
            arrived, _, first = heapq.heappop(held)
            yield arrived, first
        delay = timedelta(seconds=dice.uniform(0, minutes * 60) if minutes else 0)
        heapq.heappush(held, (event.at + delay, number, event))
    while held:
        arrived, _, first = heapq.heappop(held)
        yield arrived, first


@dataclass
class Pace:
    """The clock of a replay.

    Args:
      start: What it shows at the beginning.
      speed: Seconds on it in one second; 0 where nobody waits.
    """

    start: datetime
    speed: float
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._began = self.now()

    def due_s(self, instant: datetime) -> float:
        """Seconds until the clock shows an instant; 0 when it has."""
        if not self.speed:
            return 0.0
        return max(0.0, (instant - self.start).total_seconds() / self.speed - (self.now() - self._began))


def publish(
    producer: Any,
    topic: str,
    arriving: Iterable[tuple[datetime, Event]],
    pace: Pace,
    partitions: Sequence[int] | None = None,
    *,
    spread: timedelta = timedelta(),
) -> int:
    """Sends events when they are due, in their order.

    Args:
      producer: Kafka's, or one that has its `send` and `flush`.
      topic: Name of the topic.
      arriving: Instants on the clock of the replay, and events.
      pace: That clock.
      partitions: Only to these, by the key; None leaves it to the producer.
      spread: How much later than it happened an event may arrive.

    Returns:
      How many were sent, each of them confirmed.

    Raises:
      TransientError: Kafka did not confirm some; it says from which instant to go on.
    """
    from kafka.errors import KafkaError

    failed: list[datetime] = []
    sent, reported, before = 0, time.monotonic(), 0
    arrived = pace.start
    try:
        for arrived, event in arriving:
            if (wait := pace.due_s(arrived)) > 0:
                pace.sleep(wait)
            name = key(event)
            partition = None if partitions is None else partitions[sum(name) % len(partitions)]
            stamp = round(arrived.timestamp() * 1000)
            future = producer.send(topic, key=name, value=encode(event), timestamp_ms=stamp, partition=partition)
            future.add_errback(lambda _, at=event.at: failed.append(at))
            sent += 1
            if (now := time.monotonic()) - reported >= PROGRESS_S:
                _LOG.info(
                    "%s  %d events  %.0f/s", arrived.isoformat(" ", "minutes"), sent, (sent - before) / (now - reported)
                )
                reported, before = now, sent
        producer.flush()
        if failed:
            raise _unconfirmed(f"{len(failed)} messages were not confirmed", min(failed))
    except KafkaError as error:
        raise _unconfirmed(str(error), min([arrived - spread, *failed])) from error
    except KeyboardInterrupt:
        producer.flush()
        _LOG.info(
            "Broken off after %d events. Go on with --from %s", sent, min([arrived - spread, *failed]).isoformat()
        )
        raise
    return sent


def _unconfirmed(received: str, since: datetime) -> TransientError:
    return TransientError(
        "Kafka did not take the whole replay.",
        expected="every message confirmed",
        received=received,
        remedy=f"See to the broker, and go on with --from {since.isoformat()}",
    )


def _read(lake: Lake, name: str, first: date, last: date) -> pa.Table:
    """The rows of a table of some local days."""
    files = lake.snapshot(name).files
    held = [file for file in files if file.day is not None and first.isoformat() <= file.day <= last.isoformat()]
    if not held:
        raise TerminalError(
            f"The lake has no {name} of these days.",
            expected=f"{name} between {first} and {last}",
            received=f"days {files[0].day} to {files[-1].day}" if files else "no days at all",
            remedy="Correct --from and --to.",
        )
    return pa.concat_tables([pq.read_table(lake.path / file.path, partitioning=None) for file in held])


def _micros(table: pa.Table, column: str) -> np.ndarray:
    """Microseconds since 1970; those that are missing never come."""
    instants = table[column].cast(pa.int64()).fill_null(np.iinfo(np.int64).max // 2)
    return instants.to_numpy()


def _plan(*columns: Any) -> Plan:
    values = dict(zip(_COLUMNS[Plan], columns, strict=True))
    return Plan(schema=SCHEMA, at=values["scheduled_departure"] - PLAN_LEAD, **values)


def _departure(*columns: Any) -> Departure:
    *same, at, delay = columns
    return Departure(schema=SCHEMA, at=at, delay=round(delay), **dict(zip(_SAME, same, strict=True)))


def _arrival(*columns: Any) -> Arrival:
    *same, at, delay = columns
    whole = None if delay is None else round(delay)
    return Arrival(schema=SCHEMA, at=at, delay=whole, **dict(zip(_SAME, same, strict=True)))


def _weather(*columns: Any) -> Weather:
    values = dict(zip(_COLUMNS[Weather], columns, strict=True))
    return Weather(schema=SCHEMA, at=values["observed_at"] + clock.WEATHER_LAG, **values)


_MAKERS: dict[type, Callable[..., Any]] = {Plan: _plan, Departure: _departure, Arrival: _arrival, Weather: _weather}


def _instant(text: str) -> datetime:
    """An instant, or a bare day or time in New York."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO 8601 day or instant") from error
    return (moment.replace(tzinfo=ZoneInfo(clock.ZONE)) if moment.tzinfo is None else moment).astimezone(UTC)


def _speed(text: str) -> float:
    if text == "max":
        return 0.0
    if (speed := float(text)) < 0:
        raise argparse.ArgumentTypeError("a speed is 0 or more")
    return speed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m pipelines.flight_delays.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from", dest="start", type=_instant, required=True, help="day in New York, or instant")
    add("--to", dest="end", type=_instant, required=True, help="day in New York, or instant; not included")
    add("--speed", type=_speed, default=SPEED, help="seconds of the replay in one second; 0 or max: as fast as it goes")
    add("--shuffle-minutes", type=float, default=0.0, help="each event arrives up to so much later than it happened")
    add("--seed", type=int, default=0, help="of that chance")
    add(
        "--partitions", type=lambda text: [int(number) for number in text.split(",")], help="only to these, such as 0,2"
    )
    add("--servers", default="", help="the broker; by default what AIRTIGHT_KAFKA names")
    add("--lake", type=Path, default=None, help="the lake; by default that of the state folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Replays; the exit status tells a fault's family as `airtight.errors` numbers them."""
    from kafka import KafkaProducer

    from pipelines.flight_delays.topics import EVENTS, TOPICS
    from streaming import topics

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    flags = _parser().parse_args(arguments)
    servers = flags.servers or topics.servers()
    try:
        topics.ensure(servers, TOPICS)
        producer = KafkaProducer(bootstrap_servers=servers.split(","), **SETTINGS)
        try:
            known = events(flags.lake or Home.current().lake, flags.start, flags.end)
            arriving = shuffled(known, flags.shuffle_minutes, flags.seed)
            spread = timedelta(minutes=flags.shuffle_minutes)
            pace, began = Pace(flags.start, flags.speed), time.monotonic()
            sent = publish(producer, EVENTS.name, arriving, pace, flags.partitions, spread=spread)
        finally:
            producer.close(timeout=10)
    except AirtightError as error:
        _LOG.error("%s", error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    _LOG.info("%d events in %.1f s", sent, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
