"""ingest: the manifest of an interval, and every way in which the lake may not hold what a run needs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from components.data.dataset import MANIFEST, DatasetReader
from components.data.lake import Lake
from tests.components.ingest.tables import FIRST, events


def test_the_manifest_names_interval_and_history(run, lake, caplog):
    caplog.set_level(logging.INFO)
    artifact = run("2013-04")
    reader = DatasetReader.open(artifact.uri)
    assert (artifact.interval_start, artifact.interval_end) == (
        "2013-04-01T00:00:00-04:00",
        "2013-05-01T00:00:00-04:00",
    )
    assert reader.history_start.isoformat() == "2013-03-01T00:00:00-05:00"
    assert [len(reader.files("events", part)) for part in ("interval", "history", "all")] == [30, 31, 61]
    assert reader.rows("events", "history") == 31 * 24 - 1  # March 10 has 23 hours
    assert artifact.rows == reader.rows("events") + reader.rows("tides") + 2
    assert artifact.get_int_custom_property("rows_events") == 61 * 24 - 1
    assert artifact.get_int_custom_property("version_events") == 1
    assert all(path.is_file() for path in reader.files("events"))
    assert reader.tables["tides"].missing_days == ("2013-04-30",)
    assert "720 rows in 30 files of the interval, 743 rows in 31 files of the history" in caplog.text
    assert "tides has nothing of 2013-04-30" in caplog.text


def test_the_manifest_is_flat_json(run):
    manifest = json.loads((Path(run("2013-04").uri) / MANIFEST).read_text())
    assert manifest["interval_start"] == "2013-04-01T00:00:00-04:00"
    assert manifest["tables"]["events"]["columns"]["at"] == "timestamp[us, tz=UTC]"
    assert set(manifest["tables"]["events"]["files"][0]) == {"path", "day", "rows", "bytes", "sha256"}


def test_the_digest_tells_the_content_and_nothing_else(run, lake, tmp_path):
    digest = run("2013-04").digest
    (tmp_path / "dataset" / MANIFEST).unlink()
    lake.path.rename(tmp_path / "moved")
    assert run("2013-04", lake=str(tmp_path / "moved")).digest == digest
    assert run("2013-04", lake=str(tmp_path / "moved"), window_days=7).digest != digest
    Lake(tmp_path / "moved").write("events", {date(2013, 3, 5): events(date(2013, 3, 5)).slice(1)})
    assert run("2013-04", lake=str(tmp_path / "moved")).digest != digest


def test_a_window_cuts_the_history(run):
    reader = DatasetReader.open(run("2013-04", window_days=24).uri)
    assert reader.history_start.isoformat() == "2013-03-08T00:00:00-05:00"  # Before daylight saving, after it the rest.
    assert len(reader.files("events", "history")) == 24
    longer = DatasetReader.open(run("2013-04", window_days=400).uri)
    assert longer.history_start.isoformat() == "2013-03-01T00:00:00-05:00"


def test_a_window_is_read_with_what_its_first_rows_look_back_on(run):
    reader = DatasetReader.open(run("2013-04", window_days=7, lookback_days=5).uri)
    assert reader.training_start.isoformat() == "2013-03-25T00:00:00-04:00"
    assert reader.history_start.isoformat() == "2013-03-20T00:00:00-04:00"
    everything = DatasetReader.open(run("2013-04", lookback_days=5).uri)
    assert everything.training_start == everything.history_start


def test_labels_are_waited_for_and_corrections_until_then_are_read(run, lake):
    lake.write(
        "events", {date(2013, 3, 5): events(date(2013, 3, 5)).slice(1)}, known_at=datetime(2013, 4, 16, tzinfo=UTC)
    )
    early, late = "2013-04-01/2013-04-15", {"lake_version": "then", "label_delay_hours": 48}
    assert run(early, lake_version="then").get_int_custom_property("version_events") == 1
    assert run(early, **late).get_int_custom_property("version_events") == 2
    reader = DatasetReader.open(run(early, **late).uri)
    assert reader.labels_known_by.isoformat() == "2013-04-17T00:00:00-04:00"
    with pytest.raises(TerminalError, match="labels of the interval are not known yet"):
        run("2013-04", label_delay_hours=24 * 365 * 1000)


def test_an_interval_that_ends_within_a_day_cuts_rows_by_instant(run):
    reader = DatasetReader.open(run("2013-04-10T06:00/2013-04-11T18:00").uri)
    judged = reader.arrow_table("events", "interval")
    assert len(reader.files("events", "interval")) == 2
    assert judged.num_rows == 36
    assert judged["at"][0].as_py() == datetime(2013, 4, 10, 10, tzinfo=UTC)
    history = reader.arrow_table("events", "history", ["id"])
    assert history.num_rows == 40 * 24 - 1 + 6
    assert reader.arrow_table("events").num_rows == judged.num_rows + history.num_rows
    assert history.column_names == ["id"]
    assert not set(history["id"].to_pylist()) & set(judged["id"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["interval", "history", "all"])
def test_spark_and_arrow_read_the_same_rows(run, spark, part):
    reader = DatasetReader.open(run("2013-03-10T06:00/2013-03-31T18:00").uri)
    frame = reader.spark_frame(spark, "events", part)
    assert frame.columns == ["id", "at", "size"]
    table = reader.arrow_table("events", part)
    assert sorted(row.id for row in frame.collect()) == sorted(table["id"].to_pylist())
    assert frame.schema["at"].dataType.typeName() == "timestamp"
    assert reader.spark_frame(spark, "names", part).count() == 2


def test_then_reads_what_was_known_at_the_end_of_the_interval(run, lake):
    day = date(2013, 3, 5)
    lake.write("events", {day: events(day).slice(1)}, known_at=datetime(2013, 4, 20, tzinfo=UTC))
    assert run("2013-04-01/2013-04-15", lake_version="then").get_int_custom_property("version_events") == 1
    assert run("2013-04-01/2013-04-15", lake_version="now").get_int_custom_property("version_events") == 2
    assert run("2013-04", lake_version="then").get_int_custom_property("version_events") == 2


def test_the_lake_of_the_home_is_read_when_none_is_named(run, lake, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(lake.path.parent))
    assert run("2013-04", lake="").rows > 0


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ("2013-05", r"no events in the interval.*holds events from 2013-03-01 to 2013-04-30"),
        ("2012-12", r"no events in the interval.*holds events from 2013-03-01 to 2013-04-30"),
        ("2013-03", r"nothing to train on.*events before 2013-03-01\. .*holds events from 2013-03-01"),
        ("2999-01", r"not over yet.*ends by now.*2999-01-01"),
    ],
)
def test_an_interval_without_data(run, interval, words, tmp_path):
    with pytest.raises(TerminalError, match=words):
        run(interval)
    assert not list((tmp_path / "dataset").iterdir())


def test_a_gap_in_the_lake(run, lake):
    days = [date(2013, 4, 1) + timedelta(days=i) for i in range(14)]
    nothing = events(days[0]).slice(0, 0)
    lake.write("events", dict.fromkeys(days, nothing))
    with pytest.raises(TerminalError, match=r"no events in the interval.*of 2013-04-01 to 2013-04-07.*a gap there"):
        run("2013-04-01/2013-04-08")
    with pytest.raises(TerminalError, match="nothing to train on"):
        run("2013-04-15/2013-04-20", window_days=7)
    partly = DatasetReader.open(run("2013-04-10/2013-04-20").uri)
    assert partly.tables["events"].missing_days == tuple(day.isoformat() for day in days[9:])


def test_a_lake_without_a_single_day(run, lake):
    days = {date.fromisoformat(day): events(FIRST).slice(0, 0) for day in lake.snapshot("events").days}
    assert lake.write("events", days).files == ()
    with pytest.raises(TerminalError, match=r"no events in the interval.*holds no events at all"):
        run("2013-04")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_days": -1}, "window_days of 0 or more"),
        ({"lookback_days": -1}, "lookback_days"),
        ({"label_delay_hours": -1}, "label_delay_hours"),
        ({"lake_version": "tomorrow"}, "one of now, then"),
    ],
)
def test_a_setting_out_of_range(run, settings, message):
    with pytest.raises(TerminalError, match=message):
        run("2013-04", **settings)


def test_a_corrupt_file_of_the_interval(run, lake, tmp_path):
    file = next(file for file in lake.snapshot("events").files if file.day == "2013-04-07")
    content = bytearray((lake.path / file.path).read_bytes())
    content[20] ^= 1
    (lake.path / file.path).write_bytes(content)
    with pytest.raises(TerminalError, match=r"of 2013-04-07, events/date=2013-04-07/\w+.parquet, is corrupt.*sha256"):
        run("2013-04")
    assert not list((tmp_path / "dataset").iterdir())


def test_a_corrupt_page_of_the_history(run, lake):
    file = lake.snapshot("events").files[0]
    content = bytearray((lake.path / file.path).read_bytes())
    content[20] ^= 1
    (lake.path / file.path).write_bytes(content)
    with pytest.raises(TerminalError, match=r"of 2013-03-01.*is corrupt.*sha256"):
        run("2013-04")


def test_rows_that_no_part_would_hold_are_told(run, lake):
    day = date(2013, 4, 7)
    lake.write("events", {day: pa.concat_tables([events(day), events(date(2014, 4, 7))])})
    with pytest.raises(TerminalError, match=r"of 2013-04-07.*has rows of another day, or of none.*to 2014-04-08"):
        run("2013-04")


def test_the_digest_does_not_tell_how_an_interval_was_written(run):
    typed = run("2013-04").digest
    assert run("2013-04-01T04:00+00:00/2013-05-01T04:00+00:00").digest == typed


def test_a_file_of_the_history_is_missing_or_cut(run, lake):
    first, second = lake.snapshot("events").files[:2]
    (lake.path / second.path).write_bytes(b"PAR1")
    with pytest.raises(TerminalError, match=r"2013-03-02.*is corrupt.*4 bytes"):
        run("2013-04")
    (lake.path / first.path).unlink()
    with pytest.raises(TerminalError, match=r"2013-03-01.*is missing"):
        run("2013-04")


def test_a_missing_column_and_a_type_change_fail_the_run_that_reads_them(run, lake):
    day = date(2013, 4, 7)
    lake.write("events", {day: events(day).drop_columns(["size"])})
    with pytest.raises(TerminalError, match=r"no column size.*date=2013-04-07"):
        run("2013-04")
    run("2013-04-01/2013-04-05")
    changed = events(day).set_column(2, "size", pa.array(["big"] * 24))
    lake.write("events", {day: changed})
    with pytest.raises(TerminalError, match="size is string, not double"):
        run("2013-04")


def test_a_data_set_without_manifest_or_table_is_told(run, tmp_path):
    with pytest.raises(TerminalError, match="no manifest"):
        DatasetReader.open(tmp_path / "nowhere")
    reader = DatasetReader.open(run("2013-04").uri)
    with pytest.raises(TerminalError, match=r"no table event\..*events, tides, names"):
        reader.files("event")


def _removed(path: Path) -> None:
    path.unlink()


def _replaced(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


LOST = [(_removed, "was removed after ingest.*no such file"), (_replaced, r"was replaced after ingest.*sha256 \w{64}")]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize(("part", "day"), [("interval", "2013-04-02"), ("history", "2013-03-02")])
def test_a_file_that_is_no_longer_what_ingest_saw_is_not_read(run, lake, lost, part, day):
    lose, reason = lost
    reader = DatasetReader.open(run("2013-04").uri)
    (file,) = [file for file in lake.snapshot("events").files if file.day == day]
    lose(lake.path / file.path)
    pattern = rf"of {day}, events/date={day}/\w+.parquet, {reason}.*clear this task.*clear from ingest on"
    with pytest.raises(TerminalError, match=pattern) as refused:
        reader.arrow_table("events", part)
    assert f"Expected: sha256 {file.sha256}" in str(refused.value)
    with pytest.raises(TerminalError, match=pattern):
        reader.spark_frame(None, "events", part)
    with pytest.raises(TerminalError, match=pattern):
        reader.check()
    # What a node does not read, does not stop it.
    assert reader.arrow_table("events", "history" if part == "interval" else "interval").num_rows
    reader.check("tides", "names")


def test_a_file_that_changes_while_it_is_read_is_told_in_place_of_what_came_of_it(run, lake):
    reader = DatasetReader.open(run("2013-04").uri)
    path = lake.path / lake.snapshot("events").files[0].path
    with pytest.raises(KeyError, match="no fault of the lake"), reader.unchanged():
        raise KeyError("no fault of the lake")
    with pytest.raises(TerminalError, match="was replaced after ingest"), reader.unchanged():
        _replaced(path)
    with pytest.raises(TerminalError, match="was removed after ingest"), reader.unchanged():
        path.unlink()
        raise FileNotFoundError(path)


def test_days_that_the_lake_lacks_are_told_for_both_parts(run, lake, caplog):
    nothing = events(FIRST).slice(0, 0)
    gone = ("2013-03-05", "2013-03-06", "2013-03-07", "2013-03-20", "2013-04-09")
    lake.write("events", {date.fromisoformat(day): nothing for day in gone})
    run("2013-04")
    assert "events has nothing of 2013-03-05 to 2013-03-07, 2013-03-20, days of the history." in caplog.text
    assert "events has nothing of 2013-04-09, days of the interval." in caplog.text


@pytest.mark.parametrize(("day", "hours"), [("2013-03-10", 23), ("2013-11-03", 25)])
def test_a_day_of_daylight_saving_is_an_interval(run, lake, day, hours):
    week = [date.fromisoformat(day) + timedelta(days=i) for i in range(-3, 2)]
    lake.write("events", {day: events(day) for day in week})
    reader = DatasetReader.open(run(day, window_days=3).uri)
    assert reader.arrow_table("events", "interval").num_rows == hours
    assert reader.arrow_table("events", "history").num_rows == 3 * 24
    (path,) = reader.files("events", "interval")
    assert f"date={day}" in str(path)
