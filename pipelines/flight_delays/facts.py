"""What the online store holds of flights and weather beside the totals, and where that store is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from airtight.home import Home
from pipelines.flight_delays import features
from pipelines.flight_delays.events import Departure, Event, Plan, Weather, minute
from streaming.queries import Order, Table
from streaming.store import Store, opened

VARIABLE = "AIRTIGHT_STORE"
"""Environment variable with the online store's address: a path, or redis://host:port/db."""

BY_SCHEDULE = Order((), "scheduled", beside=("departed", "origin", "carrier", "dest"))
BY_ORIGIN = Order(("origin",), "scheduled")
BY_AIRCRAFT = Order(("tailnum",), "scheduled")
FLIGHTS = Table(
    "flights",
    key=("flight_id",),
    parts={
        "planned": ("carrier", "tailnum", "origin", "dest", "scheduled", "arrival"),  # The last two are minutes.
        "departed": (),
        "arrived": (),
    },
    orders=(BY_SCHEDULE, BY_ORIGIN, BY_AIRCRAFT),
)
WEATHER = Table("weather", key=("origin", "observed"), parts={"known": tuple(features.WEATHER)})
TABLES = (FLIGHTS, WEATHER)
SPANS = {group.name: features.TAIL_MEMORY_HOURS * 60 for group in features.TAIL_GROUPS} | {
    window.group.name: window.hours * 60 for window in sorted(features.WINDOWS, key=lambda window: window.hours)
}
"""How many minutes are asked for at once, of each group; of several windows the longest."""


def rows(events: Iterable[Event]) -> dict[str, list[dict[str, Any]]]:
    """The facts of events, by table, in their order."""
    flights, weather = [], []
    for event in events:
        if isinstance(event, Weather):
            told: dict[str, Any] = {name: getattr(event, name) for name in features.WEATHER}
            told |= {"origin": event.origin, "observed": minute(event.observed_at), "known": minute(event.at)}
            weather.append(told)
        elif isinstance(event, Plan):
            told = {name: getattr(event, name) for name in ("flight_id", "carrier", "tailnum", "origin", "dest")}
            told |= {"scheduled": minute(event.scheduled_departure), "arrival": minute(event.scheduled_arrival)}
            flights.append({**told, "planned": minute(event.at)})
        else:
            known = "departed" if isinstance(event, Departure) else "arrived"
            flights.append({"flight_id": event.flight_id, known: minute(event.at)})
    return {FLIGHTS.name: flights, WEATHER.name: weather}


def store(where: str = "") -> Store:
    """The online store.

    Args:
      where: Its address; empty for what AIRTIGHT_STORE names, else the file in the state folder.
    """
    return opened(where or os.environ.get(VARIABLE) or str(Home.current().online_store), TABLES, SPANS)
