"""Submits a stream to a Flink cluster: anew, or from where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from streaming.engine import addresses, job_records
from streaming.engine.flink_rest import ENDED, Flink, Job
from streaming.engine.options import StreamOptions, flink_arguments

SUBMIT_S = 120.0
POLL_S = 0.2

Build = Callable[[beam.Pipeline], Any]
"""Adds the steps to an empty pipeline."""


def resume(build: Build, name: str, arguments: Sequence[str] = (), home: Home | None = None, **details: Any) -> Job:
    """Submits a job from its newest checkpoint, or the savepoint with which it was stopped; anew where it has none.

    Args:
      build: Adds the steps; those that hold state keep their names from one version of the code to the next.
      name: Of the job; one of a name runs at a time.
      arguments: Of the command line: `StreamOptions`, and Beam's own, which win over what is derived from those.
      home: The state folder with the records of jobs; None is the current one.
      **details: Further fields of the job's record.

    Returns:
      The running job.

    Raises:
      TerminalError: A job of that name runs, its state does not fit the steps, or the steps are no valid pipeline.
      TransientError: Flink, its job server or the broker does not answer, or somebody else submits the job.
    """
    return submit(build, name, arguments, None, home, **details)


def submit(
    build: Build,
    name: str,
    arguments: Sequence[str] = (),
    start_from: str | None = "",
    home: Home | None = None,
    **details: Any,
) -> Job:
    """Submits a job and waits until it runs.

    With a pool of workers the job outlives this process. With `--python_workers=loopback` it runs its Python here, and
    the caller stays until the job has ended.

    Args:
      build: As for `resume`.
      name: As for `resume`.
      arguments: As for `resume`.
      start_from: Path of a checkpoint or savepoint; empty begins anew, at the beginning of the topics; None is the
        newest.
      home: As for `resume`.
      **details: As for `resume`.

    Returns:
      The running job.

    Raises:
      TerminalError: As for `resume`.
      TransientError: As for `resume`.
    """
    options = PipelineOptions(list(arguments))
    own = options.view_as(StreamOptions)
    flink = Flink(own.flink_rest)
    # Two would read everything twice, into the same sinks.
    with job_records.locked(name, home):
        if running := flink.running(name):
            raise TerminalError(
                f"The job {name} runs already.",
                expected="no running job of that name",
                received=f"{running.id} {running.state}",
                remedy="Stop it first, or submit under another name.",
            )
        if start_from is None:
            start_from = job_records.start_point(flink, name, home)
        known = {job.id for job in flink.jobs()}
        flags = [*flink_arguments(options, name, start_from), *arguments]
        pipeline = beam.Pipeline(options=PipelineOptions(flags))
        try:
            build(pipeline)
            result = pipeline.run()
        except (grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise TransientError(
                "Flink's job server does not answer.",
                expected=f"a job server at {own.flink_job_server or addresses.job_server()} with its expansion service",
                received=(str(error).splitlines() or [type(error).__name__])[0],
                remedy=f"Start it: python -m services up flink; or name another by {addresses.JOB_SERVER}.",
            ) from error
        job = _await_running(flink, result, name, known)
        job_records.remember(flink, name, job.id, start_from, home, **details)
    return job


def _await_running(flink: Flink, result: PipelineResult, name: str, known: set[str]) -> Job:
    """The job server translates and submits after it has answered: the job is then one more that Flink knows."""
    deadline = time.monotonic() + SUBMIT_S
    while time.monotonic() < deadline:
        new = [job for job in flink.jobs() if job.name == name and job.id not in known]
        if new and new[0].complete:
            return new[0]
        if new and new[0].state in ENDED:
            raise _refused(name, flink.status(new[0].id).failure or new[0].state)
        if not new and result.state == PipelineState.FAILED:
            raise _refused(name, _reason(result))
        time.sleep(POLL_S)
    raise TransientError(
        f"The job {name} does not come to run.",
        expected=f"a running job at {flink.url} within {SUBMIT_S:g} s, and a free slot for each part of it",
        received=[f"{job.name} {job.state}{'' if job.complete else ', not all of it'}" for job in flink.jobs()]
        or "no job",
        remedy="Look at the log of the job server and at the cluster's free slots.",
    )


def _reason(result: PipelineResult) -> str:
    try:
        result.wait_until_finish()
    except (RuntimeError, grpc.RpcError) as error:
        return str(error)
    return str(result.state)


def _refused(name: str, received: str) -> TerminalError:
    return TerminalError(
        f"The job {name} could not be started.",
        expected="topics that are there, state that fits the steps, and steps that Beam can translate",
        received=received[:800],
        remedy="Correct what it says; the job server's log has the rest.",
    )
