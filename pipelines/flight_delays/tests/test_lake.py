"""The lake of 2013, held against the printed clock times of its source."""

from __future__ import annotations

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow.dataset as ds
import pytest

from airtight.errors import TerminalError
from components.data.lake import Lake
from components.data.lake_frames import write_frame
from pipelines.flight_delays import clock
from pipelines.flight_delays import lake as flight_lake_module
from pipelines.flight_delays.lake import FLIGHTS, TABLES, WEATHER

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flights(flight_lake) -> pd.DataFrame:
    return _table(flight_lake, "flights")


@pytest.fixture(scope="module")
def source() -> pd.DataFrame:
    frame = flight_lake_module._read("flights.csv.zip")
    day = pd.to_datetime(frame[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    frame["flight_id"] = day + "/" + frame.carrier + "/" + frame.flight.astype(str) + "/" + frame.origin
    return frame.set_index("flight_id")


def _table(path, name) -> pd.DataFrame:
    files = [path / file.path for file in Lake(path).snapshot(name).files]
    return ds.dataset(files).to_table().to_pandas()


def test_every_file_keeps_its_declaration(flight_lake):
    lake = Lake(flight_lake)
    for table in TABLES:
        for file in lake.snapshot(table.name).files:
            lake.verify(table, file, clock.ZONE)


def test_every_flight_is_there_once(flights, source):
    assert len(flights) == len(source) == 336_776
    assert flights.flight_id.is_unique
    assert set(flights.flight_id) == set(source.index)


def test_departures_agree_with_the_sources_utc_hour(flights, source):
    stamp = pd.to_datetime(source.time_hour) + pd.to_timedelta(source.minute, unit="min")
    assert (flights.set_index("flight_id").scheduled_departure.sort_index() == stamp.sort_index()).all()


def test_actual_times_agree_with_the_printed_clocks(flight_lake, flights, source):
    airports = _table(flight_lake, "airports").set_index("faa").tzone.to_dict() | clock.UNLISTED_ZONES
    joined = flights.merge(source[["dep_time", "arr_time"]], left_on="flight_id", right_index=True)
    off = []
    for zone, group in joined[joined.arrived_at.notna()].groupby(joined.dest.map(airports)):
        local = group.arrived_at.dt.tz_convert(zone)
        printed = group.arr_time // 100 % 24 * 60 + group.arr_time % 100
        off += list(group.flight_id[printed != local.dt.hour * 60 + local.dt.minute])
    # One clock was not moved for daylight saving, in the night of March 10.
    assert off == ["2013-03-09/B6/35/JFK"]
    left = joined[joined.departed_at.notna()]
    local = left.departed_at.dt.tz_convert(clock.ZONE)
    assert (left.dep_time // 100 % 24 * 60 + left.dep_time % 100 == local.dt.hour * 60 + local.dt.minute).all()


def test_times_are_in_a_possible_order(flights):
    assert flights.departed_at.isna().sum() == 8_255
    assert flights.arrived_at.isna().sum() == 8_713
    assert flights.arr_delay.isna().sum() == 9_430
    assert flights.scheduled_minutes.between(50, 700).all()
    in_the_air = (flights.arrived_at - flights.departed_at).dt.total_seconds() / 60
    assert (in_the_air[flights.air_time.notna()] > flights.air_time[flights.air_time.notna()]).all()
    assert in_the_air.max() < 24 * 60


def test_partitions_are_local_days(flight_lake):
    lake = Lake(flight_lake)
    assert [file.day for file in lake.snapshot("flights").files] == [
        (date(2013, 1, 1) + timedelta(days=i)).isoformat() for i in range(365)
    ]
    for table in (FLIGHTS, WEATHER):
        for day in ("2013-03-10", "2013-06-01", "2013-11-03"):
            (file,) = [file for file in lake.snapshot(table.name).files if file.day == day]
            stamps = ds.dataset(flight_lake / file.path).to_table()[table.time].to_pylist()
            assert {str(stamp.astimezone(ZoneInfo(clock.ZONE)).date()) for stamp in stamps} == {day}
            assert stamps == sorted(stamps)


def test_the_repeated_hour_of_november_has_two_observations(flight_lake):
    weather = _table(flight_lake, "weather")
    assert not weather.duplicated(["origin", "observed_at"]).any()
    newark = weather[(weather.origin == "EWR") & (weather.observed_at.dt.tz_convert(clock.ZONE).dt.day == 3)]
    local = newark.observed_at.dt.tz_convert(clock.ZONE)
    assert ((local.dt.month == 11) & (local.dt.hour == 1)).sum() == 2
    assert weather.wind_speed.max() > 1000  # As it came; the expectations say so.


def test_building_again_changes_nothing(flight_lake):
    lake = Lake(flight_lake)
    assert [lake.numbers(table.name) for table in TABLES] == [[1]] * len(TABLES)
    before = lake.snapshot("airlines")
    frame = flight_lake_module._read("airlines.csv").sort_values("carrier")
    assert write_frame(lake, flight_lake_module.AIRLINES, frame, clock.ZONE) == before


def test_a_destination_without_a_zone_is_refused(source):
    airports = flight_lake_module._read("airports.csv")
    few = source.head(5).assign(dest="XXX")
    with pytest.raises(TerminalError, match=r"time zone is not known.*XXX"):
        flight_lake_module.flights(few, airports)
