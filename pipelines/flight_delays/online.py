"""The features of a flight from the online store, for a request that brings only the flight's plan.

They are those of `features.py` as they were known at the cut-off; where the store does not reach that far, as they were
known when it ends, which is then the instant `as_of`. A value expires when the store ends earlier before the cut-off
than the value itself looks back. What is expired or was never there is missing as in training: no events, nothing
overdue, and no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.events import Flight, minute
from pipelines.flight_delays.features import Overdue
from pipelines.flight_delays.flight_state import BY_AIRCRAFT, BY_ORIGIN, BY_SCHEDULE, FLIGHTS, WEATHER
from pipelines.flight_delays.streams import STREAM
from streaming.windows.store import Newest, Query, Span, Store, address_of, opened
from streaming.windows.tables import Get, Range

MAX_INSTANCES = 1000
"""Of one request."""
WEATHER_EXPIRES_MINUTES = 180
"""An older observation tells little of the hour before a departure."""

_HOUR = 60
_MEMORY = features.TAIL_MEMORY_HOURS * _HOUR
_DUE_COLUMNS = ("scheduled", "departed", "origin", "carrier", "dest")
_MEASURED = [
    (window, window.group.name, [(measure, window.feature(measure)) for measure in window.measures])
    for window in features.WINDOWS
]
_OVERDUE = [(overdue.by, overdue.count, overdue.mean) for overdue in features.OVERDUE]
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
Planes = Mapping[str, Mapping[str, Any]]
"""Rows of the lake's table `planes` by tail number."""


@dataclass(frozen=True)
class Known:
    """What is known of a flight.

    Args:
      features: By the names of `features.SCHEMA`: str, or a number, NaN when missing.
      cutoff: When the features should be of.
      as_of: When they are of: the cut-off, or the end of the store when that is earlier.
    """

    features: dict[str, Any]
    cutoff: datetime
    as_of: datetime

    @property
    def behind_minutes(self) -> int:
        """How much earlier the store ends than the cut-off."""
        return minute(self.cutoff) - minute(self.as_of)


def known(flights: Sequence[Flight], of: Store, planes: Planes) -> list[Known]:
    """Looks flights up, all of them at once.

    Args:
      flights: Their plans.
      of: The store.
      planes: The register of aircraft.

    Raises:
      TransientError: There is no store, or nothing is in it.
    """
    end = of.watermark()
    if end is None:
        raise TransientError(
            "The online store is empty.",
            expected="events of flights up to now",
            received="none at all",
            remedy="Start the stream: make stream; or wait until it has written its first minute.",
        )
    moments = [_Moment(flight, min(minute(clock.cutoff(flight.scheduled_departure)), end)) for flight in flights]
    answers = iter(of.read([query for moment in moments for query in moment.queries()]))
    return [moment.known(answers, planes) for moment in moments]


def features_of(flight: Flight, of: Store, planes: Planes) -> dict[str, Any]:
    """The features of one flight; see `known`."""
    return known([flight], of, planes)[0].features


