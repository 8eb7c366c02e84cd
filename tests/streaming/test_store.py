"""The online store: the same promises of each implementation, and what is SQLite's own."""

from __future__ import annotations

import importlib.util
import multiprocessing
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from airtight.errors import TerminalError, TransientError
from streaming.queries import Count, Get, Hour, Last, Order, Range, Sum, Table, Totals
from streaming.store import SqliteStore, last, opened, window
from tests.streaming import fake_redis
from tests.waiting import until

BY_DUE, BY_PORT = Order((), "due", beside=("sailed",)), Order(("port",), "due")
TABLE = Table(
    "ships",
    key=("id",),
    parts={"planned": ("port", "due"), "sailed": ()},
    orders=(BY_DUE, BY_PORT),
)
READINGS = Table("readings", key=("port", "hour"), parts={"known": ("wind",)})
TABLES = (TABLE, READINGS)
HOUR = 1000
START = HOUR * 60


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    """Its address; a real one."""
    program = shutil.which("redis-server")
    if program is None or importlib.util.find_spec("redis") is None:
        pytest.skip("neither a Redis server nor its client is here")
    folder = tmp_path_factory.mktemp("redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder))
    server = subprocess.Popen([program, *settings], stdout=subprocess.DEVNULL)
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "Redis listens")
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(params=["sqlite", "fake redis", "redis"])
def where(request, tmp_path, monkeypatch) -> str:
    """An address under which there is no store yet."""
    if request.param == "sqlite":
        return str(tmp_path / "folder" / "online.sqlite")
    if request.param == "fake redis":
        monkeypatch.setitem(sys.modules, "redis", fake_redis)
        return f"redis://fake/{request.node.name}"
    url = request.getfixturevalue("redis_server")
    import redis

    redis.Redis.from_url(url).flushdb()
    return url


@pytest.fixture
def store(where):
    made = opened(where, TABLES)
    yield made
    made.close()


def totals(group: str, *rows: tuple) -> Totals:
    """Rows of key, minute within the hour, count, late, minutes, largest."""
    told = np.array([row[1:] for row in rows], np.int64).reshape(-1, 5).T
    return Totals(group, [row[0] for row in rows], told[0] + START, *told[1:])


def put(store, messages: int, *of: Totals, hour: int = HOUR, watermark: int | None = None, **rows) -> bool:
    shifted = [each._replace(minute=each.minute + (hour - HOUR) * 60) for each in of]
    return store.put_hour(hour, messages, shifted, rows, watermark)


def test_windows_are_sums_of_minutes_half_open(store):
    put(store, 3, totals("by port", ("a|1", 5, 2, 1, 30, 20), ("a|1", 6, 1, 0, -4, -4), ("b|1", 5, 1, 1, 99, 99)))
    assert window(store, "by port", "a|1", START + 5, START + 7) == (3, 1, 26)
    assert window(store, "by port", "a|1", START + 6, START + 7) == (1, 0, -4)
    assert window(store, "by port", "a|1", START + 5, START + 6) == (2, 1, 30)
    assert window(store, "by port", "a|1", START + 7, START + 99) == (0, 0, 0)
    assert window(store, "by port", "c|1", START, START + 60) == (0, 0, 0)
    assert window(store, "none", "a|1", START, START + 60) == (0, 0, 0)


def test_the_last_minute_is_the_newest_before_the_end(store):
    put(store, 3, totals("by ship", ("x", 5, 2, 1, 30, 20), ("x", 6, 1, 0, -4, -4)))
    assert last(store, "by ship", "x", START, START + 60) == (START + 6, -4)
    assert last(store, "by ship", "x", START, START + 6) == (START + 5, 20)
    assert last(store, "by ship", "x", START + 7, START + 60) is None
    assert last(store, "by ship", "y", START, START + 60) is None
    assert last(store, "none", "x", START, START + 60) is None


def test_groups_and_keys_do_not_mix(store):
    put(
        store,
        2,
        totals("a", ("k", 1, 1, 0, 1, 1)),
        totals("b", ("k", 1, 5, 0, 1, 1)),
        totals("all", ("", 1, 6, 0, 1, 1)),
    )
    ask = [Sum(group, key, START, START + 60) for group, key in (("a", "k"), ("b", "k"), ("all", ""))]
    assert [answer[0] for answer in store.read(ask)] == [1, 5, 6]


