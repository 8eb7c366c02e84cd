"""Arrivals, and what is known at the cut-off."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from airtight.local_clock import instant
from pipelines.flight_delays import clock

SPRING = date(2013, 3, 10)


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)


def test_the_delay_decides_when_it_arrived():
    # B6 35 on March 9: planned 00:34, 89 minutes late, "203" by a clock that should have shown 303.
    scheduled, departed = instant(SPRING, 34, clock.ZONE), utc(2013, 3, 10, 4, 6)
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
