"""Figures of a batch of predictions, collected a few rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.measures.sample import Sample
from components.schema import ExampleSchema
from components.tasks import task_of

BINS = 20
MOST_TEXTS = 1000
_COLUMN = "score"


class PredictionFigures:
    """How predictions are spread, of each label: by the one value a row that its task compares them by.

    Args:
      schema: Of the examples.
      outputs: The model's, by name.
    """

    def __init__(self, schema: ExampleSchema, outputs: Sequence[str]) -> None:
        self._task, self._outputs = task_of(schema), list(outputs)
        self._spreads = {label: _Spread() for label in schema.labels}
        self._texts: dict[str, Counter[str]] = {}
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """The next rows, with the model's outputs as columns."""
        if not table.num_rows:
            return
        self.rows += table.num_rows
        predictions = self._task.predictions({name: output_array(table[name]) for name in self._outputs})
        for label, spread in self._spreads.items():
            own = self._task.predictions_of(label, predictions)
            spread.add(np.asarray(self._task.parts[label].score(own), np.float64))
        for name in self._outputs:
            if pa.types.is_string(table[name].type):
                texts = self._texts.setdefault(name, Counter())
                texts.update({row["values"]: row["counts"] for row in pc.value_counts(table[name]).to_pylist()})
                self._texts[name] = Counter(dict(texts.most_common(MOST_TEXTS)))

    def summary(self) -> dict[str, Any]:
        """Mean, percentiles and histogram of the finite values; numbers of no rows are None.

        Percentiles and histogram are those of all rows up to a million, and beyond of a part of them. Of several labels
        they are those of the first, and `labels` has those of each by name.
        """
        by_label = {label: spread.summary(self.rows) for label, spread in self._spreads.items()}
        return {
            **next(iter(by_label.values())),
            **({"labels": by_label} if len(by_label) > 1 else {}),
            "texts": {name: dict(counts.most_common()) for name, counts in self._texts.items()},
        }


class _Spread:
    """How values are spread."""

    def __init__(self) -> None:
        self._sample, self._sum, self._finite = Sample(), 0.0, 0

    def add(self, scores: np.ndarray) -> None:
        finite = scores[np.isfinite(scores)]
        self._sum, self._finite = self._sum + float(finite.sum()), self._finite + len(finite)
        self._sample.add({_COLUMN: finite})

    def summary(self, rows: int) -> dict[str, Any]:
        values = self._sample[_COLUMN]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        spread = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        counts, edges = np.histogram(values, bins=BINS, range=spread)
        numbers: list[float | None] = [None] * 4
        if len(values):
            mean = self._sum / self._finite
            numbers = [float(f"{v:.6g}") for v in (mean, *np.percentile(values, [5, 50, 95]))]
        return {
            **dict(zip(("mean", "p5", "p50", "p95"), numbers, strict=True)),
            "not_finite": rows - self._finite,
            "edges": [float(f"{edge:.6g}") for edge in edges],
            "counts": counts.tolist(),
        }


def output_array(column: pa.ChunkedArray) -> np.ndarray:
    """An output, [rows] or [rows, values]."""
    if pa.types.is_list(column.type):
        flat: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), -1)
    values: np.ndarray = column.to_numpy()
    return values
