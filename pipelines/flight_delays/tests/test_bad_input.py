"""What a run does with a lake that has gaps, with a day of 23 or 25 hours, and with an interval that ends in a day."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import sys
import types
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from airtight.errors import TerminalError
from airtight.interval import Interval
from components.artifacts import ValidationReport
from components.data.dataset import DatasetReader
from components.data.lake import Lake
from components.validate import validate
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.expectations import subjects
from pipelines.flight_delays.lake import FLIGHTS
from pipelines.flight_delays.tests import reference, small_lake
from pipelines.flight_delays.tests.small_lake import ingested, rows_of, transformed, write

pytestmark = pytest.mark.slow


@pytest.fixture
def lake_without_may(flight_lake: Path, tmp_path: Path) -> Path:
    """The year, but no flight of May."""
    path = tmp_path / "lake"
    shutil.copytree(flight_lake, path, copy_function=os.link)
    may = {date(2013, 5, 1) + timedelta(days=i): FLIGHTS.schema.empty_table() for i in range(31)}
    Lake(path).write("flights", may)
    return path


@pytest.fixture
def judge_days(spark, tmp_path, monkeypatch) -> Callable[..., ValidationReport]:
    """Runs ingest and validate, with the flagship's expectations of days alone."""
    declared = types.ModuleType("only_days")
    declared.subjects = lambda reader, spark: (s for s in subjects(reader, spark) if s.name == "days")
    monkeypatch.setitem(sys.modules, "only_days", declared)

    def judge_days(lake: Path, interval: str, window_days: int) -> ValidationReport:
        dataset = ingested(lake, Interval.parse(interval, clock.ZONE), tmp_path, window_days=window_days)
        report = ValidationReport()
        report.uri = str(tmp_path / "report")
        validate.EXECUTOR_SPEC.executor_class._FUNCTION(
            dataset=dataset, report=report, expectations="only_days:subjects", pipeline="flight_delays"
        )
        return report

    return judge_days


def test_a_month_that_the_lake_lacks_is_no_interval(lake_without_may, tmp_path):
    refusal = (
        r"no flights in the interval.*flights of 2013-05-01 to 2013-05-31.*a gap there.*add these days to the lake"
    )
    with pytest.raises(TerminalError, match=refusal):
        ingested(lake_without_may, Interval.parse("2013-05", clock.ZONE), tmp_path)


@pytest.mark.parametrize(("interval", "part"), [("2013-04-29/2013-06-03", "interval"), ("2013-06-01", "history")])
def test_a_month_that_is_missing_within_stops_the_run(lake_without_may, judge_days, caplog, interval, part):
    caplog.set_level(logging.INFO)
    with pytest.raises(TerminalError) as refused:
        judge_days(lake_without_may, interval, 33)
    message = str(refused.value)
    assert f"The data of the {part} do not meet a blocking expectation: Every day has flights." in message
    assert re.search(r"31 of \d\d rows do not .*such as day 2013-05-\d\d, flights 0", message)
    assert "correct these days in the lake and run again from ingest" in message
    assert f"flights has nothing of 2013-05-01 to 2013-05-31, days of the {part}." in caplog.text


def test_an_interval_that_ends_in_the_night_lacks_no_day(flight_lake, judge_days, caplog):
    report = judge_days(flight_lake, "2013-06-13/2013-06-14T03:00", 2)
    assert report.passed == 1
    report = judge_days(flight_lake, "2013-06-13/2013-06-14T12:00", 2)
    assert report.passed == 1
    assert "Every day has 500 to 1,200 flights = 1" in caplog.text  # Half a day warns.


NOVEMBER = datetime.fromisoformat("2013-11-03T01:30-04:00"), datetime.fromisoformat("2013-11-03T01:30-05:00")
"""Half past one is there twice."""
MARCH = datetime.fromisoformat("2013-03-10T01:30-05:00"), datetime.fromisoformat("2013-03-10T03:30-04:00")
"""Half past one, and an hour later half past three."""


@pytest.mark.parametrize(("night", "hours"), [(MARCH, 23), (NOVEMBER, 25)], ids=["23 hours", "25 hours"])
def test_a_day_of_daylight_saving(flight_lake, spark, tmp_path, night, hours):
    day = night[0].date()
    interval = Interval.parse(day.isoformat(), clock.ZONE)
    assert interval.end.timestamp() - interval.start.timestamp() == hours * 3600
    rows = small_lake.read(flight_lake, day - timedelta(days=3), day + timedelta(days=1))
    rows["flights"] = sorted(
        [*rows["flights"], *_night_flights(rows["flights"], night)],
        key=lambda f: (f["scheduled_departure"], f["flight_id"]),
    )
    dataset = ingested(write(tmp_path / "lake", rows), interval, tmp_path)
    examples = transformed(dataset, tmp_path, validation_days=1)
    test = {row["flight_id"]: row for row in rows_of(examples, "test").to_pylist()}
    # Whole, and nothing of the days beside it.
    labelled = {
        f["flight_id"] for f in rows["flights"] if f["arr_delay"] is not None and f["arrived_at"] < interval.end
    }
    of_day = {f["flight_id"] for f in rows["flights"] if interval.start <= f["scheduled_departure"] < interval.end}
    assert set(test) == labelled & of_day
    assert {row["local_date"] for row in test.values()} == {day.isoformat()}
    # The two halves of the night are an hour apart, whatever the clock shows; so says the walk through instants.
    nightly = [i for i in test if i.startswith("night")]
    assert len(nightly) == 8
    reader = DatasetReader.open(dataset.uri)
    seen = {name: reader.arrow_table(name).to_pylist() for name in ("flights", "weather", "planes")}
    morning = sorted(test, key=lambda i: test[i]["scheduled_departure"])[8:20]
    expected = reference.Walk(**seen).features_of({*nightly, *morning})
    for flight, answer in expected.items():
        for feature in features.SCHEMA.features:
            here, there = test[flight][feature.name], answer[feature.name]
            there = (there or "") if feature.kind == "category" else reference.as_float32(there)
            assert here == there or (math.isnan(here) and math.isnan(there)), (flight, feature.name)
    assert {test[i]["scheduled_departures_origin"] for i in nightly} == {4.0}
    assert min(test[i]["departures_count_origin_2h"] for i in nightly if "/second" in i) >= 4


def _night_flights(flights: list[dict], night: tuple[datetime, datetime]) -> list[dict]:
    """Four flights of each half of the night, all late, which the timetable of 2013 does not have."""
    like = next(f for f in flights if f["origin"] == "JFK" and f["arr_delay"] is not None and f["tailnum"])
    made = []
    for half, scheduled in zip(("first", "second"), night, strict=True):
        for number in range(4):
            delay, length = timedelta(minutes=10 + number), timedelta(minutes=like["scheduled_minutes"])
            left = scheduled + delay
            times = {
                "scheduled_departure": scheduled,
                "departed_at": left,
                "scheduled_arrival": scheduled + length,
                "arrived_at": left + length,
            }
            minutes = delay / timedelta(minutes=1)
            changes = {"flight_id": f"night/{half}/{number}", "flight": 9000 + number, "local_date": scheduled.date()}
            changes |= {"local_minute": scheduled.hour * 60 + 30, "dep_delay": minutes, "arr_delay": minutes}
            made.append(like | times | changes)
    return made
