"""Totals in the engine's state: against a plain sum, when the engine goes back, and when windows are forgotten."""

from __future__ import annotations

import random
from typing import Any

import pytest
from apache_beam.utils.timestamp import Timestamp

from streaming.windows import mirrored_log, totals
from streaming.windows.arithmetic import Place
from streaming.windows.messages import Event
from streaming.windows.totals import PackInBundle, RunningTotals
from tests.streaming.windows.engine_state import Handle, State, Token, copy
from tests.streaming.windows.shops import BEGIN, LATENESS_S, STREAM

MINUTE = BEGIN // 60


def event(minute: int, cents: int, shop: str = "a") -> Event:
    return Event((MINUTE + minute) * 60.0, {"shop": shop, "kind": "gift"}, {"cents": cents}, "x")


class Engine:
    """Runs bundles, and keeps what they write as a store does."""

    def __init__(self, seed: int = 0) -> None:
        self.dice, self.states = random.Random(seed), dict[str, State]()
        self.rows: dict[Place, tuple[Any, ...]] = {}
        self.pack, self.step = PackInBundle(STREAM), RunningTotals(STREAM)
        self.pack.setup()
        self.step.setup()
        self.dropped = 0
        self.step._dropped = self

    def inc(self, number: int) -> None:
        self.dropped += number

    def bundle(self, changes: list[Any]) -> None:
        self.pack.start_bundle()
        self.pack.process(changes)
        self.step.start_bundle()
        for element in self.pack.finish_bundle():
            handle = Handle(self.states.setdefault(element.value[0], State()), self.dice)
            for rows in self.step.process(element.value, handle, Token(handle.value), handle):
                self.rows.update((row[:4], row.totals) for row in rows)
        self.step.finish_bundle()

    def advance_to(self, now: float) -> None:
        for part, state in self.states.items():
            while state.at is not None and state.at <= now:
                at, state.at = state.at, None
                self.step.start_bundle()
                handle = Handle(state, self.dice)
                self.step.expire(part, handle, Token(state), Timestamp(at), handle)

    def of_minute(self, minute: int) -> tuple[Any, ...] | None:
        return self.rows.get(("all", "", MINUTE + minute, 1))

    def accounts(self) -> int:
        return sum(len(log.content) for log in mirrored_log.in_memory.values())


@pytest.fixture(autouse=True)
def _nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored_log.in_memory.clear()
    monkeypatch.setattr(mirrored_log, "SLACK", 4)


@pytest.mark.parametrize("seed", range(4))
def test_totals_are_exact_when_the_engine_goes_back(seed: int) -> None:
    engine = Engine(seed)
    events = [event(engine.dice.randrange(30), engine.dice.randrange(100)) for _ in range(300)]
    # Half of them are taken back later.
    changes = [(1, one) for one in events] + [(-1, one) for one in events[::2]]
    kept, at = (0, copy(engine.states)), 0
    while at < len(changes):
        end = min(len(changes), at + engine.dice.randrange(1, 30))
        fails = engine.dice.random() < 0.2
        engine.bundle(changes[at : engine.dice.randrange(at, end) if fails else end])
        at = end
        if fails:
            at, engine.states = kept[0], copy(kept[1])
            if engine.dice.random() < 0.5:
                mirrored_log.in_memory.clear()
        elif engine.dice.random() < 0.4:
            kept = (at, copy(engine.states))
    for minutes, every in ((1, 1), (5, 5), (10, 2)):
        for first in range(-10, 30):
            start = MINUTE + first
            if start % every:
                continue
            within = [one.values["cents"] for one in events[1::2] if first <= one.at // 60 - MINUTE < first + minutes]
            expected = (len(within), sum(within), sum(within), max(within, default=None))
            for place in (("all", "", start, minutes), ("gifts", "a", start, minutes)):
                assert engine.rows.get(place, (0, 0, 0, None)) == expected, place


def test_windows_are_forgotten_when_their_lateness_has_passed_and_do_not_begin_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(totals, "MANY", 10)
    engine, lateness, most = Engine(), LATENESS_S // 60, 0
    for minute in range(1_000):
        engine.bundle([(1, event(minute, 1))])
        engine.advance_to((MINUTE + minute) * 60)
        most = max(most, engine.accounts())
    groups = len(STREAM.groups)
    assert most <= 3 * groups * (lateness + 20), "one in two is needed at least, with the windows that hold it"
    assert sum(len(state.log) for state in engine.states.values()) < 3 * most
    engine.bundle([(1, event(10, 5)), (1, event(999, 5))])
    assert engine.dropped, "what is too late is counted"
    assert engine.of_minute(10)[:2] == (1, 1), "and does not take the place of what was written"
    assert engine.of_minute(999)[:2] == (2, 6)
    mirrored_log.in_memory.clear()
    engine.bundle([(1, event(10, 7))])
    assert engine.of_minute(10)[:2] == (1, 1), "also where the state is read again"


def test_few_windows_are_held_however_old_they_are() -> None:
    engine = Engine()
    engine.bundle([(1, event(0, 1))])
    assert all(state.at is None for state in engine.states.values()), "a sparse stream has no timers"
    engine.bundle([(1, event(0, 2))])
    assert engine.of_minute(0)[:2] == (2, 3)


def test_a_log_that_is_not_used_leaves_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrored_log, "KEPT_S", 0.0)
    engine = Engine()
    for _ in range(3):
        engine.bundle([(1, event(0, 1, shop)) for shop in "abcdefgh"])
        assert len(engine.states) > len(mirrored_log.in_memory) == 1, "only what was used last"
        assert not engine.step._logs._current, "and the step holds nothing"
    assert engine.of_minute(0)[:2] == (24, 24), "it is read again"


def test_late_sums_do_not_make_a_log_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MANY", 10)
    engine = Engine()
    for minute in range(500):
        engine.bundle([(1, event(minute, 1))])
        engine.advance_to((MINUTE + minute) * 60)
    for _ in range(50):
        mirrored_log.in_memory.clear()
        engine.bundle([(1, event(minute, 1)) for minute in range(100)])
    accounts = engine.accounts()
    assert sum(len(totals._decode(entry)[1]) for state in engine.states.values() for entry in state.log) < 4 * accounts


def test_a_part_is_one_entry_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "SLICE", 3)
    engine = Engine()
    for _ in range(3):
        engine.bundle([(1, event(minute, 1)) for minute in range(40)])
        mirrored_log.in_memory.clear()
    assert {engine.of_minute(minute)[:2] for minute in range(40)} == {(3, 3)}


def test_windows_before_1970_count() -> None:
    engine = Engine()
    engine.bundle([(1, event(-MINUTE - 5, 1))])
    assert engine.of_minute(-MINUTE - 5)[:2] == (1, 1)
    assert not engine.dropped
