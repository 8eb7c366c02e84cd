"""The whole of 2013 through the stream, and every window of it beside what Spark computes from the lake.

    python -m benchmarks.stream_parity [--from 2013-01-01 --to 2014-01-01] [--shuffled SEED] [--windows SAMPLE]
                                       [--taskmanagers 2]

It needs the lake, and starts a broker and a Flink cluster of its own. The events are published as they became known, or
each up to the allowed lateness later. Compared are

- the windows of a minute: every group, key and minute, as `close_stream` does;
- the sliding windows of the features at the cut-off of every flight (or of a sample of each month): sums of those
  minutes, as a request gets them from the online store, beside the features that the model is trained on.

Whatever is missing or extra, a count that differs, or a mean by more than 1e-9, is exit status 1.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from airtight.errors import TransientError
from airtight.home import Home
from airtight.interval import Interval
from benchmarks.own_cluster import own_cluster
from components.close_stream import columns_of, totals_file
from components.data.lake import SPARK_TYPES, Lake
from components.measures.closing import MEAN_LIMIT, compared
from pipelines.flight_delays import clock, features, online
from pipelines.flight_delays.events import SCHEMA, Flight, Weather
from pipelines.flight_delays.lake import TABLES
from pipelines.flight_delays.replay import message, messages
from pipelines.flight_delays.streams import LATENESS_S, STREAM
from pipelines.flight_delays.topics import DEAD_LETTERS, EVENTS
from pipelines.flight_delays_close.settings import MEANS
from streaming import dead_letters
from streaming.engine import flink_jobs
from streaming.engine.flink_rest import ENDED, Flink
from streaming.topics import ensure, servers
from streaming.windows.__main__ import UNCACHED
from streaming.windows.declaration import Stream
from streaming.windows.messages import Message
from streaming.windows.pipeline import build, from_kafka
from streaming.windows.publishing import delayed, publish
from streaming.windows.store import Store, opened

BEFORE, AFTER = timedelta(days=4), timedelta(days=2)
"""What becomes known of a flight does so within so long before and after its scheduled day."""
LONGEST = timedelta(hours=max(window.hours for window in features.WINDOWS))
KEEP_DAYS = 10_000
STALLED_S = 600.0
"""A stream whose store's watermark stands still for that long ends the comparison."""
AT_ONCE = 500
"""Flights that are asked for at once."""
MINUTE = "a minute, every group"
Features = Mapping[str, Any]


@dataclass
class Found:
    """What comparing some windows has found.

    Args:
      windows: How many there are, on either side.
      missing: Those that the stream lacks.
      extra: Those that only the stream has.
      count: The largest difference of whole numbers.
      mean: The largest difference of means.
    """

    windows: int = 0
    missing: int = 0
    extra: int = 0
    count: float = 0
    mean: float = 0

    def add(self, other: Found) -> None:
        """Takes in what was found elsewhere."""
        self.windows += other.windows
        self.missing += other.missing
        self.extra += other.extra
        self.count, self.mean = max(self.count, other.count), max(self.mean, other.mean)

    @property
    def equal(self) -> bool:
        """Whether there is anything, and both sides are the same."""
        return bool(self.windows) and not (self.missing or self.extra or self.count) and self.mean <= MEAN_LIMIT


def beside(window: features.Window, batch: Mapping[str, Features], streamed: Mapping[str, Features]) -> Found:
    """One window at the cut-offs of flights, on both sides.

    Args:
      window: Which.
      batch: Features by flight; a mean of nothing is None or NaN.
      streamed: The same of the stream.
    """
    differences = Found()
    counts = [window.feature(measure) for measure in window.measures if measure == "count"]
    means = [window.feature(measure) for measure in window.measures if measure != "count"]
    for flight in batch.keys() | streamed.keys():
        differences.windows += 1
        here, there = batch.get(flight, {}), streamed.get(flight, {})
        for name in counts:
            differences.count = max(differences.count, abs((here.get(name) or 0) - (there.get(name) or 0)))
        pairs: list[tuple[Any, Any]] = [(here.get(name), there.get(name)) for name in means]
        differences.missing += flight not in streamed or any(not _nothing(one) and _nothing(two) for one, two in pairs)
        differences.extra += flight not in batch or any(_nothing(one) and not _nothing(two) for one, two in pairs)
        for one, two in pairs:
            if not _nothing(one) and not _nothing(two):
                differences.mean = max(differences.mean, abs(one - two))
    return differences


