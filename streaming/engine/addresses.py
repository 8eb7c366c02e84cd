"""Where Flink and what belongs to it listens, and its size: environment variables, and the local cluster's defaults."""

from __future__ import annotations

import os

from airtight.errors import TerminalError

JOB_SERVER = "AIRTIGHT_FLINK"
"""Environment variable with the address of Beam's job server, host:port."""
EXPANSION = "AIRTIGHT_FLINK_EXPANSION"
"""Environment variable with the address of its expansion service, host:port."""
REST = "AIRTIGHT_FLINK_REST"
"""Environment variable with the URL of Flink's REST API."""
WORKERS = "AIRTIGHT_BEAM_WORKERS"
"""Environment variable with the address of the pool of Python workers, host:port, as the TaskManagers see it."""

TASKMANAGERS = "AIRTIGHT_FLINK_TASKMANAGERS"
"""Environment variable with the number of TaskManagers, of each of which a stream takes a slot."""


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


def taskmanagers() -> int:
    """How many TaskManagers there are.

    Raises:
      TerminalError: The environment variable holds no number.
    """
    given = os.environ.get(TASKMANAGERS) or "1"
    if not given.isdecimal():
        raise TerminalError(
            "The number of TaskManagers is none.",
            expected="1, 2, ...",
            received=repr(given),
            remedy=f"Correct {TASKMANAGERS}.",
        )
    return int(given)
