"""Holds a candidate to other models on the same rows, and says in words what was decided and how surely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from airtight.verdict import Check
from components.measures import paired
from components.measures.scores import log_loss, log_losses, roc_auc

LABEL_BLOCKS = 5
"""With rows of a label in fewer blocks than this, the blocks do not show how much a metric varies."""
SLICE_LEVEL = 0.05
"""Chance, over all slices together, that one is reported as worse though none is."""


@dataclass(frozen=True)
class Primary:
    """A metric that decides.

    Args:
      value: Of labels and predictions, each [rows].
      gain: Of labels, the candidate's predictions, the other's, and block numbers, each [rows].
      size: Of labels [rows]: how many rows the metric's noise is that of.
    """

    value: Callable[[np.ndarray, np.ndarray], float]
    gain: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], paired.Gain]
    size: Callable[[np.ndarray], float] = len


def _log_loss_gain(labels: np.ndarray, candidate: np.ndarray, other: np.ndarray, blocks: np.ndarray) -> paired.Gain:
    return paired.MeanGain.of(log_losses(labels, candidate), log_losses(labels, other), blocks)


def _balanced(labels: np.ndarray) -> float:
    """Rows of a set with as many of each label that orders pairs as surely: the rarer label decides."""
    positives = float(labels.sum())
    return 4 * positives * (len(labels) - positives) / len(labels)


PRIMARY: Mapping[str, Primary] = {
    "auc": Primary(roc_auc, paired.RankGain.of, _balanced),
    "log_loss": Primary(log_loss, _log_loss_gain),
}


@dataclass(frozen=True)
class Margins:
    """By how much a candidate may be worse.

    Noise falls with the root of the rows, and a margin below it would refuse equal models. So fewer rows than those
    that the margins are made for get margins that are larger by the root; more rows get no smaller ones. How the two
    models differ has no say: a wild candidate gets no wider margin for being wild.

    Args:
      by_metric: Margins in the metric's unit.
      rows: How many rows they are made for.
      widest: How many times a margin is widened at most; see `decidable_check`.
    """

    by_metric: Mapping[str, float]
    rows: float
    widest: float

    def widening(self, metric: str, labels: np.ndarray) -> float:
        """How many times the margin is widened for rows of these labels."""
        return max(1.0, math.sqrt(self.rows / PRIMARY[metric].size(labels)))


@dataclass(frozen=True)
class Rows:
    """The rows that candidates are held to, in the order of time.

    Args:
      labels: 0 or 1, [rows], both present.
      units: What rows that depend on each other have in common, such as the local day, [rows].
      unit_name: What a unit is, in the plural.
    """

    labels: np.ndarray
    units: np.ndarray
    unit_name: str

    def where(self, mask: np.ndarray) -> Rows:
        """Some of the rows, [rows] of bool."""
        return Rows(self.labels[mask], self.units[mask], self.unit_name)


@dataclass(frozen=True)
class Comparison:
    """One metric of the candidate beside that of another model on the same rows.

    Args:
      metric: A name of `PRIMARY`.
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
        return Check(name, self.passed, self.bound, bound, self.baseline, note=note)


def non_inferior(
    rows: Rows, candidate: np.ndarray, others: Mapping[str, np.ndarray], margins: Margins
) -> list[Comparison]:
    """Compares the candidate with models that it must not be worse than by more than a margin.

    The lower bound of the gain decides.

    Args:
      rows: What they are compared on.
      candidate: Its predictions, [rows].
      others: Predictions by model, each [rows].
      margins: By how much it may be worse.
    """
    blocks = paired.blocks_of(rows.units, rows.unit_name)
    count = len(others) * len(margins.by_metric)
    return [
        _explained(_compared(rows, blocks, name, other, candidate, predictions, -margin), name, margins, rows, count)
        for other, predictions in others.items()
        for name in margins.by_metric
        for margin in [margins.by_metric[name] * margins.widening(name, rows.labels)]
    ]


def _explained(compared: Comparison, metric: str, margins: Margins, rows: Rows, comparisons: int) -> Comparison:
    """Adds in words why the margin is what it is, and how many rows would be enough."""
    made_for, count = margins.by_metric[metric], len(rows.labels)
    widening, notes = margins.widening(metric, rows.labels), [compared.note]
    if widening > 1:
        wanted = f"{count * widening**2:,.0f}"
        notes.append(f"The margin of {made_for:g} is for about {wanted} such rows; these are {count:,}.")
    if compared.interval is not None and not compared.passed and made_for:
        resolution = compared.interval.resolution(comparisons)
        if resolution > -compared.required:
            # A margin that is widened shrinks with the root of the rows, as the resolution does.
            needed = f"{count * (resolution / made_for) ** 2:,.0f}"
            power = f"{1 - paired.FALSE_REFUSALS:.0%}"
            notes.append(f"An equal model passes with {power} power on about {needed} rows: judge a longer interval.")
    return replace(compared, note=" ".join(filter(None, notes)))


