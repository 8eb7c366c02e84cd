"""Sums of the rows that one source gave, such as a shop, a station or a sensor: what sources are compared by.

Sources see the same weather on the same day, so the day's weather cancels in what one differs from the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST_SOURCES = 20
"""Sources of a day that are summed: those with the most rows."""
LEAST_VALUES = 20
"""Of a source on a day, without which it is not judged."""
_FRACTION = 24
"""Bits of a float32's fraction."""
_LEAST_EXPONENT = 148
"""Of a float32, its sign turned."""
_UNIT = _LEAST_EXPONENT + _FRACTION
"""A sum is a whole number of 2 ** -_UNIT, of which every float32 is one: it is exact, and the same in any order."""


@dataclass
class Sums:
    """Of a number in the rows of a source.

    Args:
      rows: How many there are.
      there: Those with a finite value.
      total: Their sum, in units of 2 ** -_UNIT.
      ends: The least and the largest value; empty where there is none.
    """

    rows: int = 0
    there: int = 0
    total: int = 0
    ends: tuple[float, ...] = ()

    def add(self, values: np.ndarray) -> None:
        """The next rows, float [rows], NaN where missing."""
        # 0 is added because -0 and 0 are equal: which of them is the least would depend on the order.
        finite = np.asarray(values[np.isfinite(values)], np.float32).astype(np.float64) + 0.0
        fractions, exponents = np.frexp(finite)
        # By exponent, from the least on: such sums are whole numbers below 2 ** 53.
        sums = np.bincount(exponents + _LEAST_EXPONENT, fractions * 2**_FRACTION)
        total = sum(int(sums[place]) << int(place) for place in np.flatnonzero(sums))
        ends = (float(finite.min()), float(finite.max())) if len(finite) else ()
        self.merge(Sums(len(values), len(finite), total, ends))

    def merge(self, other: Sums) -> None:
        """Adds another part's rows."""
        self.rows += other.rows
        self.there += other.there
        self.total += other.total
        ends = (*self.ends, *other.ends)
        self.ends = (min(ends), max(ends)) if ends else ()

    @property
    def is_judged(self) -> bool:
        """Whether most of its rows have a value, and enough of them: what few rows have differs by chance."""
        return self.there >= max(LEAST_VALUES, self.rows / 2)

    @property
    def is_constant(self) -> bool:
        """Whether all values are the same."""
        return len(set(self.ends)) == 1


def rows_of(column: pa.ChunkedArray, sources: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numbers of the rows of each source that has some."""
    places = pc.index_in(column, value_set=pa.array(sources, column.type)).fill_null(-1).to_numpy()
    rows = {source: np.flatnonzero(places == place) for place, source in enumerate(sources)}
    return {source: numbers for source, numbers in rows.items() if len(numbers)}


def differences(sources: Mapping[str, Sums]) -> dict[str, float]:
    """The mean of each source less the mean of all rows of the others, where there are others; each with values."""
    there, total = (sum(getattr(one, name) for one in sources.values()) for name in ("there", "total"))
    return {
        source: own.total / (own.there << _UNIT) - (total - own.total) / ((there - own.there) << _UNIT)
        for source, own in sources.items()
        if there > own.there
    }
