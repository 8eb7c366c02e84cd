"""Distances of a column's values of a day from those of a reference, as other tools compute them.

As in the tools, missing values are left out; "" is a value of a category.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

_BUCKETS = 10
"""Of TFDV's histograms, by default."""


class Values:
    """Values of a column in some rows, with what distances need of them, computed once.

    Args:
      values: Float or string [rows].
    """

    def __init__(self, values: pd.Series) -> None:
        self._values = values

    @cached_property
    def sorted(self) -> np.ndarray:
        """Finite numbers, rising, [values]."""
        values = self._values.to_numpy(np.float64)
        return np.sort(values[np.isfinite(values)])

    @cached_property
    def infinite(self) -> int:
        """Infinite numbers."""
        return int(np.isinf(self._values.to_numpy(np.float64)).sum())

    @cached_property
    def different(self) -> tuple[np.ndarray, np.ndarray]:
        """Different finite numbers, and how often each is there."""
        return np.unique(self.sorted, return_counts=True)

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the finite numbers."""
        return float(self.sorted.std())

    @cached_property
    def counts(self) -> dict[str, int]:
        """Rows by category."""
        return dict(self._values.value_counts())

    @cached_property
    def equal_width(self) -> tuple[np.ndarray, np.ndarray]:
        """TFDV's standard histogram: edges [buckets + 1], values of each bucket [buckets]; a point for a constant."""
        low, high = self.sorted[[0, -1]]
        if low == high:
            return np.array([low, high]), np.array([len(self.sorted)])
        counts, edges = np.histogram(self.sorted, _BUCKETS)
        return edges, counts

    @cached_property
    def equal_count(self) -> tuple[np.ndarray, np.ndarray]:
        """TFDV's histogram of quantiles, as `equal_width`; a value of many rows makes points."""
        until = np.linspace(0, len(self.sorted), _BUCKETS + 1).astype(int)
        return self.sorted[np.maximum(until - 1, 0)], np.diff(until)


Distance = Callable[[Values, Values], float]
"""Of the values of a day, the second, from those of a reference."""


def histogram_divergence(histogram: str) -> Distance:
    """TFDV's Jensen-Shannon divergence, of histograms cut at the edges of both as if values lay evenly in buckets."""

    def distance(reference: Values, day: Values) -> float:
        pair = [getattr(values, histogram) for values in (reference, day)]
        cuts = np.unique(np.concatenate([edges for edges, _ in pair]))
        points = np.unique(np.concatenate([edges[1:][np.diff(edges) == 0] for edges, _ in pair]))
        aligned = []
        for edges, counts in pair:
            is_point = np.diff(edges) == 0
            different, first = np.unique(edges, return_index=True)
            until = np.append(0, np.where(is_point, 0, counts).cumsum())[first]
            at_points = [counts[is_point & (edges[1:] == point)].sum() for point in points]
            aligned.append([*np.diff(np.interp(cuts, different, until)), *at_points])
        # Infinite values of the one are never those of the other.
        return _divergence([*aligned[0], reference.infinite, 0], [*aligned[1], 0, day.infinite])

    return distance


def _divergence(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return float(np.nan_to_num(jensenshannon(ours, theirs, 2.0))) ** 2


def normed_wasserstein(reference: Values, day: Values) -> float:
    """Evidently's, in standard deviations of the reference."""
    (ours, our_counts), (theirs, their_counts) = reference.different, day.different
    return float(wasserstein_distance(ours, theirs, our_counts, their_counts)) / max(reference.deviation, 0.001)


def kolmogorov_smirnov(reference: Values, day: Values) -> float:
    values, counts = day.different
    until = counts.cumsum() / counts.sum()
    # The reference's share rises between the day's values, so that the largest difference is beside one of them.
    below, at = (np.searchsorted(reference.sorted, values, side) / len(reference.sorted) for side in ("left", "right"))
    return float(max(np.abs(at - until).max(), np.abs(below - np.append(0, until[:-1])).max()))


def _shares(reference: Values, day: Values) -> tuple[np.ndarray, np.ndarray]:
    names = sorted({*reference.counts, *day.counts})
    counts = [np.array([values.counts.get(name, 0) for name in names], np.float64) for values in (reference, day)]
    return counts[0] / counts[0].sum(), counts[1] / counts[1].sum()


def largest_difference(reference: Values, day: Values) -> float:
    """TFDV's L-infinity distance."""
    ours, theirs = _shares(reference, day)
    return float(np.abs(ours - theirs).max())


def jensen_shannon_distance(reference: Values, day: Values) -> float:
    """Evidently's, the root of the divergence."""
    return math.sqrt(_divergence(*_shares(reference, day)))


def chi_square(reference: Values, day: Values) -> float:
    """The root of the statistic of chi-square by row, 0 to 1, as if there were as many rows in the reference."""
    ours, theirs = _shares(reference, day)
    return math.sqrt(((ours - theirs) ** 2 / (ours + theirs)).sum() / 2)
