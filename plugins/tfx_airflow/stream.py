"""Tasks about a declared stream that runs as a job of Flink: one starts or upgrades it, one watches it, one stops it.

They ask Flink's REST API, wherever it is, and the broker. What needs Beam, the submission, is a process of its own.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from airtight.errors import AirtightError
from plugins.tfx_airflow.command import airflow_fault, run
from plugins.tfx_airflow.polling import PollingTrigger
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import ENDED, Flink, JobStatus
from streaming.engine.job_records import JobRecord
from streaming.engine.stream_status import StreamStatus
from streaming.windows.declaration import modules_of

POLL_S = 10.0
CODE_S = 60.0
"""New code is looked for so often; it must look the same twice, so that a half-written checkout starts nothing."""
TOLD_S = 60.0
"""How often the log gets a line."""
FULL_HEAP = 0.95
"""Share of a heap that is never less used between two garbage collections only where memory is short."""
SHORT = 12
"""Digits of a digest, for people."""
OVER, STOPPED, NEW_CODE, FAILED, STALLED, NO_CHECKPOINT, MEMORY = (
    "over",
    "stopped",
    "new_code",
    "failed",
    "stalled",
    "no_checkpoint",
    "memory",
)
FAULTS = (FAILED, STALLED, NO_CHECKPOINT, MEMORY)
"""Reasons for which the watching fails."""


class _StreamOperator(BaseOperator):
    """A task about one stream.

    Args:
      stream: Name of the job, which is the declaration's.
      declaration: Name of a pipeline, or import string of the declaration; "" is the stream's name.
      **kwargs: As for every operator.
    """

    template_fields = ()
    ui_color = "#e8eaf6"

    def __init__(self, *, stream: str, declaration: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stream, self.declaration = stream, declaration or stream


class EnsureStream(_StreamOperator):
    """Starts a stream where it does not run, and again with a savepoint where its code is older than the checkout's."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", "Starts the stream where it does not run, and upgrades it where its code is older.")
        super().__init__(**kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Starts, upgrades, or leaves it alone.

        Returns:
          What was done (started, upgraded, left), the job and its code, and how the stream does, for XCom.

        Raises:
          AirflowFailException: There is no such declaration, or Flink refuses the job.
          AirflowException: Flink or the broker does not answer.
        """
        try:
            return self._ensure()
        except AirtightError as error:
            raise airflow_fault(error, self.task_id) from error

    def _ensure(self) -> dict[str, Any]:
        flink = Flink()
        running, before = flink.running(self.stream), job_records.load(self.stream)
        code = stream_status.code_of(*modules_of(self.declaration))
        done = "started"
        if running:
            done = "left" if before is not None and before.code == code else "upgraded"
        if done != "left":
            run(self.log, "streaming.windows", (self.declaration, *(("--upgrade",) if running else ())))
        record = job_records.load(self.stream)
        assert record is not None
        status = stream_status.status(flink, record)
        self.log.info("The stream %s was %s: job %s, code %s. %s", self.stream, done, record.id, code[:SHORT], status)
        return {
            "done": done,
            "job": record.id,
            "submitted": record.submitted,
            "code_before": before.code if before else "",
            "code": record.code,
            "status": status.to_json(),
        }


class StopStream(_StreamOperator):
    """Stops a stream with a savepoint, from which the next start goes on."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Stops it; one that does not run is left alone.

        Returns:
          The savepoint, or "", for XCom.

        Raises:
          AirflowException: Flink does not answer, or the savepoint fails: the job then goes on.
        """
        flink = Flink()
        try:
            running = flink.running(self.stream)
            savepoint = job_records.stop(flink, self.stream) if running else ""
        except AirtightError as error:
            raise airflow_fault(error, self.task_id) from error
        self.log.info("The stream %s %s.", self.stream, f"has ended with {savepoint}" if running else "does not run")
        return {"savepoint": savepoint}


class WatchStream(_StreamOperator):
    """Watches a stream, and holds no worker meanwhile.

    It fails, with the reason, when the job has failed, stands still, completes no checkpoint, or uses too much memory.
    A job that stands still is cancelled first: the next run's task `ensure` starts it from its last checkpoint. It ends
    well when the job was stopped on purpose, the checkout has new code, or the time is over.

    Args:
      minutes: How long it is watched; then the next run begins.
      stalled_minutes: It stands still when for so long messages wait, none is read and event time does not go on; it
        completes no checkpoint when the newest one is so old.
      memory_mb: Resident memory of a Python worker, MB, that is too much.
      **kwargs: As for `EnsureStream`.
    """

    ui_color = "#ede7f6"

    def __init__(
        self, *, minutes: float = 60.0, stalled_minutes: float = 1.5, memory_mb: float = 1024.0, **kwargs: Any
    ) -> None:
        kwargs.setdefault("doc_md", "Watches the stream: state, lag, watermark, checkpoints, memory.")
        super().__init__(**kwargs)
        self.minutes, self.stalled_minutes, self.memory_mb = minutes, stalled_minutes, memory_mb

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begins to watch; called again with what the trigger saw.

        Returns:
          Why the watching ended, and how the stream did, for XCom.

        Raises:
          TaskDeferred: It was not watched yet.
          AirflowFailException: The stream does not do its work, and why.
          AirflowException: Flink does not answer.
        """
        if event is None:
            self.defer(
                trigger=StreamWatched(
                    stream=self.stream,
                    declaration=self.declaration,
                    until=(datetime.now(UTC) + timedelta(minutes=self.minutes)).isoformat(),
                    stalled_minutes=self.stalled_minutes,
                    memory_mb=self.memory_mb,
                ),
                method_name="execute",
            )
        assert event is not None
        if error := event.get("error"):
            raise airflow_fault(AirtightError.from_json(error), self.task_id)
        self.log.info("The watching has ended: %s. %s", event["words"], event["summary"])
        if event["reason"] == STALLED:
            self._cancel(event.get("job", ""))
        if event["reason"] in FAULTS:
            raise AirflowFailException(f"The stream {self.stream}: {event['words']}. {event['summary']}")
        return event

    def _cancel(self, job: str) -> None:
        """Ends the job that stood still; one that was started since is left alone."""
        flink = Flink()
        try:
            running = flink.running(self.stream)
            if running and running.id == job:
                flink.cancel(job)
            else:
                self.log.info("The job %s runs no more; %s is left alone.", job, running.id if running else "no other")
        except AirtightError as error:
            self.log.warning("It could not be cancelled: %s", error)


class StreamWatched(PollingTrigger):
    """Fires when a stream does not do its work, was stopped, or has new code, or when the time is over.

    Args:
      stream: See `WatchStream`, as for all.
      declaration: The same.
      until: When the time is over, ISO 8601.
      stalled_minutes: The same.
      memory_mb: The same.
    """

    poll_s = POLL_S

    def __init__(self, *, stream: str, declaration: str, until: str, stalled_minutes: float, memory_mb: float) -> None:
        super().__init__(
            stream=stream, declaration=declaration, until=until, stalled_minutes=stalled_minutes, memory_mb=memory_mb
        )
        now = time.monotonic()
        self._moved: tuple[float, Any] = (now, None)
        self._heap_since, self._logged, self._looked, self._code = now, 0.0, now, ""

    def poll(self) -> dict[str, Any] | None:
        """Returns why the watching ends and how the stream does, or None while it goes on."""
        try:
            record = job_records.load(self.arguments["stream"])
            if record is None:
                return self._event("", FAILED, "it was never started", None)
            status = stream_status.status(Flink(), record)
            if reason := self._reason(record, status):
                return self._event(record.id, *reason, status)
        except AirtightError as error:
            return {"error": error.to_json()}
        if time.monotonic() - self._logged > TOLD_S:
            self._logged = time.monotonic()
            self.log.info("%s", status)
        return None

    def _event(self, job: str, reason: str, words: str, status: StreamStatus | None) -> dict[str, Any]:
        return {
            "job": job,
            "reason": reason,
            "words": words,
            "summary": str(status or ""),
            "status": status.to_json() if status else {},
        }

    def _reason(self, record: JobRecord, status: StreamStatus) -> tuple[str, str] | None:
        """Why the watching ends, one of the reasons and in words; None while it goes on."""
        job = status.job
        if record.stopped:
            return STOPPED, f"it was stopped with the savepoint {record.start}"
        if job is None or job.job.state in ENDED:
            return FAILED, (
                f"the job is {job.job.state}: {job.failure or 'Flink gives no reason'}"
                if job
                else f"Flink does not know the job {record.id} any more"
            )
        if words := self._new_code(record):
            return NEW_CODE, words
        # Each is asked at each look: they remember since when.
        faults = [self._full_memory(status), self._stalled(status), self._without_checkpoint(job)]
        if fault := next(filter(None, faults), None):
            return fault
        is_over = datetime.now(UTC) >= datetime.fromisoformat(self.arguments["until"])
        return (OVER, "the time is over, and the stream runs") if is_over else None

    def _new_code(self, record: JobRecord) -> str:
        if time.monotonic() - self._looked < CODE_S:
            return ""
        code, last = stream_status.code_of(*modules_of(self.arguments["declaration"])), self._code
        self._looked, self._code = time.monotonic(), code
        if code == record.code or code != last:
            return ""
        return f"its code is {record.code[:SHORT]}, that of the checkout {code[:SHORT]}"

    def _stalled(self, status: StreamStatus) -> tuple[str, str] | None:
        since, progress = self._moved
        now = time.monotonic()
        if progress is None or status.progress != progress or not status.lag:
            since = now
        self._moved = since, status.progress
        if now - since < self._patience_s:
            return None
        failure = status.job.failure if status.job else ""
        because = f"; it failed last with: {failure}" if failure else ""
        return STALLED, f"{status.lag} messages wait, and nothing moved for {self._patience_s:.0f} s{because}"

    def _without_checkpoint(self, job: JobStatus) -> tuple[str, str] | None:
        old_s = datetime.now(UTC).timestamp() - max(job.checkpoints.at, job.job.started)
        if old_s < self._patience_s:
            return None
        reason = job.checkpoints.failure or job.failure or "Flink gives no reason"
        return (
            NO_CHECKPOINT,
            f"no checkpoint was complete for {old_s:.0f} s, {job.checkpoints.failed} failed: {reason}",
        )

    def _full_memory(self, status: StreamStatus) -> tuple[str, str] | None:
        worker_mb = status.job.worker_memory_mb if status.job else 0.0
        if worker_mb > self.arguments["memory_mb"]:
            return MEMORY, f"a Python worker uses {worker_mb:.0f} MB, more than {self.arguments['memory_mb']:g}"
        if status.heap_share < FULL_HEAP:
            self._heap_since = time.monotonic()
        if time.monotonic() - self._heap_since < self._patience_s:
            return None
        return MEMORY, f"a TaskManager's heap is full for {self._patience_s:.0f} s: {status.heap_share:.0%}"

    @property
    def _patience_s(self) -> float:
        return float(self.arguments["stalled_minutes"]) * 60
