"""Printed local times as instants: 2400, midnight, daylight saving, other zones."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from airtight.errors import TerminalError
from airtight.local_clock import instant, local_day, minute_of_day, next_instant

ZONE = "America/New_York"
SPRING, AUTUMN = date(2013, 3, 10), date(2013, 11, 3)


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)


@pytest.mark.parametrize(("printed", "minutes"), [(0, 0), (1, 1), (517, 317), (2359, 1439), (2400, 1440)])
def test_printed_clock_times(printed, minutes):
    assert minute_of_day(printed) == minutes


@pytest.mark.parametrize("printed", [-1, 60, 1275, 2401, 2500])
def test_no_clock_time(printed):
    with pytest.raises(TerminalError, match="no clock time"):
        minute_of_day(printed)


@pytest.mark.parametrize(
    ("day", "minute", "zone", "expected"),
    [
        (date(2013, 1, 1), 317, ZONE, utc(2013, 1, 1, 10, 17)),
        (date(2013, 7, 1), 317, ZONE, utc(2013, 7, 1, 9, 17)),
        (date(2013, 7, 1), 1440, ZONE, utc(2013, 7, 2, 4)),
        (SPRING, 119, ZONE, utc(2013, 3, 10, 6, 59)),
        (SPRING, 150, ZONE, utc(2013, 3, 10, 7, 30)),  # 02:30 does not exist: 03:30 by the new clock
        (SPRING, 180, ZONE, utc(2013, 3, 10, 7)),
        (AUTUMN, 90, ZONE, utc(2013, 11, 3, 5, 30)),  # 01:30 comes twice: the first
        (AUTUMN, 120, ZONE, utc(2013, 11, 3, 7)),
        (SPRING, 1440, ZONE, utc(2013, 3, 11, 4)),
        (SPRING, 600, "America/Phoenix", utc(2013, 3, 10, 17)),
    ],
)
def test_instants(day, minute, zone, expected):
    assert instant(day, minute, zone) == expected


@pytest.mark.parametrize(
    ("departure", "minute", "zone", "expected"),
    [
        (utc(2013, 6, 1, 16), 14 * 60, "America/Los_Angeles", utc(2013, 6, 1, 21)),
        # Over midnight, by the clock at the destination.
        (utc(2013, 6, 2, 3), 40, "America/Puerto_Rico", utc(2013, 6, 2, 4, 40)),
        # Westward it may land by an earlier clock than it left: 09:00 to 08:59 in Chicago is 59 minutes later.
        (utc(2013, 6, 1, 13), 8 * 60 + 59, "America/Chicago", utc(2013, 6, 1, 13, 59)),
        # Left on Saturday evening, landed after the clocks went forward or back.
        (utc(2013, 3, 10, 4), 5 * 60, ZONE, utc(2013, 3, 10, 9)),
        (utc(2013, 11, 3, 3), 5 * 60, ZONE, utc(2013, 11, 3, 10)),
        # Midnight as 2400 and as 0 are the same arrival.
        (utc(2013, 6, 2, 1), 1440, ZONE, utc(2013, 6, 2, 4)),
        (utc(2013, 6, 2, 1), 0, ZONE, utc(2013, 6, 2, 4)),
    ],
)
def test_the_next_time_a_clock_shows_it(departure, minute, zone, expected):
    assert next_instant(departure, minute, zone) == expected


def test_the_local_day_of_an_instant():
    assert local_day(utc(2013, 6, 2, 3, 59), ZONE) == date(2013, 6, 1)
    assert local_day(utc(2013, 6, 2, 4), "UTC") == date(2013, 6, 2)
