"""How one set of rows differs from another, feature by feature: measures of drift on NumPy and SciPy.

Evidently was tried for this: it drops missing values before it compares, tells nothing of new categories, and its page
of 7 MB needs 9 s and JavaScript. The measures are a few lines on SciPy, and here missing is a value like any other.
What they measure is collected a few rows at a time (`components.measures.profile`).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, norm, wasserstein_distance

from components.schema import Feature

BINS = 10
"""Bins of a number: tenths of the reference's rows. Of a category: its most frequent values, and one for all others."""
FLOOR = 1e-4
"""Share at which an empty bin counts in the population stability index, which would be infinite."""
MISSING = "missing"
OTHERS = "others"
MOST_CATEGORIES = 100_000
"""Different values of a category that are counted, at most; beyond, the rarest are forgotten."""
_SHOWN = 5


@dataclass(frozen=True)
class Drift:
    """How far one feature, or one aspect of it, moved from the reference to the interval.

    Args:
      feature: The feature.
      bins: What each bin holds, in words.
      reference: Share of the reference's rows in each bin.
      interval: Share of the interval's rows in each bin.
      psi: Population stability index over the bins: sum of (q - p) ln(q / p).
      noise: What psi stays below in 99 of 100 cases when nothing changed, by the number of rows alone.
      distances: Other measures by name: "KS" (largest gap of the distribution functions) and "Wasserstein" (in the
        reference's standard deviations) for a number, "Jensen-Shannon" (distance, base 2) for a category.
      missing: Share of missing values in reference and interval.
      new: The interval's categories that the reference never has, the most frequent first.
      new_share: Their share of the interval's rows.
      aspect: What of the feature is compared, such as "length" of a text; "" for its values themselves.
      shift: Of a vector, the largest move of a dimension's mean, in the reference's standard deviations.
      shift_noise: What it stays below in 99 of 100 cases when nothing changed.
    """

    feature: Feature
    bins: tuple[str, ...]
    reference: np.ndarray
    interval: np.ndarray
    psi: float
    noise: float
    distances: dict[str, float]
    missing: tuple[float, float]
    new: tuple[str, ...] = ()
    new_share: float = 0.0
    aspect: str = ""
    shift: float = 0.0
    shift_noise: float = 0.0

    @property
    def missing_shift(self) -> float:
        """How much the share of missing values changed."""
        return abs(self.missing[1] - self.missing[0])

    @property
    def name(self) -> str:
        """The feature's name, with the aspect."""
        return f"{self.feature.name} ({self.aspect})" if self.aspect else self.feature.name


class Numbers(NamedTuple):
    """Values of a number.

    Args:
      values: Those that are there, or a sample of them, float [values].
      rows: How many rows there are.
      missing: Of them without a value.
    """

    values: np.ndarray
    rows: int
    missing: int

    @classmethod
    def of(cls, column: np.ndarray, rows: int | None = None) -> Numbers:
        """Of a column, float [rows], NaN where missing, that is whole or a sample of so many rows."""
        values = column[~np.isnan(column)].astype(np.float64)
        every = len(column) if rows is None else rows
        return cls(values, every, every - round(len(values) * every / max(1, len(column))))


