"""The stream of flights: totals of departures and arrivals in the groups of `features.py`, and the state of flights."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.flight_delays import clock, events, features, flight_state, topics
from streaming.windows.declaration import Bounds, Group, Identity, Measure, Stream
from streaming.windows.messages import Event, Message, json_reader
from streaming.windows.predictions import prediction_log

LATENESS_S = 2 * 3600
"""How long after its event a message may be published."""

read: Callable[[bytes], events.Event] = json_reader(events.Event)  # type: ignore[arg-type]  # A union.


def parse(message: Message) -> Event:
    """Reads a message; see `event_of`."""
    return event_of(read(message.value))


def event_of(event: events.Event) -> Event:
    """A plan and the weather are records alone; a departure and an arrival count, too, if their delay is known."""
    at, records = event.at.timestamp(), flight_state.records(event)
    if isinstance(event, events.Plan | events.Weather):
        return Event(at, {}, counts=False, records=records)
    stream = (features.DEPARTURES if isinstance(event, events.Departure) else features.ARRIVALS).name
    identity = f"{stream}/{event.flight_id}"
    if event.delay is None:
        # In no group, and takes back an earlier version that had a delay.
        return Event(at, {}, identity=identity, records=records)
    fields = {
        "stream": stream,
        "carrier": event.carrier,
        "flight": str(event.flight),
        "origin": event.origin,
        "dest": event.dest,
    }
    if event.tailnum:
        fields["tailnum"] = event.tailnum
    values: dict[str, int | float] = {"delay": event.delay, "late": int(event.delay > features.LATE_MINUTES)}
    return Event(at, fields, values, identity, records=records)


STREAM = Stream(
    name="flight_delays",
    topics=(topics.EVENTS.name,),
    parse="pipelines.flight_delays.streams:parse",
    messages="pipelines.flight_delays.events:Event",
    replay="pipelines.flight_delays.replay:messages",
    groups=tuple(Group(group.name, group.by, {"stream": group.stream.name}) for group in features.GROUPS),
    measures=(Measure("late"), Measure("minutes", of="delay"), Measure("largest", "max", of="delay")),
    bounds=Bounds(out_of_order_s=60, allowed_lateness_s=LATENESS_S),
    identity=Identity(lifetime_s=86_400),
    tables=flight_state.TABLES,
    dead_letters=topics.DEAD_LETTERS.name,
    made=topics.TOPICS,
    zone=clock.ZONE,
)

PREDICTIONS = prediction_log("flight_delays_predictions", topics.PREDICTIONS.name, topics.PREDICTION_LETTERS.name)
