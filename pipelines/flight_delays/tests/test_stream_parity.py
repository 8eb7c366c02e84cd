"""The stream's totals against Spark's, of the same days: two engines, one declaration."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.flight_delays import features
from pipelines.flight_delays.replay import events
from pipelines.flight_delays.streams import STREAM, event_of
from pipelines.flight_delays.tests import small_lake
from streaming.windows.arithmetic import Minutes

FIRST, DAYS = date(2013, 3, 7), 5  # With a storm, and the night in which the clocks change.
BEGIN, END = datetime(2013, 3, 9, tzinfo=UTC), datetime(2013, 3, 11, tzinfo=UTC)


@pytest.mark.slow
def test_every_total_is_that_of_spark(spark: Any, flight_lake: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyspark.sql import functions as F

    from pipelines.flight_delays.lake import FLIGHTS

    rows = small_lake.read(flight_lake, FIRST, FIRST + timedelta(days=DAYS - 1))
    lake = small_lake.write(tmp_path / "lake", rows)
    minutes = Minutes(STREAM)
    for event in map(event_of, events(lake, BEGIN, END)):
        minutes.add(event)
    streamed = {(row.group, row.key, row.start): row.totals for row in minutes.rows()}
    flights = spark.createDataFrame(pa.Table.from_pylist(rows["flights"], FLIGHTS.schema))
    batch = {}
    for group in features.GROUPS:
        delay, minute = F.col(group.stream.delay), F.floor(F.unix_seconds(group.stream.known_at) / 60)
        known = flights.where(delay.isNotNull() & minute.between(_minute(BEGIN), _minute(END) - 1))
        known = known.dropna(subset=list(group.by)) if group.by else known
        key = F.concat_ws("|", *(F.col(name).cast("string") for name in group.by))
        totals = known.groupBy(key.alias("key"), minute.alias("minute")).agg(
            F.count("*"), F.sum((delay > features.LATE_MINUTES).cast("long")), F.sum(delay), F.max(delay)
        )
        batch |= {(group.name, row[0], row[1]): tuple(map(int, row[2:])) for row in totals.collect()}
    assert streamed == batch
    assert {name for name, _, _ in streamed} == {group.name for group in features.GROUPS}


def _minute(instant: datetime) -> int:
    return int(instant.timestamp()) // 60
