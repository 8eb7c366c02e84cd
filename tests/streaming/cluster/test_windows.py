"""A declared stream on a real broker and a real Flink session cluster."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError

from airtight.errors import TerminalError, TransientError
from benchmarks.own_cluster import OwnCluster
from streaming import dead_letters
from streaming.engine import flink_jobs
from streaming.engine.flink_rest import Flink
from streaming.engine.kafka_source import ReadOffsets, whole_topics
from streaming.run import in_process
from streaming.topics import Topic, ensure
from streaming.windows.__main__ import UNCACHED, ensure_topics
from streaming.windows.declaration import Stream
from streaming.windows.letters import KEPT_BYTES, KEPT_KEY_BYTES, REASON
from streaming.windows.messages import Message
from streaming.windows.pipeline import build, from_kafka
from streaming.windows.sqlite_store import SqliteStore
from tests.streaming.engine_counts import until
from tests.streaming.windows.shops import BEGIN, LATENESS_S, STREAM, message, newest, orders, plain, recorded, written

pytestmark = pytest.mark.slow

ORDERS = 6_000
RATE = 1_000.0
POISON_EVERY = 100
LARGEST = 12 << 20
"""Bytes of a message that the tests' topics take; brokers' own limit is one MiB."""


def declared(cluster: OwnCluster, name: str) -> Stream:
    """The stream with topics of a test's own; one partition of its topic stays empty until the end."""
    stream = replace(STREAM, name=name, topics=(f"test.{name}",), dead_letters=f"test.{name}.dead")
    settings = {"retention.ms": "-1", "max.message.bytes": str(LARGEST)}
    ensure(cluster.servers, [Topic(stream.topics[0], 4, settings)])
    ensure_topics(stream, cluster.servers)
    return stream


def reached(store: SqliteStore) -> int:
    """The store's watermark; 0 while there is none, or no store."""
    with contextlib.suppress(TransientError):
        return store.watermark() or 0
    return 0


def produce(servers: str, topic: str, messages: list[Message], rate: float = 0.0) -> None:
    """Versions of one order lie in one partition. What is empty is null."""
    with KafkaProducer(bootstrap_servers=servers, linger_ms=10, max_request_size=LARGEST) as producer:
        start = time.monotonic()
        for index, one in enumerate(messages):
            partition = sum(one.value.split(b'"id":"')[-1].split(b'"')[0]) % 3
            producer.send(
                topic,
                key=one.key or None,
                value=one.value or None,
                timestamp_ms=one.published_ms,
                partition=partition,
            )
            if rate and (early := index / rate - (time.monotonic() - start)) > 0:
                time.sleep(early)
        producer.flush()


