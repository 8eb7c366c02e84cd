"""Data intervals: half-open, with a time zone, in the words people type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from airtight.errors import TerminalError

FORMS = "2013-06 (a month), 2013-06-14 (a day) or 2013-06-01/2013-07-01 (from, up to but not including)"
PATTERN = r"^\d{4}-\d{2}(-\d{2}(T[\d:.+Z-]+)?(/\d{4}-\d{2}-\d{2}(T[\d:.+Z-]+)?)?)?$"
"""What a trigger form accepts: the forms of `Interval.parse`."""


@dataclass(frozen=True, order=True)
class Interval:
    """[start, end): instants that know their time zone.

    Each end keeps its offset from UTC and drops the zone's rules: Python compares and subtracts two instants of one
    zone by their wall clocks, which is wrong across a change of clocks.

    Args:
      start: First instant inside.
      end: First instant after it.

    Raises:
      TerminalError: An end that has no time zone, or does not come after the start.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise TerminalError(
                "A data interval needs a time zone.",
                expected="instants such as 2013-06-01T00:00:00-04:00",
                received=f"{self.start.isoformat()} to {self.end.isoformat()}",
                remedy="Give both ends with their offset from UTC.",
            )
        for name in ("start", "end"):
            instant: datetime = getattr(self, name)
            object.__setattr__(self, name, instant.astimezone(timezone(instant.utcoffset() or timedelta())))
        if self.start >= self.end:
            raise TerminalError(
                "A data interval must end after it starts.",
                expected="start < end",
                received=f"{self.start.isoformat()} to {self.end.isoformat()}",
                remedy="Swap or correct the two ends.",
            )

    @classmethod
    def parse(cls, text: str, zone: str) -> Interval:
        """Reads what a person types.

        Args:
          text: One of the forms in `FORMS`, or two ISO 8601 instants joined by "/".
          zone: IANA name of the zone in which bare dates are meant.

        Raises:
          TerminalError: Anything else.
        """
        tz = time_zone(zone)
        try:
            if re.fullmatch(r"\d{4}-\d{2}", text):
                first = date.fromisoformat(f"{text}-01")
                return cls(_midnight(first, tz), _midnight((first + timedelta(days=32)).replace(day=1), tz))
            if "/" in text:
                start, end = text.split("/")
                return cls(_instant(start, tz), _instant(end, tz))
            day = date.fromisoformat(text)
            return cls(_midnight(day, tz), _midnight(day + timedelta(days=1), tz))
        except ValueError as error:
            raise TerminalError(
                "Invalid data interval.", expected=FORMS, received=repr(text), remedy="Correct the interval."
            ) from error

    @classmethod
    def of(cls, start: str, end: str) -> Interval:
        """From two ISO 8601 instants, as nodes receive them.

        Raises:
          TerminalError: An instant that cannot be read or has no offset.
        """
        try:
            return cls(datetime.fromisoformat(start), datetime.fromisoformat(end))
        except ValueError as error:
            raise TerminalError(
                "An end of the data interval cannot be read.",
                expected="ISO 8601 instants such as 2013-06-01T00:00:00-04:00",
                received=f"{start!r} and {end!r}",
                remedy="Correct interval_start and interval_end.",
            ) from error

    def days(self, zone: str) -> Iterator[date]:
        """Every local day that the interval touches, in order."""
        tz = time_zone(zone)
        day = self.start.astimezone(tz).date()
        while _midnight(day, tz) < self.end:
            yield day
            day += timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.start.isoformat()}/{self.end.isoformat()}"


def time_zone(name: str) -> ZoneInfo:
    """Returns the time zone of an IANA name.

    Raises:
      TerminalError: There is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        near = difflib.get_close_matches(str(name), available_timezones(), n=1)
        raise TerminalError(
            "Unknown time zone.",
            expected="an IANA name such as America/New_York" + (f"; did you mean {near[0]!r}?" if near else ""),
            received=repr(name),
            remedy="Correct ZONE in the pipeline.",
        ) from error


def _midnight(day: date, tz: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=tz)


def _instant(text: str, tz: ZoneInfo) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=tz)
