"""The store in a SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from airtight.errors import TerminalError, TransientError
from streaming.windows.declaration import Measure
from streaming.windows.sqlite_store import DAY, SqliteStore
from streaming.windows.store import Reader, Row, Span, opened
from tests.streaming.windows.shops import STREAM


def row(start: int, count: int = 1, cents: int = 5, *, early: bool = False, key: str = "a", minutes: int = 1) -> Row:
    return Row("gifts", key, start, minutes, (count, cents, cents, cents if count else None), early)


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "folder" / "store.sqlite", STREAM)


def test_a_row_takes_the_place_of_the_one_before(store: SqliteStore) -> None:
    store.write([row(7), row(8), row(8, key="b")])
    store.write([row(7), row(8, 2, 9)])
    assert store.read([Span("gifts", "a", 7, 9), Span("gifts", "a", 8, 9), Span("gifts", "c", 0, 99)]) == [
        (3, 14, 14, 9),
        (2, 9, 9, 9),
        (0, 0, 0, None),
    ]
    store.write([row(8, 0, 0)])
    assert [(one.key, one.start) for one in store.rows()] == [("a", 7), ("b", 8)]
    assert store.newest(Span("gifts", "a", 0, 99)) == row(7)
    assert store.newest(Span("gifts", "a", 8, 99)) is None


def test_windows_are_apart_from_minutes(store: SqliteStore) -> None:
    store.write([row(10), row(10, 4, 20, minutes=5), row(15, minutes=5)])
    assert store.read([Span("gifts", "a", 0, 99)]) == [(1, 5, 5, 5)]
    assert store.windows("gifts", "a", 5, 10, 15) == [row(10, 4, 20, minutes=5)]


def test_the_watermark_never_goes_back_and_closes_early_rows(store: SqliteStore) -> None:
    store.write([row(7, 3)])
    assert store.watermark() is None
    store.advance(8)
    store.advance(5)
    assert store.watermark() == 8
    # An engine that went back to a checkpoint sees less of a minute for a moment.
    store.write([row(7, 1, early=True), row(8, 1, early=True)])
    assert [one.totals[0] for one in store.rows()] == [3, 1]
    store.write([row(7, 4)])
    assert store.read([Span("gifts", "a", 7, 8)])[0][0] == 4


def test_what_is_old_is_forgotten(store: SqliteStore) -> None:
    store.write([row(0), row(31 * DAY)])
    store.advance(30 * DAY + 1)
    assert [one.start for one in store.rows()] == [31 * DAY]


def test_a_reader_answers_for_the_minutes_before(store: SqliteStore) -> None:
    reader = Reader(store, STREAM)
    with pytest.raises(TransientError, match="cannot be used now"):
        reader.last_minutes("gifts", "a", 3, 600)
    store.write([row(6), row(7, 1, 6), row(9, 2, 9), row(10, 5)])
    store.advance(8)
    assert reader.last_minutes("gifts", "a", 3, 659.9) == {
        "count": 3,
        "cents": 15,
        "mean": 5.0,
        "largest": 9,
        "behind_minutes": 2,
    }


def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(store: SqliteStore) -> None:
    store.write([row(number) for number in range(2000)])
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = bytearray(store.path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    store.path.write_bytes(content)
    with pytest.raises(TransientError, match=r"was damaged, and is now .*damaged-.*--anew"):
        store.read([Span("gifts", "a", 0, 99)])
    store.write([row(7)])
    assert [one.start for one in store.rows()] == [7]
    assert [path.read_bytes() for path in store.path.parent.glob("*.damaged-*")] == [content]

    store.close()
    store.path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(TransientError, match="was damaged"):
        store.write([row(8)])
    store.write([row(8)])


def test_other_measures_are_refused(store: SqliteStore) -> None:
    store.write([row(7)])
    other = SqliteStore(store.path, replace(STREAM, measures=(Measure("cents"),)))
    with pytest.raises(TerminalError, match="laid out for other measures"):
        other.write([])
    opened(str(store.path), replace(STREAM, name="beside")).write([row(9)])
    assert [one.start for one in store.rows()] == [7]


def test_threads_write_beside_each_other(store: SqliteStore) -> None:
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
