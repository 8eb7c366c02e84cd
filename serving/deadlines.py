"""One deadline for all requests of a server, at the cost of a dictionary's entry for each.

Requests that may take equally long end their time in the order of their beginnings: one timer for the oldest of them
does for all. A timer for each (`asyncio.timeout`) costs a short request a twentieth of its time.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadlines:
    """Ends tasks that take longer than a limit; `with` of `limited` raises TimeoutError there, as `asyncio.timeout`.

    Args:
      limit_s: Seconds; None limits nothing.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._open: dict[_Limited, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def limited(self) -> _Limited:
        """Limits what the current task does in the block; not to be used twice."""
        return _Limited(self)

    def enter(self, block: _Limited) -> None:
        """A block begins."""
        if self.limit_s is None:
            return
        loop = asyncio.get_running_loop()
        self._open[block] = over = loop.time() + self.limit_s
        if self._timer is None:
            self._timer = loop.call_at(over, self._end_overdue, loop)

    def leave(self, block: _Limited) -> None:
        """A block has ended."""
        self._open.pop(block, None)

    def _end_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, now = None, loop.time()
        for block, over in list(self._open.items()):
            if over > now:
                self._timer = loop.call_at(over, self._end_overdue, loop)
                return
            del self._open[block]
            block.end()


class _Limited:
    __slots__ = ("_cancelling", "_deadlines", "_is_over", "_task")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines, self._is_over = deadlines, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a task is limited, from within"
        self._task, self._cancelling = task, task.cancelling()
        self._deadlines.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.leave(self)
        # Another may have cancelled the task as well, which then goes on being cancelled.
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end(self) -> None:
        """The time is over."""
        self._is_over = True
        self._task.cancel()