def superior(
    rows: Rows, candidate: np.ndarray, other: str, predictions: np.ndarray, gains: Mapping[str, float], proven: bool
) -> list[Comparison]:
    """Compares the candidate with a model that it must be better than.

    Args:
      rows: What they are compared on.
      candidate: Its predictions, [rows].
      other: What the other model is.
      predictions: The other model's, [rows].
      gains: By how much it must be better, by metric.
      proven: Whether the rows must show the gain (its lower bound), or may not contradict it (its upper bound).
    """
    blocks = paired.blocks_of(rows.units, rows.unit_name)
    compared = [_compared(rows, blocks, name, other, candidate, predictions, gain) for name, gain in gains.items()]
    return compared if proven else [replace(one, by="upper") for one in compared]


def _compared(
    rows: Rows,
    blocks: paired.Blocks,
    metric: str,
    other: str,
    candidate: np.ndarray,
    predictions: np.ndarray,
    required: float,
) -> Comparison:
    primary = PRIMARY[metric]
    gain = primary.gain(rows.labels, candidate, predictions, blocks.of_row)
    values = primary.value(rows.labels, candidate), primary.value(rows.labels, predictions)
    if gain.label_blocks < LABEL_BLOCKS:
        words = f"One of the labels has rows in {gain.label_blocks} blocks alone; {LABEL_BLOCKS} are needed."
        return Comparison(metric, other, *values, None, required, str(blocks), words)
    return Comparison(metric, other, *values, paired.interval(gain, blocks.count), required, str(blocks))


def slices_check(
    rows: Rows,
    candidate: np.ndarray,
    other: str,
    predictions: np.ndarray,
    slices: Mapping[str, np.ndarray],
    margins: Margins | None,
    rows_minimum: int,
    severity: Literal["blocking", "warning"],
) -> Check | None:
    """Tells where the candidate is worse than another model by more than the margin, beyond chance.

    The p values of all slices and metrics are adjusted by Holm's method.

    Args:
      rows: What they are compared on.
      candidate: Its predictions, [rows].
      other: What the other model is.
      predictions: The other model's, [rows].
      slices: Values by column, as text, each [rows].
      margins: By how much it may be worse; None for not at all.
      rows_minimum: Slices of fewer rows are left out.
      severity: Of the check.

    Returns:
      None where no slice has enough rows of both labels.
    """
    words, p_values = [], []
    for column, name, mask in _large_slices(rows.labels, slices, rows_minimum):
        part = rows.where(mask)
        blocks = paired.blocks_of(part.units, part.unit_name)
        for metric, primary in PRIMARY.items():
            margin = margins.by_metric[metric] * margins.widening(metric, part.labels) if margins else 0.0
            gain = primary.gain(part.labels, candidate[mask], predictions[mask], blocks.of_row)
            estimate = paired.estimate(gain, blocks.count)
            if estimate is not None:
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


def _large_slices(
    labels: np.ndarray, slices: Mapping[str, np.ndarray], rows_minimum: int
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Column, value and rows of each slice with enough rows and with both labels."""
    for column, values in slices.items():
        names, counts = np.unique(values, return_counts=True)
        # A column of one value is all rows again.
        for name in names[counts >= rows_minimum] if len(names) > 1 else ():
            mask = values == name
            if len(np.unique(labels[mask])) > 1:
                yield column, name, mask


def decidable_check(labels: np.ndarray, margins: Margins) -> Check:
    """Whether rows of these labels, [rows], can decide: an interval too short for the widest margin blesses nothing."""
    widening = max(margins.widening(metric, labels) for metric in margins.by_metric)
    enough = widening <= margins.widest
    note = f"The margins are made for {margins.rows:g} rows and widened for fewer." + (
        "" if enough else " The interval cannot tell: judge a longer one."
    )
    return Check("the rows can decide", enough, widening, f"<= {margins.widest:g}", note=note)


def finite_check(predictions: np.ndarray) -> Check:
    """Whether all predictions are probabilities."""
    wrong = int(np.count_nonzero(~((predictions >= 0) & (predictions <= 1))))
    note = f"{wrong:,} of {len(predictions):,} answers are NaN, infinite or outside 0 to 1." if wrong else ""
    return Check("finite predictions", not wrong, float(wrong), "<= 0", note=note)
