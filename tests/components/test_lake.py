"""The lake: content-addressed files, versions, several writers, and files that are not what they should be."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError, TransientError
from airtight.files import digest_of_file
from airtight.home import Home
from components.data.lake import Lake, Table
from runtime.local import link_lake

DAY = date(2020, 5, 1)
EVENTS = Table(
    "events",
    pa.schema({"id": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "size": pa.float64()}),
    key=("id",),
    time="at",
)


def rows(*ids: int, day: date = DAY) -> pa.Table:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return pa.table({"id": ids, "at": [noon] * len(ids), "size": [i / 2 for i in ids]}, schema=EVENTS.schema)


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.mark.parametrize("full", ["mkdir", "replace"])
def test_a_full_disk_is_a_fault_that_a_retry_may_heal(lake, monkeypatch, full):
    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(Path if full == "mkdir" else os, full, refuse)
    with pytest.raises(TransientError, match="no room left"):
        lake.write("events", {DAY: rows(1)})


def test_what_a_killed_writer_left_goes_with_the_next_write_and_is_no_table(lake, tmp_path):
    left, other = (lake.path / f".scratch.{digit * 32}.tmp" for digit in "ab")
    for folder in (left, other):
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    held = os.open(other, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    lake.write("events", {DAY: rows(1)})
    assert sorted(path.name for path in lake.path.iterdir()) == [other.name, "events"], "the other one is in use"
    os.close(held)
    link_lake(Home(tmp_path), Home(tmp_path / "sandbox"))
    assert [path.name for path in (tmp_path / "sandbox" / "lake").iterdir()] == ["events"]


def test_a_version_lists_whole_files_named_by_their_digest(lake):
    version = lake.write("events", {DAY: rows(1, 2)})
    (file,) = version.files
    assert (version.number, version.rows, file.day) == (1, 2, "2020-05-01")
    assert file.path == f"events/date=2020-05-01/{file.sha256}.parquet"
    assert pq.read_table(lake.path / file.path).column("id").to_pylist() == [1, 2]
    lake.verify(EVENTS, file, "UTC")
    assert lake.snapshot("events") == version


def test_equal_content_is_the_same_file_and_no_new_version(lake):
    first = lake.write("events", {DAY: rows(1, 2)})
    split = pa.concat_tables([rows(1), rows(2)]).replace_schema_metadata({"writer": "another"})
    assert lake.write("events", {DAY: split}) == first
    assert lake.numbers("events") == [1]
    assert len(list(lake.path.rglob("*.parquet"))) == 1


def test_a_write_replaces_its_days_and_keeps_the_others_and_the_past(lake):
    next_day = DAY + timedelta(days=1)
    first = lake.write("events", {DAY: rows(1), next_day: rows(2, day=next_day)})
    second = lake.write("events", {DAY: rows(1, 3)})
    assert [file.rows for file in second.files] == [2, 1]
    assert second.files[1] == first.files[1]
    assert lake.snapshot("events", 1) == first
    assert [file.day for file in lake.write("events", {DAY: rows()}).files] == [next_day.isoformat()]


def test_a_static_table_has_one_file_and_no_day(lake):
    version = lake.write("names", {None: pa.table({"name": ["a"]})})
    (file,) = version.files
    assert file.day is None
    assert file.path == f"names/{file.sha256}.parquet"


def test_a_damaged_file_is_healed_by_writing_it_again(lake):
    (file,) = lake.write("events", {DAY: rows(1)}).files
    (lake.path / file.path).write_bytes(b"x" * file.bytes)
    lake.write("events", {DAY: rows(1)})
    lake.verify(EVENTS, file, "UTC")


def test_several_writers_lose_nothing(lake):
    days = [DAY + timedelta(days=i) for i in range(12)]
    writers = [threading.Thread(target=lake.write, args=("events", {day: rows(1, day=day)})) for day in days]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert lake.numbers("events") == list(range(1, 13))
    assert [file.day for file in lake.snapshot("events").files] == [day.isoformat() for day in days]
    assert not list(lake.path.rglob("*.tmp"))


def test_a_lost_race_is_tried_again_on_top_of_the_winner(lake, monkeypatch):
    lake.write("events", {DAY: rows(1)})
    snapshot, other_day = lake.snapshot, DAY + timedelta(days=1)
    looks = []

    def overtaken(table):
        seen = snapshot(table)
        looks.append(seen.number)
        if len(looks) == 1:
            Lake(lake.path).write(table, {other_day: rows(9, day=other_day)})
        return seen

    monkeypatch.setattr(lake, "snapshot", overtaken)
    # The winner comes between this writer's look at the log and its own version.
    version = lake.write("events", {DAY: rows(1, 2)})
    assert [(file.day, file.rows) for file in version.files] == [("2020-05-01", 2), ("2020-05-02", 1)]
    assert (looks, version.number) == ([1, 2], 3)


def test_as_of_reads_what_was_known_then(lake):
    june, august = datetime(2020, 6, 1, tzinfo=UTC), datetime(2020, 8, 1, tzinfo=UTC)
    base = lake.write("events", {DAY: rows(1)})
    lake.write("events", {DAY: rows(1, 2)}, known_at=june)
    late = lake.write("events", {DAY: rows(1, 2, 3)}, known_at=august)
    assert lake.snapshot_as_of("events", june - timedelta(seconds=1)) == base
    assert lake.snapshot_as_of("events", june).number == 2
    assert lake.snapshot_as_of("events", august) == lake.snapshot("events") == late
    inherits = lake.write("events", {DAY: rows(4)})
    assert inherits.known_at == august.isoformat()


def test_a_correction_cannot_become_known_before_the_one_it_corrects(lake):
    lake.write("events", {DAY: rows(1)}, known_at=datetime(2020, 8, 1, tzinfo=UTC))
    with pytest.raises(TerminalError, match="in order"):
        lake.write("events", {DAY: rows(2)}, known_at=datetime(2020, 7, 1, tzinfo=UTC))
    with pytest.raises(TerminalError, match="offset"):
        lake.write("events", {DAY: rows(2)}, known_at=datetime(2020, 9, 1))
    with pytest.raises(TerminalError, match=r"Nothing of the table events was known.*from 2020-08-01"):
        lake.snapshot_as_of("events", datetime(2020, 7, 1, tzinfo=UTC))


def test_an_absent_table_or_version_is_told_with_what_there_is(lake):
    with pytest.raises(TerminalError, match=r"no table events.*no tables at all"):
        lake.snapshot("events")
    lake.write("events", {DAY: rows(1)})
    with pytest.raises(TerminalError, match=r"no table event\..*one of events"):
        lake.snapshot("event")
    with pytest.raises(TerminalError, match=r"no version 7.*\[1\]"):
        lake.snapshot("events", 7)


def _missing(path):
    path.unlink()


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-9])


def _one_bit(path):
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "words"), [(_missing, "missing"), (_truncated, "bytes"), (_one_bit, "sha256")])
def test_a_file_that_is_not_what_its_version_says(lake, damage, words):
    (file,) = lake.write("events", {DAY: rows(1)}).files
    damage(lake.path / file.path)
    with pytest.raises(TerminalError, match=rf"2020-05-01, events/date=2020-05-01/\w+.parquet, is.*{words}"):
        lake.verify(EVENTS, file, "UTC")


def test_a_file_that_was_never_parquet(lake):
    (file,) = lake.write("events", {DAY: rows(1)}).files
    path = lake.path / file.path
    path.write_bytes(b"x" * file.bytes)
    with pytest.raises(TerminalError, match="Expected: a Parquet file"):
        lake.verify(EVENTS, replace(file, sha256=digest_of_file(path)), "UTC")


def test_a_row_of_no_time_or_of_another_day_is_told(lake):
    for number, (content, words) in enumerate(
        (
            (pa.concat_tables([rows(1), rows(2).set_column(1, "at", [pa.nulls(1, EVENTS.schema.types[1])])]), "1 rows"),
            (rows(1).set_column(1, "at", [pa.nulls(1, EVENTS.schema.types[1])]), "1 rows"),
            (pa.concat_tables([rows(1), rows(2, day=date(2020, 5, 2))]), "0 rows without it.*to 2020-05-02 12:00"),
        )
    ):
        (file,) = Lake(lake.path / str(number)).write("events", {DAY: content}).files
        with pytest.raises(TerminalError, match=f"of 2020-05-01.*of another day, or of none.*at of every row.*{words}"):
            Lake(lake.path / str(number)).verify(EVENTS, file, "UTC")
    (file,) = lake.write("events", {DAY: rows(1)}).files
    with pytest.raises(TerminalError, match="another day"):
        lake.verify(EVENTS, file, "Pacific/Kiritimati")  # There noon in Greenwich is the next day.


def test_a_missing_column_and_a_changed_type_are_named(lake):
    (file,) = lake.write("events", {DAY: rows(1).drop_columns(["size"])}).files
    with pytest.raises(TerminalError, match=r"no column size.*Expected: size double.*Received: the columns id, at"):
        lake.verify(EVENTS, file, "UTC")
    changed = rows(1).set_column(2, "size", pa.array(["0.5"]))
    (file,) = lake.write("events", {DAY: changed}).files
    with pytest.raises(TerminalError, match=r"another type.*size is string, not double"):
        lake.verify(EVENTS, file, "UTC")


def test_more_columns_than_declared_are_welcome(lake):
    (file,) = lake.write("events", {DAY: rows(1).append_column("more", pa.array([1]))}).files
    lake.verify(EVENTS, file, "UTC")


def test_a_declaration_must_hold_together():
    with pytest.raises(TerminalError, match=r"types among.*n decimal128.*no column when"):
        Table("t", pa.schema({"n": pa.decimal128(5, 2)}), key=("n",), time="when")
