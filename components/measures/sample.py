"""The rows of a stream: all of them up to a limit, and beyond it a part drawn by chance that is the same each time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LIMIT = 1 << 20
"""Rows that are kept, at most."""
MOST_VALUES = 1 << 24
"""Values that are kept of all columns together: many columns have fewer rows for it, down to LEAST_ROWS."""
LEAST_ROWS = 1 << 16
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Sample:
    """Columns of numbers, of which rows are kept by a hash of their place in the stream.

    Args:
      columns: How many there will be.
      limit: Rows that are kept, at most.
    """

    def __init__(self, columns: int = 1, limit: int = LIMIT) -> None:
        self._limit = min(limit, max(LEAST_ROWS, MOST_VALUES // max(1, columns)))
        self._bound = np.uint64(2**64 - 1)
        self._marks = [np.zeros(0, np.uint64)]
        self._columns: dict[str, list[np.ndarray]] = {}
        self.rows = 0
        """Rows of the stream so far."""

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """The next rows: the same columns each time, [rows] each."""
        rows = len(next(iter(columns.values())))
        marks = _marks(self.rows, rows)
        self.rows += rows
        kept = marks <= self._bound
        self._marks.append(marks[kept])
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values[kept])
        while sum(map(len, self._marks)) > self._limit:
            self._thin()

    def __getitem__(self, name: str) -> np.ndarray:
        """The kept values of a column, in the order of the stream."""
        return np.concatenate(self._columns.get(name, [np.zeros(0)]))

    @property
    def whole(self) -> bool:
        """Whether no row was left out."""
        return sum(map(len, self._marks)) == self.rows

    def _thin(self) -> None:
        self._bound = self._bound >> np.uint64(1)
        marks = np.concatenate(self._marks)
        kept = marks <= self._bound
        self._marks = [marks[kept]]
        for name in self._columns:
            self._columns[name] = [self[name][kept]]


def _marks(start: int, rows: int) -> np.ndarray:
    """A number for each place in the stream, by chance but always the same: splitmix64."""
    marks = np.arange(start + 1, start + rows + 1, dtype=np.uint64) * _STEP
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        marks = (marks ^ (marks >> np.uint64(shift))) * multiplier
    return marks ^ (marks >> np.uint64(31))
