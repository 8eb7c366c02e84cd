"""Spark's features of real weeks around both changes of the clock: against plain loops, and against the future."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.schema import LABEL_KNOWN_AT
from pipelines.bike_demand import lake, schema
from pipelines.bike_demand.transform import transform

pytestmark = pytest.mark.slow

WEEKS = ("2013-01-28 00:00:00", "2013-03-17 23:00:00"), ("2013-09-23 00:00:00", "2013-11-10 23:00:00")
NOW = pd.Timestamp("2013-03-12 14:30", tz="America/New_York")


@pytest.fixture(scope="module")
def rides(source: pd.DataFrame) -> pd.DataFrame:
    """Seven weeks that end a week after the clock went forward, and seven after it went back; one hour is missing."""
    rows = pd.concat([source[source.ts.between(*span)] for span in WEEKS])
    return lake.hours(rows[rows.ts != "2013-03-05 11:00:00"].reset_index(drop=True))


def _examples(spark, rides: pd.DataFrame, folder: Path) -> pd.DataFrame:
    pq.write_table(pa.Table.from_pandas(rides, lake.RIDES.schema, preserve_index=False), folder / "rides.parquet")
    made = transform(lambda name: spark.read.parquet(str(folder / f"{name}.parquet")))
    return made.toArrow().to_pandas().set_index("hour").sort_index()


@pytest.fixture(scope="module")
def made(spark, rides: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return _examples(spark, rides, tmp_path_factory.mktemp("rides"))


def test_every_hour_is_an_example_whose_label_is_known_at_its_end(rides, made) -> None:
    rows = rides.set_index("hour").loc[made.index]
    assert len(made) == len(rides)
    assert set(made.columns) == {*schema.SCHEMA.names, "rides", "starts_at", "season", "day_part", LABEL_KNOWN_AT}
    assert (made.rides == rows.rides).all() and (made.starts_at == rows.starts_at).all()
    assert (made[LABEL_KNOWN_AT] == rows.ends_at).all()


def _reference(past: dict[pd.Timestamp, float], off: dict[pd.Timestamp, bool], at: pd.Timestamp) -> dict[str, float]:
    """The features of the hour `at` on the clock, from the rides of all hours, written down once more."""
    hour = pd.Timedelta(hours=1)

    def typical(of: pd.Timestamp) -> float | None:
        alike = [of - day * 24 * hour for day in range(1, schema.ALIKE_H // 24 + 1)]
        values = [past[day] for day in alike if day in past and off[day] == off[of]]
        return sum(values) / len(values) if values else None

    def last(hours: int) -> list[pd.Timestamp]:
        return [at - back * hour for back in range(1, hours + 1) if at - back * hour in past]

    answer: dict[str, float | None] = {f"rides_{h}h": past.get(at - h * hour) for h in schema.LAGS_H}
    for hours in schema.MEANS_H:
        answer[f"mean_{hours}h"] = sum(past[h] for h in last(hours)) / len(last(hours)) if last(hours) else None
    answer["typical"] = typical(at)
    for hours in schema.PACES_H:
        usual = [value for h in last(hours) if (value := typical(h)) is not None]
        answer[f"pace_{hours}h"] = (sum(past[h] for h in last(hours)) + 1) / (sum(usual) + 1) if usual else None
    parts = [answer[name] for name in ("typical", "pace_1h", "pace_3h")]
    answer["expected"] = None if None in parts else parts[0] * (parts[1] * parts[2]) ** 0.5
    return answer


def test_features_equal_plain_loops(rides, made) -> None:
    clock = pd.to_datetime(made.index)
    past = dict(zip(clock, made.rides, strict=True))
    off = dict(zip(clock, made.day_off != "working day", strict=True))
    rows = [row for row in made.index if row[:10] in ("2013-03-05", "2013-03-10", "2013-03-11", "2013-11-03")]
    rows += list(made.index[::97])
    for row in rows:
        for name, value in _reference(past, off, pd.Timestamp(row)).items():
            assert made.loc[row, name] == pytest.approx(value) or (value is None and pd.isna(made.loc[row, name])), (
                row,
                name,
            )


def test_a_day_back_is_the_same_hour_on_the_clock_where_it_was_changed(source, made) -> None:
    rides = source.assign(hour=source.ts.str[:16]).set_index("hour")["count"]
    for day, before in (("2013-03-10", "2013-03-09"), ("2013-03-11", "2013-03-10"), ("2013-11-04", "2013-11-03")):
        for hour in ("02:00", "08:00", "18:00"):
            assert made.loc[f"{day} {hour}", "rides_24h"] == rides[f"{before} {hour}"]


def test_the_calendar(made) -> None:
    first, holiday = made.loc["2013-03-10 18:00"], made.loc["2013-02-18 09:00"]
    assert (first.weekday, first.hour_of_day, first.month) == ("Sun", 18, 3)
    assert (first.day_off, first.season, first.day_part) == ("weekend", "spring", "evening")
    assert (holiday.day_off, holiday.season, holiday.day_part) == ("holiday", "winter", "morning")


def test_an_absurd_future_changes_nothing_before_it(spark, rides, made, tmp_path) -> None:
    future = rides.ends_at > NOW
    absurd = rides.assign(rides=rides.rides.where(~future, 1_000_000_007))
    changed = _examples(spark, absurd, tmp_path)
    names, known = list(schema.SCHEMA.names), made.starts_at <= NOW
    assert known.sum() > 900
    pd.testing.assert_frame_equal(made.loc[known, names], changed.loc[known, names], check_exact=True)
    # The plant is seen by those who may see it: otherwise this test could not fail.
    soon = made.index[(made.starts_at > NOW) & (made.starts_at < NOW + pd.Timedelta(days=3))]
    differs = made.loc[soon, names].astype(str).ne(changed.loc[soon, names].astype(str)).any()
    calendar = {"hour_of_day", "weekday", "month", "day_off", "rides_168h"}
    assert set(differs.index[differs]) == set(names) - calendar
