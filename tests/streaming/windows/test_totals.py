"""Totals by minute and window against a plain computation, in process."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest

from streaming.windows.declaration import Measure
from streaming.windows.pipeline import build, messages_of
from streaming.windows.totals import Arithmetic
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
