"""The trigger that watches a stream that runs as a job of Flink: it asks Flink's REST API and the broker."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from airtight.errors import AirtightError
from plugins.tfx_airflow.polling import PollingTrigger
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import ENDED, Flink, JobStatus
from streaming.engine.job_records import JobRecord
from streaming.engine.stream_status import Partition, StreamStatus
from streaming.windows.declaration import modules_of

POLL_S = 10.0
CODE_S = 60.0
"""New code is looked for so often; it must look the same twice, so that a half-written checkout starts nothing."""
LOG_S = 60.0
"""How often the log gets a line."""
FULL_HEAP = 0.95
"""Share of a heap that is never less used between two garbage collections only where memory is short."""
SHORT = 12
"""Digits of a digest, for people."""
OVER, STOPPED, NEW_CODE = "over", "stopped", "new_code"
FAILED, LOST, NO_BROKER, STALLED, STUCK, DROPPED, NO_CHECKPOINT, MEMORY = FAULTS = (
    "failed",
    "lost",
    "no_broker",
    "stalled",
    "stuck",
    "dropped",
    "no_checkpoint",
    "memory",
)
"""Reasons for which the watching fails."""


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
        self._waiting: dict[Partition, float] = {}
        self._drops: int | None = None
        self._broker_since, self._heap_since, self._logged, self._looked, self._code = now, now, 0.0, now, ""

    def poll(self) -> dict[str, Any] | None:
        """Returns why the watching ends and how the stream does, or None while it goes on."""
        try:
            record = job_records.load(self.arguments["stream"])
            if record is None:
                return self._event("", FAILED, "it was never started", None)
            status = stream_status.status(Flink(), record)
            if status.job:
                job_records.keep_checkpoint(record.name, record.id, status.job.checkpoints.path)
            if reason := self._reason(record, status):
                return self._event(record.id, *reason, status)
        except AirtightError as error:
            return {"error": error.to_json()}
        if time.monotonic() - self._logged > LOG_S:
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
            return STOPPED, f"it was stopped with {record.start}"
        if job is None or job.job.state in ENDED:
            return FAILED, (
                f"the job is {job.job.state}: {job.failure or 'Flink gives no reason'}"
                if job
                else f"Flink does not know the job {record.id} any more"
            )
        if words := self._new_code(record):
            return NEW_CODE, words
        # Each is asked at each look: they remember since when.
        faults = [
            self._full_memory(status),
            self._lost(job),
            self._dropped(job),
            self._without_broker(status),
            self._stalled(status),
            self._stuck(status),
            self._without_checkpoint(job),
        ]
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
        return STALLED, f"{status.lag} messages wait, and nothing moved for {self._patience_s:.0f} s{_because(status)}"

    def _lost(self, job: JobStatus) -> tuple[str, str] | None:
        if not job.store_whole_from:
            return None
        since = stream_status.iso(job.store_whole_from * 60)
        return LOST, f"its store has lost what it had of the time before {since}, and is filled again by the next run"

    def _dropped(self, job: JobStatus) -> tuple[str, str] | None:
        """What is dropped as late is in no total and no dead letter: a message came later than the bound says."""
        before, self._drops = self._drops, job.dropped
        # A job that was started again counts from 0.
        new = 0 if before is None else job.dropped - before if job.dropped >= before else job.dropped
        if not new:
            return None
        return DROPPED, (
            f"{new} sums (of a group and window each) were dropped as late: messages came that are older than "
            "out_of_order_s allows, or one was stamped too far ahead; correct that, or the bound, and fill in the rest "
            "with --anew"
        )

    def _stuck(self, status: StreamStatus) -> tuple[str, str] | None:
        """A partition that is not read holds event time for all: behind a transaction that nobody ends, for example."""
        now = time.monotonic()
        # By partition and place: one that is read further, or to its end, is another entry or none.
        waiting = {replace(partition, end=0): partition for partition in status.partitions if partition.lag}
        self._waiting = {place: self._waiting.get(place, now) for place in waiting}
        place = next((place for place, since in self._waiting.items() if now - since >= self._patience_s), None)
        if place is None:
            return None
        return STUCK, (
            f"{waiting[place].lag} messages of the partition {place.number} of {place.topic} wait, and none was read "
            f"for {self._patience_s:.0f} s from offset {place.committed} on"
            f"{_because(status) or '; does a producer leave a transaction open?'}"
        )

    def _without_broker(self, status: StreamStatus) -> tuple[str, str] | None:
        if not status.broker:
            self._broker_since = time.monotonic()
        if time.monotonic() - self._broker_since < self._patience_s:
            return None
        return NO_BROKER, f"what waits is not known for {self._patience_s:.0f} s: {status.broker}"

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


def _because(status: StreamStatus) -> str:
    return f"; it failed last with: {status.job.failure}" if status.job and status.job.failure else ""
