"""Runs a signature: at once on the event loop when that is shorter than a hop between threads, else in a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np

from serving import metrics
from serving.signature import Signature

INLINE_S = 0.001
"""A call that is expected to be shorter runs on the event loop; the others do not hold it up."""
LARGE_BYTES = 256 << 10
"""Requests and answers from this size on are converted in the pool too."""

P = ParamSpec("P")
T = TypeVar("T")


class Runner:
    """The thread pool for inference and for large conversions.

    Args:
      workers: Number of threads.
    """

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, "infer")

    async def run(self, model: str, signature: Signature, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Calls the signature.

        Args:
          model: The model's name, for the metrics.
          signature: What to call.
          arrays: In the order of `signature.inputs`, of their dtypes.

        Returns:
          Arrays in the order of `signature.outputs`.

        Raises:
          ServingError: With TensorFlow's own code and message.
        """
        bucket = arrays[0].size.bit_length() if arrays else 0
        known = signature.costs.get(bucket)
        if known is not None and known < INLINE_S:
            outputs, seconds = _timed(signature, arrays)
        else:
            outputs, seconds = await self.offload(_timed, signature, arrays)
        # A moving mean, so that one call that the scheduler interrupted does not decide for the next.
        signature.costs[bucket] = seconds if known is None else 0.9 * known + 0.1 * seconds
        metrics.RUNTIME_LATENCY.observe(1e6 * seconds, model, "Predict", "TF2")
        return outputs

    async def convert(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Converts here, or in the pool when `size`, in bytes, is large."""
        if size < LARGE_BYTES:
            return function(*args, **kwargs)
        return await self.offload(function, *args, **kwargs)

    async def offload(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Ends the threads after what they are doing."""
        self._pool.shutdown()


def _timed(signature: Signature, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    started = time.perf_counter()
    outputs = signature.run(*arrays)
    return outputs, time.perf_counter() - started