def _nothing(value: Any) -> bool:
    return value is None or math.isnan(value)


_NAMES = [window.feature(measure) for window in features.WINDOWS for measure in window.measures]


@dataclass
class Batch:
    """What Spark computes from the lake.

    Args:
      spark: The session.
      lake: Folder of the lake.
      known: What was published: of anything else the batch must not know, either.
    """

    spark: Any
    lake: Path
    known: Interval

    def minutes(self, totals: Path, part: Interval) -> Found:
        """The windows of a minute of one part, beside those that the stream wrote."""
        from pipelines.flight_delays_close import batch

        flights = self._table("flights", part.start - BEFORE, part.end + AFTER)
        columns = columns_of(STREAM, MEANS)
        figures, _ = compared(self.spark, batch.totals(flights, part.start, part.end), [str(totals)], part, columns)
        differences = (max(figures[f"largest_{name}"] for name in names) for names in (columns.totals, columns.means))
        return Found(figures["rows"] + figures["extra"], figures["missing"], figures["extra"], *differences)

    def sliding(self, part: Interval) -> dict[str, Features]:
        """The windows' features of the flights of which the cut-off is in a part, as the transform node makes them."""
        from pyspark.sql import functions as F

        from pipelines.flight_delays.transform import transform

        def table(name: str) -> Any:
            rows = self._table(name, part.start - LONGEST - BEFORE, part.end + AFTER)
            if name == "flights":
                for movements in features.STREAMS:
                    at = F.col(movements.known_at)
                    inside = (at >= F.lit(self.known.start)) & (at < F.lit(self.known.end))
                    rows = rows.withColumn(movements.delay, F.when(inside, F.col(movements.delay)))
            return rows

        scheduled, ends = F.col("scheduled_departure"), [end + clock.CUTOFF for end in (part.start, part.end)]
        inside = (scheduled >= F.lit(ends[0])) & (scheduled < F.lit(ends[1]))
        rows = transform(table).where(inside).select("flight_id", *_NAMES).toArrow()
        flights = rows["flight_id"].to_pylist()
        if len(set(flights)) < len(flights):
            raise SystemExit("Spark has flights more than once")
        values = zip(*(rows[name].to_pylist() for name in _NAMES), strict=True)
        return {flight: dict(zip(_NAMES, row, strict=True)) for flight, row in zip(flights, values, strict=True)}

    def _table(self, name: str, start: datetime, end: datetime) -> Any:
        """A table of the lake; of one that grows in time, the local days of an interval."""
        (declared,) = (table for table in TABLES if table.name == name)
        schema = ", ".join(f"`{field.name}` {SPARK_TYPES[str(field.type)]}" for field in declared.schema)
        return self.spark.read.schema(schema).parquet(*map(str, files_of(self.lake, name, start, end)))


def sliding(batch: Batch, store: Store, part: Interval, sample: int) -> Iterator[tuple[str, Found]]:
    """The sliding windows at the cut-offs of one part, on both sides.

    Args:
      batch: One side.
      store: The other: the stream's totals of the part, and of the longest window before it.
      part: Of whose cut-offs.
      sample: At the cut-offs of so many flights; 0 for all.

    Yields:
      The name of each window, and what was found.
    """
    flights = flights_of(batch.lake, part)
    expected = batch.sliding(part)
    if sample:
        flights = random.Random(sample).sample(flights, min(sample, len(flights)))
        names = {flight.flight_id for flight in flights}
        expected = {name: answer for name, answer in expected.items() if name in names}
    streamed: dict[str, Features] = {}
    for begin in range(0, len(flights), AT_ONCE):
        some = flights[begin : begin + AT_ONCE]
        for flight, answer in zip(some, online.known(some, store, {}), strict=True):
            if answer.behind_minutes:
                raise SystemExit(f"the store ends {answer.behind_minutes} minutes before the cut-off of {flight}")
            streamed[str(flight.flight_id)] = {name: answer.features[name] for name in _NAMES}
    for window in features.WINDOWS:
        yield f"{window.length}, {window.group.name}", beside(window, expected, streamed)


