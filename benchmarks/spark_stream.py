"""Spark Structured Streaming at the windows of the flights' stream; `benchmarks.stream_rates` measures it beside ours.

    python -m benchmarks.spark_stream TOPIC FOLDER      until it is ended; the broker is that of AIRTIGHT_KAFKA

A local session on two cores reads the topic with Spark's own Kafka package (the set spark-kafka of `services/jars.py`)
from its beginning, and keeps the totals of every declared group by key and minute: one aggregation over all groups, in
update mode, micro-batch after micro-batch without a pause, by `foreachBatch` into a SQLite file in the folder, where
its checkpoint is, too. It does less than ours:

- of what is told twice within the watermark's two hours Spark keeps the first, ours the last of its hour;
- a message that is none is passed over; ours sets it aside in a topic, with the reason;
- plans and weather are read and thrown away; ours brings them into the online store as well;
- its totals go into one table, and not into the lake besides;
- its one watermark goes with the fastest partition, and what comes two hours behind that is dropped without a word;
  ours goes with the slowest. So all that the topic holds at first is one micro-batch: with less at a time (Spark's
  `maxOffsetsPerTrigger`) partitions drift apart by more than two hours of event time.
"""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.flight_delays import features
from pipelines.flight_delays.events import Arrival, Departure, Event
from pipelines.flight_delays.streams import STREAM, event_of
from services import jars
from services.settings import Settings
from streaming.topics import servers
from streaming.windows.arithmetic import Minutes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JARS = "spark-kafka"
DELAY = "2 hours"
"""Of the watermark: the allowed lateness of ours."""
SETTINGS = {"spark.sql.shuffle.partitions": "2"}
MESSAGE = (
    "kind string, at timestamp, flight_id string, carrier string, flight int, tailnum string, origin string, "
    "dest string, delay int"
)
"""Of a message (`pipelines/flight_delays/events.py`), what the totals need."""
NAMES = ("grp", "key", "minute", "count", "late", "minutes", "largest")
_CREATE = (
    "CREATE TABLE IF NOT EXISTS totals (grp TEXT, key TEXT, minute INTEGER, count INTEGER, late INTEGER, "
    "minutes INTEGER, largest INTEGER, PRIMARY KEY (grp, minute, key)) WITHOUT ROWID"
)
WHOLE = tuple(
    next(group.name for group in features.GROUPS if group.stream == stream and "tailnum" not in group.by)
    for stream in features.STREAMS
)
"""A group of each stream in which every event counts once."""
HOUR_S = 3600
HOUR = HOUR_S // 60


def counts(event: Event) -> bool:
    """Whether the totals know of an event."""
    return isinstance(event, Departure | Arrival) and event.delay is not None


def moved(messages: DataFrame) -> DataFrame:
    """The departures and arrivals among messages of which the delay is known.

    Args:
      messages: With `value`, JSON.
    """
    from pyspark.sql import functions as F

    events = messages.select(F.from_json(F.col("value").cast("string"), MESSAGE).alias("event")).select("event.*")
    return events.where(F.col("kind").isin("departure", "arrival") & F.col("delay").isNotNull())


def once(rows: DataFrame) -> DataFrame:
    """A stream of the same, each flight's departure and arrival once; late after `DELAY`."""
    return rows.withWatermark("at", DELAY).dropDuplicatesWithinWatermark(["kind", "flight_id"])


def totals(rows: DataFrame) -> DataFrame:
    """The totals of what has moved, by group, key and minute, with the columns `NAMES`."""
    from pyspark.sql import functions as F

    def cell(group: features.Group) -> Any:
        here = F.col("kind") == group.stream.name.removesuffix("s")
        if "tailnum" in group.by:
            here &= F.col("tailnum").isNotNull()
        key = F.concat_ws("|", *(F.col(name).cast("string") for name in group.by)) if group.by else F.lit("")
        return F.when(here, F.struct(F.lit(group.name).alias("grp"), key.alias("key")))

    cells = F.array_compact(F.array(*map(cell, features.GROUPS)))
    made = rows.select("at", "delay", F.explode(cells).alias("of")).groupBy(
        F.window("at", "1 minute").alias("span"), F.col("of.grp").alias("grp"), F.col("of.key").alias("key")
    )
    measured = made.agg(
        F.count("*").alias("count"),
        F.sum((F.col("delay") > features.LATE_MINUTES).cast("long")).alias("late"),
        F.sum("delay").alias("minutes"),
        F.max("delay").alias("largest"),
    )
    return measured.withColumn("minute", F.expr("unix_seconds(span.start) div 60")).select(*NAMES)


