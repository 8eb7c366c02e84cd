"""Metrics that are a mean over rows: value and gain of a loss of each row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from components.measures import paired, scores
from components.tasks.task import Metric

Losses = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A loss of each row, float64 [rows], of encoded labels [rows] and predictions [rows] or [rows, outputs]."""


def mean_metric(
    title: str,
    losses: Losses,
    margin: float,
    *,
    higher_is_better: bool = False,
    relative: bool = False,
    unit: str = "",
) -> Metric:
    """The metric that is the mean of a loss of each row, or 1 less that mean.

    Args:
      title: As of `Metric`.
      losses: Of the rows; a candidate gains by how much its mean is lower.
      margin: As of `Metric`.
      higher_is_better: Whether it is 1 less the mean, such as the accuracy, whose losses are 0 and 1.
      relative: As of `Metric`.
      unit: As of `Metric`.
    """

    def value(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> float:
        mean = scores.mean(losses(labels, predictions), weights)
        return 1 - mean if higher_is_better else mean

    def gain(
        labels: np.ndarray, candidate: np.ndarray, other: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None
    ) -> paired.Gain:
        return paired.MeanGain.of(losses(labels, candidate), losses(labels, other), blocks, weights)

    return Metric(title, value, gain, higher_is_better, margin, relative=relative, unit=unit, losses=losses)
