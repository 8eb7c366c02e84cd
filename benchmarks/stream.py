"""How many events a second go through the stream, and how long one takes into the online store.

    python -m benchmarks.stream [--days 90] [--seconds 30] [--spark ours|own|none] [--json FILE]

It needs the broker and the job server (AIRTIGHT_KAFKA, AIRTIGHT_FLINK; `make kafka` and the local services) and the
lake. On a topic of its own, in a state folder of its own:

- floor: kafka-python alone reads the events, one process, and throws them away;
- stream: source, windows and store on Flink, from the first message read until the store holds all of them;
- latency: at half of that rate, from the call that publishes an event until the store holds as many messages of its
  hour as were published up to it. The events are those of 2013 in their order; the replay's clock goes as fast as the
  rate asks;
- spark: Spark Structured Streaming at the same windows (`benchmarks.spark_stream` says what it leaves out), on a topic
  of its own with the same events, from the first micro-batch that is laid out until its file holds all of them; its
  totals are compared with `group_totals`, and a difference ends the benchmark;
- spark_latency: as latency, of the events that count in a total, at half of the rate that ours reached, or, with
  `--spark own`, at half of its own. Those that it drops as late stand in not_seen.

Run it on a quiet machine: broker, job server, publisher and stream share its cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import quantiles
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from airtight.errors import AirtightError, TransientError
from airtight.home import Home
from benchmarks import spark_stream
from pipelines.flight_delays import facts, stream
from pipelines.flight_delays.events import Event, encode, key
from pipelines.flight_delays.replay import SETTINGS, events
from pipelines.flight_delays.topics import DEAD_LETTERS, EVENTS
from pipelines.flight_delays.windows import HOUR_S
from streaming.accounts import Accounts
from streaming.reader import CONSUMER
from streaming.topics import ensure, servers

BEGIN = datetime(2013, 3, 1, tzinfo=UTC)
LOOK_S = 0.01
START_S = 120.0
WHOLE_S = 1800.0
LOG = "stream.log"
More = Callable[[float], list[Event]]
"""Gives the events that are published at a rate for the latency."""


@dataclass(frozen=True)
class Case:
    """A stream that is measured.

    Args:
      home: Its state folder.
      process: That in which it runs.
      begun: Whether it has begun to read.
      messages: How many messages of an hour since 1970 are in its store.
      counts: Whether an event becomes a message in its store.
    """

    home: Path
    process: subprocess.Popen[bytes]
    begun: Callable[[], bool]
    messages: Callable[[int], int]
    counts: Callable[[Event], bool] = lambda _: True

    def alive(self, until: float) -> None:
        """Ends the benchmark when the stream has ended, or an instant of the monotonic clock has come."""
        ended = self.process.poll() is not None
        if ended or time.monotonic() > until:
            log = (self.home / LOG).read_text(encoding="utf-8", errors="replace")
            raise SystemExit(f"The stream {'has ended' if ended else 'does not get on'}. Its log:\n{log[-2000:]}")


def hour_of(event: Event) -> int:
    return int(event.at.timestamp() // HOUR_S)


def publish(producer: Any, topic: str, event: Event) -> None:
    stamp = int(event.at.timestamp() * 1000)
    producer.send(topic, key=key(event), value=encode(event), timestamp_ms=stamp)


def floor(topic: str, number: int) -> float:
    """Events a second that the bare consumer reads."""
    consumer = KafkaConsumer(bootstrap_servers=servers().split(","), **CONSUMER)
    partitions = [TopicPartition(topic, each) for each in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    read, began = 0, 0.0
    while read < number:
        read += sum(map(len, consumer.poll(timeout_ms=100, max_records=5000).values()))
        began = began or time.monotonic()
    elapsed = time.monotonic() - began
    consumer.close()
    return number / elapsed


@contextmanager
def filled(told: list[Event]) -> Iterator[str]:
    """The name of a topic that holds events, for as long as it is needed."""
    topic = replace(EVENTS, name=f"bench.events.{os.getpid()}.{time.monotonic_ns()}")
    ensure(servers(), [topic, DEAD_LETTERS])
    try:
        producer = KafkaProducer(bootstrap_servers=servers().split(","), **SETTINGS)
        for event in told:
            publish(producer, topic.name, event)
        producer.close(timeout=60)
        yield topic.name
    finally:
        KafkaAdminClient(bootstrap_servers=servers().split(",")).delete_topics([topic.name])


@contextmanager
def running(home: Path, *module: str) -> Iterator[subprocess.Popen[bytes]]:
    """A stream as people start it, in its own state folder: a module and its arguments."""
    command = [sys.executable, "-m", *module]
    with (home / LOG).open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "AIRTIGHT_HOME": str(home)}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def lacking(case: Case, hours: dict[int, int]) -> dict[int, int]:
    """Hours of which the store has less messages than it should have."""
    with suppress(TransientError):  # Before the first write there is no store.
        return {hour: messages for hour, messages in hours.items() if case.messages(hour) < messages}
    return hours


def throughput(case: Case, told: list[Event]) -> float:
    """Events a second from the first that is read to the last that is in the store."""
    hours: dict[int, int] = Counter(map(hour_of, filter(case.counts, told)))
    until = time.monotonic() + START_S
    while not case.begun():
        case.alive(until)
        time.sleep(LOOK_S)
    began = time.monotonic()
    while hours := lacking(case, hours):
        case.alive(began + WHOLE_S)
        time.sleep(10 * LOOK_S)
    return len(told) / (time.monotonic() - began)


def latency(case: Case, topic: str, told: list[Event], rate: float) -> dict[str, float]:
    """Milliseconds from publishing to the store at a steady rate, and the rate that was reached."""
    producer = KafkaProducer(bootstrap_servers=servers().split(","), **{**SETTINGS, "linger_ms": 5})
    waiting: dict[int, list[float]] = {}
    seen: Counter[int] = Counter()
    took: list[float] = []

    def look() -> None:
        now = time.monotonic()
        for hour in [hour for hour, sent in waiting.items() if len(sent) > seen[hour]]:
            # An hour that is whole gets no more; the open ones are few.
            there = case.messages(hour)
            took.extend(now - sent for sent in waiting[hour][seen[hour] : there])
            seen[hour] = max(seen[hour], there)

    began = looked = time.monotonic()
    for number, event in enumerate(told):
        due = began + number / rate
        while (now := time.monotonic()) < due or now - looked > LOOK_S:
            if now - looked > LOOK_S:
                look()
                looked = time.monotonic()
            else:
                time.sleep(min(LOOK_S, due - now))
        if case.counts(event):
            waiting.setdefault(hour_of(event), []).append(time.monotonic())
        publish(producer, topic, event)
    sent_in = time.monotonic() - began
    producer.flush()
    wanted = sum(map(len, waiting.values()))
    while len(took) < wanted and time.monotonic() - began < sent_in + START_S:
        look()
        time.sleep(LOOK_S)
    producer.close()
    cuts = quantiles(took, n=100)
    return {
        "rate": len(told) / sent_in,
        "p50_ms": 1e3 * cuts[49],
        "p99_ms": 1e3 * cuts[98],
        "largest_ms": 1e3 * max(took),
        "not_seen": wanted - len(took),
    }


def of_ours(topic: str, told: list[Event], more: More) -> dict[str, Any]:
    """What the stream reaches."""
    with tempfile.TemporaryDirectory(prefix="airtight-bench-") as place:
        home = Path(place)
        store = facts.store(str(Home(home).online_store))
        accounts = Accounts(stream.accounts_of(Home(home)))
        with running(home, "pipelines.flight_delays.stream", "--topic", topic) as process:
            case = Case(home, process, lambda: any(accounts.standing().next.values()), store.messages)
            reached = throughput(case, told)
            return {"stream": reached, "latency": latency(case, topic, more(reached / 2), reached / 2)}


def of_spark(topic: str, told: list[Event], more: More, rate: float | None) -> dict[str, Any]:
    """The same of Spark; the latency at a rate, or at half of its own."""
    with tempfile.TemporaryDirectory(prefix="airtight-bench-", ignore_cleanup_errors=True) as place:
        home = Path(place)
        rows = spark_stream.Rows(home)
        with running(home, "benchmarks.spark_stream", topic, place) as process:
            case = Case(home, process, lambda: spark_stream.begun(home), rows.messages, spark_stream.counts)
            reached = throughput(case, told)
            rows.check(told)
            rate = rate or reached / 2
            return {"spark": reached, "spark_latency": latency(case, topic, more(rate), rate)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=90, help="of events for the rate")
    parser.add_argument("--seconds", type=float, default=30.0, help="of publishing for the latency")
    parser.add_argument(
        "--spark",
        choices=("ours", "own", "none"),
        default="ours",
        help="Spark's latency at half of our rate, or of its own; none: Spark is not measured",
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lake = Home.current().lake
    later = BEGIN + timedelta(days=given.days)
    told = list(events(lake, BEGIN, later))

    def more(rate: float) -> list[Event]:
        return list(islice(events(lake, later, later + timedelta(days=200)), int(rate * given.seconds)))

    found: dict[str, Any] = {"events": len(told)}
    with filled(told) as topic:
        found["floor"] = floor(topic, len(told))
        found |= of_ours(topic, told, more)
        found["of_floor"] = found["stream"] / found["floor"]
    if given.spark != "none" and spark_there():
        with filled(told) as topic:
            found |= of_spark(topic, told, more, found["stream"] / 2 if given.spark == "ours" else None)
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def spark_there() -> bool:
    """Whether Spark's Kafka package can be had; says why it cannot."""
    try:
        spark_stream.libraries()
    except AirtightError as error:
        print(f"Spark is not measured: {error}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
