"""Rows of arrays on local disk, in blocks: written once, read in pieces by NumPy and by TensorFlow.

What is computed of all rows (a network's inputs, what trees see) may be larger than memory. It is kept as the arrays'
plain bytes, one file for each array and block of rows, so that blocks can be read in any order and joined as they are.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from airtight.errors import TerminalError

BLOCK, BLOCK_BYTES = 8192, 16 << 20
"""Rows and bytes of a block, at most, but never less than 256 rows; the last one has what is left."""

ALIGNMENT = 64
"""Bytes of whose multiples one is where a tensor begins."""


class RowStore:
    """A nest of arrays [rows, ...], in a temporary folder that goes with the last reference, or with the node.

    Args:
      block: Rows of a block at most.
    """

    def __init__(self, block: int = BLOCK) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rows-", ignore_cleanup_errors=True)
        self.path, self.block, self._count = Path(self._folder.name), block, 0
        self._structure: Any = None
        self.specs: list[tuple[np.dtype, tuple[int, ...]]] = []
        self._pending: list[list[np.ndarray]] = []
        self._blocks = 0

    def __len__(self) -> int:
        return self._count

    @property
    def blocks(self) -> int:
        """How many blocks are written."""
        return self._blocks

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, all arrays together."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.specs)

    def append(self, rows: Any) -> None:
        """Adds rows, a nest of arrays [rows, ...].

        Raises:
          TerminalError: They have another structure, type or shape than those before, or are no numbers.
        """
        arrays = [np.asarray(array) for array in tf.nest.flatten(rows)]
        specs = [(array.dtype, array.shape[1:]) for array in arrays]
        if self._structure is None:
            self._structure, self.specs = tf.nest.map_structure(lambda _: 0, rows), specs
            self._pending = [[] for _ in arrays]
            if self.block > (least := 256):
                self.block = min(self.block, max(least, BLOCK_BYTES // max(1, self.row_bytes)))
        if specs != self.specs or any(dtype.hasobject for dtype, _ in specs):
            raise TerminalError(
                "What preprocessing answers cannot be stored by row.",
                expected=f"arrays of numbers, of one type and shape: {self.specs}",
                received=str(specs),
                remedy="Give the outputs of `preprocess` fixed shapes, and encode strings in it.",
            )
        for pending, array in zip(self._pending, arrays, strict=True):
            pending.append(array)
        self._count += len(arrays[0])
        if self._count - self._blocks * self.block >= self.block:
            self._write(self._count // self.block)

    def finish(self) -> RowStore:
        """Writes what is left; answers the store."""
        if self._count > self._blocks * self.block:
            self._write(self._blocks + 1)
        return self

    def close(self) -> None:
        """Removes the files."""
        self._folder.cleanup()

    def read(self, block: int) -> Any:
        """The nest of arrays of one block."""
        arrays = [self.read_array(array, block) for array in range(len(self.specs))]
        return tf.nest.pack_sequence_as(self._structure, arrays)

    def read_array(self, array: int, block: int) -> np.ndarray:
        """One array, by its place in the flattened nest, of one block."""
        dtype, shape = self.specs[array]
        return np.fromfile(self._file(array, block), dtype).reshape(-1, *shape)

    def __iter__(self) -> Iterator[Any]:
        """The blocks in order."""
        return (self.read(block) for block in range(self._blocks))

    def tensors(self, blocks: Any) -> Any:
        """The nest of tensors [rows, ...] of some blocks, one after the other, within a TensorFlow graph.

        Args:
          blocks: int64 [blocks].
        """
        # By NumPy into the array itself: as TensorFlow's strings the bytes would be there four times at once.
        types = [tf.as_dtype(dtype) for dtype, _ in self.specs]
        arrays = tf.numpy_function(self._joined, [blocks], types, stateful=False)
        for array, (_, shape) in zip(arrays, self.specs, strict=True):
            array.set_shape([None, *shape])
        return tf.nest.pack_sequence_as(self._structure, arrays)

    def _joined(self, blocks: np.ndarray) -> list[np.ndarray]:
        """The arrays of some blocks, one after the other."""
        ends = np.cumsum(np.minimum(self.block, self._count - blocks * self.block))
        joined = [_aligned(dtype, (int(ends[-1]), *shape)) for dtype, shape in self.specs]
        for place, array in enumerate(joined):
            for block, start, end in zip(blocks, [0, *ends], ends, strict=False):
                array[start:end] = self.read_array(place, block)
        return joined

    def _file(self, array: int, block: int) -> Path:
        return self.path / f"{array}-{block}.rows"

    def _write(self, until: int) -> None:
        """Writes the blocks before `until`; the rest of the rows waits."""
        for place, pending in enumerate(self._pending):
            rows = np.concatenate(pending)
            for block in range(self._blocks, until):
                start = (block - self._blocks) * self.block
                # Not `tofile`, which loses what the disk has no room for: in silence, or without saying why.
                self._file(place, block).write_bytes(rows[start : start + self.block].tobytes())
            self._pending[place] = [rows[(until - self._blocks) * self.block :].copy()]
        self._blocks = until


def _aligned(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """An empty array that TensorFlow takes as it is: it copies those that begin elsewhere."""
    size = dtype.itemsize * math.prod(shape)
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    first = -buffer.ctypes.data % ALIGNMENT
    return buffer[first : first + size].view(dtype).reshape(shape)


class RowReader:
    """One array of a store by row number and slice, as `lightgbm.Sequence` is read; the last blocks stay in memory.

    Args:
      store: Where the rows are.
      array: The array's place in the flattened nest.
    """

    def __init__(self, store: RowStore, array: int) -> None:
        self.store, self.array = store, array
        self._block = lru_cache(maxsize=2)(lambda block: store.read_array(array, block))

    def __len__(self) -> int:
        return len(self.store)

    def row(self, number: int) -> np.ndarray:
        """One row."""
        return self._block(number // self.store.block)[number % self.store.block]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows from `start`, before `stop`."""
        size = self.store.block
        first, last = start // size, max(start, stop - 1) // size
        parts = [self._block(block) for block in range(first, last + 1)]
        return np.concatenate(parts)[start - first * size : stop - first * size]
