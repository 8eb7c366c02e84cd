"""Intervals of a model's own metrics: those of its gain over predictions that know the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from components.measures import paired
from components.measures.comparison import LABEL_BLOCKS
from components.tasks import Task


@dataclass(frozen=True)
class Figure:
    """A metric's value, and its bounds.

    Args:
      value: NaN where it is not defined.
      lower: One-sided bound, `paired.CONFIDENCE`; None where the rows have no interval.
      upper: Likewise.
    """

    value: float
    lower: float | None = None
    upper: float | None = None

    def to_json(self) -> list[float | None]:
        """Value, lower and upper bound; JSON has no NaN."""
        return [_finite(self.value), _finite(self.lower), _finite(self.upper)]


def figures(task: Task, labels: np.ndarray, predictions: np.ndarray, blocks: paired.Blocks) -> dict[str, Figure]:
    """The task's metrics with intervals by blocks, and its other figures without.

    A metric's gain over predictions that know the labels is its value but for a constant, so the gate's bootstrap of
    gains (`paired.interval`) is one of values, whatever the metric.

    Args:
      task: Whose metrics.
      labels: Encoded, [rows], in the order of time.
      predictions: [rows] or [rows, outputs].
      blocks: Of the rows.
    """
    measured = {name: Figure(value(labels, predictions, None)) for name, (_, value) in task.figures.items()}
    known = task.perfect(labels)
    for name, metric in task.metrics.items():
        value = metric.value(labels, predictions, None) if len(labels) else math.nan
        measured[name] = Figure(value)
        if not math.isfinite(value):
            continue
        gain = metric.gain(labels, predictions, known, blocks.of_row, None)
        bounds = paired.interval(gain, blocks.count) if gain.label_blocks >= min(LABEL_BLOCKS, blocks.count) else None
        if bounds is None:
            continue
        # The perfect value is what lacks to the gain: higher is better, or lower is.
        sign = 1 if metric.higher_is_better else -1
        best = value - sign * bounds.gain
        ends = sorted((best + sign * bounds.lower, best + sign * bounds.upper))
        measured[name] = Figure(value, *ends)
    return {name: measured[name] for name in (*task.metrics, *task.figures)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