class _Moment:
    """A flight, seen at a minute.

    Args:
      flight: Its plan.
      as_of: Minutes since 1970; at most the cut-off.
    """

    def __init__(self, flight: Flight, as_of: int) -> None:
        self.flight, self.as_of = flight, as_of
        self.id = flight.flight_id or flight.usual_id
        self.scheduled = minute(flight.scheduled_departure)
        self.cutoff = minute(clock.cutoff(flight.scheduled_departure))
        self.behind = self.cutoff - as_of

    def queries(self) -> list[Query]:
        """What to ask the store; `known` reads the answers in this order."""
        hour, as_of, tail = self.scheduled // _HOUR * _HOUR, self.as_of, self.flight.tailnum
        queries: list[Query] = [
            Span(group, self._key(window.by), as_of - window.hours * _HOUR, as_of) for window, group, _ in _MEASURED
        ]
        due = (as_of - Overdue.UNTIL_MINUTES, as_of - Overdue.AFTER_MINUTES)
        queries.append(Range(FLIGHTS.name, BY_SCHEDULE, (), *due, _DUE_COLUMNS))
        queries.append(Range(FLIGHTS.name, BY_ORIGIN, (self.flight.origin,), hour, hour + _HOUR, ("scheduled",)))
        queries.append(Get(FLIGHTS.name, (self.id,)))
        # Where the store ends, the observation of that very minute may not be in it yet.
        full = (as_of - bool(self.behind)) // _HOUR * _HOUR
        queries.append(Get(WEATHER.name, (self.flight.origin, full - _HOUR)))
        if tail is not None:
            queries += [Newest(group.name, tail, as_of - _MEMORY, as_of) for group in features.TAIL_GROUPS]
            queries.append(Range(FLIGHTS.name, BY_AIRCRAFT, (tail,), as_of - _MEMORY, self.scheduled + 1))
        return queries

    def known(self, answers: Iterator[Any], planes: Planes) -> Known:
        """All features, from the answers to `queries`."""
        values: dict[str, Any] = {}
        for window, _, names in _MEASURED:
            count, late, minutes, _ = next(answers)
            if self.behind > window.hours * _HOUR:
                count = late = minutes = 0
            measured = {"count": count, "late_share": _share(late, count), "mean_delay": _share(minutes, count)}
            values |= {name: measured[measure] for measure, name in names}
        values |= self._overdue(next(answers))
        values |= self._schedule(len(next(answers)), next(answers)) | self._weather(next(answers))
        values |= self._plane(planes) | self._tail(answers)
        in_order = {name: values[name] for name in features.SCHEMA.names}
        return Known(in_order, _instant(self.cutoff), _instant(self.as_of))

    def _key(self, by: tuple[str, ...]) -> str:
        return "|".join(str(getattr(self.flight, column)) for column in by)

    def _schedule(self, in_hour: int, own: Any) -> dict[str, Any]:
        flight, hour = self.flight, self.scheduled // _HOUR
        # The flight is one of them, whether or not the store knows its plan.
        counted = own is not None and own["origin"] == flight.origin and (own["scheduled"] or 0) // _HOUR == hour
        return {
            "carrier": flight.carrier,
            "origin": flight.origin,
            "dest": flight.dest,
            "weekday": _WEEKDAYS[flight.local_day.weekday()],
            "local_minute": flight.local_minute,
            "scheduled_minutes": flight.scheduled_minutes,
            "distance": flight.distance,
            "scheduled_departures_origin": in_hour + (not counted),
        }

    def _plane(self, planes: Planes) -> dict[str, Any]:
        plane = planes.get(self.flight.tailnum or "", {})
        built = plane.get("year")
        return {
            "plane_manufacturer": plane.get("manufacturer") or "",
            "plane_model": plane.get("model") or "",
            "plane_age": math.nan if built is None else self.flight.local_day.year - built,
            "plane_seats": _number(plane.get("seats")),
            "plane_engines": _number(plane.get("engines")),
        }

    def _weather(self, observed: Any) -> dict[str, Any]:
        if observed is None or self.behind > WEATHER_EXPIRES_MINUTES:
            return dict.fromkeys(features.WEATHER, math.nan)
        values = {name: _number(observed[name]) for name in features.WEATHER}
        for name in ("wind_speed", "wind_gust"):
            if values[name] > features.WIND_SPEED_LIMIT_MPH:
                values[name] = math.nan
        return values

    def _overdue(self, due: Sequence[Any]) -> dict[str, Any]:
        expired = self.behind > Overdue.UNTIL_MINUTES
        still = [row for row in due if not expired and (row["departed"] is None or row["departed"] >= self.as_of)]
        values: dict[str, Any] = {}
        for by, count, mean in _OVERDUE:
            own = [(column, getattr(self.flight, column)) for column in by]
            past = [
                self.as_of - row["scheduled"] for row in still if all(row[column] == value for column, value in own)
            ]
            values |= {count: len(past), mean: _share(sum(past), len(past))}
        return values

    def _tail(self, answers: Iterator[Any]) -> dict[str, Any]:
        names = ("departure_delay", "departure_age", "arrival_delay", "arrival_age", "previous_delay", "slack")
        values = {f"tail_{name}": math.nan for name in names}
        if self.flight.tailnum is None:
            return values
        lasts, plan = [next(answers) for _ in features.TAIL_GROUPS], next(answers)
        if self.behind > _MEMORY:
            return values
        for name, last in zip(("departure", "arrival"), lasts, strict=True):
            if last is not None:
                values |= {f"tail_{name}_delay": last.totals[-1], f"tail_{name}_age": self.as_of - last.start}
        before = [row for row in plan if (row["scheduled"], row["flight_id"]) < (self.scheduled, self.id)]
        if before:
            values |= self._rotation(max(before, key=lambda row: (row["scheduled"], row["flight_id"])))
        return values

    def _rotation(self, previous: Any) -> dict[str, Any]:
        scheduled, arrival = previous["scheduled"], previous["arrival"]
        departed, arrived = previous["departed"], previous["arrived"]
        if arrived is not None and arrived < self.as_of:
            delay = arrived - arrival
        elif departed is not None and departed < self.as_of:
            delay = departed - scheduled
        else:
            delay = max(self.as_of - scheduled, 0)
        slack = self.scheduled - (arrival + delay) - (arrival - scheduled)
        return {"tail_previous_delay": delay, "tail_slack": slack}


