"""Ends a stream's job with the process that submitted it, when that is told to end."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

_LOG = logging.getLogger(__name__)


class Job(Protocol):
    """A running job of Beam."""

    def cancel(self) -> object:
        """Ends it."""


@contextlib.contextmanager
def drained(job: Job) -> Iterator[None]:
    """Cancels a job when this process is told to end (SIGTERM) within the block, and ends the process.

    What was read and not written is read again by the next start: the accounts say what (adr/0014).

    Args:
      job: What runs.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit:
        _LOG.info("Told to end: the job is cancelled; the next start goes on where it stopped.")
        # A second word of it changes nothing.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(Exception):  # The job server may be away already; the accounts need no farewell.
            job.cancel()
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, before)
