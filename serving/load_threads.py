"""Threads for loading, unloading and reading folders: one for each, so that one that never ends holds up no other."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""What takes longer no longer counts: it may never end, and others are not to wait for it."""

T = TypeVar("T")


class LoadThreads:
    """Runs functions beside the event loop, a number of them at the same time.

    The threads are daemons: a function that never ends does not keep the process from ending.

    Args:
      limit: Functions at the same time.
      name: The threads' name, for whoever looks at the process.
      patience_s: A function that takes longer no longer counts; None is `PATIENCE_S`.
    """

    def __init__(self, limit: int, name: str, patience_s: float | None = None) -> None:
        self._name = name
        self._slots = asyncio.Semaphore(limit)
        self._patience_s = PATIENCE_S if patience_s is None else patience_s

    async def run(self, function: Callable[[], T], discard: Callable[[T], None] = lambda result: None) -> T:
        """Runs a function in a thread of its own.

        Args:
          function: What to run.
          discard: Gets the result, in that thread, when this call was cancelled meanwhile.

        Returns:
          What the function returns.

        Raises:
          RuntimeError: There is no thread for it; and whatever the function raises.
        """
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        slot = _Slot(self._slots)
        late = loop.call_later(self._patience_s, slot.free)

        def hand_over(result: T | None, error: Exception | None) -> None:
            late.cancel()
            slot.free()
            if future.done():
                if error is None:
                    threading.Thread(target=discard, args=(result,), name="discard", daemon=True).start()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, error = None, None
            try:
                result = function()
            except Exception as raised:  # noqa: BLE001 - whoever waits for the result gets it
                error = raised
            try:
                loop.call_soon_threadsafe(hand_over, result, error)
            except RuntimeError:  # The loop is closed: the process ends.
                logger.info("Nobody waits for a load any more")

        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:  # The machine has no more threads.
            late.cancel()
            slot.free()
            raise
        return await future


class _Slot:
    """One of a semaphore's, given back once."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def free(self) -> None:
        if self._slots is not None:
            self._slots.release()
            self._slots = None
