"""Runs a signature: on the event loop when that is sure to be shorter than a hop between threads, else beside it.

On the loop runs only a call whose cost follows from the sizes of its inputs (`serving.call_cost`), and that was cheap
at this size before. Once a call surprises, the cost of its signature does not: it never runs there again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np

from serving import metrics
from serving.batching import Batcher
from serving.batching_parameters import BatchingParameters
from serving.fair_slots import FairSlots
from serving.prediction_cache import PredictionCache, copies_of, key_of
from serving.signature import Signature, size_of
from serving.threads import ModelThreads

INLINE_S = 0.001
"""A call that is expected to be shorter runs on the event loop; the others do not hold it up, and share the cores. With
0.3 ms here a hop between threads cost the flagship a third of its single rows by REST."""
GRPC_INLINE_S = 0.00015
"""The same for requests by gRPC. They come one by one, each read by gRPC's own thread, so that an event loop that runs
a model meets them one by one again; beside it they gather. It gives the flagship half as many single rows again."""
LARGE_BYTES = 256 << 10
"""Requests and answers from this size on are converted in the pool too."""
CHEAP_S = 50e-6
"""A call that is expected to be shorter costs less than putting it into a batch."""

SMALL_BYTES = 1 << 10
"""Of inputs up to this size the bytes tell what a call costs, however they are shared out over the dimensions."""
CLOCK_S = 0.0005
"""The loop's thread reads how long it had a processor at most so often: a reading takes 2 us. What else the thread does
after it counts as the call's, so it is shorter than the calls that the event loop runs."""
MAX_WAITING = 1000
"""Calls of one version of a model that may wait for a thread."""

P = ParamSpec("P")
T = TypeVar("T")


