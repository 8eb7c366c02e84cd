"""Tables of two months for the tests of ingest: events of every hour, tides that lack a day, and names."""

from __future__ import annotations

from datetime import UTC, date, timedelta

import pyarrow as pa

from airtight.interval import Interval
from components.data.lake import Table

ZONE = "America/New_York"
TABLES = (
    Table(
        "events",
        pa.schema({"id": pa.string(), "at": pa.timestamp("us", tz="UTC"), "size": pa.float64()}),
        key=("id",),
        time="at",
    ),
    Table("tides", pa.schema({"at": pa.timestamp("us", tz="UTC")}), key=("at",), time="at", required=False),
    Table("names", pa.schema({"id": pa.string()}), key=("id",)),
)
FIRST, LAST = date(2013, 3, 1), date(2013, 4, 30)


def events(day: date) -> pa.Table:
    """One event in each hour of a local day: 23 of them when daylight saving starts."""
    span = Interval.parse(day.isoformat(), ZONE)
    stamps = []
    moment = span.start.astimezone(UTC)
    while moment < span.end:
        stamps.append(moment)
        moment += timedelta(hours=1)
    ids = [f"{day}/{i}" for i in range(len(stamps))]
    return pa.table({"id": ids, "at": stamps, "size": [1.0] * len(ids)}, schema=TABLES[0].schema)