class Categories:
    """How often each value of a category is there; "" is a missing one. Many different ones are not all kept."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.counts: Counter[str] = Counter(values)
        self.rows = self.counts.total()
        self.forgotten = False

    def add(self, counts: Mapping[str, int]) -> None:
        """Counts of the next rows."""
        self.counts.update(counts)
        self.rows += sum(counts.values())
        if len(self.counts) > MOST_CATEGORIES:
            self.counts, self.forgotten = most_frequent(self.counts, MOST_CATEGORIES // 2), True


def most_frequent(counts: Mapping[str, int], most: int) -> Counter[str]:
    """The most frequent values, of equal ones those first by name, so that the same rows keep the same; "" stays.

    Args:
      counts: How often each value is there.
      most: Values at most.
    """
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "", -item[1], item[0]))
    return Counter(dict(ordered[:most]))


class Moments:
    """Sums of vectors, dimension by dimension."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def add(self, vectors: np.ndarray) -> None:
        """The next rows, float [rows, length]; those with a missing number do not count."""
        there = vectors[~np.isnan(vectors).any(axis=1)].astype(np.float64)
        self.rows += len(there)
        self._sum = self._sum + there.sum(axis=0)
        self._squares = self._squares + np.square(there).sum(axis=0)

    @property
    def mean(self) -> np.ndarray:
        """Of each dimension."""
        return np.asarray(self._sum) / max(1, self.rows)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of each dimension."""
        squares = np.asarray(self._squares) / max(1, self.rows)
        return np.sqrt(np.maximum(squares - np.square(self.mean), 0.0))


def measure(feature: Feature, reference: np.ndarray, interval: np.ndarray) -> Drift:
    """Compares one number or category.

    Args:
      feature: What the values are.
      reference: float32 [rows] with NaN for missing, or object [rows] of str with "" for missing; at least one row.
      interval: The same of the interval.

    Returns:
      All measures; distances are NaN where one side has no value at all.
    """
    if feature.kind == "number":
        return numbers(feature, Numbers.of(reference), Numbers.of(interval))
    return categories(feature, Categories(reference.tolist()), Categories(interval.tolist()))


def shift(reference: Moments, interval: Moments) -> tuple[float, float]:
    """The largest move of a dimension's mean in the reference's standard deviations, and its bound by chance alone."""
    if not reference.rows or not interval.rows:
        return 0.0, 0.0
    moved = np.abs(interval.mean - reference.mean)
    deviation = reference.deviation
    # Of a dimension that never varies, any move is infinitely far.
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(moved > 0, moved / deviation, 0.0)
    rows = math.sqrt(1 / reference.rows + 1 / interval.rows)
    return float(steps.max(initial=0.0)), float(norm.ppf(1 - 0.005 / max(1, len(steps)))) * rows


def in_words(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def psi(reference: np.ndarray, interval: np.ndarray) -> float:
    """Population stability index of two vectors of shares, shape [bins]; empty bins count as `FLOOR`."""
    p, q = np.maximum(reference, FLOOR), np.maximum(interval, FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


def sampling_noise(bins: int, reference_rows: int, interval_rows: int) -> float:
    """A bound that psi exceeds in about 1 of 100 cases though nothing changed.

    Without drift, psi / (1/n + 1/m) has about a chi-squared distribution with bins - 1 degrees of freedom.
    """
    return float(chi2.ppf(0.99, max(1, bins - 1))) * (1 / reference_rows + 1 / interval_rows)


def numbers(feature: Feature, reference: Numbers, interval: Numbers, aspect: str = "") -> Drift:
    """Compares the values of a number, or of an aspect that is one; at least one row each."""
    old, new = reference.values, interval.values
    edges = np.unique(np.quantile(old, np.linspace(0, 1, BINS + 1)[1:-1])) if len(old) else np.empty(0)

    def shares(side: Numbers) -> np.ndarray:
        counts = np.bincount(np.searchsorted(edges, side.values, side="left"), minlength=len(edges) + 1)
        there = side.rows - side.missing
        return np.append(counts * (there / max(1, len(side.values))), side.missing) / side.rows

    distances = {"KS": math.nan, "Wasserstein": math.nan}
    if len(old) and len(new):
        distances["KS"] = _ks(old, new)
        # Of a reference that never varies, any move is infinitely far.
        moved = float(wasserstein_distance(old, new))
        distances["Wasserstein"] = moved / float(old.std()) if old.std() > 0 else (math.inf if moved else 0.0)
    bins = (*_ranges(edges), MISSING)
    # Of a sample, chance is that of its rows.
    rows = [min(side.rows, len(side.values) + side.missing) for side in (reference, interval)]
    return _drift(feature, aspect, bins, (shares(reference), shares(interval)), (rows[0], rows[1]), distances)


def categories(
    feature: Feature,
    reference: Categories,
    interval: Categories,
    aspect: str = "",
    rows: tuple[int, int] | None = None,
    most: int = BINS,
) -> Drift:
    """Compares the values of a category, or of an aspect that has some.

    Args:
      feature: The feature.
      reference: The reference's values; at least one.
      interval: The interval's.
      aspect: What of the feature they are.
      rows: How many rows they come from, where that is not how many they are.
      most: Values that have a bin of their own.
    """
    old, new = reference.counts, interval.counts
    # The most frequent first, then by name: the same rows give the same bins.
    known = sorted((value for value in old if value), key=lambda value: (-old[value], value))
    # Of a reference that was not kept whole, nobody knows what it never had.
    unseen = [] if reference.forgotten else [value for value in new if value and value not in old]
    unseen.sort(key=lambda value: (-new[value], value))
    bins = known[:most]

    def shares(side: Categories) -> np.ndarray:
        of_bins = [side.counts[value] for value in bins]
        return np.array([*of_bins, side.rows - sum(of_bins) - side.counts[""], side.counts[""]]) / max(1, side.rows)

    every = sorted({*old, *new})
    whole = [np.array([counts[value] for value in every], dtype=np.float64) for counts in (old, new)]
    distances = {"Jensen-Shannon": float(jensenshannon(whole[0], whole[1], base=2))}
    share = sum(new[value] for value in unseen) / max(1, interval.rows)
    sides = (shares(reference), shares(interval))
    counted = rows or (reference.rows, interval.rows)
    return _drift(feature, aspect, (*bins, OTHERS, MISSING), sides, counted, distances, tuple(unseen), share)


def _drift(
    feature: Feature,
    aspect: str,
    bins: tuple[str, ...],
    shares: tuple[np.ndarray, np.ndarray],
    rows: tuple[int, int],
    distances: dict[str, float],
    new: tuple[str, ...] = (),
    new_share: float = 0.0,
) -> Drift:
    used = int(np.count_nonzero(shares[0] + shares[1]))
    missing = (float(shares[0][-1]), float(shares[1][-1]))
    noise = sampling_noise(used, *rows)
    return Drift(feature, bins, *shares, psi(*shares), noise, distances, missing, new, new_share, aspect)


def _ks(old: np.ndarray, new: np.ndarray) -> float:
    """The Kolmogorov-Smirnov statistic. Its p-value is left alone: of so many rows everything is significant."""
    every = np.concatenate([old, new])
    gaps = [np.searchsorted(np.sort(values), every, side="right") / len(values) for values in (old, new)]
    return float(np.abs(gaps[0] - gaps[1]).max())


def _ranges(edges: np.ndarray) -> tuple[str, ...]:
    """The bins of a number in words: (..., a], (a, b] ... (z, ...)."""
    if not len(edges):
        return ("all values",)
    between = (f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges))
    return (f"to {edges[0]:.4g}", *between, f"over {edges[-1]:.4g}")
