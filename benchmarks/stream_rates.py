"""Events a second, source to store, at several densities of event time; beside Spark and the bare consumer.

    python -m benchmarks.stream_rates [--events 1000000] [--densities 100 10000 1000000] [--slots 2] [--no-spark]

It starts a broker and a Flink cluster of its own. The events are made-up departures and arrivals, so many an hour of
event time; a topic of each density holds all of them before they are read:

- consumer: kafka-python alone reads them, one process, and throws them away;
- stream: source, windows and store on Flink: from the first row in the store until it holds every event, without those
  that were in it at first. At 100 an hour each event has a minute, and so a row of each group, to itself;
- spark: Spark Structured Streaming at the same windows (`benchmarks.spark_stream` says what it leaves out), from the
  first micro-batch that is laid out until its file holds every event. Each of its totals is compared with the events,
  and a difference ends the benchmark.

Run it on a quiet machine: broker, Flink, Python workers and Spark share its cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from airtight.errors import AirtightError
from benchmarks import spark_stream
from benchmarks.own_cluster import own_cluster
from benchmarks.stream_runs import (
    LOOK_S,
    WAIT_S,
    counted,
    declaration,
    failure_of,
    movements,
    producer,
    report,
    running,
    say,
    send,
)
from pipelines.flight_delays.events import Event
from streaming.topics import servers
from streaming.windows.declaration import Stream

LOG = "spark.log"
KEEP_DAYS = 100_000


def consumer_rate(topic: str, count: int) -> float:
    """Events a second that the bare consumer reads."""
    with KafkaConsumer(
        bootstrap_servers=servers().split(","), fetch_max_bytes=64 << 20, max_partition_fetch_bytes=8 << 20
    ) as consumer:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        read, began = 0, 0.0
        while read < count:
            read += sum(map(len, consumer.poll(timeout_ms=100, max_records=5000).values()))
            began = began or time.monotonic()
        return count / (time.monotonic() - began)


def rate(held: Callable[[], int], count: int, begun: Callable[[], bool], why_ended: Callable[[], str]) -> float:
    """Events a second into a store.

    Args:
      held: Events that the store holds.
      count: Those that it must come to hold.
      begun: Whether the clock starts; what the store holds by then does not count.
      why_ended: Why the stream has ended; empty while it runs.

    Raises:
      SystemExit: The stream has ended, or takes longer than `WAIT_S`.
    """
    deadline, looked = time.monotonic() + WAIT_S, 0.0

    def alive() -> None:
        nonlocal looked
        if time.monotonic() - looked > 2:
            looked = time.monotonic()
            if (why := why_ended()) or looked > deadline:
                raise SystemExit(f"The stream has ended: {why}" if why else "The stream does not get on.")

    while not begun():
        alive()
        time.sleep(LOOK_S / 10)
    first, began = held(), time.monotonic()
    while held() < count:
        alive()
        time.sleep(LOOK_S)
    return (count - first) / (time.monotonic() - began)


def stream_rate(stream: Stream, count: int, slots: int) -> float:
    """Events a second of the stream on Flink."""
    with tempfile.TemporaryDirectory(prefix="airtight-bench-") as folder:
        path = Path(folder) / "store.sqlite"
        with running(stream, path, [f"--slots={slots}"]) as job:
            return rate(
                lambda: counted(stream, path), count, lambda: counted(stream, path) > 0, lambda: failure_of(job)
            )


def spark_rate(topic: str, events: Sequence[Event]) -> float:
    """Events a second of Spark, whose totals are compared with the events."""
    with tempfile.TemporaryDirectory(prefix="airtight-bench-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        rows = spark_stream.Rows(folder)
        with _spark(topic, folder) as process:

            def why_ended() -> str:
                return "" if process.poll() is None else (folder / LOG).read_text(errors="replace")[-2000:]

            reached = rate(rows.messages, len(events), lambda: spark_stream.begun(folder), why_ended)
            rows.check(events)
        rows.close()
        return reached


@contextmanager
def _spark(topic: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.spark_stream", topic, str(folder)]
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, "AIRTIGHT_HOME": str(folder)}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def spark_is_there() -> bool:
    """Whether Spark's Kafka package can be had; says why it cannot."""
    try:
        spark_stream.libraries()
    except AirtightError as error:
        print(f"Spark is not measured: {error}", file=sys.stderr)
        return False
    return True


def measure(density: int, count: int, slots: int, with_spark: bool) -> dict[str, Any]:
    """The rates at one density, events an hour of event time."""
    # What is read first must still be there at the end: sparse events are years of event time.
    stream = declaration(f"rates_{density}", keep_days=KEEP_DAYS)
    (topic,) = stream.topics
    events = list(islice(movements(density), count))
    with producer() as client:
        for event in events:
            send(client, topic, event)
    row: dict[str, Any] = {"events an hour": density, "consumer": consumer_rate(topic, count)}
    row["stream"] = stream_rate(stream, count, slots)
    row["spark"] = spark_rate(topic, events) if with_spark else None
    row["of the consumer"] = row["stream"] / row["consumer"]
    row["of Spark"] = row["stream"] / row["spark"] if with_spark else None
    say(str(row))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="at each density")
    parser.add_argument("--densities", type=int, nargs="+", default=[100, 10_000, 1_000_000], help="events an hour")
    parser.add_argument("--slots", type=int, default=2, help="parallel parts of the job, on one TaskManager")
    parser.add_argument("--no-spark", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with own_cluster(slots=args.slots):
        with_spark = not args.no_spark and spark_is_there()
        rows = [measure(density, args.events, args.slots, with_spark) for density in args.densities]
    report(
        f"Events a second, {args.events:,} at each density, {args.slots} slots",
        {"events": args.events, "slots": args.slots},
        rows,
        args.json,
    )


if __name__ == "__main__":
    main()