def files_of(lake: Path, name: str, start: datetime, end: datetime) -> list[Path]:
    """The files of the same."""
    first, last = (clock.local_day(end).isoformat() for end in (start, end))
    files = Lake(lake).snapshot(name).files
    return [lake / file.path for file in files if file.day is None or first <= file.day <= last]


def flights_of(lake: Path, part: Interval) -> list[Flight]:
    """The flights of which the cut-off is in a part."""
    fields = list(Flight.__struct_fields__)
    flights = []
    for path in files_of(lake, "flights", part.start, part.end + clock.CUTOFF):
        for row in pq.read_table(path, columns=fields, partitioning=None).to_pylist():
            if part.start <= clock.cutoff(row["scheduled_departure"]) < part.end:
                flights.append(Flight(**row))
    return flights


def months(start: date, end: date) -> list[Interval]:
    """The calendar months of a span of local days, the first and last of them as far as they belong to it."""
    zone, ends = ZoneInfo(clock.ZONE), [start]
    while ends[-1] < end:
        ends.append(min((ends[-1].replace(day=1) + timedelta(days=32)).replace(day=1), end))
    instants = [datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) for day in ends]
    return [Interval(*pair) for pair in itertools.pairwise(instants)]


def name_of(part: Interval) -> str:
    """Such as 2013-06."""
    return part.start.astimezone(ZoneInfo(clock.ZONE)).strftime("%Y-%m")


@contextmanager
def topics() -> Iterator[str]:
    """Topics of our own as the declared ones are set; the name of that of events. `_letters` is the other's."""
    name = f"bench.parity.{os.getpid()}"
    own = [replace(EVENTS, name=name), replace(DEAD_LETTERS, name=_letters(name))]
    ensure(servers(), own)
    try:
        yield name
    finally:
        admin = KafkaAdminClient(bootstrap_servers=servers().split(","))
        admin.delete_topics([topic.name for topic in own])
        admin.close()


def _letters(topic: str) -> str:
    return f"{topic}.dead-letters"


@contextmanager
def running(declaration: Stream, path: Path, slots: int) -> Iterator[Callable[[int], None]]:
    """The stream as a job of Flink; what waits until its store's watermark has come to a minute."""
    flink, store = Flink(), opened(str(path), declaration)
    steps = build(declaration, from_kafka(declaration, servers()), str(path), follow=True, servers=servers())
    job = flink_jobs.submit(steps, declaration.name, [*UNCACHED, f"--slots={slots}"])

    def wait(minute: int) -> None:
        reached, since = 0, time.monotonic()
        while reached < minute:
            with suppress(TransientError):  # Before the first row there is no store.
                if (now := store.watermark() or 0) > reached:
                    reached, since = now, time.monotonic()
            status = flink.status(job.id)
            if status.job.state in ENDED or time.monotonic() - since > STALLED_S:
                raise SystemExit(f"The job is {status.job.state}, its store at minute {reached}: {status.failure}")
            time.sleep(1)

    try:
        yield wait
    finally:
        store.close()
        flink.cancel(job.id)


