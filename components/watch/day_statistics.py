"""Figures of a day's summary, by which it is compared with the days before: shares, quantiles and distances.

Of a pipeline with several sources also what each differs from the others on the same day.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.watch.day_summary import Categories, DaySummary, Numbers
from components.watch.source_sums import Sums, differences

MISSING, NON_FINITE, NEW, VOLUME, CODE = "missing", "non-finite", "new", "rows", "code"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 30
"""Of the past's rows, by which the distance of numbers is measured."""
TOP = 5
"""Values of a category whose shares are figures of their own: the most frequent ones of the past."""
_SHAPE, _DISTANCE, _RISE = "shape", "distance", "rise"
_ATOM = 0.2
"""Share of the past's rows in one bucket from which on a quantile that lies in it is no figure."""
_AT = "at "
"""With a source after it: what its mean differs from that of the others."""
_CODES = 10
"""A bucket of fewer rows of the past, in parts per thousand, is a new code when it fills up."""

Key = tuple[str, str]
"""A feature and the name of a figure; "" for the rows of the day."""


def pooled(past: Sequence[DaySummary]) -> DaySummary:
    """The past days as one summary; at least one day."""
    return past[-1].merged(*past[:-1])


def statistics(day: DaySummary, pool: DaySummary) -> dict[Key, float]:
    """Figures of a day; those that it has no values for are missing.

    Args:
      day: The day.
      pool: The days before, as one.
    """
    figures: dict[Key, float] = {("", VOLUME): float(np.log(max(1, day.rows)))}
    for name, numbers in day.numbers.items():
        figures |= {(name, key): value for key, value in _of_numbers(numbers, pool.numbers.get(name)).items()}
    for name, categories in day.categories.items():
        known = pool.categories.get(name)
        figures |= {(name, key): value for key, value in _of_categories(categories, known, day.rows).items()}
    for name, numbers in day.predicted.items():
        # Those of a broken feed are none of a model's: what it predicts is no fault of the data.
        shape = _of_numbers(numbers, pool.predicted.get(name))
        figures |= {(name, key): value for key, value in shape.items() if key not in (MISSING, NON_FINITE, CODE)}
    for name in day.numbers if day.sources else ():
        figures |= {(name, key): value for key, value in _of_sources(name, day, pool.numbers.get(name)).items()}
    return figures


def of_source(key: Key) -> str:
    """The source that a figure compares with the others; "" of other figures."""
    return key[1].removeprefix(_AT) if key[1].startswith(_AT) else ""


def floor(key: Key, rows: int) -> float:
    """A change of a figure that is too small to matter, or that chance alone makes of so many rows."""
    if key[1] in {*map(_quantile_name, QUANTILES)}:
        return 0.05
    if key[1] == VOLUME:
        return 0.02
    chance = 1.0 / max(1, rows) ** 0.5 * (0.5 if key[1] == _SHAPE else 0.1)
    return chance + (0.001 if key[1] in {CODE, _RISE} else 0.005)


def _of_numbers(numbers: Numbers, pool: Numbers | None) -> dict[str, float]:
    rows = numbers.there + numbers.missing + numbers.non_finite
    if not rows:
        return {}
    figures = {MISSING: numbers.missing / rows, NON_FINITE: numbers.non_finite / rows}
    if not numbers.there or pool is None or not pool.there:
        return figures
    values, counts = numbers.histogram()
    past_values, past_counts = pool.histogram()
    # Quantiles in units of the past's spread, so that one floor fits all.
    (middle,), spread = quantiles(past_values, past_counts, (0.5,)), _spread(past_values, past_counts)
    usual = quantiles(past_values, past_counts, QUANTILES)
    for share, value, before in zip(QUANTILES, quantiles(values, counts, QUANTILES), usual, strict=True):
        # A quantile within a value that many rows share stays or jumps; the shape tells how many they are.
        if past_counts[past_values == before].sum() < _ATOM * pool.there:
            figures[_quantile_name(share)] = (value - middle) / spread
    edges = np.unique(quantiles(past_values, past_counts, np.linspace(0, 1, BINS + 1)[1:-1]))
    below, before = (
        np.bincount(np.searchsorted(edges, v), c, len(edges) + 1).cumsum() / c.sum()
        for v, c in ((values, counts), (past_values, past_counts))
    )
    # Kolmogorov and Smirnov's: a shift moves it more, and chance less, than the share of rows in other bins.
    figures[_DISTANCE] = float(np.abs(below - before).max())
    figures[CODE] = max(
        (count / rows for key, count in numbers.buckets.items() if pool.buckets[key] * 1000 < _CODES * pool.there),
        default=0.0,
    )
    return figures


def _of_sources(name: str, day: DaySummary, pool: Numbers | None) -> dict[str, float]:
    each = {source: sums.get(name, Sums()) for source, sums in sorted(day.sources.items())}
    judged = {source: sums for source, sums in each.items() if sums.is_judged}
    if pool is None or not pool.there:
        return {}
    spread = _spread(*pool.histogram())
    return {_AT + source: value / spread for source, value in differences(judged).items()}


def _of_categories(categories: Categories, pool: Categories | None, rows: int) -> dict[str, float]:
    there = categories.counts.total()
    total = max(rows, there + categories.missing)
    if not total:
        return {}
    figures = {MISSING: categories.missing / total}
    if pool is None or not pool.counts or not there:
        return figures
    figures[NEW] = 1 - categories.known(pool) / there
    if categories.hashed != pool.hashed:
        return figures
    past = pool.counts.total()
    frequent = sorted(pool.counts, key=lambda value: (-pool.counts[value], value))
    for value in frequent[:TOP]:
        figures[f"share of {value}"] = categories.counts[value] / there
    values = sorted({*categories.counts, *pool.counts})
    ours, theirs = (np.array([c[v] for v in values], np.float64) for c in (categories.counts, pool.counts))
    figures[_SHAPE] = _total_variation(ours / there, theirs / past)
    rises = ours / there - theirs / past
    figures[_RISE] = float(rises.max())
    return figures


def quantiles(values: np.ndarray, counts: np.ndarray, shares: Sequence[float] | np.ndarray) -> list[float]:
    """The values that shares of the rows do not exceed.

    Args:
      values: Rising, [buckets].
      counts: Rows of each, [buckets]; at least one row.
      shares: Between 0 and 1.
    """
    until = counts.cumsum()
    return [float(values[np.searchsorted(until, share * until[-1])]) for share in shares]


def _spread(values: np.ndarray, counts: np.ndarray) -> float:
    """What numbers are measured in: the range of most of the past's."""
    low, high = quantiles(values, counts, (0.05, 0.95))
    return (high - low) or float(np.abs(values).max()) or 1.0


def _quantile_name(share: float) -> str:
    return f"{share:.0%} quantile"


def _total_variation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Total variation: the share of rows that would have to move."""
    return float(np.abs(ours - theirs).sum() / 2)
