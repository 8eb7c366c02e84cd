"""Publishing in event time: the pace, delays by chance, and what Kafka is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kafka.errors import KafkaConnectionError, KafkaTimeoutError

from airtight.errors import TransientError
from streaming.topics import Topic
from streaming.windows import __main__ as command
from streaming.windows.__main__ import _parser, ensure_topics
from streaming.windows.messages import Message
from streaming.windows.publishing import Pace, delayed, publish
from tests.streaming.windows.shops import DEAD_SHOPS

START = datetime(2013, 6, 13, 16, 0, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
MESSAGES = [Message(b"key %d" % (n % 5), b"%d" % n, START_MS + n * 400_000) for n in range(61)]
"""One every 400 s, the last after 400 minutes."""


class Confirmation:
    def __init__(self, failed: bool) -> None:
        self._failed = failed

    def add_errback(self, call):
        if self._failed:
            call(KafkaTimeoutError())


class Producer:
    """Keeps what it is sent."""

    def __init__(self, fails: tuple[int, ...] = (), breaks_at: int = -1) -> None:
        self.sent: list[dict] = []
        self.flushed: list[int] = []
        self.closed = False
        self._fails, self._breaks_at = fails, breaks_at

    def __call__(self, **settings):
        assert settings["bootstrap_servers"] == ["here:1", "there:2"] and settings["enable_idempotence"]
        return self

    def send(self, topic, **message):
        number = len(self.sent)
        if number == self._breaks_at:
            raise KafkaTimeoutError("no broker")
        self.sent.append({"topic": topic, **message})
        return Confirmation(number in self._fails)

    def flush(self):
        self.flushed.append(len(self.sent))

    def close(self, timeout):
        self.closed = True


def published(producer: Producer, messages=MESSAGES, pace: Pace | None = None, **settings) -> int:
    return publish("here:1,there:2", "t", messages, pace, producer=producer, **settings)


def test_messages_keep_key_value_and_stamp():
    producer = Producer()
    assert published(producer) == len(MESSAGES) == producer.flushed[-1] and producer.closed
    assert [Message(one["key"], one["value"], one["timestamp_ms"]) for one in producer.sent] == MESSAGES
    assert {(one["topic"], one["partition"]) for one in producer.sent} == {("t", None)}


def test_delayed_messages_come_late_by_chance_and_by_so_much_at_most():
    late = list(delayed(MESSAGES, 90, seed=7))
    assert late == list(delayed(MESSAGES, 90, seed=7)) != list(delayed(MESSAGES, 90, seed=8))
    assert [one.published_ms for one in late] == sorted(one.published_ms for one in late)
    due = {one.value: one.published_ms for one in MESSAGES}
    assert all(0 <= one.published_ms - due[one.value] <= 90 * 60_000 for one in late)
    assert [one.value for one in late] != [one.value for one in MESSAGES] and len(late) == len(MESSAGES)
    assert list(delayed(MESSAGES, 0, seed=7)) == MESSAGES


def test_only_the_partitions_that_are_named_each_key_in_one():
    producer = Producer()
    published(producer, partitions=[1, 3])
    where = Counter((one["key"], one["partition"]) for one in producer.sent)
    assert len(where) == len({key for key, _ in where}) and {partition for _, partition in where} == {1, 3}


def test_the_pace_is_the_clocks():
    clock = [100.0]
    pace = Pace(START, 3600, now=lambda: clock[0], sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    published(Producer(), pace=pace)
    assert clock[0] == pytest.approx(100 + 400 / 60)
    published(Producer(), pace=Pace(START, 0, sleep=lambda seconds: pytest.fail("nobody waits")))


def from_instant(number: int, minutes: float = 0) -> str:
    at = datetime.fromtimestamp(MESSAGES[number].published_ms / 1000, UTC) - timedelta(minutes=minutes)
    return at.isoformat()


def test_what_is_not_confirmed_is_a_fault_that_says_where_to_go_on():
    for producer, since in ((Producer(fails=(3, 5)), 3), (Producer(breaks_at=4), 4)):
        with pytest.raises(TransientError) as fault:
            published(producer)
        assert f"again from {from_instant(since)};" in fault.value.remedy and producer.closed
    # Of messages that arrive late some may not have been sent that happened before.
    with pytest.raises(TransientError) as fault:
        published(Producer(breaks_at=4), spread_minutes=90)
    assert from_instant(4, 90) in fault.value.remedy

    def nobody(**settings):
        raise KafkaConnectionError

    with pytest.raises(TransientError) as fault:
        publish("here:1", "t", MESSAGES, producer=nobody)
    assert "from the beginning" in fault.value.remedy


def test_a_replay_that_is_broken_off_says_where_to_go_on(caplog):
    caplog.set_level("INFO")

    def interrupted():
        yield from MESSAGES[:7]
        raise KeyboardInterrupt

    producer = Producer()
    with pytest.raises(KeyboardInterrupt):
        published(producer, interrupted())
    assert producer.flushed == [7] and f"after 7 messages. Go on from {from_instant(6)}" in caplog.text


def test_the_command_wants_days_speeds_and_partitions():
    begin = ["shops", "--publish", "2013-06-01", "2013-06-02T00:00:00Z"]
    options = _parser().parse_args([*begin, "--speed", "max", "--partitions", "0,2"])
    assert options.publish == [datetime(2013, 6, 1), datetime(2013, 6, 2, tzinfo=UTC)]
    assert options.speed == 0.0 and options.partitions == [0, 2]
    for wrong in (["--speed", "-1"], ["--partitions", "a"], ["--publish", "june", "july"]):
        with pytest.raises(SystemExit):
            _parser().parse_args([*begin, *wrong])


def test_missing_topics_are_made_as_they_are_declared(monkeypatch):
    class Consumer:
        def __init__(self, **_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def topics(self):
            return {"test.other"}

    made = []
    monkeypatch.setattr(command, "KafkaConsumer", Consumer)
    monkeypatch.setattr(command, "ensure", lambda address, topics: made.append((address, topics)))
    kept = Topic("test.shops", 8, {"retention.ms": "-1"})
    ensure_topics(replace(DEAD_SHOPS, made=(kept, Topic("test.other", 1))), "here:1")
    assert made == [("here:1", [kept, Topic(DEAD_SHOPS.dead_letters, 1)])]