def test_a_fuller_hour_replaces_and_a_poorer_one_does_not(store):
    assert put(store, 2, totals("g", ("k", 1, 1, 0, 10, 10), ("k", 2, 1, 0, 10, 10)))
    assert put(store, 2, totals("g", ("k", 1, 1, 0, 10, 10), ("k", 2, 1, 0, 10, 10)))
    assert window(store, "g", "k", START, START + 60) == (2, 0, 20)
    # Of a flight told twice the minute may have moved: nothing of the old hour stays.
    assert put(store, 5, totals("g", ("k", 3, 4, 0, 40, 10)), totals("h", ("k", 3, 4, 0, 40, 10)))
    assert window(store, "g", "k", START, START + 60) == (4, 0, 40)
    assert not put(store, 4, totals("g", ("k", 9, 9, 9, 9, 9)), ships=[{"id": "s", "sailed": 7}])
    assert window(store, "g", "k", START, START + 60) == (4, 0, 40)
    assert store.read([Get("ships", ("s",))]) == [None]
    assert store.messages(HOUR) == 5 and store.messages(HOUR + 1) == 0
    # The hours beside it are left alone.
    assert put(store, 1, totals("g", ("k", 0, 1, 0, 1, 1)), hour=HOUR + 1)
    assert put(store, 1, totals("g", ("k", 59, 1, 0, 1, 1)), hour=HOUR - 1)
    assert put(store, 6)
    assert window(store, "g", "k", START - 60, START + 120) == (2, 0, 2)
    assert window(store, "h", "k", START - 60, START + 120) == (0, 0, 0)


def an_hour(messages: int, *rows: tuple, number: int = HOUR, watermark: int | None = None, **facts) -> Hour:
    of = totals("g", *rows)
    return Hour(number, messages, [of._replace(minute=of.minute + (number - HOUR) * 60)], facts, watermark)


def count(store, start: int = 0, end: int = 10 * START) -> int:
    return window(store, "g", "k", start, end)[0]


def test_what_comes_late_is_in_every_window_around_it(store):
    """Against sums by hand, of hours that come in any order and are replaced."""
    dice, held = np.random.default_rng(0), {}
    for messages, number in enumerate(dice.integers(0, 6, 40), start=1):
        minutes = dice.choice(60, int(dice.integers(0, 6)), replace=False)
        rows = [(str(dice.integers(2)), int(minute), *map(int, dice.integers(0, 9, 4))) for minute in minutes]
        assert put(store, messages, totals("g", *rows), hour=HOUR + int(number), watermark=START)
        if messages % 3 == 0:
            assert put(store, messages, totals("g", *rows), hour=HOUR + int(number), watermark=START)
        held[int(number)] = rows
    told = {(key, START + number * 60 + minute): rest for number, rows in held.items() for key, minute, *rest in rows}
    for start, end in np.sort(dice.integers(START - 5, START + 6 * 60 + 5, (200, 2))).tolist():
        for key in ("0", "1"):
            inside = {at: rest for (of, at), rest in told.items() if of == key and start <= at < end}
            expected = tuple(sum(rest[place] for rest in inside.values()) for place in range(3))
            newest = (max(inside), inside[max(inside)][3]) if inside else None
            assert (window(store, "g", key, start, end), last(store, "g", key, start, end)) == (expected, newest)


def test_hours_together_are_as_one_after_the_other(store):
    plan = {"id": "s", "planned": START, "port": "p", "due": START}
    hours = [
        an_hour(1, ("k", 5, 1, 0, 1, 1), ships=[plan], watermark=START + 60),
        an_hour(2, ("k", 5, 2, 0, 1, 1), number=HOUR + 1, ships=[{"id": "s", "sailed": START + 70}]),
        an_hour(3, ("k", 6, 3, 0, 1, 1), ships=[{**plan, "port": "q"}]),
    ]
    assert store.put_hours(hours) == [True] * 3
    # Of the hour that is there twice the fuller one stays, and nothing of the other.
    assert (count(store), count(store, end=START + 6)) == (5, 0)
    assert (store.messages(HOUR), store.messages(HOUR + 1), store.freshest()) == (3, 2, START + 66)
    row = store.read([Get("ships", ("s",))])[0]
    assert (row["port"], row["sailed"]) == ("q", START + 70)
    assert store.put_hours(hours) == [False, True, True]
    assert count(store) == 5


def test_an_hour_of_fewer_messages_among_others_is_passed_over(store):
    assert put(store, 5, totals("g", ("k", 1, 5, 0, 1, 1)))
    fewer = an_hour(4, ("k", 1, 4, 0, 1, 1), ships=[{"id": "s", "sailed": 7}], watermark=START + 999)
    assert store.put_hours(
        [an_hour(1, ("k", 1, 1, 0, 1, 1), number=HOUR - 1), fewer, an_hour(2, ("k", 1, 2, 0, 1, 1), number=HOUR + 1)]
    ) == [True, False, True]
    assert count(store) == 8 and count(store, START, START + 60) == 5 and store.messages(HOUR) == 5
    assert store.read([Get("ships", ("s",))]) == [None] and store.freshest() == START + 62


