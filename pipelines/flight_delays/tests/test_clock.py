"""Local time: 2400, midnight, daylight saving, arrivals, and what is known at the cut-off."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from airtight.errors import TerminalError
from pipelines.flight_delays import clock

SPRING, AUTUMN = date(2013, 3, 10), date(2013, 11, 3)


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)


@pytest.mark.parametrize(("printed", "minutes"), [(0, 0), (1, 1), (517, 317), (2359, 1439), (2400, 1440)])
def test_printed_clock_times(printed, minutes):
    assert clock.minute_of_day(printed) == minutes


@pytest.mark.parametrize("printed", [-1, 60, 1275, 2401, 2500])
def test_no_clock_time(printed):
    with pytest.raises(TerminalError, match="no clock time"):
        clock.minute_of_day(printed)


@pytest.mark.parametrize(
    ("day", "minute", "zone", "expected"),
    [
        (date(2013, 1, 1), 317, clock.ZONE, utc(2013, 1, 1, 10, 17)),
        (date(2013, 7, 1), 317, clock.ZONE, utc(2013, 7, 1, 9, 17)),
        (date(2013, 7, 1), 1440, clock.ZONE, utc(2013, 7, 2, 4)),
        (SPRING, 119, clock.ZONE, utc(2013, 3, 10, 6, 59)),
        (SPRING, 150, clock.ZONE, utc(2013, 3, 10, 7, 30)),  # 02:30 does not exist: 03:30 by the new clock
        (SPRING, 180, clock.ZONE, utc(2013, 3, 10, 7)),
        (AUTUMN, 90, clock.ZONE, utc(2013, 11, 3, 5, 30)),  # 01:30 comes twice: the first
        (AUTUMN, 120, clock.ZONE, utc(2013, 11, 3, 7)),
        (SPRING, 1440, clock.ZONE, utc(2013, 3, 11, 4)),
        (SPRING, 600, "America/Phoenix", utc(2013, 3, 10, 17)),
    ],
)
def test_instants(day, minute, zone, expected):
    assert clock.instant(day, minute, zone) == expected


@pytest.mark.parametrize(
    ("departure", "minute", "zone", "expected"),
    [
        (utc(2013, 6, 1, 16), 14 * 60, "America/Los_Angeles", utc(2013, 6, 1, 21)),
        # Over midnight, by the clock at the destination.
        (utc(2013, 6, 2, 3), 40, "America/Puerto_Rico", utc(2013, 6, 2, 4, 40)),
        # Westward it may land by an earlier clock than it left: 09:00 to 08:59 in Chicago is 59 minutes later.
        (utc(2013, 6, 1, 13), 8 * 60 + 59, "America/Chicago", utc(2013, 6, 1, 13, 59)),
        # Left on Saturday evening, landed after the clocks went forward or back.
        (utc(2013, 3, 10, 4), 5 * 60, clock.ZONE, utc(2013, 3, 10, 9)),
        (utc(2013, 11, 3, 3), 5 * 60, clock.ZONE, utc(2013, 11, 3, 10)),
        # Midnight as 2400 and as 0 are the same arrival.
        (utc(2013, 6, 2, 1), 1440, clock.ZONE, utc(2013, 6, 2, 4)),
        (utc(2013, 6, 2, 1), 0, clock.ZONE, utc(2013, 6, 2, 4)),
    ],
)
def test_the_next_time_a_clock_shows_it(departure, minute, zone, expected):
    assert clock.next_instant(departure, minute, zone) == expected


def test_the_delay_decides_when_it_arrived():
    # B6 35 on March 9: planned 00:34, 89 minutes late, "203" by a clock that should have shown 303.
    scheduled, departed = clock.instant(SPRING, 34, clock.ZONE), utc(2013, 3, 10, 4, 6)
    assert clock.arrival(scheduled, 89.0, departed, 203, clock.ZONE) == utc(2013, 3, 10, 7, 3)


def test_a_diverted_flight_arrives_by_the_clock_and_a_cancelled_one_never():
    scheduled, departed = utc(2013, 1, 1, 22), utc(2013, 1, 1, 20, 25)
    assert clock.arrival(scheduled, None, departed, 1934, "America/Chicago") == utc(2013, 1, 2, 1, 34)
    assert clock.arrival(scheduled, None, departed, None, "America/Chicago") is None
    assert clock.arrival(scheduled, None, None, None, "America/Chicago") is None


@pytest.mark.parametrize(
    ("departure", "stamp"),
    [
        # 10:29 is predicted at 09:59: hour 9 is still being observed, hour 8 is known.
        (utc(2013, 6, 1, 10, 29), utc(2013, 6, 1, 8)),
        (utc(2013, 6, 1, 10, 30), utc(2013, 6, 1, 9)),
        (utc(2013, 6, 1, 11, 29), utc(2013, 6, 1, 9)),
        (utc(2013, 6, 1, 0, 15), utc(2013, 5, 31, 22)),
    ],
)
def test_the_newest_weather_that_is_known(departure, stamp):
    assert clock.weather_hour(departure) == stamp
    assert stamp + clock.WEATHER_LAG <= clock.cutoff(departure)
    assert stamp + timedelta(hours=1) + clock.WEATHER_LAG > clock.cutoff(departure)


def test_the_local_day_of_an_instant():
    assert clock.local_day(utc(2013, 6, 2, 3, 59)) == date(2013, 6, 1)
    assert clock.local_day(utc(2013, 6, 2, 4)) == date(2013, 6, 2)
    assert clock.local_day(utc(2013, 1, 2, 4, 59)) == date(2013, 1, 1)
