"""The predictions of a day with what became of them, as they pass by, and how good they were.

What is kept of a row are its predictions (4 bytes each), labels (8 each), block (4), hash of its name (8), version (8),
and a code for each slice (4).
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airtight.interval import time_zone
from components.measures import paired
from components.measures.evaluation_rows import Codes
from components.measures.predictions import output_array
from components.measures.slices import MOST_VALUES, Slices
from components.measures.value_interval import figures
from components.schema import DAY as DAY_BLOCKS
from components.tasks import Task
from components.watch import late_labels as became
from components.watch.prediction_rows import AT, BESIDE, VERSION, Form

LEAST_ROWS = 20
"""Slices, versions and pairs of fewer labelled rows have no figures."""
_HOUR = 3_600_000_000
"""In microseconds, as instants are here."""


@dataclass(frozen=True)
class Pair:
    """Two versions on the same labelled rows of a day.

    Args:
      version: The one that answered.
      beside: The one that was asked beside it.
      metric: Whose losses they are, such as "log_loss".
      rows: How many both answered with predictions of the task's.
      difference: Mean loss of `version` less that of `beside` on them; 0 of fewer than `LEAST_ROWS`.
      variance: Of that mean, by blocks of rows; None of one block.
      wrong: Rows that are left out because what `version` answered, and it alone, is none of the task's, such as NaN.
      beside_wrong: Likewise of `beside` alone.
    """

    version: int
    beside: int
    metric: str
    rows: int
    difference: float
    variance: float | None
    wrong: int = 0
    beside_wrong: int = 0


class DayRows:
    """The rows of one local day.

    Args:
      day: ISO 8601.
      task: Of the labels.
      form: Of the rows; joined ones.
    """

    def __init__(self, day: str, task: Task, form: Form) -> None:
        self.day, self.task, self.form = day, task, form
        self.counts: Counter[str] = Counter()
        self._columns: dict[str, list[np.ndarray]] = {}
        self._codes = {name: Codes() for name in form.slices}
        self._last: int | None = None
        self._longest = 0

    def add(self, table: pa.Table) -> None:
        """The next rows, in the order of time."""
        if not table.num_rows:
            return
        beside = table[BESIDE].to_numpy(zero_copy_only=False)
        self._count(table.filter(pc.invert(table[BESIDE])))
        self.counts["beside"] += int(beside.sum())
        labelled = pc.equal(table[became.STATUS], became.LABELLED)
        is_labelled = labelled.to_numpy(zero_copy_only=False)
        encoded = self.task.labels(table.filter(labelled))
        labels = np.zeros((table.num_rows, *encoded.shape[1:]), encoded.dtype)
        labels[is_labelled] = encoded
        response = {name: output_array(table[name]) for name in self.form.outputs}
        kept = {
            "beside": beside,
            "labelled": is_labelled,
            "labels": labels,
            "predictions": np.asarray(self.task.predictions(response), np.float32),
            "version": table[VERSION].to_numpy(),
            "key": table[became.KEY].to_numpy(),
        }
        for name, values in kept.items():
            self._columns.setdefault(name, []).append(values)
        for name, codes in self._codes.items():
            codes.add(table[f"slice_{name}"])

    def _count(self, answers: pa.Table) -> None:
        self.counts["rows"] += answers.num_rows
        for row in pc.value_counts(answers[became.STATUS]).to_pylist():
            self.counts[row["values"]] += row["counts"]
        self.counts["corrected"] += pc.sum(answers[became.CORRECTED]).as_py() or 0
        if not answers.num_rows:
            return
        instants = answers[AT].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        before = _midnight(self.day, self.form.zone) if self._last is None else self._last
        self._longest = max(self._longest, int(np.diff(instants, prepend=before).max()))
        self._last = int(instants[-1])

    @property
    def gap_hours(self) -> float:
        """Hours of the longest time of the day in which nothing was answered; its ends count."""
        begin, end = (_midnight(self.day, self.form.zone, later) for later in (0, 1))
        return round(max(self._longest, end - (begin if self._last is None else self._last)) / _HOUR, 2)

    def column(self, name: str) -> np.ndarray:
        """A kept column, [rows, ...]; of no rows empty."""
        return np.concatenate(self._columns[name]) if name in self._columns else np.zeros(0)

    @property
    def answers(self) -> np.ndarray:
        """Places of the rows that were answers."""
        return np.flatnonzero(~self.column("beside").astype(bool))

    @property
    def judged(self) -> np.ndarray:
        """Places of the answers whose label is known."""
        return np.flatnonzero(self.column("labelled").astype(bool) & ~self.column("beside").astype(bool))

    def slices(self, places: np.ndarray) -> dict[str, Slices]:
        """The declared slices of some rows."""
        return {
            name: Slices(self._codes[name].names, self._codes[name].codes[places]) for name in self.form.schema.slices
        }

    def blocks(self, places: np.ndarray) -> paired.Blocks:
        """Blocks of some rows: of the schema's unit, or of a day runs of consecutive rows."""
        unit = self.form.schema.blocks
        if unit == DAY_BLOCKS:
            return paired.blocks_of(np.zeros(len(places), np.int32), "days")
        return paired.blocks_of(self._codes[unit].codes[places], f"values of {unit}")

    def figures(self) -> dict[str, Any]:
        """Figures of all answers, of each slice and version, as JSON: value, lower and upper bound by name."""
        judged = self.judged
        labels, predictions = self.column("labels"), self.column("predictions")
        wrong = self.task.wrong_predictions(predictions[judged]) if len(judged) else 0
        measured: dict[str, Any] = {"figures": {}, "slices": [], "versions": [], "not_finite": wrong}
        if wrong or not len(judged):
            return measured
        measured["blocks"] = str(self.blocks(judged))
        measured["figures"] = self._of(judged, labels, predictions)
        for column, values in self.slices(judged).items():
            # A column of one value is all rows again.
            parts = itertools.islice(values.by_size(), MOST_VALUES) if len(values.names) > 1 else ()
            for name, rows in parts:
                row = {"slice": [column, name], "rows": len(rows)}
                if len(rows) >= LEAST_ROWS:
                    row["figures"] = self._of(judged[rows], labels, predictions)
                measured["slices"].append(row)
        is_labelled, beside = (self.column(name).astype(bool) for name in ("labelled", "beside"))
        doubled = 2 * self.column("version") + beside
        for number in np.unique(doubled).tolist():
            rows = np.flatnonzero(is_labelled & (doubled == number))
            row = {"version": number // 2, "beside": bool(number % 2), "rows": len(rows)}
            if len(rows) >= LEAST_ROWS and not self.task.wrong_predictions(predictions[rows]):
                row["figures"] = self._of(rows, labels, predictions)
            measured["versions"].append(row)
        return measured

    def pairs(self) -> list[Pair]:
        """The versions that answered beside those that were asked beside them, on the rows of both.

        By the task's first metric that is a mean of losses; of several labels that is the first label's. Of a pair of
        fewer than `LEAST_ROWS` rows there is no mean, and no pair unless one of the two alone answered wrongly.
        """
        metric = next(((name, metric.losses) for name, metric in self.task.metrics.items() if metric.losses), None)
        judged = self.judged
        if metric is None or not len(judged):
            return []
        name, losses = metric
        labels, predictions, version = (self.column(column) for column in ("labels", "predictions", "version"))
        key, beside = self.column("key"), self.column("beside").astype(bool)
        wrong = self.task.wrong_rows(predictions)
        order = judged[np.argsort(key[judged], kind="stable")]
        made = []
        for other in np.unique(version[beside]).tolist():
            rows = np.flatnonzero(beside & (version == other) & self.column("labelled").astype(bool))
            places = np.searchsorted(key[order], key[rows]).clip(max=len(order) - 1)
            same = key[order[places]] == key[rows]
            theirs, ours = rows[same], order[places[same]]
            for own in np.unique(version[ours]).tolist():
                if own == other:
                    continue
                mine = version[ours] == own
                a, b = ours[mine], theirs[mine]
                counts = int((wrong[a] & ~wrong[b]).sum()), int((wrong[b] & ~wrong[a]).sum())
                right = ~(wrong[a] | wrong[b])
                a, b = a[right], b[right]
                if len(a) < LEAST_ROWS:
                    made += [Pair(own, other, name, len(a), 0.0, None, *counts)] if any(counts) else []
                    continue
                difference = losses(labels[a], predictions[a]) - losses(labels[b], predictions[b])
                gain = paired.MeanGain.of(np.zeros(len(a)), difference, self.blocks(a).of_row)
                estimate = paired.estimate(gain, len(gain.sums))
                variance = estimate.error**2 if estimate else None
                made.append(Pair(own, other, name, len(a), float(difference.mean()), variance, *counts))
        return made

    def _of(self, rows: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> dict[str, list[float | None]]:
        measured = figures(self.task, labels[rows], predictions[rows], self.blocks(rows))
        return {name: figure.to_json() for name, figure in measured.items()}


def _midnight(day: str, zone: str, later: int = 0) -> int:
    """When a local day begins, or one so many days later, in microseconds since 1970."""
    local = datetime.fromisoformat(day) + timedelta(days=later)
    return int(local.replace(tzinfo=time_zone(zone)).timestamp()) * 1_000_000
