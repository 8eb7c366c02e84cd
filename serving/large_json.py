"""Large JSON bodies are read by a process beside the server, so that they do not hold up the requests of others.

Parsing JSON keeps Python's interpreter to itself: a second for 50 MB, in whichever thread. The process
(`serving.large_json_process`) is started with the first large body, reads one at a time, models taking turns, and
answers with the plain bytes of the arrays. It ends with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from serving import examples
from serving.errors import BY_NUMBER, Code, ServingError
from serving.fair_slots import FairSlots
from serving.large_json_process import BODY, DROP, EXAMPLES, TENSORS, read_message, write_message
from serving.signature import Signature, TensorSpec

APART_BYTES = 1 << 20
"""Bodies from this size on are parsed by the other process; below, to bring them there costs more than it saves."""

P = ParamSpec("P")
T = TypeVar("T")


class Document:
    """A body that the other process has parsed.

    Args:
      reader: Whose it is.
      signature_name: What the body says; empty when it says nothing.
    """

    def __init__(self, reader: LargeJson, signature_name: str) -> None:
        self._reader = reader
        self.signature_name = signature_name

    async def decode(self, signature: Signature) -> tuple[list[np.ndarray], bool]:
        """What `tensors_json.decode` says to the body.

        Raises:
          ServingError: INVALID_ARGUMENT, saying what is wrong and where.
        """
        specs = [{"name": s.name, "numpy": s.numpy.name, "type": s.dtype.name} for s in signature.inputs]
        description, data = await self._reader.ask(TENSORS, json.dumps(specs).encode())
        # Not on the event loop: an object for each of millions of strings takes long.
        return await self._reader.apart(_arrays, description, data, signature), description["rows"]

    async def examples(self, signature: Signature, verb: str) -> list[np.ndarray]:
        """What `examples.arrays_from_json` makes of the body.

        Args:
          signature: What will be called.
          verb: "classify" or "regress".

        Raises:
          ServingError: INVALID_ARGUMENT, saying what is wrong and where.
        """
        description, data = await self._reader.ask(EXAMPLES, verb.encode())
        return await self._reader.apart(_examples, description["count"], data, signature, verb)


class LargeJson:
    """The process and the way to it."""

    def __init__(self) -> None:
        # One thread, so that a question whose asker has gone is answered before the next one is asked.
        self._thread = ThreadPoolExecutor(1, "large-json")
        self._slots = FairSlots(1)
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.asynccontextmanager
    async def parsed(self, model: str, body: bytes) -> AsyncIterator[Document]:
        """Parses a body; the block is to end when it is decoded, because the next one waits.

        Args:
          model: The model that is asked.
          body: JSON.

        Raises:
          ServingError: INVALID_ARGUMENT, it is no request; UNAVAILABLE, the process ended in the middle.
        """
        await self._slots.acquire(model)
        try:
            description, _ = await self.ask(BODY, body)
            yield Document(self, description["signature_name"])
        finally:
            self._thread.submit(self._drop)  # However it ended, and before the next body takes as much memory.
            self._slots.release(model)

    async def ask(self, kind: bytes, payload: bytes) -> tuple[dict[str, Any], memoryview]:
        """One question to the process: what it tells, and the bytes that come with it."""
        return await self.apart(self._ask, kind, payload)

    async def apart(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in the reader's thread, which has nothing else to do while a body has its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def _drop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # It has ended; who asks next hears of it.
                write_message(self._process.stdin, DROP)

    def _ask(self, kind: bytes, payload: bytes) -> tuple[dict[str, Any], memoryview]:
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None
        try:
            write_message(process.stdin, kind, payload)
            _, head = read_message(process.stdout)
            _, data = read_message(process.stdout)
        except (OSError, EOFError) as error:
            process.kill()
            process.wait()
            self._process = None
            raise ServingError(
                Code.UNAVAILABLE, "The process that parses large requests has ended, perhaps for want of memory"
            ) from error
        description = json.loads(head)
        if "error" in description:
            raise ServingError(BY_NUMBER[description["code"]], description["error"])
        return description, memoryview(data)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "serving.large_json_process"],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _examples(count: int, data: memoryview, signature: Signature, verb: str) -> list[np.ndarray]:
    return examples.arrays_of(_texts(data, count), signature, verb)


def _arrays(description: dict[str, Any], data: memoryview, signature: Signature) -> list[np.ndarray]:
    arrays, start = [], 0
    for spec, shape, size in zip(signature.inputs, description["shapes"], description["sizes"], strict=True):
        arrays.append(_array(data[start : start + size], spec, shape))
        start += size
    return arrays


def _array(data: memoryview, spec: TensorSpec, shape: list[int]) -> np.ndarray:
    if not spec.text:
        return np.frombuffer(data, spec.numpy).reshape(shape)
    flat = np.empty(int(np.prod(shape)), object)
    flat[:] = _texts(data, len(flat))
    return flat.reshape(shape)


def _texts(data: memoryview, count: int) -> list[bytes]:
    lengths = np.frombuffer(data[: 8 * count], np.int64)
    ends = 8 * count + np.cumsum(lengths)
    return [bytes(data[end - length : end]) for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)]
