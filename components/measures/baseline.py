"""The floor of a model: what one feature alone predicts, fitted in NumPy on the rows before the interval."""

from __future__ import annotations

import numpy as np

BINS, BIN_ROWS = 64, 50
"""Quantile bins of a number, at most, and rows of one, at least; a missing number has a bin of its own."""
PRIOR_ROWS = 20.0
"""Rows at the overall rate that are added to each category or bin, so that a rare one says little."""


def predict(history: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Predicts the share of label 1 that rows of the same category, or of the same bin, had before.

    Args:
      history: The feature's values before the interval, [history rows]: strings, or numbers with NaN for missing.
      labels: 0 or 1, [history rows].
      rows: The feature's values to predict for, [rows].

    Returns:
      Probabilities, float64 [rows]; the overall share for a category that was not seen before.
    """
    if np.issubdtype(history.dtype, np.number):
        known = history[~np.isnan(history)]
        bins = min(BINS, len(known) // BIN_ROWS)
        edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if bins else np.zeros(0)
        history, rows = _bins(history, edges), _bins(rows, edges)
    values, codes = np.unique(np.concatenate([history, rows]), return_inverse=True)
    before, now = codes[: len(history)], codes[len(history) :]
    positives = np.bincount(before, labels, len(values)) + PRIOR_ROWS * labels.mean()
    return (positives / (np.bincount(before, minlength=len(values)) + PRIOR_ROWS))[now]


def _bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -1, np.searchsorted(edges, values))