def test_what_expires_by_an_hour_of_the_same_call_is_gone(store):
    late = an_hour(1, ("k", 1, 1, 0, 1, 1), number=HOUR + 31 * 24)
    assert store.put_hours([an_hour(2, ("k", 1, 2, 0, 1, 1)), late, an_hour(3, ("k", 1, 3, 0, 1, 1))]) == [
        True,
        True,
        False,
    ]
    assert count(store) == 1


def test_hours_of_which_one_is_malformed_leave_no_trace(store):
    with pytest.raises(KeyError):
        store.put_hours([an_hour(1, ("k", 1, 1, 0, 1, 1)), an_hour(1, number=HOUR + 1, ships=[{"planned": 1}])])
    put(store, 1, hour=HOUR + 5)
    assert store.messages(HOUR) == 0 and count(store) == 0


def test_no_hours_are_no_work(store):
    assert store.put_hours([]) == []


def test_facts_come_in_parts_and_the_newest_of_each_stays(store):
    plan = {"id": "s", "planned": 10, "port": "p", "due": 500}
    put(store, 1, ships=[{"id": "s", "sailed": 520}, plan])
    row = store.read([Get("ships", ("s",))])[0]
    assert {name: row[name] for name in TABLE.columns} == {**plan, "sailed": 520}
    # An older plan that is written later changes nothing; a newer one changes the plan alone.
    put(store, 1, hour=HOUR + 1, ships=[{**plan, "planned": 9, "due": 1}])
    put(store, 1, hour=HOUR + 2, ships=[{**plan, "planned": 11, "port": "q", "due": 600}])
    put(store, 1, hour=HOUR + 3, ships=[{"id": "s", "sailed": 510}])
    row = store.read([Get("ships", ("s",))])[0]
    assert (row["port"], row["due"], row["planned"], row["sailed"]) == ("q", 600, 11, 520)
    ask = [Range("ships", BY_PORT, (port,), 0, 1000) for port in ("p", "q")]
    assert [[row["id"] for row in rows] for rows in store.read(ask)] == [[], ["s"]]


def test_of_one_hour_the_last_as_new_row_of_a_part_stays(store):
    plan = {"id": "s", "planned": 10, "port": "p", "due": 500}
    put(store, 1, ships=[plan, {**plan, "port": "q"}, {**plan, "port": "r", "planned": 9}])
    assert store.read([Get("ships", ("s",))])[0]["port"] == "q"


def test_ranges_are_half_open_in_order_and_by_what_is_equal(store):
    dues = {"a": ("p", 50), "b": ("q", 40), "c": ("p", 60), "d": ("p", 70)}
    put(store, 1, ships=[{"id": ship, "planned": 1, "port": port, "due": due} for ship, (port, due) in dues.items()])
    put(store, 1, hour=HOUR + 1, ships=[{"id": "unplanned", "sailed": 55}])

    def ask(*query) -> list[str]:
        return [row["id"] for row in store.read([Range("ships", *query)])[0]]

    assert ask(BY_DUE, (), 40, 70) == ["b", "a", "c"]
    assert ask(BY_PORT, ("p",), 0, 70) == ["a", "c"]
    assert ask(BY_PORT, ("none",), 0, 100) == []
    counts = [
        Count("ships", BY_DUE, (), 40, 70),
        Count("ships", BY_PORT, ("p",), 0, 71),
        Count("ships", BY_DUE, (), 0, 1),
    ]
    assert store.read(counts) == [3, 3, 0]


def test_rows_that_are_done_are_left_out(store):
    put(store, 1, ships=[{"id": ship, "planned": 1, "port": "p", "due": 50} for ship in "abc"])
    put(store, 1, hour=HOUR + 1, ships=[{"id": "a", "sailed": 55}, {"id": "b", "sailed": 56}])
    for order, equal in ((BY_DUE, ()), (BY_PORT, ("p",))):
        rows = store.read([Range("ships", order, equal, 0, 100, unless=("sailed", 56))])[0]
        assert sorted(row["id"] for row in rows) == ["b", "c"]


def test_a_window_longer_than_its_span_is_whole(tmp_path):
    store = SqliteStore(tmp_path / "s", TABLES, spans={"g": 7})
    put(store, 60, totals("g", *(("k", minute, 1, 0, minute, minute) for minute in range(60))))
    for start, end in ((0, 60), (3, 7), (6, 8), (7, 14), (13, 40), (5, 5)):
        told = window(store, "g", "k", START + start, START + end)
        assert told == (end - start, 0, sum(range(start, end)))
        assert last(store, "g", "k", START + start, START + end) == (
            (START + end - 1, end - 1) if end > start else None
        )


