"""How many events a second go through the stream, and how long one takes into the online store.

    python -m benchmarks.stream [--days 90] [--seconds 30] [--json FILE]

It needs the broker and the job server (AIRTIGHT_KAFKA, AIRTIGHT_FLINK; `make kafka` and the local services) and the
lake. On a topic of its own, in a state folder of its own:

- floor: kafka-python alone reads the events, one process, and throws them away;
- stream: source, windows and store on Flink, from the first message read until the store holds all of them;
- latency: at half of that rate, from the call that publishes an event until the store holds as many messages of its
  hour as were published up to it. The events are those of 2013 in their order; the replay's clock goes as fast as the
  rate asks.

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import quantiles
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from airtight.errors import TransientError
from airtight.home import Home
from pipelines.flight_delays import facts, stream
from pipelines.flight_delays.events import Event, encode, key
from pipelines.flight_delays.replay import SETTINGS, events
from pipelines.flight_delays.topics import DEAD_LETTERS, EVENTS
from pipelines.flight_delays.windows import HOUR_S
from streaming.accounts import Accounts
from streaming.reader import CONSUMER
from streaming.store import Store
from streaming.topics import ensure, servers

BEGIN = datetime(2013, 3, 1, tzinfo=UTC)
LOOK_S = 0.01
START_S = 120.0


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
def running(topic: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The stream as people start it, in its own state folder."""
    command = [sys.executable, "-m", "pipelines.flight_delays.stream", "--topic", topic]
    with (home / "stream.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "AIRTIGHT_HOME": str(home)}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def lacking(store: Store, hours: dict[int, int]) -> dict[int, int]:
    """Hours of which the store has less messages than they should have."""
    with suppress(TransientError):  # Before the first write there is no store.
        return {hour: messages for hour, messages in hours.items() if store.messages(hour) < messages}
    return hours


def throughput(home: Path, store: Store, told: list[Event], process: subprocess.Popen[bytes]) -> float:
    """Events a second from the first that is read to the last that is in the store."""
    hours: dict[int, int] = Counter(map(hour_of, told))
    accounts = Accounts(stream.accounts_of(Home(home)))
    waited = time.monotonic()
    while not sum(accounts.standing().next.values()):
        if process.poll() is not None or time.monotonic() - waited > START_S:
            raise SystemExit(f"The stream does not start; see {home}/stream.log")
        time.sleep(LOOK_S)
    began = time.monotonic()
    while hours := lacking(store, hours):
        time.sleep(10 * LOOK_S)
    return len(told) / (time.monotonic() - began)


def latency(store: Store, topic: str, told: list[Event], rate: float) -> dict[str, float]:
    """Milliseconds from publishing to the store at a steady rate, and the rate that was reached."""
    producer = KafkaProducer(bootstrap_servers=servers().split(","), **{**SETTINGS, "linger_ms": 5})
    waiting: dict[int, list[float]] = {}
    seen: Counter[int] = Counter()
    took: list[float] = []

    def look() -> None:
        now = time.monotonic()
        for hour in [hour for hour, sent in waiting.items() if len(sent) > seen[hour]]:
            # An hour that is whole gets no more; the open ones are few.
            there = store.messages(hour)
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
        waiting.setdefault(hour_of(event), []).append(time.monotonic())
        publish(producer, topic, event)
    sent_in = time.monotonic() - began
    producer.flush()
    while len(took) < len(told) and time.monotonic() - began < sent_in + START_S:
        look()
        time.sleep(LOOK_S)
    producer.close()
    cuts = quantiles(took, n=100)
    return {
        "rate": len(told) / sent_in,
        "p50_ms": 1e3 * cuts[49],
        "p99_ms": 1e3 * cuts[98],
        "largest_ms": 1e3 * max(took),
        "not_seen": len(told) - len(took),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=90, help="of events for the rate")
    parser.add_argument("--seconds", type=float, default=30.0, help="of publishing for the latency")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    topic = replace(EVENTS, name=f"bench.events.{os.getpid()}")
    ensure(servers(), [topic, DEAD_LETTERS])
    lake = Home.current().lake
    later = BEGIN + timedelta(days=given.days)
    told = list(events(lake, BEGIN, later))
    try:
        with tempfile.TemporaryDirectory(prefix="airtight-bench-") as place:
            producer = KafkaProducer(bootstrap_servers=servers().split(","), **SETTINGS)
            for event in told:
                publish(producer, topic.name, event)
            producer.close(timeout=60)
            found: dict[str, Any] = {"events": len(told), "floor": floor(topic.name, len(told))}
            store = facts.store(str(Home(Path(place)).online_store))
            with running(topic.name, Path(place)) as process:
                found["stream"] = throughput(Path(place), store, told, process)
                found["of_floor"] = found["stream"] / found["floor"]
                rate = found["stream"] / 2
                more = list(islice(events(lake, later, later + timedelta(days=200)), int(rate * given.seconds)))
                found["latency"] = latency(store, topic.name, more, rate)
    finally:
        KafkaAdminClient(bootstrap_servers=servers().split(",")).delete_topics([topic.name])
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
