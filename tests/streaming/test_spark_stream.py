"""Spark's side of benchmarks.stream_rates: without Kafka, its totals are those of the declared stream."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchmarks import spark_stream
from pipelines.flight_delays import features
from pipelines.flight_delays.events import SCHEMA, Arrival, Departure, Event, Weather, encode
from pipelines.flight_delays.streams import STREAM, event_of
from services.jars import SETS
from streaming.windows.arithmetic import Minutes

BEGIN = datetime(2013, 6, 14, 10, 30, tzinfo=UTC)
NO_READINGS = dict.fromkeys(features.WEATHER)


def some_events() -> list[Event]:
    """Over two hours, with an aircraft that is not known, an arrival without a delay, and the weather."""
    events: list[Event] = []
    for number in range(60):
        same = {"flight_id": f"f{number}", "carrier": ("UA", "B6")[number % 2], "flight": number % 7, "dest": "ORD"}
        same |= {"tailnum": None if number % 5 == 0 else f"N{number % 4}", "origin": ("EWR", "JFK", "LGA")[number % 3]}
        kind, at = (Departure, Arrival)[number % 4 == 1], BEGIN + timedelta(seconds=75 * (number - number % 3))
        delay = None if kind is Arrival and number % 3 == 0 else 3 * number - 20
        events.append(kind(schema=SCHEMA, at=at, delay=delay, **same))
    events.append(Weather(schema=SCHEMA, at=events[-1].at, origin="EWR", observed_at=BEGIN, **NO_READINGS))
    return events


def rows_of(events: list[Event]) -> list[tuple[Any, ...]]:
    minutes = Minutes(STREAM)
    for event in map(event_of, events):
        if event.counts:
            minutes.add(event)
    return sorted((row.group, row.key, row.start, *row.totals) for row in minutes.rows())


def test_what_counts_is_known_before() -> None:
    events = some_events()
    counted = [event for event in events if spark_stream.counts(event)]
    assert len(events) == 61
    assert 50 < len(counted) < 60
    assert rows_of(counted) == rows_of(events)


@pytest.mark.slow
def test_its_totals_are_ours(spark: Any) -> None:
    values = [(encode(event),) for event in some_events()] + [(b"no message",), (None,)]
    made = spark_stream.totals(spark_stream.moved(spark.createDataFrame(values, "value binary")))
    assert made.columns == list(spark_stream.NAMES)
    assert sorted(tuple(row) for row in made.collect()) == rows_of(some_events())


@pytest.mark.slow
def test_a_stream_of_two_parts_is_written_and_compared(spark: Any, tmp_path: Path) -> None:
    """As from Kafka: each micro-batch brings whole totals, and what comes twice counts once."""
    events, folder = some_events(), tmp_path / "state"
    folder.mkdir()
    for number, part in enumerate((events[:30], [*events[30:], events[2]])):
        spark.createDataFrame([(encode(event),) for event in part], "value binary").coalesce(1).write.parquet(
            str(tmp_path / "parts" / f"part={number}")
        )
    source = spark.readStream.schema("value binary").option("recursiveFileLookup", "true")
    messages = source.option("maxFilesPerTrigger", 1).parquet(str(tmp_path / "parts"))
    rows = spark_stream.Rows(folder)
    assert rows.messages() == 0, "before the first micro-batch there is no table"
    assert not spark_stream.begun(folder)
    spark_stream.query(messages, folder).trigger(availableNow=True).start().awaitTermination()
    assert spark_stream.begun(folder)
    assert (folder / "checkpoint" / "offsets" / "1").exists(), "two micro-batches"
    assert rows.messages() == sum(map(spark_stream.counts, events))
    assert rows.check(events) == len(rows_of(events))
    with pytest.raises(SystemExit, match="the events are"):
        rows.check(events[:-2])
    rows.close()
    with sqlite3.connect(spark_stream.store_of(folder)) as db:
        db.execute("UPDATE totals SET minute = minute + 60000 WHERE grp = 'departures_all'")
    rows = spark_stream.Rows(folder)
    with pytest.raises(SystemExit, match="Spark has None"):
        rows.check(events)
    rows.close()


def test_its_jars_are_of_a_spark_that_pyspark_can_load() -> None:
    """Of the same Scala, and of the same major version of Spark."""
    spark = [each.split(":") for each in SETS[spark_stream.JARS] if each.startswith("org.apache.spark:")]
    assert spark
    for _, artifact, number in spark:
        assert artifact.endswith("_2.13")
        assert number.partition(".")[0] == version("pyspark").partition(".")[0]
