"""A plain model of the stream, killed at random moments: at the end each hour holds each message once."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from streaming.accounts import Accounts
from streaming.sorting import CONFIRMED_BY, HOUR_MS, Sorter, place

LATENESS_MS = 2 * HOUR_MS
PARTITIONS = 3
HOURS = 12


class Message(NamedTuple):
    offset: int
    timestamp: int
    value: bytes | None


class Bad(Exception):
    reason = "bad"


class Killed(Exception):
    pass


def hour_of(value: bytes | None, _: int) -> int:
    if value is None or not value.isdigit():
        raise Bad("no number")
    return int(value) // 1000


def a_log(dice: random.Random, latest_h: float) -> dict[int, list[Message]]:
    """Messages of some hours, published in order and up to some hours after their event; a few are bad."""
    log: dict[int, list[Message]] = {number: [] for number in range(PARTITIONS)}
    sent = []
    for number in range(1200):
        at = dice.randrange(HOURS * HOUR_MS)
        published = at + int(dice.random() ** 3 * latest_h * HOUR_MS)
        value = b"%d" % (at // HOUR_MS * 1000 + number % 1000)
        sent.append((published, dice.choice([None, b"{", b"x"]) if dice.random() < 0.02 else value))
    for published, value in sorted(sent, key=lambda message: message[0]):
        to = log[dice.randrange(PARTITIONS)]
        to.append(Message(len(to), published, value))
    return log


@dataclass
class World:
    """What outlives a kill: the log, the store, the dead letters; and the accounts' file."""

    log: dict[int, list[Message]]
    path: Path
    dice: random.Random
    kills: int
    visible: dict[int, int] = field(default_factory=dict)
    store: dict[int, tuple[int, tuple[bytes, ...]]] = field(default_factory=dict)
    dead: dict[tuple[int, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    dropped: int = 0
    killed: int = 0

    def survive(self) -> None:
        """A moment at which the stream may be killed."""
        if self.killed < self.kills and self.dice.random() < 0.03:
            self.killed += 1
            raise Killed


class Run:
    """One life of the stream, with an engine that drops what is too late for its watermark, as a real one does."""

    def __init__(self, world: World) -> None:
        self.world, self.accounts = world, Accounts(world.path)
        resume = self.accounts.begin({n: (0, len(messages)) for n, messages in world.log.items()})
        self.run, self.sorter = resume.run, Sorter(resume, hour_of, LATENESS_MS)
        self.positions = {number: held.start for number, held in resume.partitions.items()}
        self.watermark = -1
        self.windows: dict[int, dict[int, bytes]] = defaultdict(dict)
        self.unfired: set[int] = set()

    def live(self) -> None:
        world = self.world
        while any(self.positions[n] < len(messages) for n, messages in world.log.items()):
            for number, messages in world.log.items():
                seen = max(world.visible.get(number, 0), self.positions[number])
                world.visible[number] = min(len(messages), seen + world.dice.randrange(9))
            self.read()
            if self.windows and world.dice.random() < 0.7:
                self.fire(world.dice.choice(list(self.windows)))
        for hour in list(self.windows):
            self.fire(hour)
        self.accounts.close()

    def read(self) -> None:
        world = self.world
        polled = {}
        for number in world.dice.sample(range(PARTITIONS), world.dice.randrange(1, PARTITIONS + 1)):
            start = self.positions[number]
            records = world.log[number][start : min(world.visible[number], start + world.dice.randrange(1, 60))]
            if records:
                polled[number] = records
                self.positions[number] = start + len(records)
        sorted_ = self.sorter.sort(polled, self.positions)
        world.survive()
        if sorted_.late:
            self.accounts.turn_away(self.run, sorted_.late)
            world.survive()
        for dead in sorted_.dead:
            world.dead[dead.partition, dead.offset].add(dead.reason)
            world.survive()
        idle = {n for n in range(PARTITIONS) if self.positions[n] == world.visible[n] and world.dice.random() < 0.3}
        reached = self.sorter.watermark(idle)
        self.accounts.enter(self.run, sorted_.entries, self.sorter.closed)
        world.survive()
        for hour, batch in sorted_.batches.items():
            if (hour + 1) * HOUR_MS + LATENESS_MS <= self.watermark:
                world.dropped += len(batch.places)
                continue
            self.windows[hour].update(zip(batch.places, batch.values, strict=True))
            self.unfired.add(hour)
            world.survive()
        if reached is not None and reached > self.watermark:
            self.watermark = reached
            for hour in [h for h in self.windows if (h + 1) * HOUR_MS + LATENESS_MS <= reached]:
                if hour in self.unfired:
                    self.fire(hour)
                del self.windows[hour]

    def fire(self, hour: int) -> None:
        held = self.windows[hour]
        messages, made = len(held), tuple(held[key] for key in sorted(held))
        self.unfired.discard(hour)
        if messages >= self.world.store.get(hour, (0, ()))[0]:
            self.world.store[hour] = messages, made
        self.world.survive()
        if (hour + 1) * HOUR_MS <= self.watermark:
            self.accounts.write(hour, messages)
            self.world.survive()
        else:
            self.unfired.add(hour)


def live(log: dict[int, list[Message]], path: Path, seed: int, kills: int, visible: bool) -> World:
    world = World(log, path, random.Random(seed), kills)
    if visible:
        world.visible = {number: len(messages) for number, messages in log.items()}
    while True:
        try:
            Run(world).live()
        except Killed:
            continue
        return world


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_it_ends_as_if_nobody_had_killed_it(tmp_path: Path, seed: int) -> None:
    # Three hours after its own a message is late; some are.
    log = a_log(random.Random(seed), latest_h=4)
    calm = live(log, tmp_path / "calm.sqlite", seed, kills=0, visible=True)
    killed = live(log, tmp_path / "killed.sqlite", seed + 100, kills=20, visible=True)
    assert killed.killed >= 10
    assert calm.dropped == killed.dropped == 0
    assert killed.store == calm.store
    assert killed.dead == calm.dead
    assert {reason for reasons in calm.dead.values() for reason in reasons} >= {"bad"}


@pytest.mark.parametrize("seed", range(12))
def test_with_partitions_that_sleep_each_message_is_in_one_place(tmp_path: Path, seed: int) -> None:
    """Which messages are late depends on who slept; that none is lost or doubled does not."""
    log = a_log(random.Random(seed), latest_h=4)
    world = live(log, tmp_path / "accounts.sqlite", seed, kills=20, visible=False)
    kept = [value for _, made in world.store.values() for value in made]
    told = [log[partition][offset].value for partition, offset in world.dead]
    assert world.dropped == 0
    every = [message.value for messages in log.values() for message in messages]
    assert sorted(map(str, kept + told)) == sorted(map(str, every))
    assert all(len(reasons) == 1 for reasons in world.dead.values())


def test_shuffled_within_the_lateness_nothing_is_late(tmp_path: Path) -> None:
    log = a_log(random.Random(1), latest_h=2)
    world = live(log, tmp_path / "accounts.sqlite", 1, kills=10, visible=True)
    assert {reason for reasons in world.dead.values() for reason in reasons} == {"bad"}
    good = sum(message.value is not None and message.value.isdigit() for m in log.values() for message in m)
    assert sum(messages for messages, _ in world.store.values()) == good


def messages(*published_h: float, value: bytes = b"0", first: int = 0) -> list[Message]:
    return [Message(first + n, int(h * HOUR_MS), value) for n, h in enumerate(published_h)]


def a_sorter(path: Path, partitions: int = 1) -> Any:
    resume = Accounts(path / "accounts.sqlite").begin({n: (0, 10**6) for n in range(partitions)})
    return Sorter(resume, hour_of, LATENESS_MS)


def test_a_clock_that_is_a_day_ahead_closes_nothing(tmp_path: Path) -> None:
    sorter = a_sorter(tmp_path)
    usual = [h / 100 for h in range(CONFIRMED_BY)]
    sorter.sort({0: messages(*usual, 24.0, 24.1, 0.2, 24.2)}, {0: CONFIRMED_BY + 4})
    # One of the last messages still says an earlier hour than the clock that is ahead.
    assert sorter.watermark() == int(usual[4] * HOUR_MS)
    assert sorter.closed < 0


def test_a_partition_that_is_silent_holds_the_others_until_it_is_idle(tmp_path: Path) -> None:
    sorter = a_sorter(tmp_path, partitions=2)
    sorter.sort({0: messages(*[5.0] * CONFIRMED_BY, value=b"5000")}, {0: CONFIRMED_BY, 1: 0})
    assert sorter.watermark() is None
    assert sorter.watermark(idle={1}) == 5 * HOUR_MS
    assert sorter.closed == 2
    # It wakes up with something older than what was closed.
    woken = sorter.sort({1: messages(1.0, value=b"1000")}, {0: CONFIRMED_BY, 1: 1})
    assert woken.late == [(1, 0)] and not woken.batches


def test_an_exception_nobody_thought_of_is_a_bad_message(tmp_path: Path) -> None:
    def explodes(value: bytes | None, _: int) -> int:
        raise RecursionError("deep")

    resume = Accounts(tmp_path / "a.sqlite").begin({0: (0, 1)})
    out = Sorter(resume, explodes, LATENESS_MS).sort({0: messages(1.0)}, {0: 1})
    assert [dead.reason for dead in out.dead] == ["unreadable"] and "deep" in out.dead[0].detail


def test_places_tell_partitions_and_offsets_apart() -> None:
    assert place(1, 0) > place(0, 2**47) and len({place(p, o) for p in range(3) for o in range(3)}) == 9
