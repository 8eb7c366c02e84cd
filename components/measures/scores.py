"""Scores of probabilities against labels, on NumPy: what training and reports need without a framework."""

from __future__ import annotations

import numpy as np

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 in logarithms, as Keras and TensorFlow Model Analysis do."""


def log_losses(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Binary cross-entropy of each row in nats, float64 [rows]."""
    p = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def log_loss(labels: np.ndarray, probability: np.ndarray) -> float:
    """Mean binary cross-entropy in nats; NaN when there are no rows."""
    return float(np.mean(log_losses(labels, probability))) if len(labels) else float("nan")


def roc_auc(labels: np.ndarray, probability: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN when a class has no rows."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, places, counts = np.unique(probability, return_inverse=True, return_counts=True)
    # The mean rank of each group of equal probabilities (Mann-Whitney).
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[places][labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_bins(labels: np.ndarray, probability: np.ndarray, bins: int = 10) -> np.ndarray:
    """Bins of equal numbers of rows, in the order of the probability.

    Returns:
      float64 [bins, 3]: mean probability, share of label 1, rows; fewer bins where there are fewer rows.
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    told = [(probability[part].mean(), labels[part].mean(), len(part)) for part in parts]
    return np.array(told, dtype=np.float64).reshape(-1, 3)


def expected_calibration_error(labels: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Mean distance of a bin's probability from its share of label 1, weighted by rows; NaN when there are no rows."""
    told = calibration_bins(labels, probability, bins)
    if not len(told):
        return float("nan")
    return float(np.average(np.abs(told[:, 0] - told[:, 1]), weights=told[:, 2]))
