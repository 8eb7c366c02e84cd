"""The one place for the flights' time: zones, arrival instants, and what is known when.

Airlines print local clock times. `lake.py` makes instants (UTC) of them, once; everything else computes with instants.

What is known at the cut-off, `CUTOFF` before the scheduled departure:
- the schedule, the carrier, the route and the aircraft assigned (the data hold the one that really flew);
- a departure delay from the actual departure on, an arrival delay from the actual arrival on;
- the weather observation stamped hour h (it is taken within that hour) from h + 1 hour on. So the newest one is that of
  the hour before the cut-off's hour.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from airtight import local_clock
from airtight.local_clock import minute_of_day, next_instant

ZONE = "America/New_York"
"""Zone of the origins, of bare dates, and of the days by which the lake is partitioned."""

CUTOFF = timedelta(minutes=30)
"""How long before the scheduled departure a prediction is made."""

WEATHER_LAG = timedelta(hours=1)
"""How long after the hour of its stamp a weather observation is known at the latest."""

UNLISTED_ZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
"""Zones of the destinations that the table of airports lacks."""


def arrival(
    scheduled: datetime, delay: float | None, departed: datetime | None, clock: int | None, zone: str
) -> datetime | None:
    """The instant of the actual arrival.

    The delay decides, because a clock that nobody moved for daylight saving may be an hour off (it happened to one
    flight of 2013, in the night of March 10). Diverted flights have no delay: then the clock at the destination does.

    Args:
      scheduled: Scheduled arrival.
      delay: Arrival delay in minutes, or None.
      departed: Actual departure, or None if the flight was cancelled.
      clock: Printed arrival time at the destination (hhmm), or None.
      zone: IANA name of the destination's zone.

    Returns:
      In UTC; None if it never arrived there.
    """
    if delay is not None:
        return scheduled + timedelta(minutes=delay)
    if departed is None or clock is None:
        return None
    return next_instant(departed, minute_of_day(clock), zone)


def cutoff(scheduled_departure: datetime) -> datetime:
    """The instant of the prediction: features hold what was known then."""
    return scheduled_departure - CUTOFF


def weather_hour(scheduled_departure: datetime) -> datetime:
    """The stamp of the newest weather observation that is known at the cut-off."""
    return cutoff(scheduled_departure).replace(minute=0, second=0, microsecond=0) - WEATHER_LAG


def local_day(moment: datetime) -> date:
    """The day on a New York clock: the partition of a flight by scheduled departure, of an observation by its hour."""
    return local_clock.local_day(moment, ZONE)
