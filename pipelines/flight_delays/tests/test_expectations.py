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
from components.dataset import DatasetReader
from components.judging import Finding, judge
from components.lake import Lake
from pipelines.flight_delays import clock
from pipelines.flight_delays.expectations import subjects
from pipelines.flight_delays.lake import TABLES

pytestmark = pytest.mark.slow

DAY = date(2013, 3, 12)


def read(lake: Path, interval: str, window_days: int) -> DatasetReader:
    span = Interval.parse(interval, clock.ZONE)
    return ingest._select(Lake(lake), TABLES, span, clock.ZONE, window_days=window_days, lake_version="now")


def unmet(reader: DatasetReader, spark) -> dict[str, Finding]:
    found = list(judge(subjects(reader, spark)))
    assert len(found) > 60
    return {f"{f.part} {f.subject}: {f.sentence}": f for f in found if not f.passed}


def test_the_blizzard_and_the_impossible_wind_only_warn(flight_lake, spark):
    found = unmet(read(flight_lake, "2013-02-08/2013-02-13", 5), spark)
    assert {finding.severity for finding in found.values()} == {"warning"}
    wind = found["interval observations: No wind is faster than 150 miles per hour"]
    assert wind.examples == [{"origin": "EWR", "observed_at": "2013-02-12 08:00 UTC", "wind_speed": 1048.36058}]
    days = found["interval days: On no day do over 30 % of the flights lack an arrival delay"]
    assert {row["day"] for row in days.examples} == {"2013-02-08", "2013-02-09"}
    assert len(found) == 3  # The third: under 90 % of these days' flights have an arrival delay.


def test_the_end_of_the_year_lacks_weather_and_daylight_saving_lacks_nothing(flight_lake, spark):
    found = unmet(read(flight_lake, "2013-12-29/2014-01-01", 3), spark)
    assert set(found) == {
        "interval flights: At least 98 % of the flights have an observation at the cut-off",
        "interval days: On no day do over half of the flights lack weather",
    }
    assert unmet(read(flight_lake, "2013-11-03", 2), spark) == {}


@pytest.fixture
def damaged(flight_lake, tmp_path):
    """Copies two days of the lake, with one column of some flights of the second day set to something else."""
    source, lake = Lake(flight_lake), Lake(tmp_path / "lake")

    def damage(column: str, value: object, rows: int = 3) -> DatasetReader:
        for table in TABLES:
            files = [
                f for f in source.snapshot(table.name).files if f.day is None or "2013-03-11" <= f.day <= "2013-03-12"
            ]
            tables = {f.day and date.fromisoformat(f.day): pq.read_table(flight_lake / f.path) for f in files}
            if table.name == "flights":
                place = tables[DAY].schema.get_field_index(column)
                mask = pa.array([i < rows for i in range(tables[DAY].num_rows)])
                spoilt = pc.if_else(mask, pa.scalar(value, tables[DAY].schema.field(column).type), tables[DAY][column])
                tables[DAY] = tables[DAY].set_column(place, column, spoilt)
            lake.write(table.name, tables)
        return read(lake.path, DAY.isoformat(), 0)

    return damage


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("dest", "XXX", "Every destination is a known airport"),
        ("carrier", "ZZ", "Every carrier is a known airline"),
        ("origin", "BOS", "Every origin is Newark, Kennedy or La Guardia"),
        ("flight_id", "2013-03-12/UA/1/EWR", "No flight is there twice"),
        ("arr_delay", 999.0, "Every arrival delay is the arrival less its schedule"),
        ("dest", None, "Every flight has its dest"),
        ("distance", -1.0, "Every distance is between 10 and 6,000 miles"),
    ],
)
def test_damage_blocks_and_is_named(damaged, spark, column, value, sentence):
    found = unmet(damaged(column, value), spark)
    finding = found[f"interval flights: {sentence}"]
    assert (finding.severity, finding.unexpected) == ("blocking", 3)
    assert all(example["flight_id"].startswith("2013-03-12/") for example in finding.examples)
    assert not any(name.startswith("history") for name in found)
