"""Threads for inference, each version's own: slow calls of one keep no other model's and no later version's waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar, cast

from serving.errors import Code, ServingError

MAX_LANES = 64
"""Versions whose threads are kept while they have nothing to do."""
SLOW_S = 0.05
"""The thread of a call that takes longer gives way to the event loop and to shorter calls."""
NICE = 10
"""How much it gives way: its share of a processor is a tenth of theirs."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Lane:
    """One version's threads.

    Args:
      pool: The threads.
      free: Those that run no call. Who waits for one does so here, on the event loop, so that whoever waits no longer
        leaves nothing behind.
      pending: Calls that run or wait.
      running: When the call of a thread began, by the thread's native id.
      slowed: The native ids of threads that give way. They do for good: priority is not given back.
    """

    pool: ThreadPoolExecutor
    free: asyncio.Semaphore
    pending: int = 0
    running: dict[int, float] = field(default_factory=dict)
    slowed: set[int] = field(default_factory=set)

    def let_go(self) -> None:
        """A call has ended, and its thread is free."""
        self.pending -= 1
        self.free.release()


class ModelThreads:
    """As many threads for each version of a model as one may use, started when they are needed.

    The operating system shares the processors among all of them, so that a model's call starts at once, however many
    calls of another model run; and threads with calls that take long give way to the others. A call that never ends
    keeps its thread: a version that replaces it has threads of its own.

    Args:
      workers: Threads of one version.
      max_waiting: Calls of one version that may wait for a thread.
    """

    def __init__(self, workers: int, max_waiting: int) -> None:
        self._workers = workers
        self._max_pending = workers + max_waiting
        self._lanes: dict[int, _Lane] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, model: str, load: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in one of a version's threads; a call that is cancelled while it waits never starts.

        Args:
          model: The model's name, for the message.
          load: Tells the version from others; see `Signature.load`.
          function: What to run.
          *args: Its arguments.
          **kwargs: Its named arguments.

        Raises:
          ServingError: UNAVAILABLE, too many calls wait.
        """
        lane = self._lanes.get(load)
        if lane is None:
            lane = self._open(model, load)
        if lane.pending >= self._max_pending:
            raise ServingError(Code.UNAVAILABLE, f"Too many requests wait for {model}: {lane.pending - self._workers}")
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(SLOW_S, self._slow_down, loop)

        outcome: asyncio.Future[T] = loop.create_future()

        def end(value: T | None, error: BaseException | None) -> None:
            lane.let_go()
            if outcome.done():  # Nobody waits any more.
                return
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(cast("T", value))

        def call() -> None:
            thread = threading.get_native_id()
            lane.running[thread] = time.monotonic()
            value, error = None, None
            try:
                value = function(*args, **kwargs)
            except BaseException as raised:  # noqa: BLE001 - whoever waits raises it
                error = raised
            del lane.running[thread]
            with contextlib.suppress(RuntimeError):  # The loop is closed: the process ends.
                loop.call_soon_threadsafe(end, value, error)

        lane.pending += 1
        try:
            await lane.free.acquire()
        except BaseException:
            lane.pending -= 1
            raise
        try:
            lane.pool.submit(call)
        except BaseException:
            lane.let_go()
            raise
        return await outcome

    def _slow_down(self, loop: asyncio.AbstractEventLoop) -> None:
        """Makes the threads give way whose calls have taken long; comes back while there are calls."""
        now, busy = time.monotonic(), False
        for load, lane in list(self._lanes.items()):
            for thread, since in list(lane.running.items()):
                if now - since > SLOW_S and thread not in lane.slowed:
                    lane.slowed.add(thread)
                    with contextlib.suppress(OSError):  # It has just ended.
                        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
            busy = busy or bool(lane.pending or lane.running)
            if lane.slowed and not lane.pending and not lane.running:
                self._lanes.pop(load).pool.shutdown(wait=False)  # The next call gets threads like all others.
        self._timer = loop.call_later(SLOW_S, self._slow_down, loop) if busy else None

    def close(self) -> None:
        """Ends the threads after what they are doing, which nobody waits for any more."""
        if self._timer is not None:
            self._timer.cancel()
        for lane in self._lanes.values():
            lane.pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, model: str, load: int) -> _Lane:
        if len(self._lanes) >= MAX_LANES:
            for other, idle in list(self._lanes.items()):
                if not idle.pending:
                    self._lanes.pop(other).pool.shutdown(wait=False)
        pool = ThreadPoolExecutor(self._workers, f"infer-{model}")
        lane = self._lanes[load] = _Lane(pool, asyncio.Semaphore(self._workers))
        return lane
