"""Which intervals a backfill runs."""

from dataclasses import replace

import pytest

from airtight.errors import TerminalError
from commands import backfill
from pipelines.flight_delays.settings import SETTINGS


@pytest.mark.parametrize(
    ("first", "last", "span"),
    [
        ("", "", "2013-02-01T00:00:00-05:00/2014-01-01T00:00:00-05:00"),
        ("2013-06", "", "2013-06-01T00:00:00-04:00/2014-01-01T00:00:00-05:00"),
        ("2013-06", "2013-07", "2013-06-01T00:00:00-04:00/2013-08-01T00:00:00-04:00"),
        ("2013-06-03", "2013-06-04", "2013-06-03T00:00:00-04:00/2013-06-05T00:00:00-04:00"),
    ],
)
def test_the_span_is_the_settings_own_unless_it_is_given(first, last, span):
    assert str(backfill.span(SETTINGS, first, last)) == span


def test_a_pipeline_that_goes_on_for_ever_wants_a_last_interval():
    with pytest.raises(TerminalError, match="Give --last"):
        backfill.span(replace(SETTINGS, last=None))
    assert backfill.span(replace(SETTINGS, last=None), last="2013-02").end.month == 3


def test_a_span_that_ends_before_it_begins_is_refused():
    with pytest.raises(TerminalError, match="must end after it starts"):
        backfill.span(SETTINGS, "2013-06", "2013-05")
