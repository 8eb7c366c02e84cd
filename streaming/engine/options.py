"""How a stream is run on Flink: options of the command line, and what they are in Beam's own."""

from __future__ import annotations

import argparse

from apache_beam.options.pipeline_options import PipelineOptions

from streaming.engine import addresses

LOOPBACK = "loopback"
"""In place of a pool: the Python of the job runs in the process that submits it, and ends with it."""


class StreamOptions(PipelineOptions):
    """Options of a stream on Flink."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--flink_job_server", default="", help="Beam's job server, host:port")
        parser.add_argument("--flink_rest", default="", help="URL of Flink's REST API")
        parser.add_argument(
            "--python_workers", default="", help=f"pool of Python workers, host:port; {LOOPBACK} is this process"
        )
        parser.add_argument("--checkpoint_s", type=float, default=1.0, help="seconds between two checkpoints")
        parser.add_argument("--slots", type=int, default=0, help="parallel parts of the job, a slot each; 0 is one")
        parser.add_argument("--bundle_events", type=int, default=10_000, help="events that one bundle holds at most")
        parser.add_argument("--bundle_s", type=float, default=0.2, help="seconds that one bundle lasts at most")


class RunnerOptions(PipelineOptions):
    """Options of Beam's Java side that `flink_arguments` sets: Python would warn of each that it does not know."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for name in ("max_bundle_size", "max_bundle_time_mills", "checkpointing_interval"):
            parser.add_argument(f"--{name}", type=int, default=None)
        parser.add_argument("--savepoint_path", default=None)
        for name in (
            "finish_bundle_before_checkpointing",
            "externalized_checkpoints_enabled",
            "retain_externalized_checkpoints_on_cancellation",
            "allow_non_restored_state",
        ):
            parser.add_argument(f"--{name}", action="store_true", default=None)


def flink_arguments(options: PipelineOptions, name: str, start_from: str = "") -> list[str]:
    """Options of Beam and of its Flink runner for a stream.

    Args:
      options: Those of the stream.
      name: Of the job.
      start_from: Path of a savepoint or checkpoint; empty begins anew.

    Returns:
      Options as a command line has them.
    """
    own = options.view_as(StreamOptions)
    pool = own.python_workers or addresses.workers()
    environment = ["--environment_type=LOOPBACK"]
    if pool != LOOPBACK:
        environment = ["--environment_type=EXTERNAL", f"--environment_config={pool}"]
    return [
        # Not `--streaming`: with it Beam leaves out the combining before the shuffle, and Flink streams all the same.
        "--runner=PortableRunner",
        f"--job_name={name}",
        f"--job_endpoint={own.flink_job_server or addresses.job_server()}",
        "--job_server_timeout=60",
        *environment,
        f"--parallelism={own.slots or 1}",
        f"--max_bundle_size={own.bundle_events}",
        f"--max_bundle_time_mills={round(own.bundle_s * 1000)}",
        f"--checkpointing_interval={round(own.checkpoint_s * 1000)}",
        # Without it what a bundle yields during a checkpoint is overtaken by the watermark, and dropped as late.
        "--finish_bundle_before_checkpointing",
        # So that a job that is cancelled leaves its last checkpoint.
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        *([f"--savepoint_path={start_from}"] if start_from else []),
    ]
