"""Where hours go, in which order, and what a crash in between leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from streaming import sink
from streaming.accounts import Accounts
from streaming.queries import Table, Totals
from streaming.sink import Sink, messages_in, path_of
from streaming.store import SqliteStore, window

TABLES = (Table("ships", key=("id",), parts={"sailed": ()}),)
HOUR = 1000


class Made(NamedTuple):
    number: int
    messages: int
    over: bool = True
    watermark: int | None = None
    rows: dict[str, list[dict[str, Any]]] | None = {}  # noqa: RUF012 - nobody changes it.

    @property
    def totals(self) -> list[Totals]:
        numbers = [np.array([value], np.int64) for value in (self.number * 60, self.messages, 0, 7, 7)]
        return [Totals("g", ["k"], *numbers)]


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "store.sqlite", TABLES)


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(tmp_path / "accounts.sqlite")


def held(store: SqliteStore, hours: int = 3) -> list[int]:
    return [window(store, "g", "k", number * 60, number * 60 + 60)[0] for number in range(HOUR, HOUR + hours)]


def test_only_hours_that_are_over_go_into_lake_and_account(
    store: SqliteStore, accounts: Accounts, tmp_path: Path
) -> None:
    hours = [Made(HOUR, 3), Made(HOUR + 1, 4, over=False), Made(HOUR + 2, 5)]
    assert Sink(store, tmp_path / "lake", accounts).write(hours) == [HOUR, HOUR + 1, HOUR + 2]
    assert held(store) == [3, 4, 5]
    assert [messages_in(path_of(tmp_path / "lake", hour.number)) for hour in hours] == [3, 0, 5]
    assert [accounts.written(hour.number) for hour in hours] == [3, 0, 5]
    (row,) = pq.read_table(path_of(tmp_path / "lake", HOUR), partitioning=None).to_pylist()
    assert (row["group"], row["key"], row["count"], row["minutes"], row["largest"]) == ("g", "k", 3, 7, 7)


def test_an_hour_of_which_more_was_written_is_passed_over_among_others(store: SqliteStore, accounts: Accounts) -> None:
    here = Sink(store, None, accounts)
    here.write([Made(HOUR, 9)])
    assert here.write([Made(HOUR, 3), Made(HOUR + 1, 1)]) == [HOUR + 1]
    assert held(store) == [9, 1, 0] and accounts.written(HOUR) == 9


@pytest.mark.parametrize("step", ["put_hours", "write_parquet", "write_hours"])
def test_a_crash_between_two_steps_is_made_good_by_writing_again(
    store: SqliteStore, accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    place = {"put_hours": store, "write_parquet": sink, "write_hours": accounts}[step]
    hours, here = [Made(HOUR, 3), Made(HOUR + 1, 4)], Sink(store, tmp_path / "lake", accounts)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(place, step, killed)
        here.write(hours)
    # Whatever is there, the account says that nothing is: the hours are read, and written, again.
    assert [accounts.written(hour.number) for hour in hours] == [0, 0]
    assert here.write(hours) == [HOUR, HOUR + 1]
    assert held(store, 2) == [3, 4] and [accounts.written(hour.number) for hour in hours] == [3, 4]
    assert [messages_in(path_of(tmp_path / "lake", hour.number)) for hour in hours] == [3, 4]


def test_an_hour_without_facts_is_refused_before_anything_is_written(store: SqliteStore, accounts: Accounts) -> None:
    with pytest.raises(TerminalError, match="half-made"):
        Sink(store, None, accounts).write([Made(HOUR, 3), Made(HOUR + 1, 3, rows=None)])
    assert not store.path.exists() and accounts.written(HOUR) == 0


def test_what_comes_together_is_written_together_and_of_an_hour_the_fullest(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[tuple[int, int]]] = []
    put = store.put_hours
    monkeypatch.setattr(store, "put_hours", lambda hours: calls.append([each[:2] for each in hours]) or put(hours))
    monkeypatch.setattr(sink, "AT_ONCE", 10)
    writer = sink._Write(lambda: store, None, None)
    writer.setup()
    for bundle in ([(0, 1), (1, 2), (0, 3), (0, 2)], [(0, 4), (1, 6), (2, 1)], []):
        writer.start_bundle()
        for number, messages in bundle:
            writer.process(Made(HOUR + number, messages))
        writer.finish_bundle()
    assert calls == [[(HOUR, 3), (HOUR + 1, 2)], [(HOUR, 4), (HOUR + 1, 6)], [(HOUR + 2, 1)]]
    assert held(store) == [4, 6, 1]


def test_a_bundle_that_failed_leaves_nothing_to_the_next(store: SqliteStore) -> None:
    writer = sink._Write(lambda: store, None, None)
    writer.setup()
    writer.start_bundle()
    writer.process(Made(HOUR, 3))
    writer.start_bundle()
    writer.process(Made(HOUR + 1, 4))
    writer.finish_bundle()
    assert held(store, 2) == [0, 4]
