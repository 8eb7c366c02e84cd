"""What the models that learn flight by flight are given: each flight at its cut-off, and how late it arrived."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import msgspec

from pipelines.flight_delays import clock, features
from pipelines.flight_delays.events import Arrival, Flight, Plan, minute
from pipelines.flight_delays.streams import STREAM, read
from streaming.learning.declaration import Due, Learning, ModelSettings, Outcome, Subject
from streaming.windows.messages import Message

EXPIRES = timedelta(days=2)
"""A flight that has not arrived so long after its schedule is not expected any more: it was cancelled."""


def subjects(message: Message) -> Iterator[Subject]:
    """A plan has its flight predicted at the cut-off; an arrival brings the label, a diverted flight's none."""
    event = read(message.value)
    if isinstance(event, Plan):
        flight = {name: getattr(event, name) for name in Flight.__struct_fields__}
        yield Due(
            event.flight_id,
            cutoff=minute(clock.cutoff(event.scheduled_departure)),
            expires=minute(event.scheduled_arrival + EXPIRES),
            day=event.local_day.isoformat(),
            instance=msgspec.to_builtins(flight),
        )
    elif isinstance(event, Arrival):
        yield Outcome(event.flight_id, None if event.delay is None else int(event.delay > features.LATE_MINUTES))


LEARNING = Learning(
    name="flight_delays",
    stream=STREAM,
    subjects="pipelines.flight_delays.learning:subjects",
    lookup="pipelines.flight_delays.online:Lookup",
    schema=features.SCHEMA,
    history=timedelta(days=28),
    zone=clock.ZONE,
    # One flight says little. Both were chosen on June 2013.
    settings=ModelSettings(learning_rate=0.001, aggressiveness=3e-4),
)
