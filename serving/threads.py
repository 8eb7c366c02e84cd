"""Threads for inference, each model's own: the slow calls of one model keep no other model's from running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from serving.errors import Code, ServingError

MAX_LANES = 64
"""Models whose threads are kept while they have nothing to do."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Lane:
    pool: ThreadPoolExecutor
    pending: int = 0


class ModelThreads:
    """As many threads for each model as one model may use, started when they are needed.

    The operating system shares the processors among all of them, so that a model's call starts at once, however many
    calls of another model run.

    Args:
      workers: Threads of one model.
      max_waiting: Calls of one model that may wait for a thread.
    """

    def __init__(self, workers: int, max_waiting: int) -> None:
        self._workers = workers
        self._max_pending = workers + max_waiting
        self._lanes: dict[str, _Lane] = {}

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
        lane.pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(lane.pool, lambda: function(*args, **kwargs))
        finally:
            lane.pending -= 1

    def close(self) -> None:
        """Ends the threads after what they are doing, which nobody waits for any more."""
        for lane in self._lanes.values():
            lane.pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, model: str) -> _Lane:
        if len(self._lanes) >= MAX_LANES:
            for name, idle in list(self._lanes.items()):
                if not idle.pending:
                    self._lanes.pop(name).pool.shutdown(wait=False)
        lane = self._lanes[model] = _Lane(ThreadPoolExecutor(self._workers, f"infer-{model}"))
        return lane
