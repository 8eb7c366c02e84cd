"""Holds a candidate to other models on the same rows, and says in words what was decided and how surely."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Literal

import numpy as np

from airtight.verdict import Check
from components.measures import paired
from components.measures.slices import Slices
from components.tasks import Task
from components.tasks.thresholds import Threshold

LABEL_BLOCKS = 5
"""With rows of a label in fewer blocks than this, the blocks do not show how much a metric varies."""
SLICE_LEVEL = 0.05
"""Chance, over all slices together, that one is reported as worse though none is."""


@dataclass(frozen=True)
class Rows:
    """The rows that candidates are held to, in the order of time.

    Args:
      task: What their labels are, and which metrics decide.
      labels: Encoded, [rows] or [rows, labels]; `Task.decidable`.
      units: What rows that depend on each other have in common, such as the local day, [rows].
      unit_name: What a unit is, in the plural.
      weights: [rows], 0 or more; None weighs all the same.
    """

    task: Task
    labels: np.ndarray
    units: np.ndarray
    unit_name: str
    weights: np.ndarray | None = None

    def where(self, chosen: np.ndarray) -> Rows:
        """Some of the rows: [rows] of bool, or their places."""
        weights = None if self.weights is None else self.weights[chosen]
        return replace(self, labels=self.labels[chosen], units=self.units[chosen], weights=weights)

    def weighing(self) -> Rows:
        """The rows that weigh anything."""
        return self if self.weights is None else self.where(self.weights > 0)

    def size(self, metric: str) -> float:
        """How many rows the noise of a metric is that of; of weighted rows, as many as would weigh all the same.

        Kish (1965) counts those by the square of the weights' sum, divided by the sum of their squares.
        """
        size = self.task.metrics[metric].size(self.labels)
        if self.weights is None:
            return size
        return size * float(self.weights.sum() ** 2 / (self.weights**2).sum()) / len(self.labels)


@dataclass(frozen=True)
class Margins:
    """By how much a candidate may be worse.

    Noise falls with the root of the rows, and a margin below it would refuse equal models. So fewer rows than those
    that the margins are made for get margins that are larger by the root; more rows get no smaller ones. How the two
    models differ has no say: a wild candidate gets no wider margin for being wild.

    Args:
      by_metric: In the metric's unit, or relative to the other model's value.
      rows: How many rows they are made for.
      widest: How many times a margin is widened at most; see `decidable_check`.
    """

    by_metric: Mapping[str, Threshold]
    rows: float
    widest: float

    def widening(self, metric: str, rows: Rows) -> float:
        """How many times the margin is widened for these rows."""
        return max(1.0, math.sqrt(self.rows / rows.size(metric)))


@dataclass(frozen=True)
class Comparison:
    """One metric of the candidate beside that of another model on the same rows.

    Args:
      metric: A name of the task's metrics.
      other: The other model, such as "the champion".
      candidate: The candidate's value of the metric.
      baseline: The other model's.
      interval: Of the gain, positive where the candidate is better; None where the rows have no interval.
      required: What a bound of the gain must reach, in the metric's unit.
      blocks: What was drawn, such as "30 days".
      note: How `required` came about, or why there is no interval, where that needs words.
      by: Which bound it is: the lower one, or the upper one where the gain need not be shown.
    """

    metric: str
    other: str
    candidate: float
    baseline: float
    interval: paired.Interval | None
    required: float
    blocks: str
    note: str = ""
    by: Literal["lower", "upper"] = "lower"

    @property
    def bound(self) -> float | None:
        """The bound that decides."""
        return None if self.interval is None else getattr(self.interval, self.by)

    @property
    def passed(self) -> bool:
        """Whether the bound reaches what is required."""
        return self.bound is not None and self.bound >= self.required

    def __str__(self) -> str:
        values = f"{self.metric} {self.candidate:.4f}, {self.other} {self.baseline:.4f}"
        if self.interval is None:
            return f"{values}; these rows give no interval"
        change = f"{'better' if self.interval.gain >= 0 else 'worse'} by {abs(self.interval.gain):.4f}"
        return f"{values}: {change}, {self.by} bound {self.bound:+.4f}, required {self.required:+.4f}"

    def check(self) -> Check:
        """As the verdict keeps it."""
        name, bound = f"{self.metric} against {self.other}", f">= {self.required:.4g}"
        confidence = f"One-sided {paired.CONFIDENCE:.0%} bound of the gain over {self.blocks}."
        note = f"{self}. {confidence} {self.note}".rstrip()
        interval = (self.interval.lower, self.interval.upper) if self.interval else None
        return Check(name, self.passed, self.bound, bound, self.baseline, note=note, interval=interval)


def non_inferior(
    rows: Rows, candidate: np.ndarray, others: Mapping[str, np.ndarray], margins: Margins
) -> list[Comparison]:
    """Compares the candidate with models that it must not be worse than by more than a margin.

    The lower bound of the gain decides.

    Args:
      rows: What they are compared on.
      candidate: Its predictions, [rows] or [rows, outputs].
      others: Predictions by model, likewise.
      margins: By how much it may be worse.
    """
    blocks = paired.blocks_of(rows.units, rows.unit_name)
    count = len(others) * len(margins.by_metric)
    compared = [
        _compared(rows, blocks, name, other, candidate, predictions, margin, -margins.widening(name, rows))
        for other, predictions in others.items()
        for name, margin in margins.by_metric.items()
    ]
    return [_explained(one, margins, rows, count) for one in compared]


def _explained(compared: Comparison, margins: Margins, rows: Rows, comparisons: int) -> Comparison:
    """Adds in words why the margin is what it is, and how many rows would be enough."""
    metric, count = compared.metric, len(rows.labels)
    margin, widening, notes = margins.by_metric[metric], margins.widening(metric, rows), [compared.note]
    made_for = margin.of(compared.baseline)
    if widening > 1:
        wanted = f"{count * widening**2:,.0f}"
        notes.append(f"The margin of {margin} is for about {wanted} such rows; these are {count:,}.")
    if compared.interval is not None and not compared.passed and made_for:
        resolution = compared.interval.resolution(comparisons)
        if resolution > -compared.required:
            # A margin that is widened shrinks with the root of the rows, as the resolution does.
            needed = f"{count * (resolution / made_for) ** 2:,.0f}"
            power = f"{1 - paired.FALSE_REFUSALS:.0%}"
            notes.append(f"An equal model passes with {power} power on about {needed} rows: judge a longer interval.")
    return replace(compared, note=" ".join(filter(None, notes)))


def superior(
    rows: Rows, candidate: np.ndarray, other: str, predictions: np.ndarray, gains: Mapping[str, Threshold], proven: bool
) -> list[Comparison]:
    """Compares the candidate with a model that it must be better than.

    Args:
      rows: What they are compared on.
      candidate: Its predictions, [rows] or [rows, outputs].
      other: What the other model is.
      predictions: The other model's, likewise.
      gains: By how much it must be better, by metric.
      proven: Whether the rows must show the gain (its lower bound), or may not contradict it (its upper bound).
    """
    blocks = paired.blocks_of(rows.units, rows.unit_name)
    compared = [_compared(rows, blocks, name, other, candidate, predictions, gain, 1) for name, gain in gains.items()]
    return compared if proven else [replace(one, by="upper") for one in compared]


def _compared(
    rows: Rows,
    blocks: paired.Blocks,
    metric: str,
    other: str,
    candidate: np.ndarray,
    predictions: np.ndarray,
    threshold: Threshold,
    times: float,
) -> Comparison:
    """Requires a gain of so many times the threshold."""
    primary = rows.task.metrics[metric]
    gain = primary.gain(rows.labels, candidate, predictions, blocks.of_row, rows.weights)
    value, baseline = (primary.value(rows.labels, answers, rows.weights) for answers in (candidate, predictions))
    required = times * threshold.of(baseline)
    if gain.label_blocks < LABEL_BLOCKS:
        words = f"One of the labels has rows in {gain.label_blocks} blocks alone; {LABEL_BLOCKS} are needed."
        return Comparison(metric, other, value, baseline, None, required, str(blocks), words)
    return Comparison(metric, other, value, baseline, paired.interval(gain, blocks.count), required, str(blocks))


def slices_check(
    rows: Rows,
    candidate: np.ndarray,
    other: str,
    predictions: np.ndarray,
    slices: Mapping[str, Slices],
    margins: Margins | None,
    rows_minimum: int,
    severity: Literal["blocking", "warning"],
) -> Check | None:
    """Tells where the candidate is worse than another model by more than the margin, beyond chance.

    The p values of all slices and metrics are adjusted by Holm's method.

    Args:
      rows: What they are compared on.
      candidate: Its predictions, [rows] or [rows, outputs].
      other: What the other model is.
      predictions: The other model's, likewise.
      slices: By column.
      margins: By how much it may be worse; None for not at all.
      rows_minimum: Slices of fewer rows are left out.
      severity: Of the check.

    Returns:
      None where no slice has enough rows with more than one label.
    """
    words, p_values = [], []
    for column, name, places in _large_slices(rows, slices, rows_minimum):
        part = rows.where(places)
        blocks = paired.blocks_of(part.units, part.unit_name)
        for metric, primary in rows.task.metrics.items():
            gain = primary.gain(part.labels, candidate[places], predictions[places], blocks.of_row, part.weights)
            estimate = paired.estimate(gain, blocks.count)
            if estimate is None:
                continue
            margin = 0.0
            if margins:
                value = primary.value(part.labels, predictions[places], part.weights)
                margin = margins.by_metric[metric].of(value) * margins.widening(metric, part)
            words.append(f"{column} {name or '(missing)'}, {metric} {estimate.gain:+.4f}")
            p_values.append(estimate.p_worse_than(margin))
    if not p_values:
        return None
    adjusted = paired.holm(p_values)
    worse = [f"{slice_} (p {p:.2g})" for slice_, p in zip(words, adjusted, strict=True) if p < SLICE_LEVEL]
    note = f"Worse by more than the margin: {'; '.join(worse)}." if worse else ""
    note += f" The smallest p value of {len(words)} comparisons in slices of at least {rows_minimum} rows, by Holm."
    return Check(
        f"slices against {other}", not worse, min(adjusted), f">= {SLICE_LEVEL:g}", severity=severity, note=note.strip()
    )


def _large_slices(rows: Rows, slices: Mapping[str, Slices], rows_minimum: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Column, value and places of the rows of each slice with enough rows, and with more than one label that weighs."""
    for column, values in slices.items():
        large = itertools.takewhile(lambda part: len(part[1]) >= rows_minimum, values.by_size())
        # A column of one value is all rows again.
        for name, places in sorted(large, key=itemgetter(0)) if len(values.names) > 1 else ():
            labels = rows.where(places).weighing().labels
            if len(labels) and np.any(np.ptp(labels, axis=0)):
                yield column, name, places


