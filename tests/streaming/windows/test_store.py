"""What every store promises: in a SQLite file, a Redis server and a PostgreSQL database."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from streaming.windows.declaration import Measure
from streaming.windows.store import Newest, Reader, Row, Span, Store, opened
from streaming.windows.tables import Get, Order, Range, Record
from tests.runtime.conftest import postgresql  # noqa: F401
from tests.streaming.redis_server import redis_server  # noqa: F401
from tests.streaming.windows.shops import BY_OPENING, BY_TOWN, STREAM

DAY = 24 * 60


def row(start: int, count: int = 1, cents: int = 5, *, key: str = "a", minutes: int = 1) -> Row:
    return Row("gifts", key, start, minutes, (count, cents, cents, cents if count else None))


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
    assert store.read([Newest("gifts", "a", 0, 99), Newest("gifts", "a", 8, 99)]) == [row(7), None]


def test_windows_are_apart_from_minutes(store: Store) -> None:
    store.write([row(10), row(10, 4, 20, minutes=5), row(15, minutes=5)])
    assert store.read([Span("gifts", "a", 0, 99)]) == [(1, 5, 5, 5)]
    assert store.windows("gifts", "a", 5, 10, 15) == [row(10, 4, 20, minutes=5)]


def test_the_watermark_never_goes_back(store: Store) -> None:
    store.write([row(7, 3)])
    assert store.watermark() is None
    store.advance(8)
    store.advance(5)
    assert store.watermark() == 8
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
        "lost_minutes": 0,
    }


def test_a_store_has_a_birth_and_says_from_when_it_is_whole(store: Store) -> None:
    store.write([row(7)])
    store.advance(8)
    birth = store.birth()
    assert birth == store.birth() == (birth.token, 8, None)
    assert store.whole_from() is None
    store.set_whole_from(7)
    store.set_whole_from(5)
    assert (store.whole_from(), store.birth()) == (5, (birth.token, 8, 5))
    assert Reader(store, STREAM).last_minutes("gifts", "a", 4, 480)["lost_minutes"] == 1
    other = opened(str(getattr(store, "path", "")) or str(store._url), replace(STREAM, name="other"))
    assert other.birth().token != birth.token
    other.close()


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


def shop(name: str, noted: int, town: str | None = "x", opens: int | None = 9, area: float | None = 0.1) -> Record:
    return Record("shops", {"shop": name, "place": 1, "noted": noted, "town": town, "opens": opens, "area": area})


def test_parts_of_a_record_are_replaced_by_what_is_as_new_or_newer(store: Store) -> None:
    store.upsert([shop("a", 5), Record("shops", {"shop": "a", "place": 1, "closed": 7})])
    store.upsert([shop("a", 4, "old"), shop("b", 5), shop("b", 5, "as new", area=0.30000000000000004)])
    whole = {"shop": "a", "place": 1, "noted": 5, "town": "x", "opens": 9, "area": 0.1, "closed": 7}
    b = whole | {"shop": "b", "town": "as new", "area": 0.30000000000000004, "closed": None}
    assert store.read([Get("shops", ("a", 1)), Get("shops", ("c", 1)), Get("shops", ("b", 1))]) == [whole, None, b]
    store.upsert([Record("shops", {"shop": "d", "place": 2, "closed": 3})])
    assert store.read([Get("shops", ("d", 2))])[0]["town"] is None


def test_records_are_read_by_ranges(store: Store) -> None:
    store.upsert([shop("a", 1, opens=8), shop("b", 1, opens=9), shop("c", 1, "y", 10), shop("d", 1, opens=None)])

    def names(order: Order, equal: tuple, start: int, end: int) -> list[str]:
        return [record["shop"] for record in store.read([Range("shops", order, equal, start, end)])[0]]

    assert names(BY_OPENING, (), 0, 99) == ["a", "b", "c"]
    assert names(BY_OPENING, (), 9, 10) == ["b"]
    assert names(BY_TOWN, ("x",), 0, 99) == ["a", "b"]
    store.upsert([shop("a", 2, "y", 11), shop("b", 2, opens=None)])
    assert names(BY_TOWN, ("x",), 0, 99) == []
    assert names(BY_TOWN, ("y",), 0, 99) == ["c", "a"]
    (record,) = store.read([Range("shops", BY_TOWN, ("y",), 11, 12, ("shop", "opens"))])[0]
    assert (record["shop"], record["opens"]) == ("a", 11)


@pytest.mark.parametrize("odd", ["a|b", "50%7C", "a\tb\nc", "/x/", "", "ü"])
def test_keys_and_orders_may_hold_any_text(store: Store, odd: str) -> None:
    store.upsert([shop(odd, 1, odd)])
    (records,) = store.read([Range("shops", BY_TOWN, (odd,), 0, 99)])
    assert [(record["shop"], record["town"]) for record in records] == [(odd, odd)]
    assert store.read([Get("shops", (odd, 1))]) == records
    store.upsert([shop(odd, 2, "y")])
    assert store.read([Range("shops", BY_TOWN, (odd,), 0, 99), Range("shops", BY_OPENING, (), 0, 99)])[0] == []
    store.advance(1)
    store.advance(30 * DAY + 3)
    assert store.read([Range("shops", BY_OPENING, (), 0, 99)]) == [[]]


def test_records_of_which_nothing_is_new_are_forgotten(store: Store) -> None:
    store.upsert([shop("a", 1), shop("b", 1), Record("shops", {"shop": "b", "place": 1, "closed": 30 * DAY})])
    store.advance(1)
    store.advance(30 * DAY + 1)
    assert [bool(record) for record in store.read([Get("shops", ("a", 1)), Get("shops", ("b", 1))])] == [False, True]
    assert [record["shop"] for record in store.read([Range("shops", BY_OPENING, (), 0, 99)])[0]] == ["b"]


def test_distributions_add_up(store: Store) -> None:
    measures = (Measure("cents", "distribution", width=10), Measure("largest", "max", "cents"))
    stream = replace(STREAM, name="spread", measures=measures, tables=())
    where = str(getattr(store, "path", "")) or str(store._url)
    spread = opened(where, stream)
    spread.write([Row("all", "", 7, 1, (3, {0: 2, 5: 1.5}, 51)), Row("all", "", 8, 1, (1, {5: 1, 60: 4}, None))])
    spread.write([Row("all", "", 9, 1, (1, {1: 1}, 9))])
    spread.write([Row("all", "", 9, 1, (0, {}, None))])
    assert spread.rows() == [
        Row("all", "", 7, 1, (3, {0: 2, 5: 1.5}, 51)),
        Row("all", "", 8, 1, (1, {5: 1, 60: 4}, None)),
    ]
    (totals,) = spread.read([Span("all", "", 7, 10)])
    assert totals == (4, {0: 2, 5: 2.5, 60: 4}, 51)
    assert spread.read([Span("all", "", 10, 11)]) == [(0, {}, None)]
    assert stream.values_of(totals) == {
        "count": 4,
        "largest": 51,
        "cents": {"p50": 60, "p95": 610, "p99": 610, "parts": [[10, 2], [60, 2.5], [610, 4]]},
    }
    spread.close()
