"""Correcting predictions on rows that were not fitted; `components.modelling.heads` applies what is fitted here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from airtight.parameters import check_choice
from components.measures import scores

KINDS = ("none", "scale", "scale_and_shift")
"""Kinds of calibration of a probability."""
CLIP = 1e-6
"""A probability is held this far from 0 and 1 before its logit is taken, here and in the exported model."""
STEPS = 25
SCALES = (0.1, 10.0)
"""Scales outside this range reverse the ranking or have diverged, so the fit is discarded; likewise temperatures."""


def fit(
    labels: np.ndarray, probability: np.ndarray, kind: str, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """The scale and shift of least log loss (logistic regression on the logit, Newton's method).

    Args:
      labels: 0 or 1, [rows].
      probability: Predicted for them, [rows].
      kind: "none" leaves all as it is, "scale" keeps the shift at 0, "scale_and_shift" fits both.
      weights: Of the rows, [rows]; None weighs all the same.

    Returns:
      (scale, shift); (1, 0) where there is nothing to fit.

    Raises:
      TerminalError: Another kind.
    """
    check_choice("calibrate", kind, KINDS)
    if kind == "none" or len(np.unique(labels)) < len((0, 1)):
        return 1.0, 0.0
    of_row = np.ones(len(labels)) if weights is None else weights / weights.mean()
    columns = np.stack([_logit(probability), np.ones(len(labels))], axis=1)[:, : 1 if kind == "scale" else 2]
    parameters = np.array([1.0, 0.0])[: columns.shape[1]]
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-columns @ parameters))
        gradient = columns.T @ (of_row * (p - labels))
        # A pinch of ridge keeps the step finite when the labels are perfectly separated.
        curvature = (columns * (of_row * p * (1 - p))[:, None]).T @ columns + 1e-3 * np.eye(len(parameters))
        parameters = parameters - np.linalg.solve(curvature, gradient)
    scale, shift = float(parameters[0]), float(parameters[1]) if kind == "scale_and_shift" else 0.0
    return (scale, shift) if SCALES[0] < scale < SCALES[1] and np.isfinite(shift) else (1.0, 0.0)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The temperature of least log loss: logarithms of probabilities [rows, classes] are divided by it."""
    logits = np.log(np.clip(probabilities.astype(np.float64), CLIP, 1))

    def loss(log_temperature: float) -> float:
        powers = np.exp(logits / np.exp(log_temperature))
        return scores.mean(scores.class_log_losses(labels, powers / powers.sum(axis=1, keepdims=True)), weights)

    bounds = tuple(np.log(SCALES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def fit_shift(
    labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None, quantiles: Sequence[float]
) -> list[float] | float:
    """What to add to predictions, so that their mean is right, or the level of each quantile.

    Args:
      labels: Values, [rows].
      predictions: [rows], or [rows, quantiles].
      weights: Of the rows, [rows]; None weighs all the same.
      quantiles: Levels of the quantiles, or none.

    Returns:
      A shift, or one for each quantile, in the label's unit.
    """
    if not quantiles:
        return scores.mean(labels - predictions, weights)
    errors = labels[:, None] - predictions
    return [
        float(np.quantile(errors[:, place], level, weights=weights, method="inverted_cdf"))
        for place, level in enumerate(quantiles)
    ]


def _logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    return np.log(p) - np.log1p(-p)
