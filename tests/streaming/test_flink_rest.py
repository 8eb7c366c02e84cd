"""Flink's REST API against answers of Flink 1.19, served by a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from streaming.engine import flink_rest, job_records
from streaming.engine.flink_rest import Flink
from streaming.engine.job_records import JobRecord

JOB = "b60dbf17aecac102eb4b5fe0d9ce82ae"
PATH = f"file:/state/{JOB}/chk-116"
NOTHING = {"completed": None, "savepoint": None, "failed": None, "restored": None}


class Answers(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, Any]] = {}
    requests: ClassVar[list[tuple[str, str, Any]]] = []

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.requests.append((self.command, self.path, json.loads(body) if body else None))
        answer = self.answers.get(f"{self.command} {self.path}", self.answers.get(self.path))
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"errors": ["Job could not be found."]} if answer is None else answer).encode())

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Flink]:
    Answers.answers, Answers.requests = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield Flink(f"http://127.0.0.1:{served.server_port}/")
        served.shutdown()


def job(state: str, name: str = "counts", job_id: str = JOB, start: int = 5000) -> dict[str, Any]:
    tasks = {"total": 2, "running": 2 if state == "RUNNING" else 0}
    return {"jid": job_id, "name": name, "state": state, "start-time": start, "tasks": tasks}


def test_the_running_job_of_a_name_is_the_newest_that_has_not_ended(server: Flink) -> None:
    jobs = [job("CANCELED", start=9000, job_id="c"), job("RESTARTING"), job("RUNNING", "other", "o")]
    Answers.answers = {"/jobs/overview": {"jobs": jobs}}
    assert server.running("counts") == flink_rest.Job(JOB, "counts", "RESTARTING", 5.0, False)
    assert server.running("nobody") is None
    assert server.jobs()[0].id == "c"


def test_a_jobs_status_holds_what_a_watcher_needs(server: Flink) -> None:
    names = {"v1": "Source: Kafka -> Map", "v2": "Combine"}
    vertices = [{"id": part, "name": name, "status": "RUNNING"} for part, name in names.items()]
    completed = {"external_path": PATH, "trigger_timestamp": 7000, "end_to_end_duration": 14, "state_size": 104}
    Answers.answers = {
        f"/jobs/{JOB}": {**job("RUNNING"), "vertices": vertices},
        f"/jobs/{JOB}/exceptions?maxExceptions=100": {
            "exceptionHistory": {
                "entries": [
                    {"stacktrace": "java.io.IOException: gone\n\tat x", "timestamp": 6000},
                    {"stacktrace": "java.lang.Exception: before that", "timestamp": 5000},
                ]
            }
        },
        f"/jobs/{JOB}/vertices/v1/subtasks/metrics": [
            {"id": name}
            for name in ("numRecordsOut", "Source__a/K.numRecordsOut", "Source__a/K.numRecordsOutPerSecond")
        ],
        f"/jobs/{JOB}/vertices/v2/subtasks/metrics": [
            {"id": name}
            for name in (
                "numRecordsOut",
                "read.counts_worker_memory_mb",
                "sum.counts_store_whole_from",
                "count/Group.org_droppedDueToLateness",
            )
        ],
        f"/jobs/{JOB}/vertices/v2/subtasks/metrics?get=sum.counts_store_whole_from&agg=max": [{"id": "n", "max": 7.0}],
        f"/jobs/{JOB}/vertices/v2/subtasks/metrics?get=count/Group.org_droppedDueToLateness&agg=sum": [
            {"id": "n", "sum": 3.0}
        ],
        f"/jobs/{JOB}/vertices/v2/subtasks/metrics?get=read.counts_worker_memory_mb&agg=max": [
            {"id": "n", "max": 250.0}
        ],
        f"/jobs/{JOB}/vertices/v1/subtasks/metrics?get=Source__a/K.numRecordsOut&agg=sum": [
            {"id": "n", "sum": 20000.0}
        ],
        f"/jobs/{JOB}/vertices/v1/watermarks": [],
        f"/jobs/{JOB}/vertices/v2/watermarks": [{"id": "0", "value": "9000"}, {"id": "1", "value": "8000"}],
        f"/jobs/{JOB}/checkpoints": {
            "counts": {"completed": 116, "failed": 8},
            "latest": {**NOTHING, "completed": completed, "failed": {"failure_message": "disk full"}},
        },
    }
    status = server.status(JOB)
    assert (status.watermark, status.read, status.failures, status.failed) == (8.0, 20000, 2, 6.0)
    assert status.job.complete
    assert (status.failure, status.worker_memory_mb) == ("java.io.IOException: gone", 250.0)
    assert (status.store_whole_from, status.dropped) == (7, 3)
    assert status.checkpoints == flink_rest.Checkpoints(116, 8, PATH, 7.0, 0.014, 104, "disk full")
    # A part that nothing has reached yet holds the watermark of the whole.
    Answers.answers[f"/jobs/{JOB}/vertices/v2/watermarks"][0]["value"] = str(-(1 << 63))
    assert server.status(JOB).watermark is None


PYTHON = """org.apache.flink.runtime.JobException: Recovery is suppressed by ExponentialDelayRestartBackoffTimeStrategy
\tat org.apache.flink.A.a(A.java:1)
Caused by: java.lang.RuntimeException: java.util.concurrent.ExecutionException: Error received from SDK harness
\t... 7 more
Caused by: java.lang.RuntimeException: Error received from SDK harness: Traceback (most recent call last):
  File "letters.py", line 112, in process
    at = raise_it(
KeyError: 5

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "worker.py", line 7, in finish
airtight.errors.TerminalError: 100.0% of the last messages are bad. Expected: at most 20%. [while running 'letters']

\tat org.apache.beam.B.b(B.java:2)
\tat org.apache.flink.C.c(C.java:3)
"""


@pytest.mark.parametrize(
    ("stacktrace", "cause"),
    [
        ("java.io.IOException: gone\n\tat x", "java.io.IOException: gone"),
        ("a.B: outer\n\tat x\nCaused by: c.D: inner\nmore of it\n\tat y\n\t... 3 more", "c.D: inner"),
        (
            PYTHON,
            "airtight.errors.TerminalError: 100.0% of the last messages are bad. Expected: at most 20%. "
            "[while running 'letters']",
        ),
        ("", ""),
    ],
    ids=["alone", "java", "python", "nothing"],
)
def test_the_root_cause_of_a_failure_is_told_in_a_line(stacktrace: str, cause: str) -> None:
    assert flink_rest.root_cause(stacktrace) == cause


def test_the_fullest_heap_counts(server: Flink) -> None:
    Answers.answers = {"/taskmanagers": {"taskmanagers": [{"id": "a"}, {"id": "b"}]}}
    for name, used in (("a", "10"), ("b", "30")):
        path = f"/taskmanagers/{name}/metrics?get={flink_rest.HEAP}.Used,{flink_rest.HEAP}.Max"
        Answers.answers[path] = [
            {"id": f"{flink_rest.HEAP}.Used", "value": used},
            {"id": f"{flink_rest.HEAP}.Max", "value": "40"},
        ]
    assert server.heap_share() == 0.75
    # One that has just registered has no metrics yet.
    Answers.answers = {"/taskmanagers": {"taskmanagers": [{"id": "a"}]}, path.replace("/b/", "/a/"): []}
    assert server.heap_share() == 0.0


def test_a_savepoint_is_waited_for_and_its_failure_told(server: Flink, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = f"/jobs/{JOB}/savepoints/r1"
    Answers.answers = {
        f"POST /jobs/{JOB}/savepoints": {"request-id": "r1"},
        f"/jobs/{JOB}": job("CANCELED"),
        operation: {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/s/savepoint-1"}},
    }
    assert server.savepoint(JOB, "file:///s", cancel=True) == "file:/s/savepoint-1"
    assert Answers.requests[0][2] == {"cancel-job": True, "target-directory": "file:///s"}
    failure = {"failure-cause": {"stack-trace": "java.lang.Exception: no task\n\tat y"}}
    Answers.answers[operation] = {"status": {"id": "COMPLETED"}, "operation": failure}
    with pytest.raises(TransientError, match="no task"):
        server.savepoint(JOB)
    Answers.answers[operation] = {"status": {"id": "IN_PROGRESS"}}
    monkeypatch.setattr(flink_rest, "SAVEPOINT_S", 0.1)
    with pytest.raises(TransientError, match="nothing within"):
        server.savepoint(JOB)


def test_who_is_away_and_what_is_not_known_are_two_faults(server: Flink) -> None:
    with pytest.raises(TerminalError, match="does not know the job"):
        server.checkpoints(JOB)
    with pytest.raises(TransientError, match="does not answer"):
        Flink("http://127.0.0.1:9").jobs()


def test_a_job_is_resumed_from_the_newest_that_flink_or_its_folder_has(server: Flink, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert job_records.start_point(server, "counts", home) == "", "never submitted"
    folder = tmp_path / "with a space"
    for name in ("chk-9", "chk-10", "chk-11"):
        (folder / name).mkdir(parents=True)
    for name in ("chk-9", "chk-10"):
        (folder / name / "_metadata").touch()
    job_records.save(JobRecord("counts", JOB, folder.as_uri()), home)
    # A JobManager that was started anew.
    assert job_records.start_point(server, "counts", home) == (folder / "chk-10").as_uri(), "11 is not complete"
    newest = {"external_path": PATH, "trigger_timestamp": 1}
    Answers.answers[f"/jobs/{JOB}/checkpoints"] = {
        "counts": {"completed": 1, "failed": 0},
        "latest": {**NOTHING, "completed": newest},
    }
    assert job_records.start_point(server, "counts", home) == PATH
    # On no file system of this host: what was known last.
    Answers.answers.clear()
    job_records.save(JobRecord("counts", JOB, "s3://bucket/checkpoints", start=PATH), home)
    assert job_records.start_point(server, "counts", home) == PATH


def test_a_job_that_was_stopped_goes_on_from_its_savepoint_alone(server: Flink, tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(TerminalError, match="No job counts runs"):
        Answers.answers = {"/jobs/overview": {"jobs": []}}
        job_records.stop(server, "counts", home)
    Answers.answers = {
        "/jobs/overview": {"jobs": [job("RUNNING")]},
        f"/jobs/{JOB}": job("CANCELED"),
        f"POST /jobs/{JOB}/savepoints": {"request-id": "r1"},
        f"/jobs/{JOB}/savepoints/r1": {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/s/1"}},
    }
    assert job_records.stop(server, "counts", home) == "file:/s/1"
    assert job_records.start_point(server, "counts", home) == "file:/s/1"


def test_one_command_at_a_time_submits_or_stops_a_job(server: Flink, tmp_path: Path, monkeypatch) -> None:
    home = Home(tmp_path)
    monkeypatch.setattr(job_records, "PATIENCE_S", 0.1)
    with job_records.locked("counts", home):
        with pytest.raises(TransientError, match="being submitted or stopped"):
            job_records.stop(server, "counts", home)
        with job_records.locked("other", home):
            pass
    with pytest.raises(TerminalError, match="No job counts runs"):
        Answers.answers = {"/jobs/overview": {"jobs": []}}
        job_records.stop(server, "counts", home)


def test_a_command_waits_for_the_watcher_that_keeps_a_checkpoint(server: Flink, tmp_path: Path, monkeypatch) -> None:
    home, holds, lets_go = Home(tmp_path), threading.Event(), threading.Event()
    monkeypatch.setattr(job_records, "PATIENCE_S", 60.0)

    def keep() -> None:
        with job_records.locked("counts", home):
            holds.set()
            lets_go.wait(60)

    watcher = threading.Thread(target=keep)
    watcher.start()
    assert holds.wait(60)
    job_records.keep_checkpoint("counts", JOB, PATH, home)
    assert watcher.is_alive(), "the watcher itself waits for nobody"
    threading.Timer(0.2, lets_go.set).start()
    with job_records.locked("counts", home):
        pass
    watcher.join()


def test_what_a_submission_does_not_name_stays_in_the_record(server: Flink, tmp_path: Path) -> None:
    home = Home(tmp_path)
    Answers.answers = {"/jobmanager/config": []}
    job_records.remember(server, "counts", "a", "", home, slots=3, code="1")
    job_records.remember(server, "counts", "b", "", home, code="2")
    record = job_records.load("counts", home)
    assert record is not None and (record.id, record.slots, record.code) == ("b", 3, "2")


def test_the_savepoints_of_two_stops_are_kept(server: Flink, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    Answers.answers = {
        "/jobs/overview": {"jobs": [job("RUNNING")]},
        "/jobmanager/config": [],
        f"/jobs/{JOB}": job("CANCELED"),
        f"POST /jobs/{JOB}/savepoints": {"request-id": "r1"},
    }
    for number in range(4):
        folder = tmp_path / f"savepoint-{number}"
        folder.mkdir()
        done = {"status": {"id": "COMPLETED"}, "operation": {"location": folder.as_uri()}}
        Answers.answers[f"/jobs/{JOB}/savepoints/r1"] = done
        job_records.stop(server, "counts", home)
        job_records.remember(server, "counts", JOB, job_records.start_point(server, "counts", home), home)
    assert sorted(path.name for path in tmp_path.glob("savepoint-*")) == ["savepoint-2", "savepoint-3"]


def test_checkpoints_of_two_submissions_are_kept(server: Flink, tmp_path: Path) -> None:
    home, root = Home(tmp_path / "home"), tmp_path / "checkpoints"
    Answers.answers = {"/jobmanager/config": [{"key": "state.checkpoints.dir", "value": root.as_uri()}]}
    for job_id in ("a", "b", "c"):
        (root / job_id / "chk-1").mkdir(parents=True)
        (root / job_id / "chk-1" / "_metadata").touch()
        start = job_records.start_point(server, "counts", home)
        job_records.remember(server, "counts", job_id, start, home)
    assert sorted(path.name for path in root.iterdir()) == ["b", "c"]
    record = job_records.load("counts", home)
    assert record == JobRecord(
        "counts", "c", f"{root.as_uri()}/c", f"{root.as_uri()}/b/chk-1", earlier=f"{root.as_uri()}/b"
    )


@pytest.mark.parametrize("name", ["", "a/b", ".hidden"])
def test_a_name_that_is_no_files_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="no name for a job"):
        job_records.load(name, Home(tmp_path))
