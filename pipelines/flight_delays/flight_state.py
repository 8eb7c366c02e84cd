"""What the stream keeps of single flights and of the weather, beside its totals."""

from __future__ import annotations

from typing import Any

from pipelines.flight_delays import features
from pipelines.flight_delays.events import Departure, Event, Plan, Weather, minute
from streaming.windows.tables import Order, Table

BY_SCHEDULE = Order("scheduled", beside=("departed", "origin", "carrier", "dest"))
BY_ORIGIN = Order("scheduled", equal=("origin",))
BY_AIRCRAFT = Order("scheduled", equal=("tailnum",))
FLIGHTS = Table(
    "flights",
    key={"flight_id": str},
    parts={
        # Scheduled departure and arrival are minutes since 1970.
        "planned": {"carrier": str, "tailnum": str, "origin": str, "dest": str, "scheduled": int, "arrival": int},
        "departed": {},
        "arrived": {},
    },
    orders=(BY_SCHEDULE, BY_ORIGIN, BY_AIRCRAFT),
)
WEATHER = Table(
    "weather",
    key={"origin": str, "observed": int},
    parts={"known": dict.fromkeys(features.WEATHER, float)},
)
TABLES = (FLIGHTS, WEATHER)


def records(event: Event) -> dict[str, dict[str, Any]]:
    """What an event says, by table: the key and one part."""
    if isinstance(event, Weather):
        observed: dict[str, Any] = {name: getattr(event, name) for name in features.WEATHER}
        observed |= {"origin": event.origin, "observed": minute(event.observed_at), "known": minute(event.at)}
        return {WEATHER.name: observed}
    if isinstance(event, Plan):
        plan = {name: getattr(event, name) for name in ("flight_id", "carrier", "tailnum", "origin", "dest")}
        plan |= {"scheduled": minute(event.scheduled_departure), "arrival": minute(event.scheduled_arrival)}
        return {FLIGHTS.name: {**plan, "planned": minute(event.at)}}
    part = "departed" if isinstance(event, Departure) else "arrived"
    return {FLIGHTS.name: {"flight_id": event.flight_id, part: minute(event.at)}}