def poisoned(messages: list[Message]) -> tuple[list[Message], set[tuple[str, bytes, bytes]]]:
    """Messages with one in a hundred that is bad between them, and the bad ones as dead letters have them."""
    kinds = [
        ("no value", b"k", b""),
        ("no JSON", b"", b"{"),
        ("wrong schema", b"k", b"{}"),
        ("bad kind", b"k", message(at=BEGIN, id="x", kind="bad").value),
        ("out of range", b"k", message(at=BEGIN, id="x", cents=10**30).value),
        ("out of range", b"k", message(at=BEGIN, id="x", shop="a\0").value),
        ("no JSON", b"k" * 200_000, b"{" + b" " * 900_000),
        ("too large", b"k", b"x" * (10 << 20)),
    ]
    mixed = []
    for number, one in enumerate(messages):
        mixed.append(one)
        if number % POISON_EVERY == 0:
            # One of the largest is enough.
            _, key, value = kinds[7 if number == 5 * POISON_EVERY else number // POISON_EVERY % 7]
            mixed.append(Message(key, value, one.published_ms))
    return mixed, {(reason, key[:KEPT_KEY_BYTES], value[:KEPT_BYTES]) for reason, key, value in kinds}


@pytest.mark.parametrize("is_killed", [False, True], ids=["on_one", "on_two_and_killed"])
def test_totals_are_exact(cluster: OwnCluster, tmp_path: Path, is_killed: bool) -> None:
    """On one TaskManager, and on two of which one is killed; with bad messages of all kinds between the others."""
    servers, flink, path = cluster.servers, Flink(), tmp_path / "store.sqlite"
    stream = declared(cluster, "killed" if is_killed else "whole")
    (topic,) = stream.topics
    messages = [one._replace(key=b"") if number % 10 == 0 else one for number, one in enumerate(orders(ORDERS))]
    mixed, bad = poisoned(messages)
    late = message(at=BEGIN, id="late", published=messages[-1].published_ms / 1000)
    store = SqliteStore(path, stream)
    steps = build(stream, from_kafka(stream, servers), str(path), follow=True, servers=servers)
    writing = threading.Thread(target=produce, args=(servers, topic, mixed, RATE))
    writing.start()
    try:
        job = flink_jobs.submit(steps, stream.name, [*UNCACHED, f"--slots={1 + is_killed}"])
        until(lambda: reached(store), "a watermark, with a partition that never held a message")
        if is_killed:
            cluster.kill("flink-taskmanager")
            until(lambda: flink.status(job.id).failures >= 1, "Flink has noticed")
            until(lambda: flink.status(job.id).job.state == "RUNNING", "it runs again")
    finally:
        writing.join()
    # Another day begins: all windows are over.
    end = message(at=BEGIN + 86_400, id="end")
    produce(servers, topic, [late, end])
    last = max(start for _, _, start in plain(messages))
    until(lambda: reached(store) > last + 10, "the watermark has passed all windows")

    def letters() -> set[tuple[str, bytes, bytes]]:
        records = dead_letters.letters(servers, stream.dead_letters)
        return {(record.headers[REASON], record.key or b"", record.value or b"") for record in records}

    until(lambda: ("late", late.key, late.value) in letters(), "the late message is a dead letter")
    until(lambda: {letter for letter in letters() if not letter[0].startswith("late")} == bad, "so are bad ones")
    corrections = {letter[1:] for letter in letters() if letter[0] == "late correction"}
    assert corrections and corrections <= {(one.key, one.value) for one in messages}, "as they were"
    for minutes, every in ((1, 1), (5, 5), (10, 2)):
        rows = {place: totals for place, totals in written(store, minutes).items() if place[2] <= last}
        assert rows == plain(messages, minutes, every), f"windows of {minutes} minutes"
    assert recorded(store) == newest([*messages, end])
    until(lambda: flink.status(job.id).worker_memory_mb, "Flink has the metrics of the Python workers")
    store.close()
    path.unlink()
    produce(servers, topic, [message(at=BEGIN + 86_400, id="more")])
    until(lambda: flink.status(job.id).store_whole_from, "the job notices that its store is gone")
    assert store.whole_from() == flink.status(job.id).store_whole_from
    flink.cancel(job.id)
    bounded = tmp_path / "bounded.sqlite"
    source = ReadOffsets(servers, whole_topics(servers, [topic]))
    in_process(build(STREAM, source, str(bounded), follow=False))
    rows = {place: totals for place, totals in written(SqliteStore(bounded, STREAM)).items() if place[2] <= last}
    assert rows == plain(messages), "the same steps without Flink"


def test_a_message_that_is_larger_than_its_topic_takes_is_refused_by_the_broker(cluster: OwnCluster) -> None:
    ensure(cluster.servers, [Topic("test.usual", 1)])
    with (
        KafkaProducer(bootstrap_servers=cluster.servers, max_request_size=LARGEST) as producer,
        pytest.raises(MessageSizeTooLargeError),
    ):
        producer.send("test.usual", b"x" * (10 << 20)).get(60)


def test_a_topic_of_bad_messages_stops_the_job_and_stays_where_it_is(cluster: OwnCluster, tmp_path: Path) -> None:
    servers, flink = cluster.servers, Flink()
    wrong = declared(cluster, "wrong")
    with KafkaProducer(bootstrap_servers=servers) as producer:
        for number in range(2_000):
            producer.send("test.wrong", b"{", timestamp_ms=BEGIN * 1000 + number)
    steps = build(wrong, from_kafka(wrong, servers), str(tmp_path / "wrong.sqlite"), follow=True, servers=servers)
    # The cluster's own ten tries take two minutes.
    tries = ["--number_of_execution_retries=3", "--execution_retry_delay=500"]
    job = flink_jobs.submit(steps, wrong.name, [*UNCACHED, *tries])
    until(lambda: flink.status(job.id).job.state == "FAILED", "it fails again and again, and then for good")
    status = flink.status(job.id)
    assert status.failures > 2
    assert "100.0% of the last messages of the stream wrong are bad, lastly: no JSON" in status.failure
    assert status.failure.startswith("airtight.errors.TerminalError: ")
    # Some are there twice, after the faults.
    letters = {letter.timestamp for letter in dead_letters.letters(servers, "test.wrong.dead")}
    assert len(letters) <= wrong.bad_share.messages


def test_dead_letters_are_listed_explained_and_published_again(
    cluster: OwnCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers, path = cluster.servers, tmp_path / "store.sqlite"
    stream = declared(cluster, "shops")
    (topic,) = stream.topics
    good = orders(300, versions=0)
    bad = message(at=BEGIN + 3 * 3600, id="b", kind="bad", cents=70)
    late = message(at=BEGIN, id="l", published=BEGIN + LATENESS_S + 9)
    produce(servers, topic, [*good, bad, late])

    def run() -> None:
        source = ReadOffsets(servers, whole_topics(servers, [topic]))
        in_process(build(stream, source, str(path), follow=False, servers=servers))

    run()
    assert written(SqliteStore(path, stream)) == plain(good)
    lines = dead_letters.summary(servers, stream)
    assert [line.split(",")[0] for line in lines] == ["bad kind: 1", "late: 1"]
    assert "as the test wants it" in lines[0]
    (letter,) = dead_letters.letters(servers, stream.dead_letters, "bad kind")
    assert (letter.key, letter.value, letter.timestamp) == bad
    text = dead_letters.explanation(stream, letter)
    assert "why:   bad kind" in text and "today: bad kind" in text and '"cents":70' in text

    # Its reader is corrected, and reads it.
    corrected = replace(stream, parse="tests.streaming.windows.shops:parse_bad_kinds")
    assert "today: an event" in dead_letters.explanation(corrected, letter)
    assert dead_letters.republish(servers, corrected, "bad kind") == (1, 0)
    assert dead_letters.republish(servers, corrected, "bad kind") == (0, 0), "once"
    with pytest.raises(TerminalError, match="cannot be published again"):
        dead_letters.republish(servers, replace(corrected, topics=("other",)), "late")
    newest = dead_letters.newest_stamp(servers, topic)
    assert newest == max(one.published_ms for one in [*good, bad, late])
    assert Message(bad.key, bad.value, newest) in [
        Message(one.key, one.value, one.timestamp) for one in dead_letters.letters(servers, topic)
    ]
    assert dead_letters.main(["list", "tests.streaming.windows.shops:DEAD_SHOPS"]) == 0
    assert "bad kind: 1" in capsys.readouterr().out
