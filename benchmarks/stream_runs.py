"""What the benchmarks of the stream share: made-up events of flights, topics that hold them, a job, and its store."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from airtight.errors import TransientError
from benchmarks.spark_stream import WHOLE
from pipelines.flight_delays import features
from pipelines.flight_delays.events import SCHEMA, Arrival, Departure, Event, Weather, encode, key
from pipelines.flight_delays.streams import LATENESS_S, STREAM
from pipelines.flight_delays.topics import DEAD_LETTERS, EVENTS
from streaming.engine import flink_jobs
from streaming.engine.flink_rest import ENDED, Flink, Job
from streaming.run import Build
from streaming.topics import ensure, servers
from streaming.windows.__main__ import UNCACHED
from streaming.windows.declaration import Stream
from streaming.windows.pipeline import build, from_kafka
from streaming.windows.publishing import SETTINGS
from streaming.windows.store import opened

BEGIN = datetime(2013, 3, 1, tzinfo=UTC)
HOUR_S = 3600.0
MINUTE_S = 60
CARRIERS = ("UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX", "FL", "AS", "F9", "YV", "HA", "OO")
ORIGINS = ("EWR", "JFK", "LGA")
DESTINATIONS, FLIGHTS, AIRCRAFT = 100, 3800, 4000
"""How many there are, about as in 2013."""
WAIT_S = 1800.0
LOOK_S = 0.1


def movements(per_hour: float, begin: datetime = BEGIN, seed: int = 0) -> Iterator[Event]:
    """Departures and arrivals without an end, evenly in event time; each counts once in a group of `WHOLE`.

    Args:
      per_hour: Events an hour of event time.
      begin: Of the first.
      seed: Of carriers, aircraft, airports and delays.
    """
    dice = random.Random(seed)
    for number in itertools.count():
        kind = (Departure, Arrival)[number % 2]
        yield kind(
            schema=SCHEMA,
            at=begin + timedelta(seconds=number * HOUR_S / per_hour),
            flight_id=f"{seed}/{number // 2}",
            carrier=dice.choice(CARRIERS),
            flight=dice.randrange(FLIGHTS),
            tailnum=f"N{dice.randrange(AIRCRAFT)}",
            origin=dice.choice(ORIGINS),
            dest=f"D{dice.randrange(DESTINATIONS)}",
            delay=round(dice.expovariate(1 / 20)) - 10,
        )


def declaration(name: str, **changes: Any) -> Stream:
    """The flights' stream with a name and topics of its own, which are made; `changes` are of its fields."""
    stream = replace(STREAM, name=name, topics=(f"bench.{name}",), dead_letters=f"bench.{name}.dead", **changes)
    ensure(servers(), [replace(EVENTS, name=stream.topics[0]), replace(DEAD_LETTERS, name=stream.dead_letters)])
    return stream


@contextmanager
def producer(**changes: Any) -> Iterator[Any]:
    """Kafka's producer, that waits for a broker that was killed and writes nothing twice; flushed at the end."""
    settings = {**SETTINGS, "delivery_timeout_ms": 600_000, "max_block_ms": 600_000, **changes}
    client = KafkaProducer(bootstrap_servers=servers().split(","), **settings)
    try:
        yield client
        client.flush()
    finally:
        client.close(timeout=60)


def send(client: Any, topic: str, event: Event, partitions: int = 0) -> None:
    """Publishes an event with its own time as stamp; to the first partitions only, if their number is not 0."""
    name = key(event)
    partition = sum(name) % partitions if partitions else None
    stamp = round(event.at.timestamp() * 1000)
    client.send(topic, key=name, value=encode(event), timestamp_ms=stamp, partition=partition)


def close_windows(topic: str, after: datetime) -> None:
    """Publishes the weather of a day later, so that every window before is over."""
    later = after + timedelta(days=1)
    with producer() as client:
        weather = Weather(schema=SCHEMA, at=later, origin="EWR", observed_at=later, **dict.fromkeys(features.WEATHER))
        send(client, topic, weather)


def steps_of(stream: Stream, path: Path) -> Build:
    """The stream's steps into a SQLite file."""
    return build(stream, from_kafka(stream, servers()), str(path), follow=True, servers=servers())


@contextmanager
def running(stream: Stream, path: Path, arguments: Sequence[str] = ()) -> Iterator[Job]:
    """The stream as a job of Flink, read from the beginning of its topics; the job of its name is cancelled at the end.

    Args:
      stream: The declaration.
      path: Its store, a SQLite file.
      arguments: Of the job, such as `--slots=2`.
    """
    flink = Flink()
    job = flink_jobs.submit(steps_of(stream, path), stream.name, [*UNCACHED, *arguments])
    try:
        yield job
    finally:
        if now := flink.running(stream.name):
            flink.cancel(now.id)


def failure_of(job: Job) -> str:
    """Why a job has ended; empty while it runs."""
    status = Flink().status(job.id)
    return f"{status.job.state}: {status.failure}" if status.job.state in ENDED else ""


def counted(stream: Stream, path: Path, since: int = 0) -> int:
    """Events in a SQLite store.

    Args:
      stream: The declaration.
      path: The file; 0 while it is not there.
      since: Only of minutes from this one on, since 1970.
    """
    if not path.exists():
        return 0
    query = f"SELECT coalesce(sum(count), 0) FROM totals_{stream.name} WHERE minutes = 1 AND grp IN (?, ?)"
    with closing(sqlite3.connect(path)) as db, contextlib.suppress(sqlite3.OperationalError):
        return int(db.execute(f"{query} AND start >= ?", (*WHOLE, since)).fetchone()[0])
    return 0


def await_watermark(stream: Stream, path: Path, end: datetime, job: Job) -> None:
    """Waits until the store's watermark is later than an instant by the allowed lateness.

    Raises:
      SystemExit: The job has ended, or it takes longer than `WAIT_S`.
    """
    store, deadline = opened(str(path), stream), time.monotonic() + WAIT_S
    minute = int(end.timestamp() + LATENESS_S) // MINUTE_S
    reached = 0
    while reached < minute:
        with contextlib.suppress(TransientError):  # Before the first row there is no store.
            reached = store.watermark() or 0
        if (why := failure_of(job)) or time.monotonic() > deadline:
            raise SystemExit(f"{why or 'Too slow'}: the store's watermark is at {reached}, and not at {minute}")
        time.sleep(1)
    store.close()


def percentiles(seconds: Iterable[float]) -> dict[str, float | None]:
    """p50, p99 and the largest; None for nothing."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    picks = {"p50_s": 0.5, "p99_s": 0.99, "max_s": 1.0}
    return {name: round(ordered[min(int(len(ordered) * q), last)], 3) if ordered else None for name, q in picks.items()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the same fields as Markdown."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row.get(name)) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


def report(title: str, result: dict[str, Any], rows: Sequence[dict[str, Any]], file: Path | None) -> None:
    """Prints a table, and the whole result as JSON, which also goes into a file."""
    print(f"\n{title}\n\n{table(rows)}\n" if rows else f"\n{title}\n", flush=True)
    text = json.dumps(result | {"rows": list(rows)}, indent=1, default=str)
    print(text)
    if file:
        file.write_text(text + "\n", encoding="utf-8")


def say(line: str) -> None:
    """Shows how far it is."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)
