"""Slices of an interval's rows: the values of a column as codes, and figures of a model by value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.tasks import Task

CANDIDATE, CHAMPION = "candidate", "baseline"
"""Models by the names that TensorFlow Model Analysis has for them."""
COUNT, MEAN_LABEL = "example_count", "mean_label"
MOST_VALUES = 100
"""Values of a column that are measured, those of the most rows."""
Slice = tuple[tuple[str, str], ...]
"""Which rows: (column, value) pairs; () is all of them."""
Figures = Mapping[Slice, Mapping[str, float]]
"""Figures by slice and name; NaN where one is not defined."""


@dataclass(frozen=True)
class Slices:
    """The values of one column.

    Args:
      names: Values as text, in any order.
      codes: Place of each row's value in `names`, int32 [rows].
    """

    names: tuple[str, ...]
    codes: np.ndarray

    def by_size(self) -> Iterator[tuple[str, np.ndarray]]:
        """Values that have rows, with the places of those in their order; the values of the most rows first."""
        order = np.argsort(self.codes, kind="stable").astype(np.int32)
        ends = np.searchsorted(self.codes[order], np.arange(len(self.names) + 1))
        sizes = np.diff(ends)
        for code in np.argsort(-sizes, kind="stable"):
            if sizes[code]:
                yield self.names[code], order[ends[code] : ends[code + 1]]


def figures(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray | None,
    slices: Mapping[str, Slices],
) -> Figures:
    """Measures a model on all rows, and on those of each value of each column.

    Args:
      task: Whose metrics and figures are measured.
      labels: Encoded, [rows].
      predictions: [rows] or [rows, outputs].
      weights: [rows], or None.
      slices: By column.
    """
    values = {name: metric.value for name, metric in task.metrics.items()}
    values |= {name: value for name, (_, value) in task.figures.items()}
    by_slice: dict[Slice, Mapping[str, float]] = {}
    for key, rows in _rows(len(labels), slices):
        of_rows = None if weights is None else weights[rows]
        measured = {name: value(labels[rows], predictions[rows], of_rows) for name, value in values.items()}
        by_slice[key] = {COUNT: float(len(labels[rows])), **measured}
    return by_slice


def record(task: Task, candidate: Figures, champion: Figures | None = None) -> dict[str, Any]:
    """What `slices.json` holds: titles of the figures, and of each slice the rows and both models' figures.

    Args:
      task: Whose metrics and figures were measured.
      candidate: Its figures.
      champion: Its figures; None where it was not measured.
    """
    columns = {name: metric.title for name, metric in task.metrics.items()}
    columns |= {name: title for name, (title, _) in task.figures.items()}
    rows = []
    for key in sorted(candidate, key=lambda key: (len(key), key)):
        row = {"slice": [list(pair) for pair in key], "count": int(candidate[key][COUNT])}
        row |= {"figures": _finite(candidate[key], columns)}
        if champion is not None and key in champion:
            row |= {"champion": _finite(champion[key], columns)}
        rows.append(row)
    return {"columns": columns, "rows": rows}


def _finite(measured: Mapping[str, float], names: Iterable[str]) -> dict[str, float | None]:
    """JSON has no NaN: a figure that is not defined is null."""
    return {name: float(measured[name]) if math.isfinite(measured[name]) else None for name in names}


def _rows(count: int, slices: Mapping[str, Slices]) -> list[tuple[Slice, slice | np.ndarray]]:
    parts: list[tuple[Slice, slice | np.ndarray]] = [((), slice(0, count))]
    for column, values in slices.items():
        parts += [(((column, name),), rows) for name, rows in itertools.islice(values.by_size(), MOST_VALUES)]
    return parts
