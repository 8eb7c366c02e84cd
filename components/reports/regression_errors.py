"""What an evaluation's report shows of predicted numbers: their errors, made of aggregates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.measures import paired
from components.measures.comparison import Rows
from components.measures.scores import mean
from components.reports.pictures import GREY, picture, style, titled
from components.tasks.regression import point

BINS = 40
"""Of errors: half of them on each side of 0."""
GROUPS = 20
"""Of rows in the order of the prediction."""
TAIL = 0.01
"""Share of the largest errors that the histogram adds to its last bins."""


def html(quantiles: Sequence[float], rows: Rows, predictions: Mapping[str, np.ndarray]) -> str:
    """Histogram of errors, actual values by predicted ones, coverage of quantiles, error over time.

    Args:
      quantiles: Of the predictions; () for a mean.
      rows: Labels, blocks and weights.
      predictions: By model, each [rows] or [rows, quantiles].
    """
    figure = Figure(figsize=(13, 8.4), layout="constrained")
    histogram, actual, coverage, time = figure.subplots(2, 2).flat
    points = {model: point(values, quantiles).astype(np.float64) for model, values in predictions.items()}
    errors = {model: values - rows.labels for model, values in points.items()}
    limit = max(float(np.quantile(np.abs(values), 1 - TAIL)) for values in errors.values()) or 1.0
    edges = np.linspace(-limit, limit, BINS + 1)
    blocks = paired.blocks_of(rows.units, rows.unit_name)
    weights = np.ones(len(rows.labels)) if rows.weights is None else rows.weights
    low, high = np.inf, -np.inf
    for model, values in points.items():
        counts, _ = np.histogram(np.clip(errors[model], -limit, limit), edges, weights=weights)
        histogram.stairs(100 * counts / weights.sum(), edges, lw=1.8, **style(model))
        groups = np.array_split(np.argsort(values, kind="stable"), min(GROUPS, len(values)))
        means = np.array(
            [[mean(column[group], weights[group]) for column in (values, rows.labels)] for group in groups]
        )
        actual.plot(means[:, 0], means[:, 1], marker="o", ms=4, lw=1.8, **style(model))
        low, high = min(low, np.nanmin(means)), max(high, np.nanmax(means))
        by_block = np.bincount(blocks.of_row, weights * np.abs(errors[model])) / np.bincount(blocks.of_row, weights)
        time.plot(np.arange(1, blocks.count + 1), by_block, marker="o", ms=3, lw=1.5, **style(model))
    actual.plot([low, high], [low, high], color=GREY, lw=1, ls="--")
    titled(histogram, f"Errors (the {TAIL:.0%} beyond are in the last bins)", "prediction - label", "% of rows")
    titled(actual, f"{GROUPS} groups of rows by their prediction", "mean prediction", "mean label")
    titled(time, f"Mean absolute error over {blocks.name}", f"{blocks.name} in the order of time", "MAE")
    time.set(ylim=(0, None))
    _coverage(coverage, quantiles, rows, predictions)
    return picture(figure, "Errors, actual by predicted values, coverage, error over time")


def _coverage(axes: Axes, quantiles: Sequence[float], rows: Rows, predictions: Mapping[str, np.ndarray]) -> None:
    if not quantiles:
        axes.set_axis_off()
        return
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for model, values in predictions.items():
        below = [mean(rows.labels <= values[:, place], rows.weights) for place in range(len(quantiles))]
        axes.plot(quantiles, below, marker="o", ms=5, lw=1.5, **style(model))
    titled(axes, "Coverage", "quantile", "share of labels up to it")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
