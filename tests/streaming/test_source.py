"""Reading: what is claimed, who waits for whom, and who is idle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError

from airtight.errors import TerminalError, TransientError
from streaming.accounts import Accounts
from streaming.reader import DAY, FOREVER, Reader, Source
from streaming.sorting import CONFIRMED_BY, HOUR_MS
from streaming.source import Ranged
from tests.streaming.fake_kafka import Broker, Consumer, settings

RANGES = ((0, 5, 10), (1, 0, FOREVER))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    yield Broker(str(tmp_path), partitions=2)
    del Broker.all[str(tmp_path)]


def hour_of(value: bytes | None, _: int) -> int:
    return int(value or b"")


@pytest.fixture
def source(broker: Broker, tmp_path: Path) -> Source:
    told = {"servers": str(tmp_path), "topic": "t", "dead_letters": "d", "accounts": tmp_path / "accounts.sqlite"}
    return Source(**told, hour_of=hour_of, lateness_s=7200, **settings())


class Reading:
    """A reader with a clock of its own."""

    def __init__(self, source: Source) -> None:
        self.now = 0.0
        run, ranges = source.begin()
        self.reader = Reader(source, Accounts(source.accounts).resume(run), ranges, now=lambda: self.now)

    def step(self) -> tuple[Any, int | None]:
        return self.reader.take(*self.reader.poll())


def fill(broker: Broker, partition: int, hour: float, number: int = CONFIRMED_BY) -> None:
    for _ in range(number):
        broker.add(partition, int(hour * HOUR_MS), b"%d" % hour)


def test_what_is_claimed_is_kept_when_the_rest_is_cut_off() -> None:
    tracker = Ranged(RANGES)
    assert not tracker.is_bounded() and tracker.try_claim({0: 7})
    assert tracker.try_split(0.5) is None
    assert tracker.try_split(0) == (((0, 5, 7), (1, 0, 0)), ((0, 7, 10), (1, 0, FOREVER)))
    assert not tracker.try_claim({0: 8}) and tracker.check_done() and tracker.try_split(0) is None


def test_a_range_that_is_not_read_to_its_end_is_not_done() -> None:
    tracker = Ranged(((0, 0, 3), (1, 2, 2)))
    assert tracker.is_bounded() and tracker.try_claim({0: 2})
    with pytest.raises(ValueError, match="not read to its end"):
        tracker.check_done()
    assert tracker.try_claim({0: 3}) and tracker.check_done() and tracker.try_split(0) is None


def test_a_silent_partition_holds_the_watermark_until_the_broker_says_it_has_nothing(
    broker: Broker, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(broker, 0, 8)
    reading = Reading(source)
    assert reading.step()[1] is None
    reading.now = source.idle_s + 1

    def away(*_: Any) -> None:
        raise KafkaConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(Consumer, "end_offsets", away)
        fill(broker, 0, 8)
        assert reading.step()[1] is None
    fill(broker, 0, 8)
    assert reading.step()[1] == 8 * HOUR_MS


def test_a_partition_with_more_to_read_is_not_idle_however_long_it_is_silent(
    broker: Broker, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(broker, 0, 8)
    reading = Reading(source)
    reading.step()
    reading.now = source.idle_s + 1
    monkeypatch.setattr(Consumer, "end_offsets", lambda _, partitions: dict.fromkeys(partitions, 100))
    fill(broker, 0, 8)
    assert reading.step()[1] is None


def test_a_fault_of_the_broker_is_one_that_heals(broker: Broker, source: Source, monkeypatch: Any) -> None:
    def away(*_: Any) -> None:
        raise KafkaConnectionError("away")

    monkeypatch.setattr(Consumer, "end_offsets", away)
    with pytest.raises(TransientError, match="Kafka does not answer"):
        source.begin()


def test_a_topic_that_is_not_there_is_said(broker: Broker, source: Source) -> None:
    broker.log.clear()
    with pytest.raises(TerminalError, match="There is no topic"):
        source.begin()


def test_dead_letters_are_written_before_the_account(broker: Broker, source: Source, monkeypatch: Any) -> None:
    broker.add(0, 0, None)
    reading = Reading(source)
    reading.reader._letters.write = lambda dead: 1 / 0
    with pytest.raises(ZeroDivisionError):
        reading.step()
    assert Accounts(source.accounts).standing().next[0] == 0
    assert Reading(source).step()[0].dead[0].offset == 0
    assert Accounts(source.accounts).standing().bad == 1


@pytest.mark.parametrize(("keep_days", "kept"), [(None, range(5)), (1, (3, 4))])
def test_accounts_forget_what_is_done_and_old(
    broker: Broker, source: Source, keep_days: int | None, kept: Sequence[int]
) -> None:
    reading, accounts = Reading(replace(source, keep_days=keep_days)), Accounts(source.accounts)
    for day in range(5):
        for partition in broker.log:
            fill(broker, partition, DAY * day)
        reading.step()
        accounts.write(DAY * day, 2 * CONFIRMED_BY)
    assert [day for day in range(5) if accounts.written(DAY * day)] == list(kept)
    assert accounts.standing().messages == 2 * CONFIRMED_BY * len(kept)
    assert accounts.standing().undone == (DAY * 4,)
