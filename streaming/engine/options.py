"""How a stream is run: options of the command line, with the local cluster's addresses as defaults."""

from __future__ import annotations

import argparse
import os

from apache_beam.options.pipeline_options import PipelineOptions

JOB_SERVER = "AIRTIGHT_FLINK"
"""Environment variable with the address of Beam's job server, host:port."""
EXPANSION = "AIRTIGHT_FLINK_EXPANSION"
"""Environment variable with the address of its expansion service, host:port."""
REST = "AIRTIGHT_FLINK_REST"
"""Environment variable with the URL of Flink's REST API."""
WORKERS = "AIRTIGHT_BEAM_WORKERS"
"""Environment variable with the address of the pool of Python workers, host:port, as the TaskManagers see it."""
LOOPBACK = "loopback"
"""In place of a pool: the Python of the job runs in the process that submits it, and ends with it."""


def job_server() -> str:
    """The job server's address."""
    return os.environ.get(JOB_SERVER) or "127.0.0.1:8099"


def expansion_service() -> str:
    """The expansion service's address."""
    return os.environ.get(EXPANSION) or "127.0.0.1:8097"


def rest() -> str:
    """The URL of Flink's REST API."""
    return os.environ.get(REST) or "http://127.0.0.1:8096"


def workers() -> str:
    """The address of the pool of Python workers."""
    return os.environ.get(WORKERS) or "127.0.0.1:8093"


class StreamOptions(PipelineOptions):  # type: ignore[misc]
    """Options of a stream on Flink."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--flink_job_server", default="", help="Beam's job server, host:port")
        parser.add_argument("--flink_rest", default="", help="URL of Flink's REST API")
        parser.add_argument(
            "--python_workers", default="", help=f"pool of Python workers, host:port; {LOOPBACK} is this process"
        )
        parser.add_argument("--checkpoint_s", type=float, default=1.0, help="seconds between two checkpoints")
        parser.add_argument("--slots", type=int, default=1, help="parallel parts of the job, a slot each")
        parser.add_argument("--bundle_events", type=int, default=10_000, help="events that one bundle holds at most")
        parser.add_argument("--bundle_s", type=float, default=0.2, help="seconds that one bundle lasts at most")


def arguments(options: PipelineOptions, name: str, start_from: str = "") -> list[str]:
    """Beam's and its Flink runner's own options for a stream.

    Args:
      options: Of the stream; what it holds of Beam's own is kept.
      name: Of the job.
      start_from: Path of a savepoint or checkpoint; empty begins anew.

    Returns:
      Options as a command line has them. Those without a value are read by the job server alone.
    """
    own = options.view_as(StreamOptions)
    pool = own.python_workers or workers()
    environment = ["LOOPBACK"] if pool == LOOPBACK else ["EXTERNAL", f"--environment_config={pool}"]
    return [
        "--runner=PortableRunner",
        "--streaming",
        f"--job_name={name}",
        f"--job_endpoint={own.flink_job_server or job_server()}",
        "--job_server_timeout=60",
        "--environment_type=" + environment[0],
        *environment[1:],
        f"--parallelism={own.slots}",
        f"--max_bundle_size={own.bundle_events}",
        f"--max_bundle_time_mills={round(own.bundle_s * 1000)}",
        f"--checkpointing_interval={round(own.checkpoint_s * 1000)}",
        # Without it what a bundle yields during a checkpoint is overtaken by the watermark, and dropped as late.
        "--finish_bundle_before_checkpointing",
        "--externalized_checkpoints_enabled",
        "--retain_externalized_checkpoints_on_cancellation",
        # Restarts are the cluster's restart strategy.
        *([f"--savepoint_path={start_from}"] if start_from else []),
    ]
