"""Tasks about a declared stream that runs as a job of Flink: one starts or upgrades it, one watches it, one stops it.

They ask Flink's REST API, wherever it is, and the broker. What needs Beam, the submission, is a process of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from airtight.errors import AirtightError
from plugins.tfx_airflow.command import airflow_fault, run
from plugins.tfx_airflow.stream_watch import FAULTS, SHORT, STALLED, StreamWatched
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import Flink
from streaming.windows.declaration import modules_of


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
    """Starts a stream where it does not run, and again with a savepoint where its code is older than the checkout's.

    Where the stream's store has lost something, the job begins anew, and fills it again from its topics.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", "Starts the stream where it does not run, and upgrades it where its code is older.")
        super().__init__(**kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Starts, upgrades, or leaves it alone.

        Returns:
          What was done (started, upgraded, refilled, left), the job and its code, and how the stream does, for XCom.

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
        how = ("--upgrade",) if running else ()
        if running and flink.status(running.id).store_whole_from:
            done, how = "refilled", ("--anew",)
            job_records.discard(flink, self.stream)
        if done != "left":
            run(self.log, "streaming.windows", (self.declaration, *how))
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
    """Stops a stream with a savepoint, from which the next start goes on.

    One that can write none, because it fails again and again, is stopped at its last checkpoint.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Stops it; one that does not run is left alone.

        Returns:
          The savepoint, or "", for XCom.

        Raises:
          AirflowException: Flink does not answer, or somebody else submits or stops the job.
        """
        flink = Flink()
        try:
            running = flink.running(self.stream)
            savepoint = job_records.stop(flink, self.stream) if running else ""
        except AirtightError as error:
            raise airflow_fault(error, self.task_id) from error
        self.log.info(
            "The stream %s %s.",
            self.stream,
            f"has ended with {savepoint or 'nothing to go on from'}" if running else "does not run",
        )
        return {"savepoint": savepoint}


class WatchStream(_StreamOperator):
    """Watches a stream, and holds no worker meanwhile.

    It fails, with the reason, when the job has failed, stands still, completes no checkpoint or uses too much memory,
    when the broker or a topic is away, when messages are dropped as late, and when the store has lost something. A
    job that stands still is cancelled first: the next run's task `ensure` starts it from its last checkpoint. One of
    which a single partition stands still goes on. It ends well when the job was stopped on purpose, the checkout has
    new code, or the time is over.

    Args:
      minutes: How long it is watched; then the next run begins.
      stalled_minutes: It stands still when for so long messages wait, none is read and event time does not go on, and a
        partition when for so long its messages wait and none of them is read; it completes no checkpoint when the
        newest one is so old, and the broker is away when it could not be asked for so long.
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
