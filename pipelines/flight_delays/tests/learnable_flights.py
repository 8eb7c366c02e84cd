"""Flights whose delay depends on what their features tell, and what a learner says of them."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import msgspec

from pipelines.flight_delays import features
from pipelines.flight_delays.event_hours import hours_of
from pipelines.flight_delays.events import Arrival, Departure, Event, Plan
from pipelines.flight_delays.prequential import Answer, Prequential

BEGIN = datetime(2013, 6, 3, tzinfo=UTC)
SAME = {"carrier": "UA", "flight": 7, "tailnum": "N1", "origin": "EWR", "dest": "IAH"}


def plan(name: str, scheduled: datetime, at: datetime | None = None, **other) -> Plan:
    arrival = scheduled + timedelta(hours=2)
    known = at or scheduled - timedelta(hours=24)
    told = {**SAME, "scheduled_departure": scheduled, "scheduled_arrival": arrival, "distance": 900.0, **other}
    return Plan(schema=1, at=known, flight_id=name, **told)


def flown(of: Plan, delay: int | None) -> list[Event]:
    """A flight with the same delay at both ends; None for one that was diverted."""
    same = {name: getattr(of, name) for name in SAME}
    late = timedelta(minutes=delay or 0)
    left = Departure(schema=1, at=of.scheduled_departure + late, flight_id=of.flight_id, delay=delay or 0, **same)
    return [left, Arrival(schema=1, at=of.scheduled_arrival + late, flight_id=of.flight_id, delay=delay, **same)]


def signal(flight: int) -> float:
    """What the features tell of a flight, and its delay depends on."""
    return random.Random(flight).gauss(0, 1)


def stream(flights: int, flip_from: datetime | None = None) -> list[Event]:
    """Flights every ten minutes, so that labels come at the very cut-offs of others; in the order of what happens.

    Args:
      flights: How many.
      flip_from: Labels that come then or later are the contrary.
    """
    told: list[Event] = []
    for number in range(flights):
        of = plan(f"f{number:05}", BEGIN + timedelta(hours=24, minutes=10 * number), flight=number)
        late = signal(number) + random.Random(-number - 1).gauss(0, 0.7) > 0.5
        delay = 20 if late else 10
        if flip_from is not None and of.scheduled_arrival + timedelta(minutes=delay) >= flip_from:
            # The label is the contrary; when it comes is the same, and nothing else happens.
            departure, arrival = flown(of, delay)
            told += [of, departure, msgspec.structs.replace(arrival, delay=30 - delay)]
        else:
            told += [of, *flown(of, delay)]
    return sorted(told, key=lambda event: event.at)


def looked_up(flights) -> list[dict]:
    rows = []
    for flight in flights:
        row = {each.name: "" if each.kind == "category" else math.nan for each in features.SCHEMA.features}
        row |= {"carrier": flight.carrier, "origin": flight.origin, "dest": flight.dest}
        row |= {"departures_mean_delay_origin_2h": 30 + 12 * signal(flight.flight), "distance": flight.distance}
        rows.append(row)
    return rows


def told_by(learner: Prequential, events: list[Event]) -> dict[str, Answer]:
    found = [learner.take(hour.number, hour.events) for hour in hours_of(iter(events))]
    return {answer.flight_id: answer for answers in found for answer in answers}
