"""Scores of predictions against labels, on NumPy: what training, gates and reports need without a framework.

Weights are float [rows], 0 or more; None weighs all rows the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 in logarithms, as Keras and TensorFlow Model Analysis do."""


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Weighted mean of values [rows]; NaN when there are no rows, or only rows of weight 0."""
    if weights is None:
        return float(np.mean(values)) if len(values) else float("nan")
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total else float("nan")


def log_losses(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Binary cross-entropy of each row in nats, float64 [rows]."""
    losses, is_one = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP), labels == 1
    # In place: of a million rows each array that a formula makes on its way is 8 MB.
    np.log(losses, out=losses, where=is_one)
    np.negative(losses, out=losses)
    np.log1p(losses, out=losses, where=~is_one)
    np.negative(losses, out=losses, where=~is_one)
    return losses


def log_loss(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean binary cross-entropy in nats; NaN when there are no rows."""
    return mean(log_losses(labels, probability), weights)


def class_log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, float64 [rows], of class indices [rows] and probabilities [rows, classes]."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.clip(of_label, CLIP, 1))


def pinball_losses(labels: np.ndarray, predictions: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Pinball loss of each row, mean over the quantiles, float64 [rows].

    Args:
      labels: Values, [rows].
      predictions: [rows, quantiles].
      quantiles: Between 0 and 1, [quantiles].
    """
    total = np.zeros(len(labels))
    for place, level in enumerate(quantiles):
        error = labels - predictions[:, place].astype(np.float64)
        total += np.maximum(level * error, (level - 1) * error)
    return total / len(quantiles)


def roc_auc(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area under the ROC curve, ties counted half; NaN when a class has no rows."""
    positives, negatives = by_probability(labels, probability, weights)
    pairs = positives.sum() * negatives.sum()
    if not pairs:
        return float("nan")
    # Of equal probabilities half the pairs count as ordered rightly (Mann-Whitney).
    below = np.cumsum(negatives)
    below -= np.divide(negatives, 2, out=negatives)
    below *= positives
    return float(below.sum() / pairs)


def average_precision(labels: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area under the precision-recall curve, as the mean of the precisions by recall; NaN without rows of label 1."""
    positives, negatives = (counts[::-1] for counts in by_probability(labels, probability, weights))
    total = positives.sum()
    if not total:
        return float("nan")
    hits, reported = np.cumsum(positives), np.cumsum(negatives)
    reported += hits
    np.divide(hits, reported, out=hits, where=reported > 0)
    hits *= positives
    return float(hits.sum() / total)


def by_probability(
    labels: np.ndarray, probability: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of label 1 and of label 0, or their weight, at each distinct probability, rising; float64 [distinct]."""
    ranks, groups = ranked(probability)

    def counts(chosen: np.ndarray) -> np.ndarray:
        of_rows = None if weights is None else weights[chosen]
        return np.bincount(ranks[chosen], of_rows, groups).astype(np.float64)

    is_one = labels == 1
    return counts(is_one), counts(~is_one)


def ranked(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Place of each value among the distinct ones, rising from 0, int32 [rows], and how many these are.

    As `np.unique` with its inverse, in half the memory.
    """
    order = np.argsort(values, kind="stable")
    ordered, is_new = values[order], np.zeros(len(values), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    del ordered
    ranks = np.empty(len(values), np.int32)
    ranks[order] = np.cumsum(is_new, dtype=np.int32)
    return ranks, int(is_new.sum()) + 1 if len(values) else 0


def calibration_bins(
    labels: np.ndarray, probability: np.ndarray, bins: int = 10, weights: np.ndarray | None = None
) -> np.ndarray:
    """Bins of equal numbers of rows, in the order of the probability.

    Returns:
      float64 [bins, 3]: mean probability, share of label 1, rows (or their weight); fewer bins where there are fewer
      rows. Rows of weight 0 alone make no bin.
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part) and (weights is None or weights[part].sum())]
    rows = []
    for part in parts:
        of_part = None if weights is None else weights[part]
        size = len(part) if of_part is None else of_part.sum()
        rows.append((mean(probability[part], of_part), mean(labels[part], of_part), size))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def expected_calibration_error(
    labels: np.ndarray, probability: np.ndarray, bins: int = 10, weights: np.ndarray | None = None
) -> float:
    """Mean distance of a bin's probability from its share of label 1, weighted by rows; NaN when there are no rows."""
    rows = calibration_bins(labels, probability, bins, weights)
    if not len(rows):
        return float("nan")
    return float(np.average(np.abs(rows[:, 0] - rows[:, 1]), weights=rows[:, 2]))
