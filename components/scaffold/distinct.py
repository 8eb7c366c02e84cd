"""Whether values repeat, by their hashes, in bounded memory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

LIMIT = 4 << 20
"""Rows of which hashes are kept, 8 bytes each; what repeats only after them is found when the lake is filled."""


def hashes(column: pa.Array) -> np.ndarray:
    """A hash of each value, uint64 [rows]; equal values have equal ones."""
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pd.util.hash_array(np.array([repr(value) for value in column.to_pylist()], object))
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
    values: np.ndarray = column.to_pandas().to_numpy()
    return pd.util.hash_array(values)


class Repeats:
    """Counts values that were there before.

    Args:
      exact: Whether all repeats are counted; otherwise the first one ends it.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact
        self._sorted = np.empty(0, np.uint64)
        self._new: list[np.ndarray] = []
        self._waiting = self.rows = self.repeated = 0

    def add(self, hashed: np.ndarray) -> None:
        """Takes hashes [rows]."""
        if (self.repeated and not self._exact) or self.rows > LIMIT:
            return
        self.rows += len(hashed)
        self._waiting += len(hashed)
        self._new.append(hashed)
        if self._waiting > max(len(self._sorted), 1 << 14):
            self._merge()

    def unique(self) -> bool:
        """Whether no value was there twice."""
        self._merge()
        return not self.repeated

    def _merge(self) -> None:
        merged = np.unique(np.concatenate([self._sorted, *self._new]))
        self.repeated += len(self._sorted) + self._waiting - len(merged)
        self._sorted, self._new, self._waiting = merged, [], 0
        if self.repeated and not self._exact:
            self._sorted = np.empty(0, np.uint64)
