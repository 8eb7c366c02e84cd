"""Keeps answers of a model for requests that come again: least recently used first out, and none after its time."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from serving import metrics
from serving.signature import Signature

ENTRY_BYTES = 512
"""What an entry needs beside its numbers, roughly: key, lists, array headers."""
SHARE = 8
"""An answer larger than this part of the whole cache is not kept: it would put out too many others."""


@dataclass(slots=True)
class _Entry:
    outputs: list[np.ndarray]
    until: float
    size: int


class PredictionCache:
    """Answers by signature and inputs.

    A signature belongs to one loaded version, so that no version is answered for by the one it replaced.

    Args:
      entries: So many answers at most.
      max_bytes: So much memory at most, counted by the answers' arrays.
      ttl_s: An answer is kept so long; 0 keeps it until there is no room.
      clock: Seconds that never go back.
    """

    def __init__(
        self, entries: int, max_bytes: int, ttl_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries, self._max_bytes = entries, max_bytes
        self._ttl_s = ttl_s or float("inf")
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._bytes

    def get(self, key: bytes, model: str) -> list[np.ndarray] | None:
        """The answer that was kept under a key, or None; arrays are read-only.

        Args:
          key: From `key_of`.
          model: The model's name, for the metrics.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.until <= self._clock():
            self._drop(key)
            entry = None
        if entry is None:
            metrics.CACHE_MISSES.add(model)
            return None
        self._entries.move_to_end(key)
        metrics.CACHE_HITS.add(model)
        return entry.outputs

    def takes(self, size: int) -> bool:
        """Whether an answer of so many bytes is small enough to be kept."""
        return ENTRY_BYTES + size <= self._max_bytes // SHARE

    def put(self, key: bytes, copies: list[np.ndarray], size: int) -> None:
        """Keeps an answer, and lets the least recently used ones go where room is needed.

        Args:
          key: From `key_of`.
          copies: From `copies_of`.
          size: Their bytes.
        """
        if key in self._entries:
            self._drop(key)
        size += ENTRY_BYTES
        self._entries[key] = _Entry(copies, self._clock() + self._ttl_s, size)
        self._bytes += size
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
            metrics.CACHE_EVICTIONS.add()

    def _drop(self, key: bytes) -> None:
        self._bytes -= self._entries.pop(key).size


def copies_of(outputs: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Arrays to keep, read-only: what came out of a batch is a view that would keep the whole batch in memory."""
    copies = [np.array(output) for output in outputs]
    for copy in copies:
        copy.setflags(write=False)
    return copies


def key_of(signature: Signature, arrays: Sequence[np.ndarray]) -> bytes:
    """A digest of what is asked: of the signature, which has the dtypes, of all shapes and of every byte."""
    digest = hashlib.blake2b(signature.serial.to_bytes(8, "little"), digest_size=32)
    for array in arrays:
        digest.update(np.array((array.ndim, *array.shape), np.int64).tobytes())
        if array.dtype.kind == "O":
            texts = array.ravel().tolist()
            digest.update(np.fromiter(map(len, texts), np.int64, len(texts)).tobytes())
            digest.update(b"".join(texts))
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()
