"""How a program that follows a topic ends when it is told to: with its job, or between two hours."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def told_to_end() -> Iterator[Callable[[], bool]]:
    """Has SIGTERM end nothing by itself within the block; what is yielded says whether it came.

    For who has work in hand, and looks between two pieces of it.
    """
    told = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        told.set()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
