"""A declared stream on a real broker and a real Flink session cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaProducer

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from services.__main__ import up
from services.settings import Settings, environment
from services.supervisor import Supervisor
from streaming import dead_letters
from streaming.engine import flink_jobs
from streaming.engine.flink_rest import Flink
from streaming.engine.kafka_source import ReadOffsets, whole_topics
from streaming.run import in_process
from streaming.topics import Topic, ensure
from streaming.windows.__main__ import UNCACHED, ensure_topics
from streaming.windows.messages import Message
from streaming.windows.pipeline import build, from_kafka
from streaming.windows.sqlite_store import SqliteStore
from tests.services.conftest import home  # noqa: F401
from tests.streaming.windows.shops import BEGIN, LATENESS_S, STREAM, message, newest, orders, plain, recorded, written

pytestmark = pytest.mark.slow

TOPIC = Topic("test.shops", 4, {"retention.ms": "-1"})
"""One partition stays empty until the end."""
DEAD = replace(STREAM, dead_letters="test.dead")
ORDERS = 6_000
RATE = 500.0
WAIT_S = 300.0


@pytest.fixture
def services(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Settings]]:  # noqa: F811
    def start(*names: str) -> Settings:
        settings = up(home, names)
        for name, value in environment(settings, home).items():
            if name.startswith("AIRTIGHT_"):
                monkeypatch.setenv(name, value)
        ensure(settings.kafka_servers, [TOPIC])
        # A machine that does much else starts a job slowly.
        monkeypatch.setattr(flink_jobs, "SUBMIT_S", WAIT_S)
        return settings

    yield start


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.5)


def reached(store: SqliteStore) -> int:
    """The store's watermark; 0 while there is none, or no store."""
    with contextlib.suppress(TransientError):
        return store.watermark() or 0
    return 0


def produce(servers: str, messages: list[Message], rate: float = 0.0) -> None:
    """Versions of one order lie in one partition."""
    with KafkaProducer(bootstrap_servers=servers, linger_ms=10) as producer:
        start = time.monotonic()
        for index, one in enumerate(messages):
            partition = sum(one.value.split(b'"id":"')[-1].split(b'"')[0]) % 3
            producer.send(TOPIC.name, key=one.key, value=one.value, timestamp_ms=one.published_ms, partition=partition)
            if rate and (early := index / rate - (time.monotonic() - start)) > 0:
                time.sleep(early)
        producer.flush()


@pytest.mark.parametrize("is_killed", [False, True], ids=["whole", "killed"])
def test_totals_are_exact(
    home: Home,  # noqa: F811
    services: Callable[..., Settings],
    tmp_path: Path,
    is_killed: bool,
) -> None:
    servers, flink, path = services("kafka", "flink").kafka_servers, Flink(), tmp_path / "store.sqlite"
    ensure_topics(DEAD, servers)
    messages = orders(ORDERS)
    late = message(at=BEGIN, id="late", published=messages[-1].published_ms / 1000)
    store = SqliteStore(path, DEAD)
    steps = build(DEAD, from_kafka(DEAD, servers), str(path), follow=True, servers=servers)
    writing = threading.Thread(target=produce, args=(servers, messages, RATE))
    writing.start()
    try:
        job = flink_jobs.submit(steps, DEAD.name, UNCACHED)
        until(lambda: reached(store), "a watermark, with a partition that never held a message")
        if is_killed:
            pid = next(program.pid for program in Supervisor(home).programs() if program.name == "flink-taskmanager")
            os.kill(pid, signal.SIGKILL)
            until(lambda: flink.status(job.id).failures >= 1, "Flink has noticed")
            until(lambda: flink.status(job.id).job.state == "RUNNING", "it runs again")
    finally:
        writing.join()
    # Another day begins: all windows are over.
    end = message(at=BEGIN + 86_400, id="end")
    produce(servers, [late, end])
    last = max(start for _, _, start in plain(messages))
    until(lambda: reached(store) > last + 10, "the watermark has passed all windows")
    until(lambda: dead_letters.summary(servers, DEAD), "the late message is a dead letter")
    for minutes, every in ((1, 1), (5, 5), (10, 2)):
        rows = {place: totals for place, totals in written(store, minutes).items() if place[2] <= last}
        assert rows == plain(messages, minutes, every), f"windows of {minutes} minutes"
    assert recorded(store) == newest([*messages, end])
    flink.cancel(job.id)
    bounded = tmp_path / "bounded.sqlite"
    source = ReadOffsets(servers, whole_topics(servers, [TOPIC.name]))
    in_process(build(STREAM, source, str(bounded), follow=False))
    rows = {place: totals for place, totals in written(SqliteStore(bounded, STREAM)).items() if place[2] <= last}
    assert rows == plain(messages), "the same steps without Flink"