def replayed(topic: str, arriving: Iterator[Message], parts: Sequence[Interval], wait: Callable[[int], None]) -> int:
    """Publishes everything, and an observation a day later, which closes all windows; how many were published."""
    producer = partial(KafkaProducer, delivery_timeout_ms=600_000)
    began = time.monotonic()
    sent = publish(servers(), topic, arriving, producer=producer)
    later = parts[-1].end + timedelta(days=1)
    last = Weather(schema=SCHEMA, at=later, origin="EWR", observed_at=later, **dict.fromkeys(features.WEATHER))
    publish(servers(), topic, [message(last)], producer=producer)
    published = time.monotonic()
    wait(int(parts[-1].end.timestamp() + LATENESS_S) // 60)
    say(f"{sent:,} events published in {published - began:.0f} s")
    say(f"in the store {time.monotonic() - published:.0f} s later")
    return sent


def say(line: str) -> None:
    """Shows how far it is."""
    print(f"{datetime.now():%H:%M:%S} {line}", flush=True)


def compare(lake: Path, declaration: Stream, path: Path, parts: Sequence[Interval], sample: int) -> dict[str, Found]:
    """Everything that the stream wrote, month by month, beside Spark."""
    from components.data.spark import session

    by_window: dict[str, Found] = defaultdict(Found)
    store = opened(str(path), declaration)
    rows = 0
    with session("stream_parity") as spark:
        batch = Batch(spark, lake, Interval(parts[0].start, parts[-1].end))
        for part in parts:
            totals, _ = totals_file(declaration, str(path), path.parent, part)
            of_part = {MINUTE: batch.minutes(totals, part), **dict(sliding(batch, store, part, sample))}
            rows += of_part[MINUTE].windows - of_part[MINUTE].missing
            total = Found()
            for name, of_windows in of_part.items():
                by_window[name].add(of_windows)
                total.add(of_windows)
            say(f"{name_of(part)}: {total.windows:,} windows compared, {'equal' if total.equal else total}")
    # A row of another time than any month was compared with nothing.
    by_window[MINUTE].extra += abs(len(store.rows()) - rows)
    store.close()
    return by_window


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="start", type=date.fromisoformat, default=date(2013, 1, 1))
    parser.add_argument("--to", dest="end", type=date.fromisoformat, default=date(2014, 1, 1), help="not included")
    parser.add_argument("--shuffled", type=int, metavar="SEED", help="each event up to the allowed lateness later")
    parser.add_argument(
        "--windows", type=int, default=0, metavar="SAMPLE", help="at the cut-offs of so many flights a month; 0: of all"
    )
    parser.add_argument("--taskmanagers", type=int, choices=(1, 2), default=1, help="with a slot of the job on each")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    lake, parts = Home.current().lake, months(flags.start, flags.end)
    late = 0 if flags.shuffled is None else LATENESS_S / 60
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="airtight-parity-") as place,
        own_cluster(taskmanagers=flags.taskmanagers),
        topics() as topic,
    ):
        path, letters = Path(place) / "store.sqlite", _letters(topic)
        declaration = replace(
            STREAM, name=f"parity_{os.getpid()}", topics=(topic,), dead_letters=letters, keep_days=KEEP_DAYS
        )
        arriving = delayed(messages(lake, parts[0].start, parts[-1].end), late, flags.shuffled or 0)
        with running(declaration, path, flags.taskmanagers) as wait:
            sent = replayed(topic, arriving, parts, wait)
        dead = sum(1 for _ in dead_letters.letters(servers(), letters))
        by_window = compare(lake, declaration, path, parts, flags.windows)
    order = "in their order" if flags.shuffled is None else f"each up to {late:.0f} minutes late"
    print(f"\n{sent:,} events published, {order}; {dead} dead letters; {time.monotonic() - began:.0f} s in all.\n")
    print(
        "| windows | compared | missing | extra | largest difference of counts | of means |\n|---|---|---|---|---|---|"
    )
    for name, of_windows in by_window.items():
        figures = (of_windows.missing, of_windows.extra, f"{of_windows.count:g}", f"{of_windows.mean:g}")
        print(f"| {name} | {of_windows.windows:,} | {' | '.join(map(str, figures))} |")
    equal = not dead and all(of_windows.equal for of_windows in by_window.values())
    print("\nEqual." if equal else "\nNOT equal.")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
