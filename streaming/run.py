"""Runs a pipeline of Beam: on Flink for as long as it lives, or in this process until a bounded input ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineState

from airtight.errors import TransientError

FLINK = "AIRTIGHT_FLINK"
"""Environment variable with the address of Flink's job server, host:port."""
LOCAL = "127.0.0.1:8099"
"""Where the local services' job server listens unless they were told otherwise."""

BUNDLE_MS = 200
"""How long the engine gathers before what was written counts as done, milliseconds."""

Build = Callable[[beam.Pipeline], Any]
"""Adds the steps to an empty pipeline."""


def job_server() -> str:
    """The job server's address: what AIRTIGHT_FLINK names, or the local one's default."""
    return os.environ.get(FLINK) or LOCAL


def on_flink(build: Build, name: str, address: str = "") -> PipelineResult:
    """Submits a pipeline to Flink's job server; its Python runs in this process and ends with it.

    Args:
      build: Adds the steps.
      name: Of the job, for people.
      address: The job server; empty for `job_server()`.

    Returns:
      The running job.

    Raises:
      TransientError: There is no job server.
    """
    address = address or job_server()
    options = PipelineOptions(
        [
            "--runner=PortableRunner",
            f"--job_endpoint={address}",
            "--environment_type=LOOPBACK",
            f"--job_name={name}",
            "--streaming",
            # One machine has few cores; a cluster's parallelism is a setting of its own.
            "--parallelism=1",
            # The sink writes when a bundle ends, and Flink's runner would let one last a second.
            f"--max_bundle_time_mills={BUNDLE_MS}",
            "--job_server_timeout=30",
        ]
    )
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    try:
        return pipeline.run()
    except (grpc.RpcError, grpc.FutureTimeoutError) as error:
        raise TransientError(
            "Flink's job server does not answer.",
            expected=f"a job server at {address}",
            received=str(error).splitlines()[0] or type(error).__name__,
            remedy=f"Start it, or name another by {FLINK}.",
        ) from error


def in_process(build: Build) -> None:
    """Runs a pipeline of which every input ends, in this process.

    Raises:
      AirtightError: A step raised it.
    """
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([]))
    build(pipeline)
    pipeline.run().wait_until_finish()


def waited(job: PipelineResult) -> None:
    """Waits until a job ends; one that follows a topic ends only by a fault or when it is cancelled.

    Raises:
      TransientError: It failed; started again, it goes on where it stopped.
    """
    try:
        state = job.wait_until_finish()
    except RuntimeError as error:
        raise _failed(str(error)) from error
    except grpc.RpcError as error:
        raise _failed(f"the job server went away: {error}") from error
    if state not in (PipelineState.DONE, PipelineState.CANCELLED):
        raise _failed(str(state))


def _failed(received: str) -> TransientError:
    logging.getLogger(__name__).debug("%s", received)
    return TransientError(
        "The stream ended.",
        expected="a job that runs",
        received=received[-500:],
        remedy="Start it again: it goes on where it stopped.",
    )
