"""Flink's REST API: which jobs run and how they do, savepoints, and ending a job; without Beam."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from airtight.errors import TerminalError, TransientError
from streaming.engine import addresses

TIMEOUT_S = 10.0
"""For one request."""
SAVEPOINT_S = 120.0
POLL_S = 0.2
ENDED = frozenset({"FAILED", "CANCELED", "FINISHED", "SUSPENDED"})
"""States in which a job does nothing any more."""
NO_WATERMARK = -(1 << 62)
"""Flink's own least watermark is below it: nothing has come yet."""
MILLISECONDS = 1000.0
HEAP = "Status.JVM.Memory.Heap"
WORKER_MEMORY = "worker_memory_mb"
"""Gauge of Beam in which a step gives the resident memory of its worker, MB."""

STORE_WHOLE_FROM = "store_whole_from"
"""Gauge of Beam with the minute since 1970 from which a stream's store is whole, where it lost something; else 0."""
READ, DROPPED = "numRecordsOut", "droppedDueToLateness"
_METRICS = (("Source__", READ, "sum"), ("", DROPPED, "sum"), ("", WORKER_MEMORY, "max"), ("", STORE_WHOLE_FROM, "max"))
"""Begin and end of metrics' names, and how parts and subtasks are aggregated. What sources have put out is theirs
alone: the parts that they begin may hold further steps, with fewer records. Beam's have "_" before the end."""


@dataclass(frozen=True)
class Job:
    """A job of the cluster.

    Args:
      id: Flink's, 32 hexadecimal digits.
      name: As it was submitted.
      state: RUNNING, RESTARTING, FAILING, CREATED, or one of `ENDED`.
      started: Seconds since 1970.
      complete: Whether every part of it runs; without free slots a job is RUNNING, and none of it is.
    """

    id: str
    name: str
    state: str
    started: float
    complete: bool


@dataclass(frozen=True)
class Checkpoints:
    """What a job's checkpoints came to.

    Args:
      completed: How many since the job was submitted.
      failed: How many failed.
      path: Of the newest that is complete, as a job can be started from it; empty for none.
      at: When that was triggered, seconds since 1970; 0 for none.
      seconds: How long it took.
      bytes: Its size.
      failure: Why the last one that failed did.
    """

    completed: int
    failed: int
    path: str = ""
    at: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    failure: str = ""


@dataclass(frozen=True)
class JobStatus:
    """How a job does.

    Args:
      job: Which.
      watermark: Least event time of all its parts, seconds since 1970; None while one has none.
      read: Records that its sources have read since its last start.
      checkpoints: Of the job.
      failures: How often it failed and was started again; Flink remembers 16, unless web.exception-history-size says
        otherwise.
      failed: When it did last, seconds since 1970; 0 for never.
      failure: Why: the root cause in one line, of a Python step the error that it raised.
      worker_memory_mb: Resident memory of the largest Python worker, MB; 0 while none has said.
      store_whole_from: Minute since 1970 from which the stream's store is whole, where it lost something; else 0.
      dropped: How often the engine has dropped something as late, in whichever step, since its last start.
    """

    job: Job
    watermark: float | None
    read: int
    checkpoints: Checkpoints
    failures: int = 0
    failed: float = 0.0
    failure: str = ""
    worker_memory_mb: float = 0.0
    store_whole_from: int = 0
    dropped: int = 0