class Lookup:
    """What the router fills in for requests of `POST /v1/flights:predict`.

    Args:
      of: The store; by default that of the stream of flights.
      planes: Gives the register of aircraft, once; by default that of the lake.
    """

    def __init__(self, of: Store | None = None, planes: Callable[[], Planes] | None = None) -> None:
        self._store, self._read_planes = of or opened(address_of(STREAM), STREAM), planes or planes_of_lake
        self._planes: Planes | None = None

    def __call__(self, instances: Sequence[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Fills in the features of a request.

        Args:
          instances: From JSON: each a flight's plan, as `events.Flight` has it.

        Returns:
          For each the features, and how fresh they are: `cutoff`, `as_of`, `behind_minutes`; and `whole_from`, where
          the store has lost what was before: features of the time before it may lack something.

        Raises:
          TerminalError: An instance is no plan; the message names it and its field.
          TransientError: There is no store.
        """
        if len(instances) > MAX_INSTANCES:
            raise _bad(f"at most {MAX_INSTANCES} instances", f"{len(instances)} instances")
        flights = [_flight(number, instance) for number, instance in enumerate(instances)]
        if self._planes is None:
            self._planes = self._read_planes()
        lookups = known(flights, self._store, self._planes)
        lost = self._store.whole_from()
        whole = {} if lost is None else {"whole_from": datetime.fromtimestamp(lost * 60, UTC)}
        return [of.features for of in lookups], [
            {"cutoff": of.cutoff, "as_of": of.as_of, "behind_minutes": of.behind_minutes, **whole} for of in lookups
        ]


def planes_of_lake() -> Planes:
    """The newest register of aircraft in the lake; without a lake, none.

    Raises:
      TerminalError: The lake is damaged.
    """
    import pyarrow.parquet as pq

    from components.data.lake import Lake

    lake = Lake(Home.current().lake)
    if not lake.numbers("planes"):
        return {}
    rows = [row for file in lake.snapshot("planes").files for row in pq.read_table(lake.path / file.path).to_pylist()]
    return {row["tailnum"]: row for row in rows}


def _flight(number: int, instance: Any) -> Flight:
    try:
        return msgspec.convert(instance, Flight)
    except msgspec.ValidationError as error:
        place, message = f"instances[{number}]", str(error)
        received = message.replace("`$", f"`{place}") if "`$" in message else f"{message} - at `{place}`"
        raise _bad("the plan of a flight: " + ", ".join(Flight.__struct_fields__), received) from None


def _bad(expected: str, received: str) -> TerminalError:
    return TerminalError(
        "That is no request for flights.",
        expected=expected,
        received=received,
        remedy="Correct the request; docs/online.md shows one.",
    )


def _instant(minutes: int) -> datetime:
    return datetime.fromtimestamp(minutes * 60, UTC)


def _number(value: Any) -> float:
    return math.nan if value is None else value


def _share(total: int, count: int) -> float:
    return total / count if count else math.nan
