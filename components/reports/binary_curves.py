"""What an evaluation's report shows of probabilities of a label that is 0 or 1: curves of quality and calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from components.measures.scores import by_probability, calibration_bins, mean
from components.reports.pictures import GREY, picture, style, titled

MOST_POINTS = 2000
"""Of a curve; more are not seen."""


def html(labels: np.ndarray, predictions: Mapping[str, np.ndarray], weights: np.ndarray | None) -> str:
    """ROC, precision-recall and calibration curves.

    Args:
      labels: 0 or 1, [rows], both present.
      predictions: Probabilities by model, each [rows].
      weights: [rows], or None.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    roc, pr, calibration = figure.subplots(1, 3)
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    pr.axhline(mean(labels, weights), color=GREY, lw=1, ls="--")
    most = 0.0
    for model, values in predictions.items():
        hits, misses = (_above(counts) for counts in by_probability(labels, values, weights))
        roc.plot(np.r_[0, misses / misses[-1]], np.r_[0, hits / hits[-1]], lw=1.8, **style(model))
        pr.plot(hits / hits[-1], hits / np.maximum(hits + misses, np.finfo(float).tiny), lw=1.8, **style(model))
        bins = calibration_bins(labels, values, weights=weights)
        calibration.plot(bins[:, 0], bins[:, 1], marker="o", ms=4, lw=1.8, **style(model))
        most = max(most, bins[:, :2].max())
    titled(roc, "ROC", "false positive rate", "true positive rate")
    titled(pr, "Precision and recall", "recall", "precision")
    titled(calibration, "Calibration, bins of equal rows", "mean prediction", "share of label 1")
    for axes in (roc, pr):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    calibration.set(xlim=(0, min(1, most * 1.1)), ylim=(0, min(1, most * 1.1)))
    return picture(figure, "ROC, precision-recall and calibration curves")


def _above(counts: np.ndarray) -> np.ndarray:
    """Rows at or above some thresholds, from the highest one down, of counts at rising ones."""
    totals = np.cumsum(counts[::-1])
    if len(totals) <= MOST_POINTS:
        return totals
    return totals[np.linspace(0, len(totals) - 1, MOST_POINTS).astype(int)]
