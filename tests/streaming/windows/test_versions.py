"""Versions of events in the engine's state: against a plain computation, and when the engine goes back."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import msgspec
import pytest
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.timestamp import Timestamp

from streaming.run import in_process
from streaming.windows import mirrored_log, versions
from streaming.windows.letters import Letter
from streaming.windows.messages import BadMessage, Event, Message, read
from streaming.windows.parsing import Parse
from streaming.windows.pipeline import messages_of
from streaming.windows.sink import Advance, WriteRows
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.totals import Totals
from streaming.windows.versions import LastVersions, Versions
from tests.streaming.windows.engine_state import Handle, State, Token, copy
from tests.streaming.windows.shops import BEGIN, LATENESS_S, STREAM, message, orders, parse, plain, written


def test_the_steps_of_a_stream_without_end(tmp_path: Path) -> None:
    messages, path = orders(800), tmp_path / "store.sqlite"

    def steps(pipeline: beam.Pipeline) -> None:
        parsed = pipeline | messages_of(messages) | beam.ParDo(Parse(STREAM)).with_outputs("letters", main="events")
        changes = (parsed.events | Versions(STREAM, follow=True)).changes
        ends = (
            changes
            | Totals(STREAM, follow=True)
            | beam.ParDo(WriteRows(STREAM, str(path))).with_output_types(tuple[str, int])
        )
        _ = ends | beam.ParDo(Advance(STREAM, str(path), follow=False))

    in_process(steps)
    assert written(SqliteStore(path, STREAM)) == plain(messages)


def in_time(messages: list[Message]) -> list[Event]:
    events = []
    for one in messages:
        with contextlib.suppress(BadMessage):  # Late.
            events.append(read(parse, STREAM, one))
    return events


class Engine:
    """Runs bundles, takes checkpoints, fails, and goes back; the process, and its memory, outlives most faults."""

    def __init__(self, seed: int) -> None:
        self.dice, self.states, self.step = random.Random(seed), {}, LastVersions(STREAM)
        self.changes: Counter[Any] = Counter()
        self.letters: list[Letter] = []

    def run(self, events: list[Event]) -> None:
        kept = (0, copy(self.states), self.changes.copy())
        at = 0
        while at < len(events):
            end = min(len(events), at + self.dice.randrange(1, 20))
            fails = self.dice.random() < 0.2
            self.bundle(events[at : self.dice.randrange(at, end) if fails else end])
            at = end
            if fails or self.dice.random() < 0.1:
                at, states, changes = kept
                self.states, self.changes = copy(states), changes.copy()
                if self.dice.random() < 0.3:
                    mirrored_log.in_memory.clear()
            elif self.dice.random() < 0.4:
                kept = (at, copy(self.states), self.changes.copy())

    def bundle(self, events: list[Event]) -> None:
        self.step.start_bundle()
        for name, encoded in versions._in_buckets(events):
            handle = Handle(self.states.setdefault(name, State()), self.dice)
            for item in self.step.process((name, encoded), handle, Token(handle.value), handle):
                if isinstance(item, TaggedOutput):
                    self.letters.append(msgspec.msgpack.decode(item.value.value[1], type=Letter))
                    continue
                for sign, changed in item:
                    self.changes[changed.identity, changed.at, changed.values["cents"]] += sign

    def fire(self, name: str, now: float = 1 << 33) -> None:
        state, self.states[name].at = self.states[name], None
        self.step.start_bundle()
        self.step.expire(name, Handle(state, self.dice), Token(state), Timestamp(now), Handle(state, self.dice))

    def advance_to(self, now: float) -> None:
        for name, state in self.states.items():
            while state.at is not None and state.at <= now:
                self.fire(name, state.at)


@pytest.mark.parametrize("seed", range(4))
def test_versions_are_exact_when_the_engine_goes_back(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "BUCKETS", 3)
    monkeypatch.setattr(mirrored_log, "SLACK", 20)
    mirrored_log.in_memory.clear()
    messages, engine = orders(300, seed, versions=0.5), Engine(seed)
    engine.run(in_time(messages))
    counted = +engine.changes
    assert set(counted.values()) == {1}
    expected = [totals for (group, *_), totals in plain(messages).items() if group == "all"]
    assert (len(counted), sum(cents for *_, cents in counted)) == tuple(map(sum, zip(*expected, strict=True)))[:2]
    held = sum(len(log.content) for log in mirrored_log.in_memory.values())
    assert held == 300
    assert sum(len(state.log) for state in engine.states.values()) <= 2 * 300 + 3 * 21

    for name in engine.states:
        assert engine.states[name].at is not None
        engine.fire(name)
    assert not any(log.content for log in mirrored_log.in_memory.values()), "all is forgotten"
    assert not any(state.log for state in engine.states.values())


def test_an_older_version_that_comes_later_changes_nothing() -> None:
    mirrored_log.in_memory.clear()
    engine = Engine(0)
    pair = [message(at=BEGIN, id="a", cents=cents, published=BEGIN + cents) for cents in (2, 1)]
    engine.bundle([read(parse, STREAM, one) for one in pair])
    assert engine.changes == {("a", BEGIN, 2): 1}


def test_identities_expire_where_jobs_restart_more_often_than_their_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "BUCKETS", 1)
    engine, held = Engine(0), []
    for hours in range(0, 200, 20):
        mirrored_log.in_memory.clear()  # Another worker, after an upgrade.
        at = BEGIN + hours * 3600
        engine.advance_to(at)
        engine.bundle([read(parse, STREAM, message(at=at, id=f"{hours}/{number}")) for number in range(5)])
        (log,) = mirrored_log.in_memory.values()
        held.append(len(log.content))
    assert max(held) <= 15, "those of two lifetimes at most"
    assert engine.changes.total() == 50


def test_a_late_correction_is_the_message_as_it_was() -> None:
    mirrored_log.in_memory.clear()
    engine = Engine(0)
    pair = [message(at=BEGIN, id="a"), message(at=BEGIN + 60, id="a", published=BEGIN + LATENESS_S + 1)]
    engine.bundle([read(parse, STREAM, one) for one in pair])
    (letter,) = engine.letters
    assert letter.reason == "late correction"
    assert (letter.key, letter.value, letter.published_ms) == pair[1]
    assert not any(pair[0].value in entry for state in engine.states.values() for entry in state.log), "only its event"
