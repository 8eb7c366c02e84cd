"""The stream of bike_demand: how many rides each hour had, published when it has ended; again where it is corrected."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from pipelines.bike_demand.lake import RIDES
from streaming.windows import replay
from streaming.windows.declaration import Bounds, Group, Identity, Measure, Stream, Windows
from streaming.windows.messages import Event, Message, SchemaNumber, json_reader

DAY_S = 86_400


class Reading(msgspec.Struct):
    """A message: the hour on the clock, when it ended, how many rides began in it."""

    schema: SchemaNumber
    hour: str
    ends_at: datetime
    rides: int


_read = json_reader(Reading)


def parse(message: Message) -> Event:
    """A reading as an event of the instant from which it is known, by weekday (0 is Monday) and hour on the clock."""
    reading = _read(message.value)
    clock = datetime.fromisoformat(reading.hour)
    fields = {"weekday": str(clock.weekday()), "hour": str(clock.hour)}
    return Event(reading.ends_at.timestamp(), fields, {"rides": reading.rides}, reading.hour)


def messages(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """The lake's hours as they were published."""
    for row in replay.rows(lake, RIDES.name, "ends_at", start, end):
        reading = Reading(1, row["hour"], row["ends_at"], row["rides"])
        yield Message(row["hour"].encode(), msgspec.json.encode(reading), round(row["ends_at"].timestamp() * 1000))


STREAM = Stream(
    name="bike_demand",
    topics=("bike.rides",),
    parse="pipelines.bike_demand.streams:parse",
    messages="pipelines.bike_demand.streams:Reading",
    replay="pipelines.bike_demand.streams:messages",
    groups=(Group("all"), Group("weekday_hour", ("weekday", "hour"))),
    measures=(Measure("rides"), Measure("mean_rides", "mean", "rides"), Measure("most_rides", "max", "rides")),
    bounds=Bounds(out_of_order_s=3600, allowed_lateness_s=DAY_S),
    identity=Identity(lifetime_s=7 * DAY_S),
    windows=(Windows(DAY_S),),
    dead_letters="bike.dead-letters",
    keep_days=35,
)
