"""Drift rules of other tools on the days and planted faults of a year: TFDV, Evidently, Kolmogorov-Smirnov.

A rule measures how far each column of a day is from the days before. A day's score is the largest of its columns'
distances, in units of the rule's limits or of the column's own past; its threshold comes from the scores of the days
before alone, by the same budget and function as ours. Days that may alarm are no measure of usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from benchmarks import drift_distances as distances
from benchmarks.drift_distances import Distance, Values
from benchmarks.planted_faults import ALL, FEATURES, UNUSUAL, Hits, no_hits, planted, share
from components.schema import Feature
from components.watch.clean_past import POOL_DAYS
from components.watch.data_alarms import ERROR_DAYS, LEAST_DAYS, USUAL, alarm_threshold

_BUDGET = 4.0
_FLOOR = 0.005
"""Least usual distance of a column, such as our own figures have."""


@dataclass(frozen=True)
class Measure:
    """What a rule measures.

    Args:
      tool: Whose rule it is, and its setting where there are several.
      number: Distance of numbers.
      category: Distance of categories.
      limits: The thresholds of numbers and categories that the tool or its users go by.
      days: How many days before are the reference.
    """

    tool: str
    number: Distance
    category: Distance
    limits: tuple[float, float]
    days: int

    def distance(self, feature: Feature, reference: Values, day: Values) -> float:
        """Of one column; NaN where the reference has no values, infinite where only the day has none."""
        if feature.kind == "category":
            return self.category(reference, day)
        if not len(reference.numbers):
            return math.nan
        return self.number(reference, day) if len(day.numbers) else math.inf


_TOOLS = (
    ("TFDV", distances.histogram_divergence("equal_width"), distances.largest_difference, (0.3, 0.3)),
    ("TFDV (quantiles)", distances.histogram_divergence("equal_count"), distances.largest_difference, (0.3, 0.3)),
    ("Evidently", distances.normed_wasserstein, distances.jensen_shannon_distance, (0.1, 0.1)),
    ("KS", distances.kolmogorov_smirnov, distances.chi_square, (0.1, 0.1)),
)
MEASURES = [Measure(*tool, days) for tool, days in product(_TOOLS, (1, POOL_DAYS))]


class RuleYear:
    """A rule on the days of a year.

    Args:
      measure: What is measured.
      measured: Distances of the days from those before, [days, features], NaN where there is none.
      by_own_past: Whether a distance is in units of what the column's own usually stays below, as our figures are, or
        else of the limits.
      is_usual: Whether a day counts as usual, [days].
    """

    def __init__(self, measure: Measure, measured: np.ndarray, by_own_past: bool, is_usual: np.ndarray) -> None:
        limits = np.array([measure.limits[feature.kind == "category"] for feature in FEATURES])
        self._units = _usual(measured) if by_own_past else np.broadcast_to(limits, measured.shape)
        scores = measured / self._units
        largest = np.where(np.isnan(scores), -math.inf, scores).max(axis=1)
        kept = np.where(is_usual & np.isfinite(largest), largest, math.nan)
        self._thresholds = np.array([alarm_threshold(kept[:day], _BUDGET) for day in range(len(kept))])
        self._is_beyond = scores > self._thresholds[:, None]
        self.measure = measure
        self.alarms = self._is_beyond.any(axis=1)
        """Days that alarm, [days]."""
        self.over_limits = measured > limits
        """Columns that are over the limits, [days, features]."""
        scale = "the column's own past" if by_own_past else f"limits of {measure.limits}"
        self.words = f"{measure.tool}, {measure.days} days before, by {scale}"

    def finds(self, day: int, feature: Feature, distance: float) -> bool:
        """Whether a column with a fault alarms, which does not alarm without."""
        column = FEATURES.index(feature)
        return bool(distance / self._units[day, column] > self._thresholds[day] and not self._is_beyond[day, column])


def hits_of_rules(
    parts: dict[str, pd.DataFrame], held: np.ndarray, before: Sequence[int], chosen: Sequence[int]
) -> dict[str, Hits]:
    """Which faults the tools find on the chosen days, each by that of its rules which finds most on days before.

    Prints what each rule finds on the days before, and how often it alarms.

    Args:
      parts: Rows by day, in order.
      held: Days whose alarms are counted, [days].
      before: Numbers of days by which rules are chosen.
      chosen: Numbers of days on which they are compared.
    """
    days = list(parts.values())
    measured = np.full((len(MEASURES), len(days), len(FEATURES)), math.nan)
    faults = []
    values = [{name: Values.of(rows[name]) for name in ALL} for rows in days]
    for number in range(1, len(days)):
        pools = {count: _pool(values[max(0, number - count) : number]) for count in {m.days for m in MEASURES}}
        for column, feature in enumerate(FEATURES):
            measured[:, number, column] = _distances(feature, pools, values[number][feature.name])
        if number in before or number in chosen:
            for feature, fault, column in planted(days[number], number):
                faults.append((number, feature, fault, _distances(feature, pools, Values.of(column))))
    is_usual = np.array([day not in UNUSUAL for day in parts])
    years = [RuleYear(m, d, own, is_usual) for m, d in zip(MEASURES, measured, strict=True) for own in (False, True)]
    hits: list[tuple[Hits, Hits]] = [(no_hits(), no_hits()) for _ in years]
    for number, feature, fault, distant in faults:
        for place, year in enumerate(years):
            was_found = year.finds(number, feature, distant[place // 2])
            hits[place][number in chosen][fault][feature.name].append(was_found)
    best: dict[str, tuple[float, Hits]] = {}
    usual = held & is_usual
    print(f"Rules: alarms on {usual.sum()} usual days, and share of faults found on {len(before)} days before")
    for number, year in enumerate(years):
        rate = share(hits[number][False])
        over = year.over_limits[usual]
        print(
            f"  {year.words}: {(year.alarms & usual).sum()} alarms, {rate:.1%} found; a column is over the limits on "
            f"{over.any(axis=1).sum()} days, half of all on {(over.mean(axis=1) >= 0.5).sum()}"
        )
        tool = year.measure.tool.split()[0].rstrip(",")
        if rate > best.get(tool, (-1.0, {}))[0]:
            best[tool] = (rate, hits[number][True])
    return {tool: tool_hits for tool, (_, tool_hits) in best.items()}


def _distances(feature: Feature, pools: dict[int, dict[str, Values]], day: Values) -> list[float]:
    """By measure."""
    return [measure.distance(feature, pools[measure.days][feature.name], day) for measure in MEASURES]


def _pool(days: Sequence[dict[str, Values]]) -> dict[str, Values]:
    """The values of days together, by column."""
    return {name: Values.joined([day[name] for day in days]) for name in ALL}


def _usual(measured: np.ndarray) -> np.ndarray:
    """What a column's distance usually stays below, by its last days: [days, features], NaN where they are too few."""
    usual = np.full(measured.shape, math.nan)
    for day in range(len(measured)):
        past = np.where(np.isfinite(measured), measured, math.nan)[max(0, day - ERROR_DAYS) : day]
        known = np.isfinite(past).sum(axis=0) >= LEAST_DAYS
        if known.any():
            usual[day, known] = np.nanquantile(past[:, known], USUAL, axis=0)
    return usual + _FLOOR
