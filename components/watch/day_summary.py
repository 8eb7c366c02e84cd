"""What a day's rows were, small and mergeable: counts alone, so that parts merge to the same bytes in any order.

A number's histogram is log-linear: a bucket is a float32 without its last bits, so that a value is known to .1 %, and
merging adds whole numbers. (Sketches with a stated rank error, such as KLL or t-digest, keep other points in another
order of merging. Masson, Rim and Lee, "DDSketch", VLDB 2019, has buckets by the logarithm for the same reason.)
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airtight.errors import TerminalError
from components.measures.profile import CATEGORY_ASPECTS, NUMBER_ASPECTS, as_numbers, counted
from components.schema import Feature
from components.watch.source_sums import Sums, rows_of

_SHIFT = 23 - 9
"""Bits of a float32 that a bucket leaves out: nine of the fraction are kept."""
FILE = "summary.json"
"""In a `SummarizedDay`."""
MOST_CATEGORIES = 20_000
"""Different values of a category that are counted by themselves; with more, all are counted by their hash."""
HASHES = 4096


@dataclass
class Numbers:
    """Of a number, or an aspect that is one.

    Args:
      missing: Rows without a value.
      non_finite: Rows whose value is infinite.
      buckets: Rows by bucket; buckets are ordered as their values are.
    """

    missing: int = 0
    non_finite: int = 0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, values: np.ndarray) -> None:
        """The next rows, float [rows], NaN where missing."""
        values = np.asarray(values, np.float32)
        finite = np.isfinite(values)
        missing = int(np.isnan(values).sum())
        self.missing += missing
        self.non_finite += int((~finite).sum()) - missing
        bits = values[finite].view(np.int32)
        bucket = (bits & 0x7FFFFFFF) >> _SHIFT
        keys, counts = np.unique(np.where(bits < 0, -bucket, bucket), return_counts=True)
        self.buckets.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))

    def merge(self, other: Numbers) -> None:
        """Adds another part's rows."""
        self.missing += other.missing
        self.non_finite += other.non_finite
        self.buckets.update(other.buckets)

    @property
    def there(self) -> int:
        """Rows with a finite value."""
        return self.buckets.total()

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Values of the buckets in order, and rows of each: [buckets], [buckets]."""
        keys = np.array(sorted(self.buckets), np.int64)
        return values_of(keys), np.array([self.buckets[int(key)] for key in keys], np.int64)


@dataclass
class Categories:
    """Of a category, or an aspect that has some.

    Args:
      missing: Rows without a value.
      counts: Rows, words or items by value; by "#" and a hash where there were too many values.
      hashed: Whether it is so.
    """

    missing: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    hashed: bool = False

    def add(self, counts: Mapping[str, int]) -> None:
        """Counts of the next rows; "" is missing."""
        self.missing += counts.get("", 0)
        present = {value: count for value, count in counts.items() if value}
        self.counts.update(_hashed(present) if self.hashed else present)
        self._limit()

    def merge(self, other: Categories) -> None:
        """Adds another part's rows."""
        self.missing += other.missing
        if other.hashed and not self.hashed:
            self.counts, self.hashed = Counter(_hashed(self.counts)), True
        self.counts.update(_hashed(other.counts) if self.hashed and not other.hashed else other.counts)
        self._limit()

    def known(self, past: Categories) -> int:
        """How many of its rows have a value that the past has."""
        ours = _hashed(self.counts) if past.hashed and not self.hashed else self.counts
        theirs = _hashed(past.counts) if self.hashed and not past.hashed else past.counts
        return sum(count for value, count in ours.items() if value in theirs)

    def _limit(self) -> None:
        if not self.hashed and len(self.counts) > MOST_CATEGORIES:
            self.counts, self.hashed = Counter(_hashed(self.counts)), True


