"""Threads for inference, each model's own: the slow calls of one model keep no other model's from running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from serving.errors import Code, ServingError

MAX_LANES = 64
"""Models whose threads are kept while they have nothing to do."""
SLOW_S = 0.05
"""The thread of a call that takes longer gives way to the event loop and to shorter calls."""
NICE = 10
"""How much it gives way: its share of a processor is a tenth of theirs."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Lane:
    """One model's threads.

    Args:
      pool: The threads.
      pending: Calls that run or wait.
      running: When the call of a thread began, by the thread's native id.
      slowed: The native ids of threads that give way. They do for good: priority is not given back.
    """

    pool: ThreadPoolExecutor
    pending: int = 0
    running: dict[int, float] = field(default_factory=dict)
    slowed: set[int] = field(default_factory=set)


class ModelThreads:
    """As many threads for each model as one model may use, started when they are needed.

    The operating system shares the processors among all of them, so that a model's call starts at once, however many
    calls of another model run; and threads with calls that take long give way to the others.

    Args:
      workers: Threads of one model.
      max_waiting: Calls of one model that may wait for a thread.
    """

    def __init__(self, workers: int, max_waiting: int) -> None:
        self._workers = workers
        self._max_pending = workers + max_waiting
        self._lanes: dict[str, _Lane] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, model: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in one of the model's threads; a call that is cancelled while it waits never starts.

        Raises:
          ServingError: UNAVAILABLE, too many calls wait.
        """
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._open(model)
        if lane.pending >= self._max_pending:
            raise ServingError(Code.UNAVAILABLE, f"Too many requests wait for {model}: {lane.pending - self._workers}")
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(SLOW_S, self._slow_down, loop)

        def call() -> T:
            thread = threading.get_native_id()
            lane.running[thread] = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                del lane.running[thread]

        lane.pending += 1
        try:
            return await loop.run_in_executor(lane.pool, call)
        finally:
            lane.pending -= 1

    def _slow_down(self, loop: asyncio.AbstractEventLoop) -> None:
        """Makes the threads give way whose calls have taken long; comes back while there are calls."""
        now, busy = time.monotonic(), False
        for model, lane in list(self._lanes.items()):
            for thread, since in list(lane.running.items()):
                if now - since > SLOW_S and thread not in lane.slowed:
                    lane.slowed.add(thread)
                    with contextlib.suppress(OSError):  # It has just ended.
                        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
            busy = busy or bool(lane.pending or lane.running)
            if lane.slowed and not lane.pending and not lane.running:
                self._lanes.pop(model).pool.shutdown(wait=False)  # The next call gets threads like all others.
        self._timer = loop.call_later(SLOW_S, self._slow_down, loop) if busy else None

    def close(self) -> None:
        """Ends the threads after what they are doing, which nobody waits for any more."""
        if self._timer is not None:
            self._timer.cancel()
        for lane in self._lanes.values():
            lane.pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, model: str) -> _Lane:
        if len(self._lanes) >= MAX_LANES:
            for name, idle in list(self._lanes.items()):
                if not idle.pending:
                    self._lanes.pop(name).pool.shutdown(wait=False)
        lane = self._lanes[model] = _Lane(ThreadPoolExecutor(self._workers, f"infer-{model}"))
        return lane
