"""The prediction log's Parquet files: whole or not there, and read again whatever became of their server."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.predictions import JOURNAL, folder_of
from components.data import predictions
from serving.prediction_log import parquet_sink
from serving.prediction_log.parquet_sink import ParquetSink, recover
from serving.prediction_log.personal import Personal
from serving.signature import Signature
from tests.serving.notes import AROUND, DAY, SIGNATURE, answered, note, tables, visible, write


def test_files_are_seen_when_they_are_whole_and_rows_can_be_read_before(tmp_path):
    sink = ParquetSink(tmp_path, roll_s=3600)
    write(sink, note(answered(3), headers=[("x-request-id", "r1")]))
    sink.roll()
    assert visible(tmp_path) == []
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3
    sink.roll(everything=True)
    (file,) = visible(tmp_path)
    assert file.parent == tmp_path / "m" / f"date={DAY}" and pq.read_table(file, partitioning=None).num_rows == 3
    assert list(tmp_path.rglob(f"*{JOURNAL}")) == []
    eager = ParquetSink(tmp_path, roll_s=0)
    write(eager, note(answered(3), headers=[("x-request-id", "r1")]))
    eager.roll()
    assert len(visible(tmp_path)) == 2
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3, "a row that was written twice is read once"


def test_a_day_ends_at_midnight_utc(tmp_path):
    sink = ParquetSink(tmp_path, roll_s=3600)
    midnight = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    write(sink, note(answered(1), at=midnight - 0.001), note(answered(1), at=midnight))
    sink.roll(everything=True)
    assert [path.parent.name for path in visible(tmp_path)] == ["date=2026-02-28", "date=2026-03-01"]
    day = Interval.parse("2026-03-01", "UTC")
    assert predictions.read(tmp_path, "m", day)["time"].to_pylist() == [day.start]


def test_what_a_killed_server_left_is_closed_by_the_next_and_not_what_a_running_one_holds(tmp_path):
    running, killed = ParquetSink(tmp_path, 3600), ParquetSink(tmp_path, 3600)
    write(running, note(answered(1)))
    write(killed, note(answered(2)), note(answered(3)))
    (journal,) = killed._open.values()
    journal.file.write(b"\xff\xff\xff\xff\x10\x00\x00\x00torn")  # A batch that was not finished.
    journal.file.close()
    assert recover(tmp_path) == 1
    (file,) = visible(tmp_path)
    assert pq.read_table(file, partitioning=None).num_rows == 5
    assert recover(tmp_path) == 0 and len(list(tmp_path.rglob(f"*{JOURNAL}"))) == 1
    running.roll(everything=True)


def test_a_file_that_cannot_be_closed_is_closed_later(tmp_path, monkeypatch):
    sink = ParquetSink(tmp_path, 0)
    write(sink, note(answered(3)))

    def full(*unused, **given):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="no room"):
            sink.roll()
    sink.roll()
    assert visible(tmp_path) == [] and predictions.read(tmp_path, "m", AROUND).num_rows == 3
    monkeypatch.setattr(parquet_sink, "AGAIN_S", 0.0)
    sink._again_at = 0.0
    sink.roll()
    assert len(visible(tmp_path)) == 1 and predictions.read(tmp_path, "m", AROUND).num_rows == 3


def test_two_signatures_of_one_request_are_both_read_and_each_once(tmp_path):
    sink, other = ParquetSink(tmp_path, 3600), answered(2)
    other.signature = Signature("other", "", SIGNATURE.inputs, SIGNATURE.outputs, SIGNATURE.run)
    for _ in range(2):
        write(sink, note(answered(2), other, headers=[("x-request-id", "r1")]))
    rows = predictions.read(tmp_path, "m", AROUND).to_pylist()
    assert [(row["signature"], row["row"]) for row in rows] == [
        ("other", 0),
        ("other", 1),
        ("serving_default", 0),
        ("serving_default", 1),
    ]


def test_a_model_whatever_it_is_called_lies_below_the_folder(tmp_path):
    for name in ("..", "../x", "a/b", ".hidden", "ü"):
        assert folder_of(tmp_path, name).parent == tmp_path
        sink = ParquetSink(tmp_path, 3600)
        write(sink, note(answered(1), model=name))
        sink.roll(everything=True)
        assert predictions.read(tmp_path, name, AROUND).num_rows == 1
    assert len({folder_of(tmp_path, name) for name in ("..", "%2E.", ".hidden", "%2Ehidden")}) == 4


def test_versions_with_other_features_and_hashes_are_read_together(tmp_path):
    sink = ParquetSink(tmp_path, 3600)
    write(sink, note(answered(1, version=1)))
    hashed = Personal(frozenset({"delay"}), frozenset({"origin"}), b"k")
    for table in tables([note(answered(1, version=2))], hashed):
        sink.write("m", table)
    rows = predictions.read(tmp_path, "m", AROUND).sort_by("version").to_pylist()
    assert [row["version"] for row in rows] == [1, 2]
    assert rows[0]["input_delay"] == "1.5" and len(rows[1]["input_delay"]) == 64 and rows[1]["input_origin"] is None


def test_an_interval_without_answers_is_an_empty_table_and_a_broken_file_is_named(tmp_path):
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 0
    broken = tmp_path / "m" / f"date={DAY}" / "x.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PAR1")
    with pytest.raises(TerminalError, match=r"x\.parquet of the prediction log cannot be read"):
        predictions.read(tmp_path, "m", AROUND)