def rows_check(rows: Rows) -> Check:
    """Whether the labels of the rows that weigh anything can judge a model."""
    weighing = rows.weighing()
    why = rows.task.decidable(weighing.labels)
    if why and (ignored := len(rows.labels) - len(weighing.labels)):
        why += f" Not counted are {ignored:,} rows of weight 0."
    return Check("rows to judge on", not why, float(len(rows.labels)), note=why or rows.task.described(rows.labels))


def decidable_check(rows: Rows, margins: Margins) -> Check:
    """Whether these rows can decide: an interval too short for the widest margin blesses nothing."""
    widening = max(margins.widening(metric, rows) for metric in margins.by_metric)
    enough = widening <= margins.widest
    note = f"The margins are made for {margins.rows:g} rows and widened for fewer." + (
        "" if enough else " The interval cannot tell: judge a longer one."
    )
    return Check("the rows can decide", enough, widening, f"<= {margins.widest:g}", note=note)


def finite_check(task: Task, predictions: np.ndarray) -> Check:
    """Whether all predictions are such of the task."""
    wrong = task.wrong_predictions(predictions)
    note = f"{wrong:,} of {len(predictions):,} answers are not {task.right_predictions}." if wrong else ""
    return Check("finite predictions", not wrong, float(wrong), "<= 0", note=note)
