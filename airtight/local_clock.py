"""Times that are printed as a local clock shows them, such as in a timetable, as instants (UTC)."""

from __future__ import annotations

import functools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from airtight.errors import TerminalError

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

    Args:
      after: Usually a start, of which a timetable gives the end without its date.
      minute: Minutes after midnight by the clock, 0 to 1440.
      zone: IANA name of the clock's zone.

    Returns:
      In UTC, at most a day (25 hours when daylight saving ends) after `after`.
    """
    day = local_day(after, zone)
    same_day = instant(day, minute % _MINUTES_OF_DAY, zone)
    return same_day if same_day > after else instant(day + timedelta(days=1), minute % _MINUTES_OF_DAY, zone)


def local_day(moment: datetime, zone: str) -> date:
    """The day that a local clock shows at an instant."""
    return moment.astimezone(ZoneInfo(zone)).date()