class Runner:
    """The threads for inference and for large conversions; batches and the cache stand before them where configured.

    Args:
      workers: Threads of each version of a model, and for conversions.
      batching: Run requests together; None runs each alone.
      cache: Keep answers; None keeps none.
      max_waiting: Calls of one version that may wait for a thread; further ones are UNAVAILABLE.
    """

    def __init__(
        self,
        workers: int,
        batching: BatchingParameters | None = None,
        cache: PredictionCache | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._pool = ThreadPoolExecutor(workers, "convert")
        self._slots = FairSlots(workers)
        self._threads = ModelThreads(workers, max_waiting)
        self._cache = cache
        self._batcher = Batcher(batching, self._call, self.convert) if batching else None
        self._cheap_s = CHEAP_S if batching and batching.opportunistic else 0.0
        self._turns = _Turns()
        self._read_at = self._busy_then = 0.0

    async def run(
        self, model: str, signature: Signature, arrays: Sequence[np.ndarray], inline_s: float = INLINE_S
    ) -> list[np.ndarray]:
        """Calls the signature, or finds what it answered to the same inputs before.

        Args:
          model: The model's name, for the metrics.
          signature: What to call.
          arrays: In the order of `signature.inputs`, of their dtypes.
          inline_s: A call that is expected to be shorter runs on the event loop.

        Returns:
          Arrays in the order of `signature.outputs`; they are not to be written to.

        Raises:
          ServingError: With TensorFlow's own code and message; UNAVAILABLE when too many requests wait.
        """
        if self._cache is None:
            return await self._run(model, signature, arrays, inline_s)
        key = await self.convert(model, size_of(arrays), key_of, signature, arrays)
        kept = self._cache.get(key, model)
        if kept is not None:
            return kept
        outputs = await self._run(model, signature, arrays, inline_s)
        size = size_of(outputs)
        if self._cache.takes(size):
            self._cache.put(key, await self.convert(model, size, copies_of, outputs), size)
        return outputs

    async def _run(
        self, model: str, signature: Signature, arrays: Sequence[np.ndarray], inline_s: float
    ) -> list[np.ndarray]:
        if self._batcher is None:
            return await self._call(model, signature, arrays, inline_s)
        observed = signature.observed
        expected = observed.expected_s(size_of(arrays))
        if expected is not None and expected < self._cheap_s and observed.steady:
            return await self._call(model, signature, arrays, inline_s)
        return await self._batcher.run(model, signature, arrays, inline_s)

    async def _call(
        self, model: str, signature: Signature, arrays: Sequence[np.ndarray], inline_s: float
    ) -> list[np.ndarray]:
        size = size_of(arrays)
        expected = signature.observed.expected_s(size)
        if expected is not None and expected < inline_s and _is_foreseeable(signature, arrays, size):
            if expected >= CHEAP_S:
                await self._turns.next()
            outputs, seconds, busy_s = self._run_here(signature, arrays, expected)
        else:
            outputs, seconds, busy_s = await self._threads.run(model, signature.load, _timed, signature, arrays)
        signature.observed.took(busy_s, size)
        metrics.RUNTIME_LATENCY.observe(1e6 * seconds, model, "Predict", "TF2")
        return outputs

    def _run_here(
        self, signature: Signature, arrays: Sequence[np.ndarray], expected: float
    ) -> tuple[list[np.ndarray], float, float]:
        """As `_timed`; a thread's own clock costs a tenth of a short call, so that it is read only now and then."""
        started = time.perf_counter()
        if started - self._read_at > CLOCK_S:
            self._read_at, self._busy_then = started, time.thread_time()
        outputs = signature.run(*arrays)
        seconds = time.perf_counter() - started
        if seconds < max(CHEAP_S, 2 * expected):
            return outputs, seconds, seconds
        # Dearer than expected, or others had the processor meanwhile.
        return outputs, seconds, min(seconds, time.thread_time() - self._busy_then)

    async def convert(self, model: str, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Converts here, or in the pool when `size`, in bytes, is large; models take turns there.

        Args:
          model: Whose request or answer it is.
          size: Of what is converted, bytes.
          function: Converts.
          *args: Its arguments.
          **kwargs: Its named arguments.
        """
        if size < LARGE_BYTES:
            return function(*args, **kwargs)
        return await self.offload(model, function, *args, **kwargs)

    async def offload(self, model: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in the pool, in the model's turn."""
        loop = asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # The loop is closed: the process ends.
                loop.call_soon_threadsafe(self._slots.release, model)

        await self._slots.acquire(model)
        try:
            work = self._pool.submit(lambda: function(*args, **kwargs))
        except BaseException:
            self._slots.release(model)
            raise
        work.add_done_callback(ended)  # The thread is busy until then, whether anybody still waits or not.
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Ends the threads after what they are doing, which nobody waits for any more."""
        self._threads.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Turns:
    """One turn of the event loop for each who asks, in their order.

    A request by gRPC needs some fifteen turns until it is answered, one by REST two or three. Were all calls that wait
    run in one turn, the former would wait that often for all of the latter.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Waits for a turn that nobody else has."""
        loop = asyncio.get_running_loop()
        if self._taken:
            self._waiting.append(turn := loop.create_future())
            await turn
        else:
            self._taken = True
            loop.call_soon(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # Its client has gone, or its time is over.
                turn.set_result(None)
                loop.call_soon(self._end, loop)
                return
        self._taken = False


def _is_foreseeable(signature: Signature, arrays: Sequence[np.ndarray], size: int) -> bool:
    """Whether calls with inputs of this size tell what this one costs."""
    if not signature.observed.steady:
        return False
    if size <= SMALL_BYTES:
        return True
    # Where more than the number of rows is open, the same number of bytes may be work of very different size.
    only_rows_are_open = all(
        spec.shape is not None and array.shape[1:] == spec.shape[1:]
        for spec, array in zip(signature.inputs, arrays, strict=False)
    )
    return only_rows_are_open and len({len(array) for array in arrays if array.ndim}) <= 1


def _timed(signature: Signature, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float, float]:
    """The answer, the seconds until it was there, and those for which this thread had a processor."""
    busy, started = time.thread_time(), time.perf_counter()
    outputs = signature.run(*arrays)
    return outputs, time.perf_counter() - started, time.thread_time() - busy
