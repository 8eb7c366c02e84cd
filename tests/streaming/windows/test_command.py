"""The command line: with what a job is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airtight.home import Home
from streaming.engine import job_records
from streaming.engine.flink_rest import Flink, Job
from streaming.engine.job_records import JobRecord
from streaming.windows import __main__ as command
from streaming.windows.declaration import Stream

SHOPS = "tests.streaming.windows.shops:STREAM"


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """By submission its idleness and slots."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    made: list[tuple[float, str]] = []
    idle: list[float] = []

    def from_kafka(stream: Stream, servers: str) -> str:
        idle.append(stream.bounds.idle_s)
        return "source"

    def resume(steps: Any, name: str, arguments: list[str], home: Home, **details: Any) -> Job:
        made.append((idle[-1], [one for one in arguments if one.startswith("--slots")][-1]))
        job_records.save(JobRecord(name, "j1", **details), home)
        return Job("j1", name, "RUNNING", 0.0, True)

    monkeypatch.setattr(command, "ensure_topics", lambda *_: None)
    monkeypatch.setattr(command, "from_kafka", from_kafka)
    monkeypatch.setattr(command.flink_jobs, "resume", resume)
    monkeypatch.setattr(command, "code_of", lambda *_: "code")
    monkeypatch.setattr(Flink, "running", lambda *_: None)
    return made


def test_a_job_takes_a_slot_of_each_taskmanager_and_keeps_its_slots(submitted, monkeypatch) -> None:
    for setting, arguments, slots in (("", [], 1), ("2", [], 1), ("2", ["--slots=3"], 3), ("2", [], 3)):
        monkeypatch.setenv("AIRTIGHT_FLINK_TASKMANAGERS", setting)
        assert command.main([SHOPS, *arguments]) == 0
        assert submitted[-1][1] == f"--slots={slots}"
    job_records.save(JobRecord("shops", "j1"))
    assert command.main([SHOPS]) == 0
    assert submitted[-1][1] == "--slots=2", "one of each, where nobody said otherwise"


def test_a_live_topic_has_an_idleness_that_its_job_keeps(submitted, monkeypatch) -> None:
    for setting, arguments in (("", []), ("", ["--idle-s", "5"]), ("", []), ("7", []), ("7", ["--idle-s", "0"])):
        monkeypatch.setenv("AIRTIGHT_STREAM_IDLE_S", setting)
        assert command.main([SHOPS, *arguments]) == 0
    assert [idle_s for idle_s, _ in submitted] == [0.0, 5.0, 5.0, 7.0, 0.0]
    record = job_records.load("shops")
    assert record is not None and (record.idle_s, record.slots) == (0.0, 1)
