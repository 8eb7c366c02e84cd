"""The command over the lake: its messages are read as the steps take them, and never held all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from streaming.windows import __main__ as command
from streaming.windows.messages import Message
from streaming.windows.sqlite_store import SqliteStore
from tests.streaming.windows.shops import BEGIN, STREAM, orders, plain, run, written

COUNT, FEW = 2_000, 300
ALIVE = {"now": 0, "most": 0}
"""How many messages of the replay there are."""


class CountedMessage(Message):
    def __del__(self) -> None:
        ALIVE["now"] -= 1


def messages(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """Orders of the test, of which nothing is read from the lake."""
    # A day before, in which versions are known, and less five minutes; two hours later.
    span = start.isoformat(" ", "minutes"), end.isoformat(" ", "minutes")
    assert (lake.name, *span) == ("tables", "2013-05-30 23:55+00:00", "2013-06-02 02:00+00:00")
    for message in orders(COUNT):
        ALIVE["now"] += 1
        ALIVE["most"] = max(ALIVE.values())
        yield CountedMessage(*message)


def published(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    yield from (one for one in orders(FEW) if start.timestamp() <= one.published_ms / 1000 < end.timestamp())


REPLAYED = replace(STREAM, replay="tests.streaming.windows.test_lake:messages")
SPAN = replace(STREAM, replay="tests.streaming.windows.test_lake:published")


def test_the_span_of_the_lake_is_not_held_in_memory(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    flags = ["--lake", "2013-06-01", "2013-06-02", "--store", str(store), "--tables", str(tmp_path / "tables")]
    assert command.main(["tests.streaming.windows.test_lake:REPLAYED", *flags]) == 0
    assert written(SqliteStore(store, STREAM)) == plain(orders(COUNT))
    assert 0 < ALIVE["most"] < COUNT / 10


def test_a_span_writes_whole_windows_and_leaves_others_as_they_are(tmp_path: Path) -> None:
    begin, end = "2013-06-01T10:31:30", "2013-06-01T12:03"
    lasts = (1, 1), (5, 5), (10, 2)
    live = run(STREAM, orders(FEW), tmp_path / "live.sqlite")
    empty = SqliteStore(tmp_path / "empty.sqlite", STREAM)
    for store in (live, empty):
        flags = ["--lake", begin, end, "--store", str(store.path), "--tables", str(tmp_path)]
        assert command.main(["tests.streaming.windows.test_lake:SPAN", *flags]) == 0
    first, last = 32 + BEGIN // 60, 123 + BEGIN // 60
    for minutes, every in lasts:
        rows = plain(orders(FEW), minutes, every)
        assert written(live, minutes) == rows
        inside = {place: totals for place, totals in rows.items() if first <= place[2] <= last - minutes}
        assert inside and written(empty, minutes) == inside
    assert last - 9 < empty.watermark() <= last


def test_a_stream_without_a_replay_is_a_fault_of_its_own(tmp_path: Path, caplog) -> None:
    flags = ["--lake", "2013-06-01", "2013-06-02", "--store", str(tmp_path / "store.sqlite")]
    assert command.main(["tests.streaming.windows.shops:STREAM", *flags]) == 64
    assert "The stream shops cannot be replayed." in caplog.text
