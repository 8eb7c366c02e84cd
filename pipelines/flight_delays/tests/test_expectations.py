"""The expectations of flight_delays: the real months of 2013 pass with the warnings they deserve; damage does not."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airtight.interval import Interval
from components import ingest
from components.data.dataset import DatasetReader
from components.data.lake import Lake
from components.measures.judging import Finding, judge
from pipelines.flight_delays import clock
from pipelines.flight_delays.expectations import subjects
from pipelines.flight_delays.lake import TABLES

pytestmark = pytest.mark.slow

DAY = date(2013, 3, 12)


def read(lake: Path, interval: str, window_days: int) -> DatasetReader:
    span = Interval.parse(interval, clock.ZONE)
    return ingest._select(Lake(lake), TABLES, span, clock.ZONE, window_days=window_days, lake_version="now")


def unmet(reader: DatasetReader, spark, parts=("interval", "history")) -> dict[str, Finding]:
    findings = list(judge(subject for subject in subjects(reader, spark) if subject.part in parts))
    assert len(findings) > 30 * len(parts)
    return {f"{f.part} {f.subject}: {f.sentence}": f for f in findings if not f.passed}


def test_the_blizzard_and_the_impossible_wind_only_warn(flight_lake, spark):
    violated = unmet(read(flight_lake, "2013-02-08/2013-02-13", 5), spark)
    assert {finding.severity for finding in violated.values()} == {"warning"}
    wind = violated["interval observations: No wind is faster than 150 miles per hour"]
    assert wind.examples == [{"origin": "EWR", "observed_at": "2013-02-12 08:00 UTC", "wind_speed": 1048.36058}]
    days = violated["interval days: On no day do over 30 % of the flights lack an arrival delay"]
    assert {row["day"] for row in days.examples} == {"2013-02-08", "2013-02-09"}
    assert len(violated) == 3  # The third: under 90 % of these days' flights have an arrival delay.


def test_the_last_days_of_the_year_lack_weather(flight_lake, spark):
    violated = unmet(read(flight_lake, "2013-12-30/2014-01-01", 3), spark, ("interval",))
    assert {name for name, finding in violated.items() if finding.severity == "blocking"} == set()
    assert "interval flights: At least 98 % of the flights have an observation at the cut-off" in violated
    days = violated["interval days: On no day do over half of the flights lack weather"]
    assert days.examples == [{"day": "2013-12-31", "share_weather": 0.0}]


def test_the_day_whose_clocks_go_back_lacks_nothing(flight_lake, spark):
    assert unmet(read(flight_lake, "2013-11-03", 2), spark, ("interval",)) == {}


DAMAGE = {
    "Every destination is a known airport": ("dest", "XXX"),
    "Every carrier is a known airline": ("carrier", "ZZ"),
    "Every origin is Newark, Kennedy or La Guardia": ("origin", "BOS"),
    "No flight is there twice": ("flight_id", "2013-03-12/UA/1/EWR"),
    "Every arrival delay is the arrival less its schedule": ("arr_delay", 999.0),
    "Every flight has its dest": ("dest", None),
    "Every distance is between 10 and 6,000 miles": ("distance", -1.0),
    "Every flight that departed names its aircraft": ("tailnum", None),
}
"""For each expectation, which column of three flights of `DAY` is set to what."""


def _damaged(flights: pa.Table) -> pa.Table:
    for number, (column, value) in enumerate(DAMAGE.values()):
        hit = pa.array([number * 3 <= row < number * 3 + 3 for row in range(flights.num_rows)])
        spoilt = pc.if_else(hit, pa.scalar(value, flights.schema.field(column).type), flights[column])
        flights = flights.set_column(flights.schema.get_field_index(column), column, spoilt)
    return flights


def test_damage_is_named_with_its_flights(flight_lake, spark, tmp_path):
    source, lake = Lake(flight_lake), Lake(tmp_path / "lake")
    for table in TABLES:
        for file in source.snapshot(table.name).files:
            if file.day in (None, "2013-03-11", DAY.isoformat()):
                rows = pq.read_table(flight_lake / file.path, partitioning=None)
                day = file.day and date.fromisoformat(file.day)
                lake.write(table.name, {day: _damaged(rows) if (table.name, day) == ("flights", DAY) else rows})
    violated = unmet(read(lake.path, DAY.isoformat(), 0), spark)
    for sentence in DAMAGE:
        finding = violated[f"interval flights: {sentence}"]
        assert finding.unexpected == 3
        assert all(example["flight_id"].startswith("2013-03-12/") for example in finding.examples)
        assert finding.severity == ("warning" if "aircraft" in sentence else "blocking")
    assert not any(finding.severity == "blocking" for finding in violated.values() if finding.part == "history")
