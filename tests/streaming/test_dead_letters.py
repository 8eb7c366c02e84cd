"""Dead letters that are published again: where it is broken off, none is lost, and the next try goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airtight.errors import EXIT_TERMINAL, TerminalError, TransientError
from streaming import dead_letters
from streaming.windows import publishing
from streaming.windows.letters import KEY_SIZE, REASON, SIZE, TOPIC
from tests.streaming.fake_kafka import Broker, Consumer
from tests.streaming.windows.shops import BEGIN, DEAD_SHOPS, message

LETTERS = 7
ALL = [b"%d" % number for number in range(LETTERS)]


class Publisher:
    """In the place of `publishing.publish`: keeps values, and breaks off before a message when it is due to."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.calls = 0
        self.breaks_at_call = 0

    def __call__(self, servers, topic, published) -> int:
        self.calls += 1
        if self.calls == self.breaks_at_call:
            raise TransientError("No broker.", expected="one", received="none", remedy="Start it.")
        values = [message.value for message in published]
        assert topic == "test.shops"
        self.values += values
        return len(values)


@pytest.fixture
def broker(tmp_path, monkeypatch) -> Iterator[Broker]:
    monkeypatch.setattr(dead_letters, "KafkaConsumer", Consumer)
    broker = Broker(str(tmp_path))
    for number, value in enumerate(ALL):
        add(broker, number % 2, value)
    yield broker
    del Broker.all[str(tmp_path)]


@pytest.fixture
def publisher(monkeypatch) -> Publisher:
    publisher = Publisher()
    monkeypatch.setattr(publishing, "publish", publisher)
    return publisher


def add(broker: Broker, partition: int, value: bytes, reason: str = "no JSON", **sizes: int) -> None:
    sizes = {"size": len(value), "key_size": 0, "stamp": 1000} | sizes
    headers = {REASON: reason, TOPIC: "test.shops", SIZE: str(sizes["size"]), KEY_SIZE: str(sizes["key_size"])}
    broker.add(partition, sizes["stamp"], value, [(name, text.encode()) for name, text in headers.items()])


def republish(tmp_path) -> int:
    published, late = dead_letters.republish(str(tmp_path), DEAD_SHOPS, "no JSON")
    assert not late
    return published


def test_what_the_broker_did_not_take_is_published_by_the_next_try(broker, publisher, tmp_path):
    publisher.breaks_at_call = 1
    with pytest.raises(TransientError):
        republish(tmp_path)
    assert republish(tmp_path) == LETTERS
    assert sorted(publisher.values) == ALL
    assert republish(tmp_path) == 0, "once"


def test_a_try_goes_on_after_the_last_batch_that_was_confirmed(broker, publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(dead_letters, "BATCH", 2)
    publisher.breaks_at_call = 3
    with pytest.raises(TransientError):
        republish(tmp_path)
    assert len(publisher.values) == 4
    assert republish(tmp_path) == LETTERS - 4
    assert sorted(publisher.values) == ALL, "each of them once"


@pytest.mark.parametrize("cut", [{"size": 900_001}, {"key_size": 100_001}], ids=["value", "key"])
def test_nothing_is_published_while_one_of_them_cannot_be(broker, publisher, tmp_path, monkeypatch, cut):
    monkeypatch.setattr(dead_letters, "BATCH", 2)
    add(broker, 1, b"cut", **cut)
    for _ in range(2):
        with pytest.raises(TerminalError, match="cannot be published again") as fault:
            republish(tmp_path)
        assert "1/3" in fault.value.received and not publisher.values


def test_other_reasons_and_later_letters_are_left_for_their_own_time(broker, publisher, tmp_path):
    add(broker, 0, b"late", reason="late")
    assert republish(tmp_path) == LETTERS
    add(broker, 0, b"new")
    assert republish(tmp_path) == 1 and publisher.values[-1] == b"new"


def test_what_would_be_late_again_is_left_and_said(broker, publisher, tmp_path, monkeypatch, capsys):
    """A wrong schema over night, and a reader that is corrected in the morning."""
    monkeypatch.setenv("AIRTIGHT_KAFKA", str(tmp_path))
    night, morning = message(at=BEGIN, id="night"), message(at=BEGIN + 8 * 3600, id="morning")
    for one in (night, morning):
        add(broker, 0, one.value, "wrong schema", stamp=one.published_ms)
    # All topics of this broker are one: the newest stamp is the morning's.
    flags = ["tests.streaming.windows.shops:DEAD_SHOPS", "--reason", "wrong schema"]
    assert dead_letters.main(["explain", *flags]) == 0
    explained = capsys.readouterr().out
    assert "today: late: published 28800 s after its event" in explained and "today: an event of" in explained
    assert dead_letters.main(["republish", *flags]) == EXIT_TERMINAL
    assert publisher.values == [morning.value]
    output = capsys.readouterr()
    assert output.out == "1 messages are published again.\n" and "1 are not" in output.err and "--anew" in output.err
    assert dead_letters.main(["republish", *flags]) == 0, "once"


def test_a_late_correction_stays_late(broker, publisher, tmp_path):
    add(broker, 0, message(at=BEGIN, id="a").value, "late correction", stamp=BEGIN * 1000)
    assert dead_letters.republish(str(tmp_path), DEAD_SHOPS, "late correction") == (0, 1)
    assert not publisher.values
