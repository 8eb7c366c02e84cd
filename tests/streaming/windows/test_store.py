"""What every store promises: in a SQLite file, a Redis server and a PostgreSQL database."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from streaming.windows.store import Reader, Row, Span, Store, opened
from tests.runtime.conftest import postgresql  # noqa: F401
from tests.streaming.test_store import redis_server  # noqa: F401
from tests.streaming.windows.shops import STREAM

DAY = 24 * 60


def row(start: int, count: int = 1, cents: int = 5, *, early: bool = False, key: str = "a", minutes: int = 1) -> Row:
    return Row("gifts", key, start, minutes, (count, cents, cents, cents if count else None), early)


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """One that is empty."""
    if request.param == "sqlite":
        return opened(str(tmp_path / "folder" / "store.sqlite"), STREAM)
    if request.param == "postgresql":
        return opened(request.getfixturevalue("postgresql").new_database(), STREAM)
    url = request.getfixturevalue("redis_server")
    import redis

    redis.Redis.from_url(url).flushdb()
    return opened(url, STREAM)


def test_a_row_takes_the_place_of_the_one_before(store: Store) -> None:
    store.write([row(7), row(8), row(8, key="b")])
    store.write([row(7), row(8, 2, 9)])
    assert store.read([Span("gifts", "a", 7, 9), Span("gifts", "a", 8, 9), Span("gifts", "c", 0, 99)]) == [
        (3, 14, 14, 9),
        (2, 9, 9, 9),
        (0, 0, 0, None),
    ]
    store.write([row(8, 0, 0)])
    assert store.windows("gifts", "a", 1, 0, 99) == [row(7)]
    assert store.newest(Span("gifts", "a", 0, 99)) == row(7)
    assert store.newest(Span("gifts", "a", 8, 99)) is None


def test_windows_are_apart_from_minutes(store: Store) -> None:
    store.write([row(10), row(10, 4, 20, minutes=5), row(15, minutes=5)])
    assert store.read([Span("gifts", "a", 0, 99)]) == [(1, 5, 5, 5)]
    assert store.windows("gifts", "a", 5, 10, 15) == [row(10, 4, 20, minutes=5)]


def test_the_watermark_never_goes_back_and_closes_early_rows(store: Store) -> None:
    store.write([row(7, 3)])
    assert store.watermark() is None
    store.advance(8)
    store.advance(5)
    assert store.watermark() == 8
    # An engine that went back to a checkpoint sees less of a minute for a moment.
    store.write([row(7, 1, early=True), row(8, 1, early=True)])
    assert [one.totals[0] for one in store.windows("gifts", "a", 1, 0, 99)] == [3, 1]
    store.write([row(7, 4)])
    assert store.read([Span("gifts", "a", 7, 8)])[0][0] == 4


def test_what_is_old_is_forgotten(store: Store) -> None:
    store.write([row(0), row(30 * DAY)])
    store.advance(30 * DAY + 1)
    store.write([row(30 * DAY + 1)])
    assert [one.start for one in store.windows("gifts", "a", 1, 0, 1 << 40)] == [30 * DAY, 30 * DAY + 1]


def test_a_reader_answers_for_the_minutes_before(store: Store) -> None:
    reader = Reader(store, STREAM)
    store.write([row(6), row(7, 1, 6), row(9, 2, 9), row(10, 5)])
    store.advance(8)
    assert reader.last_minutes("gifts", "a", 3, 659.9) == {
        "count": 3,
        "cents": 15,
        "mean": 5.0,
        "largest": 9,
        "behind_minutes": 2,
    }


def test_threads_write_beside_each_other(store: Store) -> None:
    def write(first: int) -> None:
        for number in range(first, 400, 4):
            store.write([row(number)])
            store.advance(number)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read([Span("gifts", "a", 0, 400)])[0][0] == 400
    assert store.watermark() == 399
