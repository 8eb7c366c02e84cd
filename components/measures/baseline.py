"""The floor of a model: what one feature alone predicts, fitted in NumPy on the rows before the interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS, BIN_ROWS = 64, 50
"""Quantile bins of a number, at most, and rows of one, at least; a missing number has a bin of its own."""
_PART = 1 << 16
PRIOR_ROWS = 20.0
"""Rows at the overall rate that are added to each category or bin, so that a rare one says little."""


def means(
    history: np.ndarray | None,
    targets: np.ndarray,
    rows: np.ndarray | None,
    count: int,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Predicts the mean that rows of the same category, or of the same bin, had before.

    Args:
      history: The feature's values before the interval, [history rows]: strings, or numbers with NaN for missing; None
        for no feature.
      targets: What is averaged, [history rows]; 0 and 1 give a share.
      rows: The feature's values to predict for, [count].
      count: How many rows to predict for.
      weights: Of the rows of `history`; None weighs all the same.

    Returns:
      float64 [count]; the overall mean where there is no feature, or for a category that was not seen before.
    """
    overall = targets.mean() if weights is None else np.average(targets, weights=weights)
    if history is None or rows is None:
        return np.full(count, overall)
    before, now, groups = _groups(history, rows)
    counted = np.ones(len(before)) if weights is None else weights
    total = np.bincount(before, counted * targets, groups) + PRIOR_ROWS * overall
    return (total / (np.bincount(before, counted, groups) + PRIOR_ROWS))[now]


def shares(
    history: np.ndarray | None,
    classes: np.ndarray,
    number: int,
    rows: np.ndarray | None,
    count: int,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Predicts the share that each class had of rows of the same category, or of the same bin, before.

    Args:
      history: As of `means`.
      classes: Of the rows of `history`, 0 to `number` - 1.
      number: How many classes there are.
      rows: As of `means`.
      count: As of `means`.
      weights: As of `means`.

    Returns:
      float64 [count, number], as `means` of each class.
    """
    overall = np.bincount(classes, weights, number)
    overall = overall / overall.sum()
    if history is None or rows is None:
        return np.tile(overall, (count, 1))
    before, now, groups = _groups(history, rows)
    counts = np.bincount(before * number + classes, weights, groups * number).reshape(groups, number)
    return ((counts + PRIOR_ROWS * overall) / (counts.sum(axis=1, keepdims=True) + PRIOR_ROWS))[now]


def quantiles(
    history: np.ndarray | None,
    targets: np.ndarray,
    rows: np.ndarray | None,
    count: int,
    levels: Sequence[float],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Predicts the quantiles that rows of the same category, or of the same bin, had before.

    Returns:
      float64 [count, levels], never crossing; the overall quantiles where there is no feature, or for a category of
      fewer than PRIOR_ROWS rows. Other arguments are as of `means`.
    """
    overall = weighted_quantiles(targets, levels, weights)
    if history is None or rows is None:
        return np.tile(overall, (count, 1))
    before, now, groups = _groups(history, rows)
    order = np.argsort(before, kind="stable")
    ends = np.searchsorted(before[order], np.arange(groups + 1))
    by_group = np.tile(overall, (groups, 1))
    for group in range(groups):
        part = order[ends[group] : ends[group + 1]]
        if len(part) >= PRIOR_ROWS and (weights is None or weights[part].sum() > 0):
            by_group[group] = weighted_quantiles(targets[part], levels, None if weights is None else weights[part])
    return by_group[now]


def weighted_quantiles(values: np.ndarray, levels: Sequence[float], weights: np.ndarray | None) -> np.ndarray:
    """Quantiles of values [rows], float64 [levels]."""
    if weights is None:
        return np.quantile(values, levels)
    return np.quantile(values, levels, weights=weights, method="inverted_cdf")


def _groups(history: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers of the categories, or bins, of the rows before and of those now, and how many there are."""
    if np.issubdtype(history.dtype, np.number):
        known = history[~np.isnan(history)]
        bins = min(BINS, len(known) // BIN_ROWS)
        edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if bins else np.zeros(0)
        return _bins(history, edges), _bins(rows, edges), len(edges) + 2
    values, codes = np.unique(np.concatenate([history, rows]), return_inverse=True)
    return codes[: len(history)], codes[len(history) :], len(values)


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bins of numbers, int32 [rows]; 0 where one is missing. In parts: what a search answers is twice as wide."""
    codes = np.empty(len(values), np.int32)
    for start in range(0, len(values), _PART):
        part = values[start : start + _PART]
        codes[start : start + _PART] = np.where(np.isnan(part), 0, np.searchsorted(edges, part) + 1)
    return codes