def store_of(folder: Path) -> Path:
    """The SQLite file."""
    return folder / "totals.sqlite"


def begun(folder: Path) -> bool:
    """Whether the first micro-batch has been laid out, and so begins to read."""
    return (folder / "checkpoint" / "offsets" / "0").exists()


def upsert(path: Path) -> Callable[[DataFrame, int], None]:
    """What writes a micro-batch into a file: each row is the whole total, so that writing it again changes nothing."""
    # Spark calls it from a thread of its own.
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    # As the online store is set.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(_CREATE)

    def write(batch: DataFrame, _: int) -> None:
        columns = batch.toArrow().columns
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        db.execute("BEGIN")
        db.executemany(f"INSERT OR REPLACE INTO totals VALUES ({', '.join('?' * len(NAMES))})", rows)
        db.execute("COMMIT")

    return write


class Rows:
    """Reads what was written.

    Args:
      folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(store_of(folder))

    def messages(self) -> int:
        """How many events are in the totals."""
        try:
            total = self._db.execute("SELECT coalesce(sum(count), 0) FROM totals WHERE grp IN (?, ?)", WHOLE)
        except sqlite3.OperationalError:  # There is no table yet.
            return 0
        return total.fetchone()[0]

    def check(self, events: Iterable[Event]) -> int:
        """Compares everything that is there with the totals of events as the stream makes them.

        Args:
          events: Those that were published, in the order of their hours.

        Returns:
          How many totals there are.

        Raises:
          SystemExit: They are not the same.
        """
        compared = 0
        for hour, some in itertools.groupby(events, lambda event: int(event.at.timestamp() // HOUR_S)):
            minutes = Minutes(STREAM)
            for event in filter(counts, some):
                minutes.add(event_of(event))
            expected = {(row.group, row.key, row.start): row.totals for row in minutes.rows()}
            there = {row[:3]: row[3:] for row in self._of_hour(hour)}
            for cell in sorted(expected.keys() | there.keys()):
                if expected.get(cell) != there.get(cell):
                    raise SystemExit(f"Spark has {there.get(cell)} for {cell}, the events are {expected.get(cell)}")
            compared += len(there)
        (number,) = self._db.execute("SELECT count(*) FROM totals").fetchone()
        if number != compared:
            raise SystemExit(f"Spark has {number - compared} totals of hours without events")
        return number

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def _of_hour(self, hour: int) -> list[tuple[Any, ...]]:
        names = tuple(group.name for group in features.GROUPS)
        return self._db.execute(
            f"SELECT {', '.join(NAMES)} FROM totals WHERE grp IN ({', '.join('?' * len(names))}) "
            "AND minute >= ? AND minute < ?",
            (*names, hour * HOUR, (hour + 1) * HOUR),
        ).fetchall()


def query(messages: DataFrame, folder: Path) -> Any:
    """The query over a stream of messages, to be started.

    Args:
      messages: With `value`.
      folder: Where its file and its checkpoint are.
    """
    made = totals(once(moved(messages))).writeStream.outputMode("update").foreachBatch(upsert(store_of(folder)))
    return made.option("checkpointLocation", str(folder / "checkpoint"))


def libraries() -> Path:
    """The folder with Spark's Kafka package; raises as `jars.fetch`."""
    return jars.fetch(JARS, Settings.from_environment().ivy_settings)


def opened(folder: Path) -> SparkSession:
    """A session of its own with Spark's Kafka package."""
    from pyspark.sql import SparkSession

    from components.data.spark import local_settings

    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    package = ",".join(map(str, sorted(libraries().iterdir())))
    settings = {**local_settings(folder), **SETTINGS, "spark.jars": package}
    return SparkSession.builder.master("local[2]").appName("spark_stream").config(map=settings).getOrCreate()


def main() -> None:
    topic, folder = sys.argv[1], Path(sys.argv[2])
    # Whoever ends it leaves no Java behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    spark = opened(folder)
    try:
        source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", servers())
        messages = source.option("subscribe", topic).option("startingOffsets", "earliest").load()
        query(messages, folder).start().awaitTermination()
    except KeyboardInterrupt:
        pass
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
