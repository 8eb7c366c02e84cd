"""The flights and the weather of the lake as the events that made them known."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.flight_delays import clock, features
from pipelines.flight_delays.events import PLAN_LEAD, SCHEMA, Arrival, Departure, Event, Plan, Weather, encode, key
from streaming.windows import replay
from streaming.windows.messages import Message
from streaming.windows.replay import Kind

_BEFORE, _AFTER = timedelta(days=4), timedelta(days=2)
"""A flight departs and arrives within so long after its scheduled day, and is planned so long before it."""
_SAME = ("flight_id", "carrier", "flight", "tailnum", "origin", "dest")
_PLAN = (*_SAME, "scheduled_departure", "scheduled_arrival", "distance")
_DEPARTURE, _ARRIVAL = (*_SAME, "departed_at", "dep_delay"), (*_SAME, "arrived_at", "arr_delay")
_WEATHER = ("origin", "observed_at", *features.WEATHER)


def events(lake: Path, start: datetime, end: datetime) -> Iterator[Event]:
    """What became known in [start, end), in that order; of one instant what a prediction of it may know comes first.

    Args:
      lake: Folder of the lake; its newest versions are read.
      start: An instant.
      end: An instant.

    Raises:
      TerminalError: The lake has no flights or no weather.
    """
    first, last = clock.local_day(start - _BEFORE), clock.local_day(end + _AFTER)
    flights, weather = (replay.days(lake, name, first, last) for name in ("flights", "weather"))
    return events_of(flights, weather, start, end)


def events_of(flights: pa.Table, weather: pa.Table, start: datetime, end: datetime) -> Iterator[Event]:
    """The same of tables, with the columns of the lake's."""
    kinds = (
        Kind(weather, "observed_at", _weather, _WEATHER, clock.WEATHER_LAG),
        Kind(flights, "scheduled_departure", _plan, _PLAN, -PLAN_LEAD),
        Kind(flights, "departed_at", _departure, _DEPARTURE),
        Kind(flights, "arrived_at", _arrival, _ARRIVAL),
    )
    return replay.merged(kinds, start, end)


def messages(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """What became known in [start, end), as it would be published at once; raises as `events`."""
    return map(message, events(lake, start, end))


def message(event: Event) -> Message:
    """An event as it is published when it becomes known."""
    return Message(key(event), encode(event), round(event.at.timestamp() * 1000))


def _plan(*columns: Any) -> Plan:
    values = dict(zip(_PLAN, columns, strict=True))
    return Plan(schema=SCHEMA, at=values["scheduled_departure"] - PLAN_LEAD, **values)


def _departure(*columns: Any) -> Departure:
    *same, at, delay = columns
    return Departure(schema=SCHEMA, at=at, delay=round(delay), **dict(zip(_SAME, same, strict=True)))


def _arrival(*columns: Any) -> Arrival:
    *same, at, delay = columns
    whole = None if delay is None else round(delay)
    return Arrival(schema=SCHEMA, at=at, delay=whole, **dict(zip(_SAME, same, strict=True)))


def _weather(*columns: Any) -> Weather:
    values = dict(zip(_WEATHER, columns, strict=True))
    return Weather(schema=SCHEMA, at=values["observed_at"] + clock.WEATHER_LAG, **values)