def test_values_keep_their_types(store):
    put(store, 1, readings=[{"port": "p", "hour": 60, "known": 120, "wind": 1.5}])
    put(store, 1, hour=HOUR + 1, readings=[{"port": "p", "hour": 61, "known": 121, "wind": None}])
    first, second, none = store.read([Get("readings", ("p", hour)) for hour in (60, 61, 62)])
    assert (first["wind"], second["wind"], second["known"], none) == (1.5, None, 121, None)


def test_the_watermark_never_goes_back(store):
    put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)))
    assert store.freshest() == START + 8
    put(store, 1, totals("g", ("k", 9, 1, 0, 1, 1)), hour=HOUR - 1)
    assert store.freshest() == START + 8
    put(store, 1, hour=HOUR + 1)
    assert store.freshest() == START + 8
    put(store, 2, hour=HOUR + 1, watermark=START + 100)
    assert store.freshest() == START + 100


def test_what_is_old_expires_and_does_not_come_back(store):
    day = 24
    put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)), ships=[{"id": "s", "planned": START, "port": "p", "due": START}])
    put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)), hour=HOUR + 31 * day)
    assert window(store, "g", "k", 0, START + 60) == (0, 0, 0)
    assert window(store, "g", "k", 0, 10 * START) == (1, 0, 1)
    assert not put(store, 9, totals("g", ("k", 7, 1, 0, 1, 1)))
    assert put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)), hour=HOUR + 2 * day)
    assert window(store, "g", "k", 0, 10 * START) == (2, 0, 2)


def test_another_client_sees_it(store, where):
    put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)))
    other = opened(where, TABLES)
    assert window(other, "g", "k", 0, 10 * START) == (1, 0, 1) and other.freshest() == START + 8
    other.close()
    assert window(other, "g", "k", 0, 10 * START) == (1, 0, 1)


def test_no_questions_no_answers(store):
    put(store, 1)
    assert store.read([]) == [] and store.freshest() is None


def test_reading_makes_no_store(tmp_path):
    store = SqliteStore(tmp_path / "none" / "online.sqlite", TABLES)
    for read in (store.freshest, lambda: store.read([Sum("g", "k", 0, 1)]), lambda: store.messages(1)):
        with pytest.raises(TransientError, match="online store"):
            read()
    assert not (tmp_path / "none").exists()
    put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)))
    assert store.read([Last("g", "k", START, START + 60)]) == [(START + 7, 1)]


def test_a_file_of_other_tables_is_refused(tmp_path):
    put(SqliteStore(tmp_path / "s", TABLES), 1)
    with pytest.raises(TerminalError, match="laid out"):
        put(SqliteStore(tmp_path / "s", (TABLE,)), 1)


def test_a_new_file_in_its_place_is_found(tmp_path):
    path = tmp_path / "s"
    store = SqliteStore(path, TABLES)
    put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)))
    assert store.freshest() == START + 8
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(TransientError):
        store.freshest()
    put(SqliteStore(path, TABLES), 1, totals("g", ("k", 9, 1, 0, 1, 1)))
    assert store.freshest() == START + 10


def test_a_put_that_fails_leaves_the_hour_as_it_was(tmp_path):
    store = SqliteStore(tmp_path / "s", TABLES)
    put(store, 1, totals("g", ("k", 7, 1, 0, 1, 1)))
    with pytest.raises(KeyError):
        put(store, 2, totals("g", ("k", 8, 1, 0, 1, 1)), ships=[{"planned": 1}])
    assert window(store, "g", "k", START, START + 60) == (1, 0, 1) and store.messages(HOUR) == 1
    assert put(store, 2, totals("g", ("k", 8, 2, 0, 1, 1)))


def _writes(path, first: int, ready) -> None:
    store = SqliteStore(path, TABLES)
    ready.wait()
    for messages in range(first, 60, 2):
        put(store, messages, totals("g", ("k", messages % 60, messages, 0, 0, 0)))


@pytest.mark.slow
def test_writers_and_readers_at_once_see_whole_hours(tmp_path):
    path = tmp_path / "s"
    put(SqliteStore(path, TABLES), 1, totals("g", ("k", 1, 1, 0, 0, 0)))
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(2)
    writers = [spawn.Process(target=_writes, args=(path, first, ready)) for first in (1, 2)]
    seen: set[bool] = set()
    store = SqliteStore(path, TABLES)

    def read() -> None:
        while any(writer.is_alive() for writer in writers):
            (count, _, _), newest = store.read([Sum("g", "k", 0, START * 2), Last("g", "k", 0, START * 2)])
            seen.add(newest[0] - START == count)

    for writer in writers:
        writer.start()
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for each in (*writers, *readers):
        each.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == {True} and store.messages(HOUR) == 59
    assert window(store, "g", "k", START, START + 60) == (59, 0, 0)
