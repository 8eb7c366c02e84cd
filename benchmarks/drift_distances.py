"""Distances of a column's values of a day from those of a reference, as other tools compute them.

As in the tools, missing values are left out; "" is a value of a category.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

_BUCKETS = 10
"""Of TFDV's histograms, by default."""


class Values:
    """Values of a column in some rows: different ones, and how often each is there.

    Args:
      numbers: Finite ones, rising, float [values].
      counts: Rows of each, [values].
      infinite: Rows with infinite numbers.
      categories: Rows by category.
    """

    def __init__(self, numbers: np.ndarray, counts: np.ndarray, infinite: int, categories: Counter[str]) -> None:
        self.numbers, self.counts, self.infinite, self.categories = numbers, counts, infinite, categories

    @classmethod
    def of(cls, column: pd.Series) -> Values:
        """Of rows; missing numbers are left out."""
        if column.dtype == object:
            return cls(np.empty(0), np.empty(0), 0, Counter(column.tolist()))
        values = column.to_numpy(np.float64)
        numbers, counts = np.unique(values[np.isfinite(values)], return_counts=True)
        return cls(numbers, counts, int(np.isinf(values).sum()), Counter())

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        """Of the rows of several."""
        numbers, places = np.unique(np.concatenate([part.numbers for part in parts]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([part.counts for part in parts]), len(numbers))
        categories: Counter[str] = Counter()
        for part in parts:
            categories.update(part.categories)
        return cls(numbers, counts, sum(part.infinite for part in parts), categories)

    @cached_property
    def until(self) -> np.ndarray:
        """Share of the rows that have each number or a smaller one, [values]."""
        return self.counts.cumsum() / self.counts.sum()

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the finite numbers."""
        mean = np.average(self.numbers, weights=self.counts)
        return math.sqrt(np.average((self.numbers - mean) ** 2, weights=self.counts))

    @cached_property
    def equal_width(self) -> tuple[np.ndarray, np.ndarray]:
        """TFDV's standard histogram: edges [buckets + 1], values of each bucket [buckets]; a point for a constant."""
        if len(self.numbers) == 1:
            return self.numbers[[0, 0]], self.counts
        counts, edges = np.histogram(self.numbers, _BUCKETS, weights=self.counts)
        return edges, counts

    @cached_property
    def equal_count(self) -> tuple[np.ndarray, np.ndarray]:
        """TFDV's histogram of quantiles, as `equal_width`; a value of many rows makes points."""
        places = np.searchsorted(self.until, np.linspace(0, 1, _BUCKETS + 1)[1:] - 1e-9)
        edges = self.numbers[np.append(0, places)]
        return edges, np.full(_BUCKETS, self.counts.sum() / _BUCKETS)


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
    distance = wasserstein_distance(reference.numbers, day.numbers, reference.counts, day.counts)
    return float(distance) / max(reference.deviation, 0.001)


def kolmogorov_smirnov(reference: Values, day: Values) -> float:
    """The largest difference of the cumulative shares."""
    # The reference's share rises between the day's values, so that the largest difference is beside one of them.
    until = np.append(0, reference.until)
    below, at = (until[np.searchsorted(reference.numbers, day.numbers, side)] for side in ("left", "right"))
    return float(max(np.abs(at - day.until).max(), np.abs(below - np.append(0, day.until[:-1])).max()))


def _shares(reference: Values, day: Values) -> tuple[np.ndarray, np.ndarray]:
    names = sorted({*reference.categories, *day.categories})
    counts = [np.array([values.categories[name] for name in names], np.float64) for values in (reference, day)]
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
