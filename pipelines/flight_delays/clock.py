"""The one place for local time: zones, 2400, midnight, arrival instants, and what is known when.

Airlines print local clock times. Here they become instants (UTC), once; everything else computes with instants.

What is known at the cut-off, `CUTOFF` before the scheduled departure:
- the schedule, the carrier, the route and the aircraft assigned (the data hold the one that really flew);
- a departure delay from the actual departure on, an arrival delay from the actual arrival on;
- the weather observation stamped hour h (it is taken within that hour) from h + 1 hour on. So the newest one is that of
  the hour before the cut-off's hour.
"""

from __future__ import annotations

import functools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from airtight.errors import TerminalError

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

_MINUTES_OF_DAY = 24 * 60


def minute_of_day(clock: int) -> int:
    """Minutes after midnight of a printed clock time.

    Args:
      clock: Hours and minutes as one number, 0 to 2400: 517 is 05:17, and 2400 is the midnight that ends the day.

    Returns:
      0 to 1440; 1440 belongs to the next day.

    Raises:
      TerminalError: No such time.
    """
    hours, minutes = divmod(clock, 100)
    if not (0 <= hours and minutes < 60 and hours * 60 + minutes <= _MINUTES_OF_DAY):  # noqa: PLR2004
        raise TerminalError(
            "That is no clock time.", expected="hhmm from 0 to 2400", received=clock, remedy="Correct the source."
        )
    return hours * 60 + minutes


@functools.lru_cache(maxsize=1 << 16)
def instant(day: date, minute: int, zone: str) -> datetime:
    """The instant at which a local clock shows a minute of a day.

    A time that daylight saving skips counts on from the old offset (02:30 is 03:30 by the new clock); of a time that it
    repeats, the first is meant.

    Args:
      day: Local day.
      minute: Minutes after midnight by the clock, 0 to 1440.
      zone: IANA name.

    Returns:
      In UTC.
    """
    midnight = datetime.combine(day, time(), ZoneInfo(zone))
    # Adding to a datetime that knows its zone moves its clock, not the instant: that is what a timetable means.
    return (midnight + timedelta(minutes=minute)).astimezone(UTC)


@functools.lru_cache(maxsize=1 << 16)
def next_instant(after: datetime, minute: int, zone: str) -> datetime:
    """The first instant after another at which a local clock shows a minute of the day.

    A timetable gives an arrival without its date; no flight takes a day, so it is the next time the clock shows it.

    Args:
      after: Usually the departure.
      minute: Minutes after midnight by the clock at the destination, 0 to 1440.
      zone: IANA name of the destination's zone.

    Returns:
      In UTC, at most a day (25 hours when daylight saving ends) after `after`.
    """
    day = after.astimezone(ZoneInfo(zone)).date()
    same_day = instant(day, minute % _MINUTES_OF_DAY, zone)
    return same_day if same_day > after else instant(day + timedelta(days=1), minute % _MINUTES_OF_DAY, zone)


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
    return moment.astimezone(ZoneInfo(ZONE)).date()
