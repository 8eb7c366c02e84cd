"""What the rows of a split are, in bounded memory: one pass over its shards, and what drift compares of two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.feature_kinds import kind_of
from components.measures import drift
from components.measures.drift import Categories, Drift, Moments, Numbers
from components.measures.sample import Sample
from components.schema import Feature

WORDS = 50
"""Words of a text that have a bin of their own: the most frequent ones alone are the same in every text."""
NUMBER_ASPECTS = {"number": "", "text": "length", "categories": "items in a row", "vector": "norm", "image": "bytes"}
CATEGORY_ASPECTS = {"category": "", "text": "words", "categories": "items"}

Score = Callable[[pa.Table], np.ndarray]
"""One value a row, float [rows], of what a model predicts for rows of examples."""


class Profile:
    """Counts, samples and sums of a split's rows.

    Args:
      features: What is compared: the features, and perhaps label and prediction as features of their values.
      others: Columns of rows that are made of a table, for features that no column holds.
    """

    def __init__(self, features: Iterable[Feature], others: dict[str, Score] | None = None) -> None:
        self._features, self._others = tuple(features), others or {}
        self.rows = 0
        self.sample = Sample(sum(feature.kind in NUMBER_ASPECTS for feature in self._features))
        self.categories = {f.name: Categories() for f in self._features if f.kind in CATEGORY_ASPECTS}
        self.moments = {f.name: Moments() for f in self._features if f.kind == "vector"}

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        self.rows += table.num_rows
        numbers: dict[str, np.ndarray] = {}
        for feature in self._features:
            if feature.name in self._others:
                numbers[feature.name] = np.asarray(self._others[feature.name](table), np.float64)
                continue
            column = table[feature.name]
            if feature.kind in CATEGORY_ASPECTS:
                self.categories[feature.name].add(counted(feature, column))
            if feature.kind in NUMBER_ASPECTS:
                numbers[feature.name] = as_numbers(feature, column)
            if feature.kind == "vector":
                self.moments[feature.name].add(kind_of(feature).numpy(feature, column))
        if numbers:
            self.sample.add(numbers)


def compare(features: Iterable[Feature], reference: Profile, interval: Profile) -> list[Drift]:
    """What moved, each aspect of each feature in order; profiles of at least one row each."""
    drifts = []
    for feature in features:
        rows = (reference.rows, interval.rows)
        if feature.kind in CATEGORY_ASPECTS:
            sides = (reference.categories[feature.name], interval.categories[feature.name])
            most = WORDS if feature.kind == "text" else drift.BINS
            drifts.append(drift.categories(feature, *sides, CATEGORY_ASPECTS[feature.kind], rows, most))
        if feature.kind in NUMBER_ASPECTS:
            numbers = [Numbers.of(side.sample[feature.name], side.rows) for side in (reference, interval)]
            drifted = drift.numbers(feature, numbers[0], numbers[1], NUMBER_ASPECTS[feature.kind])
            if feature.kind == "vector":
                moved, noise = drift.shift(reference.moments[feature.name], interval.moments[feature.name])
                drifted = replace(drifted, shift=moved, shift_noise=noise)
            drifts.append(drifted)
    return drifts


def as_numbers(feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
    """The one number of each row that is compared, NaN where it is missing, of a kind among `NUMBER_ASPECTS`."""
    if feature.kind == "text":
        return _or_missing(pc.utf8_length(column.fill_null("")))
    if feature.kind == "image":
        return _or_missing(pc.binary_length(column.fill_null(b"")))
    if feature.kind == "categories":
        return _or_missing(pc.list_value_length(column).fill_null(0))
    values = kind_of(feature).numpy(feature, column)
    return np.linalg.norm(values, axis=1) if feature.kind == "vector" else values


def counted(feature: Feature, column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value, word or item is there."""
    if feature.kind == "text":
        values = pc.list_flatten(pc.utf8_split_whitespace(pc.utf8_lower(column.fill_null(""))))
    else:
        values = pc.list_flatten(column) if feature.kind == "categories" else column
    counts = pc.value_counts(values.fill_null(""))
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    return {value: count for value, count in pairs if value or feature.kind == "category"}


def _or_missing(lengths: pa.ChunkedArray) -> np.ndarray:
    """Lengths as numbers; that of nothing is missing."""
    numbers: np.ndarray = lengths.to_numpy(zero_copy_only=False).astype(np.float32)
    numbers[numbers == 0] = np.nan
    return numbers
