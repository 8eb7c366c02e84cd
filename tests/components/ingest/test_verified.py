"""The note of files that were verified: a month reads a month, and what was touched is read again."""

from __future__ import annotations

import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from components.artifacts import Dataset
from components.data import verified
from runtime.cache import _fingerprint
from tests.components.ingest.tables import TABLES, ZONE


@pytest.fixture
def settled(monkeypatch):
    """Files may be noted at once, as if they had been written long ago."""
    monkeypatch.setattr(verified, "SETTLED_NS", -(10**12))


def read(artifact: Dataset) -> tuple[int, int]:
    return tuple(artifact.get_json_value_custom_property(name) for name in ("files_read", "bytes_read"))


def test_a_month_reads_a_month(run, lake, settled, caplog):
    caplog.set_level(logging.INFO)
    files = {name: lake.snapshot(name).files for name in ("events", "tides", "names")}
    every = [file for held in files.values() for file in held]
    first = run("2013-04")
    assert read(first) == (len(every), sum(file.bytes for file in every)) and len(every) == 61 + 60 + 1
    assert "in 60 files of the interval and static tables and 62 of the history; 0 files of" in caplog.text
    caplog.clear()
    again = run("2013-04")
    new = [file for file in every if file.day is None or file.day >= "2013-04-01"]
    assert read(again) == (len(new), sum(file.bytes for file in new)) and len(new) == 30 + 29 + 1
    assert "in 60 files of the interval and static tables and 0 of the history; 62 files of" in caplog.text
    # The same data set, for people and for the cache of what comes after.
    assert again.digest == first.digest
    fingerprints = [_fingerprint(artifact.mlmd_artifact, "Dataset", "of the manifest") for artifact in (first, again)]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("change", ["bytes", "bytes and times", "another file", "touch"])
def test_a_file_of_the_history_that_was_touched_is_read_again(run, lake, settled, change):
    run("2013-04")
    path = lake.path / lake.snapshot("events").files[3].path
    content, lies = bytearray(path.read_bytes()), path.stat()
    content[20] ^= 1
    if change == "touch":
        os.utime(path)
        assert read(run("2013-04"))[0] == 60 + 1
        return
    if change == "another file":
        path.unlink()
    path.write_bytes(content)
    if change == "bytes and times":
        os.utime(path, ns=(lies.st_atime_ns, lies.st_mtime_ns))
    with pytest.raises(TerminalError, match=r"of 2013-03-04.*is corrupt.*sha256"):
        run("2013-04")


def test_a_file_of_the_interval_is_read_whatever_the_note_says(run, lake, settled, monkeypatch):
    run("2013-04")
    # As when a disk loses a bit by itself: nothing tells that the file was touched.
    path = lake.path / lake.snapshot("events").files[-1].path
    lies, stat = path.stat(), os.stat
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(verified.os, "stat", lambda at, **how: lies if at == path else stat(at, **how))
    with pytest.raises(TerminalError, match=r"of 2013-04-30.*is corrupt.*sha256"):
        run("2013-04")


@pytest.mark.parametrize("note", ["", "[]", '{"events/date=2013-03-01/x.parquet": 1}', None])
def test_a_note_that_is_no_note_costs_time_alone(run, lake, settled, note):
    if note is None:
        (lake.path / verified.NOTE).mkdir()  # Nor can one be written there.
    else:
        (lake.path / verified.NOTE).write_text(note)
    assert [read(run("2013-04"))[0] for _ in range(2)] == [122, 122 if note is None else 60]


def test_a_file_that_was_just_written_is_not_noted(run, lake, monkeypatch):
    # What is just now: on a busy machine the lake is a few seconds old already.
    monkeypatch.setattr(verified, "SETTLED_NS", 600 * 10**9)
    assert [read(run("2013-04"))[0] for _ in range(2)] == [122, 122]
    assert not (lake.path / verified.NOTE).exists()


def test_what_was_verified_for_another_declaration_is_read_again(run, lake, settled, monkeypatch):
    run("2013-04")
    columns = TABLES[0].schema.append(pa.field("colour", pa.string()))
    monkeypatch.setattr(sys.modules["toy_tables"], "TABLES", (replace(TABLES[0], schema=columns), *TABLES[1:]))
    with pytest.raises(TerminalError, match="no column colour"):
        run("2013-04")


def test_runs_at_once_share_the_note(run, lake, settled):
    def verify(first: int) -> int:
        with verified.Verifier(lake, ZONE) as verifier:
            for file in lake.snapshot("events").files[first::4]:
                verifier.verify(TABLES[0], file, by_note=True)
        return len(verifier.read)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(verify, range(4))) == 61
    noted = json.loads((lake.path / verified.NOTE).read_text())
    assert {file.path for file in lake.snapshot("events").files} >= set(noted)
    assert len(noted) >= 15
    assert read(run("2013-04"))[0] <= 122
