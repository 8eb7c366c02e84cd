"""The prediction log's Parquet files: whole or not there, and read again whatever became of their server."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.predictions import JOURNAL, folder_of
from components.data import predictions
from serving.prediction_log import claimed_journal, journal_rows, parquet_files
from serving.prediction_log import journals as journals_module
from serving.prediction_log.journal_rows import is_torn_message
from serving.prediction_log.journals import Journal, Journals
from serving.prediction_log.notes import Answered
from serving.prediction_log.personal import Personal
from serving.prediction_log.settings import LogSettings
from serving.prediction_log.shipper import Job, Shipper
from serving.prediction_log.writer import BROKEN, Warnings, Writer
from serving.signature import Signature
from tests.serving.notes import AROUND, DAY, SIGNATURE, answered, note, spec, texts, visible, write


def ship(root: Path, owner: str = "nobody") -> bool:
    """One look of a shipper at the journals: whether its server still holds some."""
    return Shipper(Job(str(root), owner), None).work()


def close(journals: Journals) -> None:
    """The server stops."""
    journals.roll(everything=True)
    assert not ship(journals.root, journals.owner)


def test_files_are_seen_when_they_are_whole_and_rows_can_be_read_before(tmp_path):
    journals = Journals(tmp_path, roll_s=3600)
    write(journals, note(answered(3), headers=[("x-request-id", "r1")]))
    assert not journals.roll() and ship(tmp_path, journals.owner)
    assert visible(tmp_path) == []
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3
    close(journals)
    (file,) = visible(tmp_path)
    assert file.parent == tmp_path / "m" / f"date={DAY}" and pq.read_table(file, partitioning=None).num_rows == 3
    assert list(tmp_path.rglob(f"*{JOURNAL}")) == []
    eager = Journals(tmp_path, roll_s=0)
    write(eager, note(answered(3), headers=[("x-request-id", "r1")]))
    assert eager.roll() and not eager.roll()
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3, "between the two it is read, too"
    ship(tmp_path)
    assert len(visible(tmp_path)) == 2
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3, "a row that was written twice is read once"


def test_requests_of_one_row_and_of_several_are_read_together(tmp_path):
    journals = Journals(tmp_path, roll_s=3600)
    write(journals, note(answered(1), headers=[("x-request-id", "one")]), note(answered(3)), note(answered(1)))
    expected = [("JFK", 1), ("JFK", 1), ("JFK", 3), ("", 3), ("LGA", 3)]

    def read() -> list:
        rows = predictions.read(tmp_path, "m", AROUND).to_pylist()
        return sorted((row["rows"], row["row"], row["input_origin"], row["output_probability"]) for row in rows)

    before = read()
    assert sorted((origin, rows) for rows, _, origin, _ in before) == sorted(expected)
    close(journals)
    assert read() == before


def test_a_day_ends_at_midnight_utc(tmp_path):
    journals = Journals(tmp_path, roll_s=3600)
    midnight = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    write(journals, note(answered(1), at=midnight - 0.001), note(answered(1), at=midnight))
    close(journals)
    assert [path.parent.name for path in visible(tmp_path)] == ["date=2026-02-28", "date=2026-03-01"]
    day = Interval.parse("2026-03-01", "UTC")
    assert predictions.read(tmp_path, "m", day)["time"].to_pylist() == [day.start]


def test_what_a_killed_server_left_is_closed_by_the_next_and_not_what_a_running_one_holds(tmp_path, caplog):
    running, killed = Journals(tmp_path, 3600), Journals(tmp_path, 3600)
    write(running, note(answered(1)))
    write(killed, note(answered(2)), note(answered(3)))
    (journal,) = killed._open.values()
    journal.file.write(b"\xff\xff\xff\xff\x10\x00\x00\x00torn")  # A batch that was not finished.
    journal.file.close()
    ship(tmp_path, running.owner)
    (file,) = visible(tmp_path)
    assert pq.read_table(file, partitioning=None).num_rows == 5
    assert "left by a server that was killed" in caplog.text
    assert ship(tmp_path, running.owner) and len(list(tmp_path.rglob(f"*{JOURNAL}"))) == 1
    close(running)
    assert len(visible(tmp_path)) == 2


def test_a_journal_without_a_whole_batch_is_removed(tmp_path):
    journals = Journals(tmp_path, 3600)
    write(journals, note(answered(1)))
    (journal,) = journals._open.values()
    journal.file.truncate(20)
    close(journals)
    assert visible(tmp_path) == [] and not list(tmp_path.rglob(f"*{JOURNAL}"))


def damaged(content: bytes, starts: list[int], kind: str) -> bytes:
    """A journal whose last batch but one, or last, is not as it was written; `starts` are those of its batches."""
    second, third = starts[1:3]
    return {
        "a size in the middle": content[: second + 4] + b"\xff\xff\xff\x7f" + content[second + 8 :],
        "a size beyond the end": content[: second + 4] + b"\x00\x00\x00\x08" + content[second + 8 :],
        "a description in the middle": content[: second + 8] + b"\xee" * 16 + content[second + 24 :],
        "the last description": content[: third + 8] + b"\xee" * 16 + content[third + 24 :],
        "bytes that are missing": content[: third - 64] + content[third:],
        "something else at the end": content + b"something else",
        "zeros between": content[:second] + bytes(64) + content[second:],
        "the schema": content[:8] + b"\xee" * 16 + content[24:],
    }[kind]


def three_batches(root: Path) -> tuple[Path, bytes, list[int]]:
    """A journal, its content and where its batches begin."""
    journals, starts = Journals(root, 3600), []
    for _ in range(3):
        if journals._open:
            starts.append(next(iter(journals._open.values())).file.tell())
        write(journals, note(answered(2)))
    journals.roll(everything=True)
    (path,) = root.rglob(f"*{JOURNAL}")
    content = path.read_bytes()
    first = 2 * starts[0] - starts[1]  # All batches are of one size.
    return path, content, [first, *starts]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("a size in the middle", 2),
        ("a size beyond the end", 2),
        ("a description in the middle", 2),
        ("the last description", 4),
        ("bytes that are missing", 2),
        ("something else at the end", 6),
        ("zeros between", 2),
        ("the schema", 0),
    ],
)
def test_a_journal_that_cannot_be_read_whole_is_kept_and_counted(tmp_path, monkeypatch, caplog, kind, rows):
    lines: list[bytes] = []
    path, content, starts = three_batches(tmp_path)
    path.write_bytes(damaged(content, starts, kind))
    monkeypatch.setattr(os, "write", lambda handle, line: lines.append(line))
    ship(tmp_path)
    assert [json.loads(line) for line in lines] == [{"model": "m", "written": 0, "too_large": 0, "broken": 1}]
    assert sum(pq.read_table(file, partitioning=None).num_rows for file in visible(tmp_path)) >= rows
    assert path.with_name(path.name + ".broken").read_bytes() == damaged(content, starts, kind) and not path.exists()
    assert "cannot be read" in caplog.text
    ship(tmp_path)
    assert len(lines) == 1, "nobody looks at it again"


@pytest.mark.parametrize("behind", [b"", bytes(4096)], ids=["ends there", "zeros behind"])
def test_a_journal_whose_last_batch_is_torn_is_removed_wherever_it_is_torn(tmp_path, behind):
    path, content, starts = three_batches(tmp_path)
    for start, end in ((0, starts[0]), (starts[2], len(content))):
        for size in {*range(start, start + 24), *range(start, end, 37), end - 1}:
            path.write_bytes(content[:size])
            assert is_torn_message(path, start), size
    path.write_bytes(content + behind)
    assert is_torn_message(path, len(content))
    ship(tmp_path)
    assert [file.suffix for file in path.parent.iterdir()] == [".parquet"]


def test_the_server_counts_the_journals_that_cannot_be_read_whole():
    counted = []
    writer = Writer(LogSettings(), Warnings(), lambda *of: counted.append(of))
    writer._count_shipped([{"model": "m", "written": 0, "too_large": 0, "broken": 1}])
    assert counted == [(BROKEN, 1, "m")]


def test_a_long_journal_becomes_a_file_piece_by_piece(tmp_path, monkeypatch):
    """As many rows are held as a group has; columns that only some pieces have are null in the others."""
    signature = Signature("s", "", (spec("text", tf.string),), (spec("y", tf.float32),), lambda *unused: [])
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(1.5)
    values = [texts(*[b"plain"] * 40), texts(*[example.SerializeToString()] * 40), texts(*[b"plain"] * 40)]
    journals, steps = Journals(tmp_path, 3600), []
    for column in values:
        write(journals, note(Answered(1, signature, [column], [np.zeros(40, np.float32)])))
    journals.roll(everything=True)
    read, add = claimed_journal.rows_of, parquet_files._add
    monkeypatch.setattr(journal_rows, "TOGETHER", 10)
    monkeypatch.setattr(parquet_files, "GROUP_ROWS", 20)
    monkeypatch.setattr(parquet_files, "_add", lambda *of: steps.append("write") or add(*of))
    monkeypatch.setattr(claimed_journal, "rows_of", lambda batch: steps.append("read") or read(batch))
    ship(tmp_path)
    begun = steps[12:]  # First all pieces are read for their columns.
    assert begun == ["read", "read", "write"] * 6
    (file,) = visible(tmp_path)
    table = pq.read_table(file, partitioning=None)
    assert table["input_text"].to_pylist() == ["plain"] * 40 + [None] * 40 + ["plain"] * 40
    assert table["inputs_json"].to_pylist() == [None] * 40 + ['{"text":{"x":1.5}}'] * 40 + [None] * 40
    assert pq.ParquetFile(file).metadata.num_row_groups == 6


def test_a_journal_that_cannot_become_a_file_stays_and_does_later(tmp_path, monkeypatch, caplog):
    journals = Journals(tmp_path, 3600)
    write(journals, note(answered(3)))
    journals.roll(everything=True)

    def full(*unused, **given):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetWriter", full)
        ship(tmp_path)
    assert "no room" in caplog.text
    assert visible(tmp_path) == [] and predictions.read(tmp_path, "m", AROUND).num_rows == 3
    ship(tmp_path)
    assert len(visible(tmp_path)) == 1 and predictions.read(tmp_path, "m", AROUND).num_rows == 3


def test_a_journal_that_cannot_be_begun_leaves_no_file(tmp_path, monkeypatch):
    def full(*unused):
        raise OSError(errno.ENOSPC, "no room")

    journals = Journals(tmp_path, 3600)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        with pytest.raises(OSError, match="no room"):
            write(journals, note(answered(1)))
    assert not list(tmp_path.rglob(f"*{JOURNAL}"))
    write(journals, note(answered(1)))
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 1


def test_a_durable_journal_has_the_disk_keep_all_folders_that_were_made_for_it(tmp_path, monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr(journals_module, "sync_folders", lambda *folders: synced.extend(folders))
    root = tmp_path / "a" / "b" / "log"
    write(Journals(root, 3600, durable=True), note(answered(1)))
    expected = {root / "m" / f"date={DAY}", root / "m", root, root.parent, root.parent.parent, tmp_path}
    assert set(synced) >= expected


def test_what_a_shipper_that_was_killed_left_of_a_file_is_gone_with_the_next(tmp_path):
    journals = Journals(tmp_path, 3600)
    write(journals, note(answered(3)))
    (path,) = tmp_path.rglob(f"*{JOURNAL}")
    name = path.name.removeprefix(".").removesuffix(JOURNAL)
    path.with_name(f".{name}.parquet.{'0' * 32}.tmp").write_bytes(b"half of it")
    close(journals)
    assert [file.name for file in path.parent.iterdir()] == [f"{name}.parquet"]


def test_a_journal_that_somebody_removed_is_written_no_more(tmp_path):
    journals = Journals(tmp_path, 3600)
    write(journals, note(answered(1)))
    (path,) = tmp_path.rglob(f"*{JOURNAL}")
    path.unlink()
    write(journals, note(answered(2)))
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 2


def test_two_signatures_of_one_request_are_both_read_and_each_once(tmp_path):
    journals, other = Journals(tmp_path, 3600), answered(2)
    other.signature = Signature("other", "", SIGNATURE.inputs, SIGNATURE.outputs, SIGNATURE.run)
    for _ in range(2):
        write(journals, note(answered(2), other, headers=[("x-request-id", "r1")]))
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
        journals = Journals(tmp_path, 3600)
        write(journals, note(answered(1), model=name))
        close(journals)
        assert predictions.read(tmp_path, name, AROUND).num_rows == 1
    assert len({folder_of(tmp_path, name) for name in ("..", "%2E.", ".hidden", "%2Ehidden")}) == 4


def test_versions_with_other_features_and_hashes_are_read_together(tmp_path):
    journals = Journals(tmp_path, 3600)
    write(journals, note(answered(1, version=1)))
    hashed = Personal(frozenset({"delay"}), frozenset({"origin"}), b"k")
    write(journals, note(answered(1, version=2)), personal=hashed)
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