@dataclass
class DaySummary:
    """The rows of a day, or of a part of one.

    Args:
      day: ISO 8601, local.
      rows: How many there are, those without labels too.
      labelled: How many have all of their labels so far.
      numbers: By feature.
      categories: By feature.
      labels: How many rows have a label so far, by the label's name; empty in summaries that were stored without.
      predicted: What the served model predicts for rows, by the name of each number; empty where none serves.
      version: Of that model.
      sources: Sums of each number by source and feature; empty in summaries without sources.
    """

    day: str
    rows: int = 0
    labelled: int = 0
    numbers: dict[str, Numbers] = field(default_factory=dict)
    categories: dict[str, Categories] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    predicted: dict[str, Numbers] = field(default_factory=dict)
    version: int = 0
    sources: dict[str, dict[str, Sums]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        day: str,
        features: Sequence[Feature],
        batches: Iterable[pa.Table],
        labels: Sequence[str] = (),
        source: str = "",
        sources: Sequence[str] = (),
    ) -> DaySummary:
        """Of rows of examples, a few thousand at a time.

        Args:
          day: ISO 8601.
          features: What is counted.
          batches: Tables with a column for each feature.
          labels: Columns of labels, whose values that are there are counted.
          source: Column that says which source a row comes from.
          sources: Those of its values whose rows are summed, too.
        """
        summary = cls(day, labels=Counter(dict.fromkeys(labels, 0)))
        for feature in features:
            if feature.kind in NUMBER_ASPECTS:
                summary.numbers[feature.name] = Numbers()
            if feature.kind in CATEGORY_ASPECTS:
                summary.categories[feature.name] = Categories()
        for table in batches:
            summary._add(features, table, rows_of(table[source], tuple(sources)) if sources else {})
        return summary

    def _add(self, features: Sequence[Feature], table: pa.Table, rows: Mapping[str, np.ndarray]) -> None:
        self.rows += table.num_rows
        known = [table[name].is_valid() for name in self.labels if name in table.column_names]
        if known and len(known) == len(self.labels):
            self.labelled += pc.sum(reduce(pc.and_, known)).as_py() or 0
        for name in self.labels:
            if name in table.column_names:
                self.labels[name] += table.num_rows - table[name].null_count
        for feature in features:
            if feature.name in self.numbers:
                values = as_numbers(feature, table[feature.name])
                self.numbers[feature.name].add(values)
                for source, places in rows.items():
                    self.sources.setdefault(source, {}).setdefault(feature.name, Sums()).add(values[places])
            if feature.name in self.categories:
                self.categories[feature.name].add(counted(feature, table[feature.name]))

    def merged(self, *others: DaySummary) -> DaySummary:
        """Adds other parts, under the day of this one; the same in any order."""
        total = DaySummary(self.day, version=self.version)
        for part in (self, *others):
            total.rows += part.rows
            total.labelled += part.labelled
            total.labels.update(part.labels)
            for own, more in ((total.numbers, part.numbers), (total.predicted, part.predicted)):
                for name, numbers in more.items():
                    own.setdefault(name, Numbers()).merge(numbers)
            for name, categories in part.categories.items():
                total.categories.setdefault(name, Categories()).merge(categories)
            for source, sums in part.sources.items():
                for name, one in sums.items():
                    total.sources.setdefault(source, {}).setdefault(name, Sums()).merge(one)
        return total

    def to_json(self) -> str:
        """The same bytes for the same rows, however they were dealt out."""
        numbers, predicted = (
            {name: [one.missing, one.non_finite, sorted(one.buckets.items())] for name, one in of.items()}
            for of in (self.numbers, self.predicted)
        )
        categories = {
            name: [one.missing, one.hashed, sorted(one.counts.items())] for name, one in self.categories.items()
        }
        counts = {"day": self.day, "rows": self.rows, "labelled": self.labelled, "labels": self.labels}
        counts |= {"numbers": numbers, "categories": categories}
        counts |= {"predicted": predicted, "version": self.version} if predicted else {}
        if self.sources:
            counts["sources"] = {
                s: {n: [*vars(one).values()] for n, one in of.items()} for s, of in self.sources.items()
            }
        return json.dumps(counts, sort_keys=True, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> DaySummary:
        """The inverse of `to_json`.

        Raises:
          TerminalError: The text is no summary.
        """
        try:
            known: dict[str, Any] = json.loads(text)
            numbers, predicted = (
                {k: Numbers(m, n, Counter(dict(map(tuple, b)))) for k, (m, n, b) in of.items()}
                for of in (known["numbers"], known.get("predicted", {}))
            )
            categories = {
                k: Categories(m, Counter(dict(map(tuple, c))), h) for k, (m, h, c) in known["categories"].items()
            }
            sources = {
                source: {name: Sums(r, t, s, tuple(e)) for name, (r, t, s, e) in of.items()}
                for source, of in known.get("sources", {}).items()
            }
            labels = Counter(known.get("labels", {}))
            counts = known["day"], known["rows"], known["labelled"]
            return DaySummary(*counts, numbers, categories, labels, predicted, known.get("version", 0), sources)
        except (ValueError, KeyError, TypeError) as error:
            raise TerminalError(
                "That is no summary of a day.",
                expected="the JSON of DaySummary.to_json",
                received=f"{text[:80]!r}: {error}",
                remedy="Summarize the day again.",
            ) from error


def values_of(keys: np.ndarray) -> np.ndarray:
    """Middles of buckets, float64 [buckets]; 0 for the bucket of 0."""
    size = np.abs(keys).astype(np.int32)
    middle = ((size << _SHIFT) + (1 << (_SHIFT - 1))).astype(np.int32).view(np.float32).astype(np.float64)
    values: np.ndarray = np.where(keys == 0, 0.0, np.sign(keys) * middle)
    return values


def _hashed(counts: Mapping[str, int]) -> dict[str, int]:
    hashes: Counter[str] = Counter()
    for value, count in counts.items():
        hashes[f"#{zlib.crc32(value.encode()) % HASHES}"] += count
    return dict(hashes)
