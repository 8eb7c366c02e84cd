"""Correcting probabilities on rows that were not fitted: the logit is scaled, and shifted."""

from __future__ import annotations

import numpy as np

from airtight.parameters import check_choice

KINDS = ("none", "scale", "scale_and_shift")
CLIP = 1e-6
"""A probability is held this far from 0 and 1 before its logit is taken, here and in the exported model."""
STEPS = 25
SCALES = (0.1, 10.0)
"""A scale outside turns the order round or ran away: it is no calibration."""


def fit(labels: np.ndarray, probability: np.ndarray, kind: str) -> tuple[float, float]:
    """The scale and shift of least log loss (logistic regression on the logit, Newton's method).

    Args:
      labels: 0 or 1, [rows].
      probability: What the network said of them, [rows].
      kind: "none" leaves all as it is, "scale" keeps the shift at 0, "scale_and_shift" fits both.

    Returns:
      (scale, shift); (1, 0) where there is nothing to fit.

    Raises:
      TerminalError: Another kind.
    """
    check_choice("calibrate", kind, KINDS)
    if kind == "none" or len(np.unique(labels)) < len((0, 1)):
        return 1.0, 0.0
    columns = np.stack([_logit(probability), np.ones(len(labels))], axis=1)[:, : 1 if kind == "scale" else 2]
    weights = np.array([1.0, 0.0])[: columns.shape[1]]
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-columns @ weights))
        gradient = columns.T @ (p - labels)
        # A pinch of ridge keeps the step finite when the labels are perfectly told apart.
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + 1e-3 * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, gradient)
    scale, shift = float(weights[0]), float(weights[1]) if kind == "scale_and_shift" else 0.0
    return (scale, shift) if SCALES[0] < scale < SCALES[1] and np.isfinite(shift) else (1.0, 0.0)


def apply(probability: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """The corrected probabilities, [rows]."""
    return 1 / (1 + np.exp(-(scale * _logit(probability) + shift)))


def _logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    return np.log(p) - np.log1p(-p)