def test_a_topic_of_bad_messages_stops_the_job_and_stays_where_it_is(
    services: Callable[..., Settings], tmp_path: Path
) -> None:
    servers, flink = services("kafka", "flink").kafka_servers, Flink()
    wrong = replace(DEAD, name="wrong", topics=("test.wrong",), dead_letters="test.wrong.dead")
    ensure_topics(wrong, servers)
    with KafkaProducer(bootstrap_servers=servers) as producer:
        for number in range(2_000):
            producer.send("test.wrong", b"{", timestamp_ms=BEGIN * 1000 + number)
    steps = build(wrong, from_kafka(wrong, servers), str(tmp_path / "wrong.sqlite"), follow=True, servers=servers)
    job = flink_jobs.submit(steps, wrong.name, UNCACHED)
    until(lambda: flink.status(job.id).job.state == "FAILED", "it fails again and again, and then for good")
    status = flink.status(job.id)
    assert status.failures > 2
    assert "100.0% of the last messages of the stream wrong are bad, lastly: no JSON" in status.failure
    assert status.failure.startswith("airtight.errors.TerminalError: ")
    assert len([*dead_letters.letters(servers, "test.wrong.dead")]) <= wrong.bad_share.messages


def test_dead_letters_are_listed_explained_and_published_again(
    services: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers, path = services("kafka").kafka_servers, tmp_path / "store.sqlite"
    ensure_topics(DEAD, servers)
    good = orders(300, versions=0)
    bad = message(at=BEGIN + 60, id="b", kind="bad", cents=70)
    late = message(at=BEGIN, id="l", published=BEGIN + LATENESS_S + 9)
    produce(servers, [*good, bad, late])

    def run() -> None:
        source = ReadOffsets(servers, whole_topics(servers, [TOPIC.name]))
        in_process(build(DEAD, source, str(path), follow=False, servers=servers))

    run()
    assert written(SqliteStore(path, DEAD)) == plain(good)
    lines = dead_letters.summary(servers, DEAD)
    assert [line.split(",")[0] for line in lines] == ["bad kind: 1", "late: 1"]
    assert "as the test wants it" in lines[0]
    (letter,) = dead_letters.letters(servers, DEAD.dead_letters, "bad kind")
    assert (letter.key, letter.value, letter.timestamp) == bad
    text = dead_letters.explanation(DEAD, letter)
    assert "why:   bad kind" in text and "today: bad kind" in text and '"cents":70' in text

    # Its reader is corrected, and reads it.
    corrected = replace(DEAD, parse="tests.streaming.windows.shops:parse_bad_kinds")
    assert "today: an event" in dead_letters.explanation(corrected, letter)
    assert dead_letters.republish(servers, corrected, "bad kind") == 1
    assert dead_letters.republish(servers, corrected, "bad kind") == 0, "once"
    with pytest.raises(TerminalError, match="cannot be published again"):
        dead_letters.republish(servers, replace(corrected, topics=("other",)), "late")
    newest = dead_letters.newest_stamp(servers, TOPIC.name)
    assert newest == max(one.published_ms for one in [*good, bad, late])
    assert Message(bad.key, bad.value, newest) in [
        Message(one.key, one.value, one.timestamp) for one in dead_letters.letters(servers, TOPIC.name)
    ]
    assert dead_letters.main(["list", "tests.streaming.windows.shops:DEAD_SHOPS"]) == 0
    assert "bad kind: 1" in capsys.readouterr().out