class Flink:
    """A Flink cluster, wherever it is.

    Args:
      url: Of its REST API; empty is what AIRTIGHT_FLINK_REST names, or the local cluster.
    """

    def __init__(self, url: str = "") -> None:
        self.url = (url or addresses.rest()).rstrip("/")

    def jobs(self) -> list[Job]:
        """Every job that the cluster remembers, the newest first.

        Raises:
          TransientError: Flink does not answer.
        """
        jobs = []
        for job in self._call("GET", "/jobs/overview")["jobs"]:
            complete = 0 < job["tasks"]["total"] == job["tasks"]["running"]
            jobs.append(Job(job["jid"], job["name"], job["state"], job["start-time"] / MILLISECONDS, complete))
        return sorted(jobs, key=lambda job: job.started, reverse=True)

    def running(self, name: str) -> Job | None:
        """The newest job of that name that has not ended; None for none.

        Raises:
          TransientError: Flink does not answer.
        """
        return next((job for job in self.jobs() if job.name == name and job.state not in ENDED), None)

    def status(self, job_id: str) -> JobStatus:
        """How a job does.

        Raises:
          TerminalError: The cluster does not know it.
          TransientError: Flink does not answer.
        """
        job = self._call("GET", f"/jobs/{job_id}")
        vertices = job["vertices"]
        metrics = self._metrics(job_id, vertices)
        complete = all(part["status"] == "RUNNING" for part in vertices)
        # Not the metric numRestarts: metrics stand still while a TaskManager that was killed is waited for.
        failures = self._call("GET", f"/jobs/{job_id}/exceptions?maxExceptions=100")["exceptionHistory"]["entries"]
        return JobStatus(
            Job(job_id, job["name"], job["state"], job["start-time"] / MILLISECONDS, complete),
            self._watermark(job_id, vertices),
            round(metrics[READ]),
            self.checkpoints(job_id),
            len(failures),
            failures[0]["timestamp"] / MILLISECONDS if failures else 0.0,
            root_cause(failures[0]["stacktrace"]) if failures else "",
            metrics[WORKER_MEMORY],
            round(metrics[STORE_WHOLE_FROM]),
            round(metrics[DROPPED]),
        )

    def checkpoints(self, job_id: str) -> Checkpoints:
        """What a job's checkpoints came to.

        Raises:
          TerminalError: The cluster does not know the job.
          TransientError: Flink does not answer.
        """
        statistics = self._call("GET", f"/jobs/{job_id}/checkpoints")
        counts, latest = statistics["counts"], statistics["latest"]
        # A job that was resumed and has completed none yet can be started from what it was resumed from.
        newest, restored, failed = latest["completed"], latest["restored"] or {}, latest["failed"] or {}
        if newest is None:
            newest = {"external_path": restored.get("external_path") or "", "trigger_timestamp": 0}
        return Checkpoints(
            counts["completed"],
            counts["failed"],
            newest["external_path"] or "",
            newest["trigger_timestamp"] / MILLISECONDS,
            newest.get("end_to_end_duration", 0) / MILLISECONDS,
            newest.get("state_size", 0),
            failed.get("failure_message") or "",
        )

    def savepoint(self, job_id: str, folder: str = "", *, cancel: bool = False) -> str:
        """Takes a savepoint.

        Args:
          job_id: Of a running job.
          folder: Where it goes, a URL that Flink can write to; empty is the cluster's own setting.
          cancel: Whether the job ends with it, which is waited for.

        Returns:
          Its path, from which a job can be started.

        Raises:
          TerminalError: The cluster does not know the job.
          TransientError: Flink does not answer, or the savepoint fails.
        """
        body = {"cancel-job": cancel, **({"target-directory": folder} if folder else {})}
        trigger = self._call("POST", f"/jobs/{job_id}/savepoints", body)["request-id"]
        deadline = time.monotonic() + SAVEPOINT_S
        while time.monotonic() < deadline:
            answer = self._call("GET", f"/jobs/{job_id}/savepoints/{trigger}")
            if answer["status"]["id"] == "COMPLETED":
                if path := answer["operation"].get("location"):
                    if cancel:
                        self.await_state(job_id, ENDED, SAVEPOINT_S)
                    return str(path)
                raise self._no_savepoint(job_id, answer["operation"]["failure-cause"]["stack-trace"].splitlines()[0])
            time.sleep(POLL_S)
        raise self._no_savepoint(job_id, f"nothing within {SAVEPOINT_S:g} s")

    def cancel(self, job_id: str, wait_s: float = 60.0) -> None:
        """Ends a job and waits until it has ended; its last checkpoint stays.

        Raises:
          TerminalError: The cluster does not know the job.
          TransientError: Flink does not answer, or the job does not end.
        """
        self._call("PATCH", f"/jobs/{job_id}?mode=cancel")
        self.await_state(job_id, ENDED, wait_s)

    def await_state(self, job_id: str, states: frozenset[str], wait_s: float) -> str:
        """Waits until a job has one of some states.

        Returns:
          The state.

        Raises:
          TerminalError: The cluster does not know the job.
          TransientError: Flink does not answer, or the job has another state after `wait_s` seconds.
        """
        deadline = time.monotonic() + wait_s
        while (state := str(self._call("GET", f"/jobs/{job_id}")["state"])) not in states:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"The job {job_id} does not change its state.",
                    expected=f"{' or '.join(sorted(states))} within {wait_s:g} s",
                    received=state,
                    remedy=f"Look at it: {self.url}/#/job/{job_id}",
                )
            time.sleep(POLL_S)
        return state

    def setting(self, name: str) -> str:
        """One of the JobManager's settings, such as state.checkpoints.dir; empty where it has none of that name.

        Raises:
          TransientError: Flink does not answer.
        """
        settings = self._call("GET", "/jobmanager/config")
        return next((str(entry["value"]) for entry in settings if entry["key"] == name), "")

    def heap_share(self) -> float:
        """Of the TaskManagers' heaps the largest share that is used, 0 to 1; 0 while none is registered.

        Raises:
          TransientError: Flink does not answer.
        """
        shares = [0.0]
        for manager in self._call("GET", "/taskmanagers")["taskmanagers"]:
            metrics = self._call("GET", f"/taskmanagers/{manager['id']}/metrics?get={HEAP}.Used,{HEAP}.Max")
            values = {metric["id"]: float(metric["value"]) for metric in metrics}
            if values.get(f"{HEAP}.Max", 0.0) > 0:
                shares.append(values[f"{HEAP}.Used"] / values[f"{HEAP}.Max"])
        return max(shares)

    def _metrics(self, job_id: str, vertices: list[dict[str, Any]]) -> dict[str, float]:
        """`_METRICS` by the ends of their names, aggregated over the job's parts; 0 for those that nobody gives."""
        values = {end: 0.0 for _, end, _ in _METRICS}
        for part in vertices:
            metrics = f"/jobs/{job_id}/vertices/{part['id']}/subtasks/metrics"
            for name in (metric["id"] for metric in self._call("GET", metrics)):
                for begin, end, how in _METRICS:
                    if name.startswith(begin) and name.endswith((f".{end}", f"_{end}")):
                        aggregated = self._call("GET", f"{metrics}?get={quote(name)}&agg={how}")
                        several = [values[end], *(float(value[how]) for value in aggregated)]
                        values[end] = sum(several) if how == "sum" else max(several)
        return values

    def _watermark(self, job_id: str, vertices: list[dict[str, Any]]) -> float | None:
        """The least of what reached the parts of the job; a source has none of its own."""
        values = [
            int(metric["value"])
            for part in vertices
            for metric in self._call("GET", f"/jobs/{job_id}/vertices/{part['id']}/watermarks")
        ]
        if not values or min(values) < NO_WATERMARK:
            return None
        return min(values) / MILLISECONDS

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = httpx.request(method, self.url + path, json=body, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise self._away(str(error) or type(error).__name__) from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise TerminalError(
                "Flink does not know the job.",
                expected=f"a job or savepoint of the cluster at {self.url}",
                received=f"{path}: {_first_error(answer)}",
                remedy="List its jobs; a JobManager that was started anew has forgotten the earlier ones: resume.",
            )
        if answer.is_error:
            raise self._away(f"{answer.status_code}: {_first_error(answer)}")
        try:
            return answer.json()
        except ValueError as error:
            raise self._away(answer.text[:200]) from error

    def _away(self, received: str) -> TransientError:
        return TransientError(
            "Flink does not answer.",
            expected=f"Flink's REST API at {self.url}",
            received=received,
            remedy=f"Start it: python -m services up flink; or name another by {addresses.REST}.",
        )

    def _no_savepoint(self, job_id: str, received: str) -> TransientError:
        return TransientError(
            "The savepoint was not written.",
            expected=f"a savepoint of the job {job_id}",
            received=received,
            remedy=f"Look at its checkpoints: {self.url}/#/job/{job_id}/checkpoints",
        )


def root_cause(stacktrace: str) -> str:
    """The last cause of a stack trace of Java, in one line; of an error in a Python worker, that error."""
    cause = f"\n{stacktrace}".rpartition("\nCaused by: ")[2].partition("\n\tat ")[0].strip()
    lines = [line.strip() for line in cause.splitlines() if line.strip() and not line.startswith(" ")]
    return (lines[-1] if "Traceback (most recent call last)" in cause else lines[0]) if lines else ""


def _first_error(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["errors"][0])[:300]
    except (ValueError, KeyError, IndexError, TypeError):
        return answer.text[:300]
