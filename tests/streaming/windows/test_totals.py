"""Totals by minute and window against a plain computation, in process."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.transforms.window import IntervalWindow
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from streaming.windows.declaration import Measure
from streaming.windows.pipeline import build, messages_of
from streaming.windows.store import Row
from streaming.windows.totals import Arithmetic, Combine, _PaneRows
from tests.streaming.windows.shops import ONCE, STREAM, newest, orders, plain, recorded, run, written


@pytest.mark.parametrize("seed", range(2))
def test_versions_count_once_in_minutes_and_windows(tmp_path: Path, seed: int) -> None:
    messages = orders(800, seed)
    store = run(STREAM, messages, tmp_path / "store.sqlite")
    assert written(store) == plain(messages)
    assert written(store, 5) == plain(messages, 5, 5)
    assert written(store, 10) == plain(messages, 10, 2)
    assert store.watermark() == max(start for _, _, start in plain(messages)) + 1
    assert recorded(store) == newest(messages)


def test_without_identity_each_message_counts(tmp_path: Path) -> None:
    messages = orders(800)
    assert written(run(ONCE, messages, tmp_path / "store.sqlite")) == plain(messages, once=True)


def test_the_steps_without_an_end_can_be_submitted(tmp_path: Path) -> None:
    pipeline = beam.Pipeline()
    build(STREAM, messages_of(orders(1)), str(tmp_path / "store.sqlite"), follow=True)(pipeline)
    pipeline.to_runner_api()


@pytest.mark.parametrize(
    ("pane", "totals", "is_written"),
    [
        (PaneInfo(True, False, PaneInfoTiming.EARLY, 0, -1), (3, 7), True),
        (PaneInfo(False, True, PaneInfoTiming.ON_TIME, 1, 0), (3, 7), True),
        (PaneInfo(True, True, PaneInfoTiming.LATE, 0, 0), (3, 7), True),
        (PaneInfo(False, True, PaneInfoTiming.LATE, 1, 1), (3, 7), False),  # It expires.
        (PaneInfo(True, True, PaneInfoTiming.ON_TIME, 0, 0), None, False),  # It was cleared before its second timer,
        (PaneInfo(True, False, PaneInfoTiming.ON_TIME, 0, 0), None, False),  # or before that of an early firing.
        (PaneInfo(True, False, PaneInfoTiming.ON_TIME, 0, 0), (0, 0), True),  # All was taken back.
        (PaneInfo(False, False, PaneInfoTiming.LATE, 1, 1), (0, 0), True),
    ],
)
def test_which_firings_are_written(pane: PaneInfo, totals: tuple[int, ...] | None, is_written: bool) -> None:
    rows = [*_PaneRows().process((("all", ""), totals), of=IntervalWindow(60, 120), pane=pane)]
    assert rows == [Row("all", "", 1, 1, totals or (), pane.timing == PaneInfoTiming.EARLY)] * is_written


def test_a_window_to_which_nothing_came_has_no_totals() -> None:
    add = Combine(Arithmetic((Measure("a"),), retracts=True))
    empty = add.create_accumulator()
    assert add.extract_output(add.merge_accumulators([empty, empty])) is None
    one = add.add_input(empty, [1, 5])
    nothing = add.merge_accumulators([one, empty, add.add_input(None, [-1, -5])])
    assert add.extract_output(nothing) == (0, 0)
    assert add.extract_output(add.create_accumulator()) is None


def test_what_is_taken_back_leaves_nothing() -> None:
    arithmetic = Arithmetic((Measure("a"), Measure("b", "max", "a"), Measure("c", "mean")), retracts=True)
    account = arithmetic.empty()
    for sign, value in ((1, 5), (1, 7), (1, 7), (-1, 7), (1, 3)):
        arithmetic.add_values(account, sign, {"a": value})
    assert arithmetic.totals(account) == (3, 15, 7, 0)
    other = arithmetic.empty()
    arithmetic.add_values(other, -1, {"a": 7})
    arithmetic.add(account, other)
    assert arithmetic.totals(account) == (2, 8, 5, 0)
    for value in (5, 3):
        arithmetic.add_values(account, -1, {"a": value})
    assert account == arithmetic.empty()
    assert arithmetic.totals(account) == (0, 0, None, 0)


def test_maxima_where_nothing_is_taken_back() -> None:
    arithmetic = Arithmetic((Measure("a", "max"),), retracts=False)
    one, other = arithmetic.empty(), arithmetic.empty()
    arithmetic.add_values(one, 1, {})
    arithmetic.add(one, other)
    assert arithmetic.totals(one) == (1, None)
    arithmetic.add_values(other, 1, {"a": -2})
    arithmetic.add(one, other)
    assert arithmetic.totals(one) == (2, -2)
