"""The store's watermark beside the engine's: a small engine with timers by tag, which fire in bundles."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.utils.timestamp import Timestamp

from streaming.windows.pipeline import build, messages_of
from streaming.windows.sink import DAY, Advance, _decode
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Reader
from tests.streaming.windows.shops import STREAM, message


class State:
    def __init__(self) -> None:
        self.value: Any = None

    def read(self) -> Any:
        return self.value

    def write(self, value: Any) -> None:
        self.value = value


class Engine:
    """Timers that are set are there after the bundle; those that event time has passed fire together."""

    def __init__(self, path: Path, follow: bool) -> None:
        self.store = SqliteStore(path, STREAM)
        self.step = Advance(STREAM, str(path), follow)
        self.step.setup()
        self.reached, self.newest, self.held = State(), State(), State()
        self.timers: dict[str, Timestamp] = {}
        self.waiting: dict[str, Timestamp] = {}
        self.bundles = 0

    def set(self, at: Timestamp, dynamic_timer_tag: str = "") -> None:
        self.waiting[dynamic_timer_tag] = at

    @property
    def lost(self) -> int:
        """The minute that the metric has."""
        return _decode(self.held.value).lost

    def bundle(self, *, ends: list[int] = (), times: list[Timestamp] = ()) -> None:
        self.step.start_bundle()
        for end in ends:
            self.step.process(("", end), self.reached, self.newest, self.held, self)
        for time in times:
            self.step.advance(self.reached, self.newest, self.held, self, time)
        self.step.finish_bundle()
        self.timers |= self.waiting
        self.waiting = {}
        self.bundles += 1

    def advance_to(self, minute: float) -> None:
        while passed := sorted((at, tag) for tag, at in self.timers.items() if at <= Timestamp(minute * 60)):
            for _, tag in passed:
                del self.timers[tag]
            self.bundle(times=[at for at, _ in passed])


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "store.sqlite", follow=True)


def test_it_follows_event_time_by_the_minute_in_silence_too(engine: Engine) -> None:
    engine.bundle(ends=[1_000])
    engine.advance_to(999.9)
    assert engine.bundles == 1, "nothing is passed"
    for minute in (1_000, 1_001, 1_002, 1_050):
        engine.advance_to(minute + 0.5)
        assert engine.store.watermark() == minute


def test_what_is_days_ahead_does_not_hold_it(engine: Engine) -> None:
    """Such as the message of a clock that is ahead, or of the next day."""
    engine.bundle(ends=[1_000])
    engine.advance_to(1_000)
    engine.bundle(ends=[1_000 + 5_000])
    engine.advance_to(1_000 + 4_999)
    assert engine.store.watermark() == 1_000 + 4_999


@pytest.mark.parametrize("far", [1_500, 40_000, 3_000_000])
def test_however_far_event_time_goes_at_once_it_is_there_in_few_bundles(engine: Engine, far: int) -> None:
    engine.bundle(ends=[1_000])
    engine.bundle(ends=[1_000 + far])
    engine.advance_to(1_000 + far)
    assert engine.store.watermark() == 1_000 + far
    assert engine.bundles < 80


def test_random_streams(tmp_path: Path) -> None:
    dice = random.Random(1)
    for number in range(20):
        engine, event_time, newest = Engine(tmp_path / f"{number}.sqlite", follow=True), 1_000.0, 1_000
        engine.bundle(ends=[newest])
        for _ in range(30):
            event_time += dice.choice([0.01, 0.5, 1, 7, 60, 2_000]) * dice.random()
            if dice.random() < 0.7:
                newest = max(newest, int(event_time) + dice.randrange(1, 3_000))
                engine.bundle(ends=[newest])
            engine.advance_to(event_time)
            assert engine.store.watermark() == int(event_time)


def test_of_an_input_that_ends_it_ends_with_what_was_written_last(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "store.sqlite", follow=False)
    engine.bundle(ends=[1_000, 1_010])
    engine.bundle(ends=[9_000])
    engine.advance_to(10_000_000)
    assert engine.store.watermark() == 9_000
    assert not engine.timers


@pytest.mark.parametrize("kept", [0, 1_500], ids=["all", "what_came_last"])
def test_a_store_that_lost_something_says_from_when_it_is_whole(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "store.sqlite"
    engine = Engine(path, follow=True)
    engine.bundle(ends=[1_000])
    engine.advance_to(2_000)
    assert (engine.store.whole_from(), engine.lost) == (None, 0)
    engine.step.teardown()
    engine.store.close()
    if kept:
        # As from a copy of yesterday, or after a power cut.
        with sqlite3.connect(path) as db:
            db.execute("UPDATE streams SET minute = ? WHERE stream = ?", (kept, STREAM.name))
        db.close()
    else:
        path.unlink()
    engine.bundle(ends=[2_003])
    assert (engine.store.whole_from(), engine.lost) == (2_001 - 1, 2_000)
    reader = Reader(engine.store, STREAM)
    assert reader.last_minutes("all", "", 30, 2_010 * 60)["lost_minutes"] == 20
    assert reader.last_minutes("all", "", 10, 2_010 * 60)["lost_minutes"] == 0
    engine.advance_to(2_010)
    assert (engine.store.watermark(), engine.store.whole_from(), engine.lost) == (2_010, 2_000, 2_000), (
        "until it is filled"
    )

    # A job that begins anew fills it again.
    anew = Engine(path, follow=True)
    anew.bundle(ends=[1_001, 1_500])
    anew.bundle(ends=[901, 2_003])
    assert (anew.store.whole_from(), anew.lost) == (2_000, 0), "it is on its way"
    anew.advance_to(2_005)
    assert (anew.store.whole_from(), anew.lost) == (900, 0), "from the first minute that any bundle had"


@pytest.mark.parametrize(("first", "whole_from"), [(100, 100), (3_000, 2_000)], ids=["all", "a_later_part"])
def test_what_is_read_in_one_bundle_fills_from_its_first_minute(tmp_path: Path, first: int, whole_from: int) -> None:
    """A job that begins anew has a small topic in one bundle; so does what is read to the end in process."""
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path, STREAM)
    store.birth()
    store.set_whole_from(2_000)
    with beam.Pipeline() as pipeline:
        messages = [message(at=(first + minute) * 60, id=f"{minute}") for minute in range(0, 2_500, 100)]
        build(STREAM, messages_of(messages), str(path), follow=False)(pipeline)
    assert store.whole_from() == whole_from
    store.close()


def test_what_was_lost_is_no_fault_any_more_when_the_store_would_have_forgotten_it(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    engine = Engine(path, follow=True)
    engine.bundle(ends=[1_000])
    engine.advance_to(1_000)
    engine.step.teardown()
    engine.store.close()
    path.unlink()
    engine.bundle(ends=[1_001])
    assert engine.lost == 1_000
    engine.advance_to(1_000 + STREAM.keep_days * DAY)
    assert engine.lost == 0


@pytest.mark.parametrize("follow", [True, False])
def test_it_waits_for_all_that_is_written(tmp_path: Path, follow: bool) -> None:
    pipeline = beam.Pipeline()
    build(STREAM, messages_of([message(at=0, id="a")]), str(tmp_path / "store.sqlite"), follow=follow)(pipeline)
    steps = {step.full_label: step for step in pipeline.transforms_stack[0].parts}
    (before,) = steps["watermark"].inputs
    assert before.producer is steps["ends"]
    writing = {each.producer.full_label for each in steps["ends"].inputs}
    assert writing == {"store", "records"}
