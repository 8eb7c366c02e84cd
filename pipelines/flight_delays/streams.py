"""The stream of flights: departures and arrivals with their delays, in the groups that `features.py` declares."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from pipelines.flight_delays import events, features, replay, topics
from streaming.windows.declaration import Bounds, Group, Identity, Measure, Stream
from streaming.windows.messages import Event, Message, SchemaNumber, json_reader

LATENESS_S = 2 * 3600
"""How long after its event a message may be published."""


class Movement(msgspec.Struct):
    """What totals need of a message (`events.py`); plans and weather have their kind and no more of this."""

    schema: SchemaNumber
    kind: Literal["departure", "arrival", "plan", "weather"]
    at: events.Instant
    flight_id: str = ""
    carrier: str = ""
    flight: int = 0
    tailnum: str | None = None
    origin: str = ""
    dest: str = ""
    delay: events.Delay | None = None


_read = json_reader(Movement)
_STREAMS = {"departure": features.DEPARTURES.name, "arrival": features.ARRIVALS.name}


def parse(message: Message) -> Event | None:
    """A departure or an arrival; one without a delay is in no group, and takes back an earlier version that had one."""
    movement = _read(message.value)
    stream = _STREAMS.get(movement.kind)
    if stream is None:
        return None
    at, identity = movement.at.timestamp(), f"{stream}/{movement.flight_id}"
    if movement.delay is None:
        return Event(at, {}, {}, identity)
    fields = {
        "stream": stream,
        "carrier": movement.carrier,
        "flight": str(movement.flight),
        "origin": movement.origin,
        "dest": movement.dest,
    }
    if movement.tailnum:
        fields["tailnum"] = movement.tailnum
    values: dict[str, int | float] = {"delay": movement.delay, "late": int(movement.delay > features.LATE_MINUTES)}
    return Event(at, fields, values, identity)


def messages(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """What became known in [start, end), as it would be published at once."""
    for event in replay.events(lake, start, end):
        yield Message(events.key(event), events.encode(event), round(event.at.timestamp() * 1000))


STREAM = Stream(
    name="flight_delays",
    topics=(topics.EVENTS.name,),
    parse="pipelines.flight_delays.streams:parse",
    replay="pipelines.flight_delays.streams:messages",
    groups=tuple(Group(group.name, group.by, {"stream": group.stream.name}) for group in features.GROUPS),
    measures=(Measure("late"), Measure("minutes", of="delay"), Measure("largest", "max", of="delay")),
    bounds=Bounds(out_of_order_s=60, allowed_lateness_s=LATENESS_S),
    identity=Identity(lifetime_s=86_400),
    dead_letters=topics.DEAD_LETTERS.name,
)
