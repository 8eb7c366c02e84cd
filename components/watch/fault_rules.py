"""Hard rules: what of a day's data is a fault by itself, beside the days that a feature is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from components.watch.day_statistics import CODE, MISSING, NEW, NON_FINITE, VOLUME, Key, quantiles
from components.watch.day_summary import DaySummary, Numbers, values_of
from components.watch.source_sums import LEAST_VALUES

LEAST_PAST = 14
"""Days with a feature without which rules about it say nothing."""
LEAST_ROWS = 20
"""A day of fewer rows is not judged, but for their number."""
MORE_MISSING, MORE_NEW, TIMES = 0.1, 0.05, 2.0
"""Shares beyond so many times the most of the last days, and rows against those of the same weekdays.
MORE_NEW is also the share of one value below 0, where none was before."""
LOW = 0.05
"""Quantile of the past below which the median of a day is no usual one."""
FAULTS = (MISSING, NON_FINITE, NEW, CODE)
"""Figures that faults of a feed move rather than the world: a score of one of them that alarms is a fault, too."""
ROWS = ""
"""In the place of a feature: the number of the day's rows."""

Past = Callable[[str], Sequence[DaySummary]]
"""The days before that a feature is compared with, or the number of rows (ROWS)."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a day's data.

    Args:
      feature: Its name; ROWS for their number.
      what: The rule or figure.
      words: A sentence with the figures.
      hard: Whether a hard rule says so; otherwise a score.
    """

    feature: str
    what: str
    words: str
    hard: bool


def is_fault(finding: Finding) -> bool:
    """Whether a finding is a fault of the data, which blocks training; others may be the world's."""
    return finding.hard or finding.what in FAULTS


def of_rows(day: DaySummary, past: Sequence[DaySummary]) -> tuple[Finding, ...]:
    """The finding about the number of rows, where it is one."""
    today = date.fromisoformat(day.day).weekday()
    same = [known.rows for known in past if date.fromisoformat(known.day).weekday() == today]
    usual = float(np.median(same)) if same else 0.0
    if not usual or usual / TIMES <= day.rows <= usual * TIMES:
        return ()
    return (Finding(ROWS, VOLUME, f"rows: {day.rows}, where such weekdays have {usual:.0f}", True),)


def of_features(day: DaySummary, past: Past, figures: dict[Key, float]) -> Iterator[Finding]:
    """What is wrong with the features, at most one thing of each.

    Args:
      day: The day.
      past: What each is compared with.
      figures: The day's, beside that past.
    """
    for name in sorted({*day.numbers, *day.categories}):
        days = [known for known in past(name) if name in known.numbers or name in known.categories]
        if len(days) < LEAST_PAST:
            continue
        rules = (_of_numbers(name, day, days), _of_categories(name, day, days), _shares(name, days, figures))
        if rule := next(filter(None, (*rules, _of_sources(name, day, days))), None):
            what, words = rule
            yield Finding(name, what, f"{name}: {words}", True)


def _of_numbers(name: str, day: DaySummary, past: Sequence[DaySummary]) -> tuple[str, str] | None:
    if (numbers := day.numbers.get(name)) is None:
        return None
    known = [one.numbers[name] for one in past if name in one.numbers]
    there = [one for one in known if one.there]
    # A feature that few rows have, or whose rows hardly differ, is dead or constant on some days by chance.
    is_dense = sum(one.there >= one.missing + one.non_finite for one in known) * 2 > len(known)
    if numbers.non_finite and not any(one.non_finite for one in known):
        return NON_FINITE, f"{numbers.non_finite} values are infinite, and none was in {len(known)} days"
    is_constant = len(numbers.buckets) == 1 and numbers.there >= LEAST_ROWS
    if is_constant and is_dense and all(len(one.buckets) > 1 for one in there) and _varies(there):
        return "constant", "all values are the same, as on no day before"
    if not numbers.there and is_dense:
        return "dead", "no row has a value"
    if len(there) >= LEAST_PAST and (words := _below_zero(numbers, there)):
        return CODE, words
    return None


def _of_categories(name: str, day: DaySummary, past: Sequence[DaySummary]) -> tuple[str, str] | None:
    if (categories := day.categories.get(name)) is None:
        return None
    present = [one.categories[name] for one in past if name in one.categories and one.categories[name].counts]
    if not categories.counts and len(present) * 2 > len(past):
        return "dead", "no row has a value"
    if len(categories.counts) == 1 and present and all(len(one.counts) > 1 for one in present):
        return "constant", "all rows have the same value, as on no day before"
    return None


def _shares(name: str, past: Sequence[DaySummary], figures: dict[Key, float]) -> tuple[str, str] | None:
    most = max(_missing(one, name) for one in past)
    if (share := figures.get((name, MISSING), 0.0)) > TIMES * most + MORE_MISSING:
        return MISSING, f"is missing in {share:.1%} of rows, at most {most:.1%} before"
    if (share := figures.get((name, NEW), 0.0)) > MORE_NEW:
        return NEW, f"has values that no day before had in {share:.1%} of rows"
    return None


def _of_sources(name: str, day: DaySummary, past: Sequence[DaySummary]) -> tuple[str, str] | None:
    """Of a source that has values in most of its rows on most days."""
    for source, sums in sorted(day.sources.items()):
        own, known = sums.get(name), [one.sources[source][name] for one in past if name in one.sources.get(source, {})]
        judged = [one for one in known if one.is_judged]
        if own is None or own.rows < LEAST_VALUES or len(judged) < max(LEAST_PAST, len(known) / 2):
            continue
        if not own.there:
            return "dead", f"no row of {source} has a value"
        if own.is_judged and own.is_constant and not any(one.is_constant for one in judged):
            if _varies([one.numbers[name] for one in past if name in one.numbers]):
                return "constant", f"all values of {source} are the same, as on no day before"
    return None


def _varies(past: Sequence[Numbers]) -> bool:
    """Whether more than chance makes rows differ: one value that most rows share is soon that of all."""
    pool = Numbers()
    for one in past:
        pool.merge(one)
    low, high = quantiles(*pool.histogram(), (0.25, 0.75))
    return low < high


def _missing(day: DaySummary, name: str) -> float:
    """Share of rows without a value."""
    of = day.numbers.get(name) or day.categories.get(name)
    return of.missing / day.rows if of and day.rows else 0.0


def _below_zero(numbers: Numbers, past: Sequence[Numbers]) -> str:
    """Says that -1, or another value below 0, stands for what is missing, as on no day before; "" where none does.

    The other values are where they always were: on the first day of frost they are not.
    """
    below = [(count, key) for key, count in numbers.buckets.items() if key < 0]
    rows = numbers.there + numbers.missing + numbers.non_finite
    if len(below) != 1 or below[0][0] <= MORE_NEW * rows or any(key < 0 for one in past for key in one.buckets):
        return ""
    (count, code), pool = below[0], Numbers()
    for one in past:
        pool.merge(one)
    others = Numbers(buckets=numbers.buckets - Counter({code: count}))
    if not others.there or quantiles(*others.histogram(), [0.5]) < quantiles(*pool.histogram(), [LOW]):
        return ""
    value = float(values_of(np.array([code]))[0])
    return f"is {value:.3g} in {count / rows:.1%} of rows, and no value was below 0 in {len(past)} days"
