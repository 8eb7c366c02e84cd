"""When each version answered, by the clock."""

import pytest

from airtight.served_spans import Event, Span, spans

MAY, JUNE, JULY = 1, 2, 3


def push(version: int, **values) -> dict:
    return {"pushed": 1, "version": version, "took_over": 1, "reason": f"push {version}", **values}


def promotion(version: int, **values) -> dict:
    return {"to_version": version, "took_over": 1, "summary": f"promotion {version}", **values}


def history(*properties: dict) -> list[tuple[int, str, str, int]]:
    events = [Event(order, f"t{order}", values) for order, values in enumerate(properties)]
    return [(span.version, span.since, span.until, span.ended_by) for span in spans(reversed(events))]


def test_each_newer_version_takes_the_place_of_the_one_before():
    events = [Event(1, "a", push(JUNE)), Event(2, "b", push(JULY))]
    assert spans(events) == [Span(JUNE, "a", "b", "push 2", JULY), Span(JULY, "b", "", "push 3")]
    assert spans([]) == []


def test_one_that_is_rolled_back_and_comes_again_has_two_spans():
    served = history(push(JUNE), push(JULY), promotion(JUNE), promotion(JULY))
    assert served == [(JUNE, "t0", "t1", JULY), (JULY, "t1", "t2", JUNE), (JUNE, "t2", "t3", JULY), (JULY, "t3", "", 0)]


@pytest.mark.parametrize(
    "later",
    [
        push(MAY),
        push(JULY, took_over=0),
        push(JULY, pushed=0),
        push(JUNE),
        promotion(JULY, took_over=0),
        {"to_version": JULY, "changed": 0},
        {"pushed": 1, "version": JULY, "awaits_release": 1},
    ],
)
def test_what_put_no_other_version_before_the_requests_changes_nothing(later):
    assert history(push(JUNE), later) == [(JUNE, "t0", "", 0)]


def test_records_from_before_there_was_took_over_count():
    assert history({"pushed": 1, "version": JUNE}, {"to_version": MAY, "changed": 1}) == [
        (JUNE, "t0", "t1", MAY),
        (MAY, "t1", "", 0),
    ]
