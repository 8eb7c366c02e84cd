"""The messages of the topic of flights: what becomes known, and when.

Each is a JSON object with `kind`, `schema` and `at`, the instant from which it is known:

- `plan`, a day before the scheduled departure: the flight as the schedule has it, with its aircraft;
- `departure` and `arrival`, at that very instant: with the delay behind schedule. An arrival without a delay is that of
  a flight that was diverted on its way;
- `weather`, an hour after its stamp: an observation at an airport of departure.

The key is the flight's id, or the airport of the weather. `docs/schemas/flights.events.json` is its JSON
Schema.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from pipelines.flight_delays import clock
from streaming.windows.messages import SchemaNumber

SCHEMA: Final = 1
"""Version of the messages that are written. Newer ones are read, as long as these fields are there."""
PLAN_LEAD = timedelta(hours=24)
"""How long before the scheduled departure a plan becomes known."""

_LONGEST = timedelta(days=2)
_MINUTE = timedelta(minutes=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZONE = ZoneInfo(clock.ZONE)

Code = Annotated[str, Meta(pattern="^[A-Z0-9]{2,4}$", description="airline or airport")]
FlightId = Annotated[str, Meta(min_length=1, max_length=64, description="local date/carrier/flight/origin")]
Number = Annotated[int, Meta(ge=0, le=99_999, description="number of the flight")]
Tail = Annotated[str, Meta(pattern="^[A-Z0-9-]{1,10}$", description="tail number of the aircraft")]
Instant = Annotated[datetime, Meta(tz=True, description="with its offset from UTC")]
Delay = Annotated[int, Meta(ge=-100_000, le=100_000, description="minutes behind schedule, negative when early")]
Miles = Annotated[float, Meta(gt=0, le=30_000, description="miles")]
Reading = Annotated[float, Meta(ge=-1e6, le=1e6)] | None


class Flight(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A flight as the schedule has it; what a request for a prediction brings.

    Args:
      flight_id: None for the usual one, `usual_id`.
      tailnum: Of the aircraft assigned; None when none is.
      scheduled_departure: A whole minute.
      scheduled_arrival: After the departure, by two days at most.
      distance: Miles.
    """

    flight_id: FlightId | None = None
    carrier: Code
    flight: Number
    tailnum: Tail | None
    origin: Code
    dest: Code
    scheduled_departure: Instant
    scheduled_arrival: Instant
    distance: Miles

    def __post_init__(self) -> None:
        for name in ("scheduled_departure", "scheduled_arrival"):
            instant = getattr(self, name)
            if instant.second or instant.microsecond:
                raise ValueError(f"Expected a whole minute - at `$.{name}`")
        if not timedelta() < self.scheduled_arrival - self.scheduled_departure <= _LONGEST:
            raise ValueError("Expected an instant within two days after the departure - at `$.scheduled_arrival`")

    @property
    def local_day(self) -> date:
        """Of the scheduled departure, at the origin."""
        return clock.local_day(self.scheduled_departure)

    @property
    def local_minute(self) -> int:
        """Of the scheduled departure, minutes after local midnight by the clock."""
        local = self.scheduled_departure.astimezone(_ZONE)
        return local.hour * 60 + local.minute

    @property
    def scheduled_minutes(self) -> int:
        """Scheduled departure to scheduled arrival."""
        return (self.scheduled_arrival - self.scheduled_departure) // _MINUTE

    @property
    def usual_id(self) -> str:
        """The id that the lake gives the flight."""
        return f"{self.local_day}/{self.carrier}/{self.flight}/{self.origin}"


class Plan(Flight, frozen=True, kw_only=True, forbid_unknown_fields=False, tag_field="kind", tag="plan"):
    """A flight becomes known, or its plan changes."""

    schema: SchemaNumber
    at: Instant
    flight_id: FlightId


class _Movement(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    schema: SchemaNumber
    at: Instant
    flight_id: FlightId
    carrier: Code
    flight: Number
    tailnum: Tail | None
    origin: Code
    dest: Code


class Departure(_Movement, frozen=True, kw_only=True, tag="departure"):
    """A flight left at `at`."""

    delay: Delay


class Arrival(_Movement, frozen=True, kw_only=True, tag="arrival"):
    """A flight arrived at its destination at `at`; a diverted one without a delay."""

    delay: Delay | None


class Weather(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="weather"):
    """An observation; the columns are those of the lake's table, in its units."""

    schema: SchemaNumber
    at: Instant
    origin: Code
    observed_at: Instant
    temp: Reading
    dewp: Reading
    humid: Reading
    wind_dir: Reading
    wind_speed: Reading
    wind_gust: Reading
    precip: Reading
    pressure: Reading
    visib: Reading


Event = Plan | Departure | Arrival | Weather
_ENCODER = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """The value of a message."""
    return _ENCODER.encode(event)


def key(event: Event) -> bytes:
    """The key of a message: what is told of one flight stays in order."""
    return (event.origin if isinstance(event, Weather) else event.flight_id).encode()


def minute(instant: datetime) -> int:
    """Whole minutes since 1970."""
    return (instant - _EPOCH) // _MINUTE
