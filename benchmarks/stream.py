"""How many events a second go through the stream, and how long one takes into the online store.

    python -m benchmarks.stream [--days 90] [--seconds 30] [--spark ours|own|none] [--json FILE]

It needs the broker and the Flink cluster (`python -m services up kafka flink`) and the lake. On a topic of its own, as
a job of its own, into a store of its own:

- floor: kafka-python alone reads the events, one process, and throws them away;
- stream: source, windows and store on Flink, from the first row in the store until it holds all of them;
- latency: at half of that rate, from the call that publishes a departure or an arrival until the totals hold as many
  of its hour as were published up to it. The events are those of 2013 in their order; the replay's clock goes as fast
  as the rate asks;
- spark: Spark Structured Streaming at the same windows (`benchmarks.spark_stream` says what it leaves out), on a topic
  of its own with the same events, from the first micro-batch that is laid out until its file holds all of them; its
  totals are compared with the stream's, and a difference ends the benchmark;
- spark_latency: as latency, of the events that count in a total, at half of the rate that ours reached, or, with
  `--spark own`, at half of its own. Those that it drops as late stand in not_seen.

Run it on a quiet machine: broker, job server, publisher and stream share its cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import quantiles
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from airtight.errors import AirtightError
from airtight.home import Home
from benchmarks import spark_stream
from benchmarks.spark_stream import HOUR, HOUR_S, WHOLE, counts
from pipelines.flight_delays.events import Event, encode, key
from pipelines.flight_delays.replay import events
from pipelines.flight_delays.streams import STREAM
from pipelines.flight_delays.topics import DEAD_LETTERS, EVENTS
from streaming.engine import flink_jobs
from streaming.engine.flink_rest import ENDED, Flink
from streaming.topics import ensure, servers
from streaming.windows.__main__ import UNCACHED
from streaming.windows.pipeline import build, from_kafka
from streaming.windows.publishing import SETTINGS

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
      ended: Why it has ended; "" while it runs.
      begun: Whether it has begun to read.
      messages: How many departures and arrivals of an hour since 1970 are in its store.
    """

    ended: Callable[[], str]
    begun: Callable[[], bool]
    messages: Callable[[int], int]

    def alive(self, until: float) -> None:
        """Ends the benchmark when the stream has ended, or an instant of the monotonic clock has come."""
        if (why := self.ended()) or time.monotonic() > until:
            raise SystemExit(f"The stream has ended: {why}" if why else "The stream does not get on.")


def hour_of(event: Event) -> int:
    return int(event.at.timestamp() // HOUR_S)


def publish(producer: Any, topic: str, event: Event) -> None:
    stamp = int(event.at.timestamp() * 1000)
    producer.send(topic, key=key(event), value=encode(event), timestamp_ms=stamp)


def floor(topic: str, number: int) -> float:
    """Events a second that the bare consumer reads."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers().split(","), fetch_max_bytes=64 << 20, max_partition_fetch_bytes=8 << 20
    )
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
    return {hour: messages for hour, messages in hours.items() if case.messages(hour) < messages}


def throughput(case: Case, told: list[Event]) -> float:
    """Events a second from the first that is read to the last that is in the store."""
    hours: dict[int, int] = Counter(map(hour_of, filter(counts, told)))
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
        if counts(event):
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
    declaration, flink = replace(STREAM, name=f"bench_{os.getpid()}", topics=(topic,)), Flink()
    with tempfile.TemporaryDirectory(prefix="airtight-bench-") as place:
        path = Path(place) / "store.sqlite"
        query = f"SELECT coalesce(sum(count), 0) FROM totals_{declaration.name} WHERE minutes = 1 AND grp IN (?, ?)"

        def messages(hour: int) -> int:
            if not path.exists():
                return 0
            with closing(sqlite3.connect(path)) as db, suppress(sqlite3.OperationalError):
                span = (*WHOLE, hour * HOUR, (hour + 1) * HOUR)
                return int(db.execute(f"{query} AND start >= ? AND start < ?", span).fetchone()[0])
            return 0

        def ended() -> str:
            status = flink.status(job.id)
            return f"{status.job.state}: {status.failure}" if status.job.state in ENDED else ""

        steps = build(declaration, from_kafka(declaration, servers()), str(path), follow=True, servers=servers())
        job = flink_jobs.submit(steps, declaration.name, [*UNCACHED, "--slots=1"], home=Home(Path(place)))
        try:
            case = Case(ended, path.exists, messages)
            reached = throughput(case, told)
            return {"stream": reached, "latency": latency(case, topic, more(reached / 2), reached / 2)}
        finally:
            flink.cancel(job.id)


def of_spark(topic: str, told: list[Event], more: More, rate: float | None) -> dict[str, Any]:
    """The same of Spark; the latency at a rate, or at half of its own."""
    with tempfile.TemporaryDirectory(prefix="airtight-bench-", ignore_cleanup_errors=True) as place:
        home = Path(place)
        rows = spark_stream.Rows(home)
        with running(home, "benchmarks.spark_stream", topic, place) as process:

            def ended() -> str:
                return "" if process.poll() is None else (home / LOG).read_text(errors="replace")[-2000:]

            case = Case(ended, lambda: spark_stream.begun(home), rows.messages)
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
