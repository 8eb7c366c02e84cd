"""The store in a SQLite file: what is its own."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from airtight.errors import TerminalError, TransientError
from streaming.windows.declaration import Measure
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Span, opened
from tests.streaming.windows.shops import STREAM
from tests.streaming.windows.test_store import row


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "folder" / "store.sqlite", STREAM)


def test_no_file_is_a_transient_fault(store: SqliteStore) -> None:
    with pytest.raises(TransientError, match="cannot be used now"):
        store.read([Span("gifts", "a", 0, 9)])


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
