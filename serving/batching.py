"""Runs requests that are there at the same time as one call of the model, and gives each its own rows of the answer.

A call of a model costs much by itself and little for each row, so that eight rows together take hardly longer than
one. Requests meet in a queue for their signature, the sizes of their rows and their protocol. A queue is emptied at the
end of the event loop's turn, or when a batch ends, so that by default nobody waits for others to come: a batch is what
arrived in one turn, or while the batches before were running. Where a batch takes long enough to run beside the event
loop, what waits is dealt out to the threads that are free. The event loop's thread alone touches the queues.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving import metrics
from serving.batching_parameters import BatchingParameters
from serving.errors import Code, ServingError
from serving.signature import Signature, size_of

WORTH_IT = 0.75
"""What waits is dealt out where a piece takes at most this part of the time of all together."""

Call = Callable[[str, Signature, Sequence[np.ndarray], float], Awaitable[list[np.ndarray]]]
Convert = Callable[..., Awaitable[list[np.ndarray]]]


async def at_once(model: str, size: int, function: Callable[..., list[np.ndarray]], *given: object) -> list[np.ndarray]:
    """Calls a function here, whatever the size of what it works on."""
    return function(*given)


@dataclass(eq=False, slots=True)
class _Request:
    arrays: Sequence[np.ndarray]
    rows: int
    size: int
    since: float
    answer: asyncio.Future[list[np.ndarray]]


@dataclass(slots=True)
class _Queue:
    """Requests whose rows may stand in one batch."""

    model: str
    signature: Signature
    inline_s: float
    rows: int = 0
    waiting: deque[_Request] = field(default_factory=deque)


class Batcher:
    """Puts requests together.

    Args:
      parameters: When, and how many.
      call: Runs a model's signature on arrays; on the event loop when it is expected to take fewer seconds than told.
      convert: Calls a function, on the event loop or beside it, as befits the size of what it works on.
    """

    def __init__(self, parameters: BatchingParameters, call: Call, convert: Convert = at_once) -> None:
        self._parameters = parameters
        self._call = call
        self._convert = convert
        # Queues are made and removed with their requests, and take turns in this order.
        self._queues: dict[Hashable, _Queue] = {}
        self._running: dict[asyncio.Task[None], Hashable] = {}
        self._busy: Counter[int] = Counter()  # Batches that run, by the load of the version.
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(
        self, model: str, signature: Signature, arrays: Sequence[np.ndarray], inline_s: float = math.inf
    ) -> list[np.ndarray]:
        """Calls the signature, together with what else is asked of it now.

        Args:
          model: The model's name, for the metrics.
          signature: What to call.
          arrays: In the order of `signature.inputs`, of their dtypes.
          inline_s: Batches that are expected to be shorter run on the event loop, one after the other.

        Returns:
          Arrays in the order of `signature.outputs`: the rows of this request.

        Raises:
          ServingError: UNAVAILABLE when too many requests wait; else what the model says to this request.
        """
        limits = self._parameters
        rows = _rows(signature, arrays) if signature.batchable and signature.observed.by_row else 0
        if not 0 < rows < limits.max_batch_size:
            return await self._call(model, signature, arrays, inline_s)
        # With parameters of its own a batch waits for others, whichever way they come.
        key = (id(signature), limits.opportunistic and inline_s, *[array.shape[1:] for array in arrays])
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(model, signature, inline_s)
        elif queue.rows + rows > limits.max_batch_size * limits.max_enqueued_batches:
            raise ServingError(
                Code.UNAVAILABLE, f"The batch scheduling queue is full: {queue.rows} rows wait for {model}"
            )
        loop = asyncio.get_running_loop()
        request = _Request(arrays, rows, size_of(arrays), loop.time(), loop.create_future())
        queue.waiting.append(request)
        queue.rows += rows
        self._schedule(loop)
        try:
            return await request.answer
        except asyncio.CancelledError:  # Its client has gone, or its time is over.
            if request in queue.waiting:
                queue.waiting.remove(request)
                queue.rows -= rows
                self._schedule(loop)
            raise

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._dispatch, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the batches that may run now, one of each queue; a version's batches wait for that version's alone."""
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        limits, now = self._parameters, loop.time()
        later: list[float] = []
        for key, queue in list(self._queues.items()):
            while queue.waiting and queue.waiting[0].answer.done():
                queue.rows -= queue.waiting.popleft().rows
            if not queue.waiting:
                del self._queues[key]
                continue
            if self._busy[queue.signature.load] >= limits.num_batch_threads:
                continue  # The end of a batch comes back here.
            side_by_side = not limits.opportunistic or self._is_long(queue)
            if not side_by_side and key in self._running.values():
                continue
            due = queue.waiting[0].since + limits.batch_timeout_s
            if queue.rows < limits.max_batch_size and now < due:
                later.append(due)
                continue
            pieces = self._pieces(queue) if limits.opportunistic and side_by_side else 1
            self._start(key, queue, loop, rows=-(-queue.rows // pieces))
            del self._queues[key]
            if queue.waiting:
                self._queues[key] = queue  # At the end: it is the others' turn.
                self._schedule(loop)
        if later:
            self._timer = loop.call_at(min(later), self._schedule, loop)

    def _is_long(self, queue: _Queue) -> bool:
        """Whether the largest batch of what waits may take longer than what runs on the event loop, as far as known."""
        if not queue.signature.observed.steady:
            return True
        expected = self._expected_s(queue, min(queue.rows, self._parameters.max_batch_size))
        return expected is not None and expected >= queue.inline_s

    def _pieces(self, queue: _Queue) -> int:
        """Into how many batches to deal out what waits: one for each free thread, where that is worth it.

        None so short as to run inline: those would run on the event loop, one after the other. And none that hardly
        takes less time than all together, as where a call costs much by itself: the cores have other work. What was
        never measured runs in a thread.
        """
        pieces = self._parameters.num_batch_threads - self._busy[queue.signature.load]
        whole = self._expected_s(queue, queue.rows)
        while pieces > 1:
            expected = self._expected_s(queue, -(-queue.rows // pieces))
            if expected is None or (expected >= queue.inline_s and (whole is None or expected <= WORTH_IT * whole)):
                break
            pieces -= 1
        return pieces

    def _expected_s(self, queue: _Queue, rows: int) -> float | None:
        first = queue.waiting[0]
        return queue.signature.observed.expected_s(first.size * rows // first.rows)

    def _start(self, key: Hashable, queue: _Queue, loop: asyncio.AbstractEventLoop, rows: int) -> None:
        """Starts a batch of so many rows, or of some more where the last request has more; never of too many."""
        batch: list[_Request] = []
        taken = 0
        largest = self._parameters.max_batch_size
        while queue.waiting and taken < rows and taken + queue.waiting[0].rows <= largest:
            request = queue.waiting.popleft()
            queue.rows -= request.rows
            if not request.answer.done():
                batch.append(request)
                taken += request.rows
        task = loop.create_task(self._run(queue, batch, taken))
        self._running[task] = key
        self._busy[queue.signature.load] += 1
        task.add_done_callback(functools.partial(self._ended, queue.signature.load))

    def _ended(self, load: int, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._busy[load] -= 1
        if not self._busy[load]:
            del self._busy[load]
        if self._queues:
            self._schedule(task.get_loop())

    async def _run(self, queue: _Queue, batch: list[_Request], rows: int) -> None:
        model, signature, inline_s = queue.model, queue.signature, queue.inline_s
        size = self._filled(rows)
        metrics.BATCHES.add(model)
        metrics.BATCHED_REQUESTS.add(model, amount=len(batch))
        outputs: list[np.ndarray] | None
        if len(batch) > 1 or size > rows:
            try:
                extent = sum(request.size for request in batch)
                joined = await self._convert(model, extent, _joined, batch, size - rows)
                outputs = await self._call(model, signature, joined, inline_s)
            except Exception:  # noqa: BLE001
                # One of them may be at fault: each is asked alone below, and hears of its own fault only.
                outputs = None
            if outputs is not None and all(output.shape[:1] == (size,) for output in outputs):
                _deal_out(batch, outputs)
                return
            if outputs is not None:
                signature.observed.by_row = False  # It does not answer one row for each row: never together again.
        for request in batch:
            if request.answer.done():
                continue
            try:
                outputs = await self._call(model, signature, request.arrays, inline_s)
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to the one who waits for it.
                if not request.answer.done():
                    request.answer.set_exception(error)
            else:
                if not request.answer.done():
                    request.answer.set_result(outputs)

    def _filled(self, rows: int) -> int:
        """The size that a batch of so many rows is filled up to."""
        return next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)


def _rows(signature: Signature, arrays: Sequence[np.ndarray]) -> int:
    """How many rows a request has; 0 where its inputs do not agree on that, or have other shapes than declared."""
    if not all(spec.fits(array.shape) for spec, array in zip(signature.inputs, arrays, strict=True)):
        return 0  # A row without the dimension of the batch would be dealt out as several.
    rows = len(arrays[0])
    return rows if all(len(array) == rows for array in arrays) else 0


def _joined(batch: list[_Request], missing: int) -> list[np.ndarray]:
    """The rows of all requests, one after the other, and as many more as are missing (the last row again)."""
    columns = zip(*(request.arrays for request in batch), strict=True)
    if not missing:
        return [np.concatenate(parts) for parts in columns]
    return [np.concatenate((*parts, np.repeat(parts[-1][-1:], missing, axis=0))) for parts in columns]


def _deal_out(batch: list[_Request], outputs: list[np.ndarray]) -> None:
    start = 0
    for request in batch:
        end = start + request.rows
        if not request.answer.done():
            request.answer.set_result([output[start:end] for output in outputs])
        start = end
