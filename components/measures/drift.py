"""How one set of rows differs from another, feature by feature: measures of drift on NumPy and SciPy.

Evidently was tried for this: it drops missing values before it compares, tells nothing of new categories, and its page
of 7 MB needs 9 s and JavaScript. The measures are a few lines on SciPy, and here missing is a value like any other.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from components.schema import Feature

BINS = 10
"""Bins of a number: tenths of the reference's rows. Of a category: its most frequent values, and one for all others."""
FLOOR = 1e-4
"""Share at which an empty bin counts in the population stability index, which would be infinite."""
MISSING = "missing"
OTHERS = "others"
_TOLD = 5


@dataclass(frozen=True)
class Drift:
    """How far one feature moved from the reference to the interval.

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

    @property
    def missing_shift(self) -> float:
        """How much the share of missing values changed."""
        return abs(self.missing[1] - self.missing[0])


def measure(feature: Feature, reference: np.ndarray, interval: np.ndarray) -> Drift:
    """Compares one feature.

    Args:
      feature: What the values are.
      reference: float32 [rows] with NaN for missing, or object [rows] of str with "" for missing; at least one row.
      interval: The same of the interval.

    Returns:
      All measures; distances are NaN where one side has no value at all.
    """
    return (
        _number(feature, reference, interval) if feature.kind == "number" else _category(feature, reference, interval)
    )


def in_words(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_TOLD]) + (f" and {len(names) - _TOLD} more" if len(names) > _TOLD else "")


def psi(reference: np.ndarray, interval: np.ndarray) -> float:
    """Population stability index of two vectors of shares, shape [bins]; empty bins count as `FLOOR`."""
    p, q = np.maximum(reference, FLOOR), np.maximum(interval, FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


def sampling_noise(bins: int, reference_rows: int, interval_rows: int) -> float:
    """A bound that psi exceeds in about 1 of 100 cases though nothing changed.

    Without drift, psi / (1/n + 1/m) has about a chi-squared distribution with bins - 1 degrees of freedom; its 99 %
    quantile is Wilson and Hilferty's.
    """
    freedom = max(1, bins - 1)
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + 2.326 * math.sqrt(spread)) ** 3
    return quantile * (1 / reference_rows + 1 / interval_rows)


def _number(feature: Feature, reference: np.ndarray, interval: np.ndarray) -> Drift:
    old, new = reference[~np.isnan(reference)].astype(np.float64), interval[~np.isnan(interval)].astype(np.float64)
    edges = np.unique(np.quantile(old, np.linspace(0, 1, BINS + 1)[1:-1])) if len(old) else np.empty(0)

    def shares(values: np.ndarray, rows: int) -> np.ndarray:
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        return np.append(counts, rows - len(values)) / rows

    distances = {"KS": math.nan, "Wasserstein": math.nan}
    if len(old) and len(new):
        distances["KS"] = _ks(old, new)
        # Of a reference that never varies, any move is infinitely far.
        moved = float(wasserstein_distance(old, new))
        distances["Wasserstein"] = moved / float(old.std()) if old.std() > 0 else (math.inf if moved else 0.0)
    found = _Shares((*_ranges(edges), MISSING), shares(old, len(reference)), shares(new, len(interval)))
    return _drift(feature, found, (len(reference), len(interval)), distances)


def _category(feature: Feature, reference: np.ndarray, interval: np.ndarray) -> Drift:
    old, new = Counter(reference.tolist()), Counter(interval.tolist())
    # The most frequent first, then by name: the same rows give the same bins.
    known = sorted((value for value in old if value), key=lambda value: (-old[value], value))
    unseen = sorted((value for value in new if value and value not in old), key=lambda value: (-new[value], value))
    bins = known[:BINS]

    def shares(counts: Counter[str], rows: int) -> np.ndarray:
        of_bins = [counts[value] for value in bins]
        return np.array([*of_bins, rows - sum(of_bins) - counts[""], counts[""]]) / rows

    every = sorted({*old, *new})
    whole = [np.array([counts[value] for value in every], dtype=np.float64) for counts in (old, new)]
    distances = {"Jensen-Shannon": float(jensenshannon(whole[0], whole[1], base=2))}
    found = _Shares((*bins, OTHERS, MISSING), shares(old, len(reference)), shares(new, len(interval)))
    share = sum(new[value] for value in unseen) / len(interval)
    return _drift(feature, found, (len(reference), len(interval)), distances, tuple(unseen), share)


class _Shares(NamedTuple):
    bins: tuple[str, ...]
    reference: np.ndarray
    interval: np.ndarray


def _drift(
    feature: Feature,
    found: _Shares,
    rows: tuple[int, int],
    distances: dict[str, float],
    new: tuple[str, ...] = (),
    new_share: float = 0.0,
) -> Drift:
    used = int(np.count_nonzero(found.reference + found.interval))
    missing = (float(found.reference[-1]), float(found.interval[-1]))
    moved = psi(found.reference, found.interval)
    return Drift(feature, *found, moved, sampling_noise(used, *rows), distances, missing, new, new_share)


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
