"""What people type becomes half-open intervals that know their zone."""

import re
from datetime import UTC, date, datetime, timedelta

import pytest

from airtight.errors import TerminalError
from airtight.interval import PATTERN, Interval, time_zone

ZONE = "America/New_York"


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2013-06", utc(2013, 6, 1, 4), utc(2013, 7, 1, 4)),
        ("2013-12", utc(2013, 12, 1, 5), utc(2014, 1, 1, 5)),
        ("2013-03-10", utc(2013, 3, 10, 5), utc(2013, 3, 11, 4)),  # 23 hours long
        ("2013-11-03", utc(2013, 11, 3, 4), utc(2013, 11, 4, 5)),  # 25 hours long
        ("2013-06-01/2013-06-08", utc(2013, 6, 1, 4), utc(2013, 6, 8, 4)),
        ("2013-06-01T12:00:00+00:00/2013-06-01T18:00:00+00:00", utc(2013, 6, 1, 12), utc(2013, 6, 1, 18)),
    ],
)
def test_the_forms_that_people_type(text, start, end):
    assert Interval.parse(text, ZONE) == Interval(start, end)
    assert re.match(PATTERN, text)


@pytest.mark.parametrize(
    "text", ["", "June", "2013-13", "2013-6", "2013-06-01/", "2013-06-08/2013-06-01", "2013-02-30"]
)
def test_anything_else_is_refused_in_words(text):
    with pytest.raises(TerminalError, match="interval"):
        Interval.parse(text, ZONE)


def test_days_are_local_and_whole_even_when_the_interval_ends_inside_one():
    interval = Interval.of("2013-03-09T12:00:00-05:00", "2013-03-11T00:00:01-04:00")
    assert list(interval.days(ZONE)) == [date(2013, 3, 9), date(2013, 3, 10), date(2013, 3, 11)]


def test_an_end_without_offset_is_refused():
    with pytest.raises(TerminalError, match="time zone"):
        Interval.of("2013-06-01T00:00:00", "2013-07-01T00:00:00")


def test_ends_are_compared_as_instants_where_clocks_change():
    with pytest.raises(TerminalError, match="end after it starts"):
        Interval.parse("2013-03-10T02:30/2013-03-10T03:15", ZONE)  # 02:30 does not exist and is 03:30
    longest = Interval.parse("2013-11-03", ZONE)
    assert longest.end - longest.start == timedelta(hours=25)
    # 01:30 comes twice that day: half an hour after the second one is another instant than after the first.
    hour = Interval.of("2013-11-03T01:30:00-04:00", "2013-11-03T01:30:00-05:00")
    assert list(hour.days(ZONE)) == [date(2013, 11, 3)]
    assert hour.end.astimezone(UTC) - hour.start.astimezone(UTC) == timedelta(hours=1)


def test_the_offset_that_a_person_reads_is_kept():
    assert str(Interval.parse("2013-06", ZONE)) == "2013-06-01T00:00:00-04:00/2013-07-01T00:00:00-04:00"


def test_what_is_no_interval_is_refused_in_these_words():
    with pytest.raises(TerminalError, match=r"^Invalid data interval\.") as caught:
        Interval.parse("June", ZONE)
    assert "a month" in caught.value.expected


@pytest.mark.parametrize("name", ["America/New_Yrk", "", "../etc/passwd", "America"])
def test_a_misspelt_zone_is_refused(name):
    with pytest.raises(TerminalError, match="Unknown time zone") as caught:
        time_zone(name)
    assert name != "America/New_Yrk" or "did you mean 'America/New_York'?" in caught.value.expected
