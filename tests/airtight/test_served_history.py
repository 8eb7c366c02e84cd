"""Which versions had served by an instant: what every reader of the records takes for the champion."""

import random
from datetime import UTC, datetime

import pytest

from airtight.served_history import (
    Takeover,
    latest_of,
    served,
    takeover_of_promotion,
    takeover_of_push,
    takeovers_of_pushes,
)


def end(month: int) -> datetime:
    """The end of a month of 2013, which is where the next one begins."""
    return datetime(2013 + month // 12, month % 12 + 1, 1, tzinfo=UTC)


class History:
    """Records in the order in which they were written; a version is its month's number times ten and the attempt."""

    def __init__(self) -> None:
        self.pushes: list[Takeover] = []
        self.promotions: list[Takeover] = []
        self.order = 0

    def push(self, *months: int, attempt: int = 1) -> "History":
        for month in months:
            self.order += 1
            self.pushes.append(Takeover(end(month), self.order, month * 10 + attempt, end(month)))
        return self

    def promote(self, month: int, at: int, attempt: int = 1) -> "History":
        """A version takes over while `at` is the latest month of which one is registered."""
        self.order += 1
        self.promotions.append(Takeover(end(at), self.order, month * 10 + attempt, end(month)))
        return self

    def by(self, month: int, count: int = 1) -> list[int]:
        """The champions for a run of a month."""
        return [t.version for t in served(latest_of(self.pushes), self.promotions, end(month - 1), count)]


def test_the_champion_is_what_was_pushed_last_in_data_time():
    history = History().push(11, 3, 4).push(4, attempt=2)
    assert history.by(5, 4) == [42, 31]
    assert history.by(12, 4) == [111, 42, 31]
    assert history.by(3) == []


def test_a_rollback_takes_the_higher_one_out_from_then_on_and_not_before():
    history = History().push(3, 4, 5).promote(4, at=5)
    assert history.by(6, 4) == [41, 31], "May is none of the champions before, either"
    assert history.by(5, 4) == [41, 31]
    assert history.push(2).by(3) == [21], "a backfill of an old month"
    assert history.push(4, attempt=2).by(5) == [42], "April once more, before the rollback"
    assert history.by(6) == [41]


def test_a_push_after_a_rollback_is_champion_where_it_took_over():
    history = History().push(3, 4, 5).promote(4, at=5)
    assert history.by(7) == [41], "June was registered only"
    assert history.push(6).by(7, 4) == [61, 41, 31]


def test_a_version_that_was_promoted_later_is_champion_since():
    history = History().push(3, 4)  # May is registered only, and a release tries it.
    assert history.by(6) == [41]
    history.promote(5, at=5)
    assert (history.by(6, 4), history.by(5)) == ([51, 41, 31], [41])


def test_of_two_promotions_the_later_counts():
    history = History().push(3, 4, 5).promote(4, at=5).promote(5, at=5)
    assert history.by(6, 4) == [51, 41, 31]
    history.promote(3, at=5)
    assert history.by(6, 4) == [31]
    history.promote(4, at=7)
    assert (history.by(6), history.by(7), history.by(8, 4)) == ([31], [31], [41, 31])


def test_a_rollback_of_a_later_month_does_not_reach_back_to_the_months_before_it():
    # June and July were registered only while April stayed; then March was promoted.
    history = History().push(3, 4).promote(3, at=7)
    assert [history.by(month) for month in (5, 6, 7, 8)] == [[41], [41], [41], [31]]


@pytest.mark.parametrize("seed", range(200))
def test_it_is_what_writing_the_history_forwards_gives(seed):
    rng = random.Random(seed)
    history = History()
    latest = 0
    for _ in range(rng.randrange(25)):
        if rng.random() < 0.6:
            month = rng.randrange(1, 13)
            history.push(month, attempt=1 + sum(push.end == end(month) for push in history.pushes))
            latest = max(latest, month)
        elif latest:
            history.promote(rng.randrange(1, latest + 1), at=latest, attempt=rng.randrange(1, 3))
    for month in range(1, 14):
        stack: list[Takeover] = []
        for takeover in sorted([*history.pushes, *history.promotions], key=lambda t: (t.at, t.order)):
            if takeover.at <= end(month - 1):
                stack = [*(earlier for earlier in stack if earlier.end < takeover.end), takeover]
        assert history.by(month, 4) == [takeover.version for takeover in reversed(stack)][:4]


ENDS = {"interval_end": "2013-07-01T00:00:00-04:00", "version": 7}


@pytest.mark.parametrize(
    ("properties", "counts"),
    [
        ({"pushed": 1, "took_over": 1}, True),
        ({"pushed": 1, "took_over": 0}, False),
        ({"pushed": 0, "took_over": 0}, False),
        ({"pushed": 1}, True),
        ({"pushed": 1, "awaits_release": 0}, True),
        ({"pushed": 1, "awaits_release": 1}, False),
    ],
)
def test_a_push_counts_where_its_version_took_over_and_an_old_record_where_it_was_left_to_no_release(
    properties, counts
):
    takeover = takeover_of_push(properties | ENDS, 3)
    at = datetime.fromisoformat(ENDS["interval_end"])
    assert takeover == (Takeover(at, 3, 7, at) if counts else None)


@pytest.mark.parametrize(
    ("pushes", "counted"),
    [
        ([{"took_over": 0}, {"took_over": 1}], []),
        ([{"took_over": 1}, {"took_over": 1}], [1]),
        ([{"took_over": 1}, {"took_over": 0}], [1]),
        ([{"took_over": 0}, {"took_over": 1, "overridden": "June"}], [2]),
        ([{"took_over": 0}, {"took_over": 1, "model_digest": "b"}], [2]),
        ([{"pushed": 0, "took_over": 0}, {"took_over": 1}], [2]),
    ],
)
def test_of_several_pushes_of_the_same_files_the_first_says_whether_they_took_over(pushes, counted):
    records = [(order, {"pushed": 1, "model_digest": "a"} | ENDS | push) for order, push in enumerate(pushes, start=1)]
    assert [takeover.order for takeover in takeovers_of_pushes(reversed(records))] == counted


def test_a_promotion_counts_where_its_version_took_over_and_an_old_record_where_it_changed_something():
    june, august = "2013-07-01T00:00:00+00:00", "2013-09-01T00:00:00+00:00"
    promotion = {"took_over": 1, "changed": 0, "to_version": 7, "interval_end": june, "as_of": august}
    assert takeover_of_promotion(promotion, 2) == Takeover(end(8), 2, 7, end(6))
    assert takeover_of_promotion(promotion | {"took_over": 0, "changed": 1}, 2) is None
    old = {"changed": 1, "to_version": 7, "interval_end": june}
    assert takeover_of_promotion(old, 2) == Takeover(end(6), 2, 7, end(6))
    assert takeover_of_promotion(old | {"changed": 0}, 2) is None
    assert takeover_of_promotion(promotion | {"interval_end": ""}, 2) is None
