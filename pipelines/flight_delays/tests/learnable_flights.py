"""Flights whose delay depends on what their features tell, and what a learner says of them."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec

from pipelines.flight_delays import features
from pipelines.flight_delays.events import Arrival, Departure, Event, Plan
from pipelines.flight_delays.learning import LEARNING
from pipelines.flight_delays.replay import message
from streaming.learning.hours import HOUR_S, Hour, Observed, observer
from streaming.learning.prequential import Answer, Prequential

BEGIN = datetime(2013, 6, 3, tzinfo=UTC)
SAME = {"carrier": "UA", "flight": 7, "tailnum": "N1", "origin": "EWR", "dest": "IAH"}


def plan(name: str, scheduled: datetime, at: datetime | None = None, **other) -> Plan:
    arrival = scheduled + timedelta(hours=2)
    known = at or scheduled - timedelta(hours=24)
    fields = {**SAME, "scheduled_departure": scheduled, "scheduled_arrival": arrival, "distance": 900.0, **other}
    return Plan(schema=1, at=known, flight_id=name, **fields)


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
    events: list[Event] = []
    for number in range(flights):
        of = plan(f"f{number:05}", BEGIN + timedelta(hours=24, minutes=10 * number), flight=number)
        late = signal(number) + random.Random(-number - 1).gauss(0, 0.7) > 0.5
        delay = 20 if late else 10
        if flip_from is not None and of.scheduled_arrival + timedelta(minutes=delay) >= flip_from:
            # The label is the contrary; when it comes is the same, and nothing else happens.
            departure, arrival = flown(of, delay)
            events += [of, departure, msgspec.structs.replace(arrival, delay=30 - delay)]
        else:
            events += [of, *flown(of, delay)]
    return sorted(events, key=lambda event: event.at)


def looked_up(flights: list[dict]) -> list[dict]:
    rows = []
    for flight in flights:
        row = {feature.name: "" if feature.kind == "category" else math.nan for feature in features.SCHEMA.features}
        row |= {name: flight[name] for name in ("carrier", "origin", "dest", "distance")}
        row |= {"departures_mean_delay_origin_2h": 30 + 12 * signal(flight["flight"])}
        rows.append(row)
    return rows


_observe = observer(LEARNING, Counter())


def observed(event: Event) -> Observed:
    """An event as it is read from its message."""
    return _observe(message(event))


def hours(events: list[Event]) -> list[Hour]:
    """Events that come in order, by the hour."""
    by_hour = itertools.groupby(map(observed, events), key=lambda one: int(one.event.at // HOUR_S))
    return [Hour(number, list(group)) for number, group in by_hour]


def learner(features_of=looked_up, **other) -> Prequential:
    return Prequential(LEARNING, features_of, **other)


def answers_of(learning: Prequential, events: list[Event]) -> dict[str, Answer]:
    taken = [learning.take(hour.number, hour.known) for hour in hours(events)]
    return {answer.id: answer for answers in taken for answer in answers}
