"""Reads of file systems beside the event loop; one that never returns (its file server is gone) delays nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from serving.load_threads import LoadThreads

SILENT_S = 10.0
"""Whoever wants what a file system holds waits no longer for it."""
READS = 16
"""Reads at the same time, beside those that have taken longer than `PATIENCE_S`."""
PATIENCE_S = 1.0

T = TypeVar("T")


def read_threads() -> LoadThreads:
    """The threads that reads share."""
    return LoadThreads(READS, "read", PATIENCE_S)


class FileRead(Generic[T]):
    """One read at a time. One that does not return keeps its thread, and no other is started meanwhile.

    Args:
      threads: Where to read.
      late: Called when a read returns for which nobody waits any more; the next `result` is that read's.
    """

    def __init__(self, threads: LoadThreads, late: Callable[[], None] = lambda: None) -> None:
        self._threads = threads
        self._late = late
        self._reading: asyncio.Task[T] | None = None

    async def result(self, function: Callable[[], T], source: str, patience_s: float | None = None) -> T:
        """What the function returns, or what the call before returns that this one's caller did not wait for.

        Args:
          function: Reads.
          source: What it reads, for the message.
          patience_s: Seconds to wait for a read that this call begins; None is `SILENT_S`.

        Raises:
          TimeoutError: There is no result yet, after `patience_s` of the read; and what the function raises.
        """
        patience_s = SILENT_S if patience_s is None else patience_s
        reading, wait_s = self._reading, 0.0
        if reading is None:
            reading = self._reading = asyncio.create_task(self._threads.run(function))
            wait_s = patience_s
        try:
            await asyncio.wait({reading}, timeout=wait_s)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if reading.done():
            self._reading = None
            return reading.result()
        if wait_s:
            reading.add_done_callback(self._returned)
        raise TimeoutError(f"{source} has not answered for {patience_s:g} s")

    def cancel(self) -> None:
        """Gives up the read that is under way: its result is nobody's."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _returned(self, reading: asyncio.Task[T]) -> None:
        if not reading.cancelled():
            self._late()
