"""Labelled rows of examples, read from disk in pieces: what a model function learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airtight.errors import TerminalError
from airtight.files import digest_of_file
from components.data import examples as reading
from components.measures.drift import most_frequent
from components.modelling import raw_features
from components.modelling.head import LabelStatistics
from components.schema import ExampleSchema

PIECE = 8192
"""Rows of a piece."""
MOST_WORDS = 200_000
"""Different words of a column that are counted at once; beyond that the rarer half is forgotten. Of a vocabulary far
fewer are used (`tabular.Settings.category_words`)."""
SAMPLE = 1 << 19
"""Rows from which quantiles are computed: all rows where there are no more, else about as many, chosen by a hash of
the row's number, so that neither shards nor pieces matter."""


@dataclass(frozen=True)
class Labelled:
    """Some rows.

    Args:
      columns: Raw features by name, each [rows, ...].
      labels: Encoded by the task, [rows], or [rows, labels] where the schema has several.
      weights: Of the rows, float64 [rows], mean 1 over all rows; None where the schema names no weight.
    """

    columns: reading.Columns
    labels: np.ndarray
    weights: np.ndarray | None


@dataclass
class Statistics:
    """What one pass over all rows says.

    Args:
      rows: How many.
      vocabularies: Of each column of categories how often each word is there, without missing ones. Of a column of
        more than `MOST_WORDS` words the rarest are not there, and rare ones count too low.
      infinite: Of each column of numbers how many rows hold infinite ones.
      labels: What the encoded labels are, by the label's name; empty without rows.
      weight: Sum of the weights as they are stored; the rows where there are none.
      first: The earliest time, as text; "" without rows, or where the schema names none.
      last: The latest.
      vectors: Of each vector, mean and standard deviation of each place, float64 [2, length].
    """

    rows: int = 0
    vocabularies: dict[str, Counter[str]] = field(default_factory=dict)
    infinite: Counter[str] = field(default_factory=Counter)
    labels: dict[str, LabelStatistics] = field(default_factory=dict)
    weight: float = 0.0
    first: str = ""
    last: str = ""
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


class LabelledExamples:
    """Rows of one or several splits, one after the other. Never all in memory.

    Args:
      folder: Of the `Examples` artifact.
      splits: Names of the splits.
      schema: What the rows hold.
    """

    def __init__(self, folder: Path, splits: Sequence[str], schema: ExampleSchema) -> None:
        self.folder, self.splits, self.schema = folder, tuple(splits), schema
        self._rows = sum(reading.count(folder, split) for split in self.splits)

    @property
    def name(self) -> str:
        """The names of the splits."""
        return "+".join(self.splits)

    def __len__(self) -> int:
        return self._rows

    def joined(self, other: LabelledExamples) -> LabelledExamples:
        """These rows, and then the other's."""
        return LabelledExamples(self.folder, (*self.splits, *other.splits), self.schema)

    @cached_property
    def digest(self) -> str:
        """Of the files."""
        files = [digest_of_file(file) for split in self.splits for file in reading.files_of(self.folder, split)]
        return sha256("".join(files).encode()).hexdigest()

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Pieces as Arrow tables of some columns."""
        for split in self.splits:
            for table in reading.batches(self.folder, split, self.schema, columns, PIECE):
                if len(table):
                    yield table

    def pieces(self, names: Sequence[str] | None = None) -> Iterator[Labelled]:
        """All rows in pieces.

        Args:
          names: Features to read; all when None.

        Raises:
          TerminalError: A column is missing or of another type, a label is none of the task, or a weight is none.
        """
        schema = self.schema
        names = schema.names if names is None else tuple(names)
        features = [feature for feature in schema.features if feature.name in names]
        columns = dict.fromkeys([*names, *schema.labels, *filter(None, (schema.weight,))])
        scale = self.statistics.rows / self.statistics.weight if schema.weight else 1.0
        for table in self.tables(list(columns)):
            weights = self._weights(table)
            yield Labelled(
                raw_features.columns(table, features),
                reading.labels(table, schema),
                None if weights is None else weights * scale,
            )

    @cached_property
    def statistics(self) -> Statistics:
        """What one pass over all rows says; computed once.

        Raises:
          TerminalError: As `pieces`.
        """
        schema, answer = self.schema, Statistics()
        words = [feature.name for feature in schema.features if feature.kind in ("category", "categories")]
        numbers, vectors = schema.of_kind("number"), schema.of_kind("vector")
        answer.vocabularies = {name: Counter() for name in words}
        moments, vector_moments = _Moments(), {name: _Moments() for name in vectors}
        features = [feature for feature in schema.features if feature.kind in ("number", "vector")]
        columns = [*words, *numbers, *vectors, *schema.labels, *filter(None, (schema.time, schema.weight))]
        times: list[datetime] = []
        ends: list[tuple[np.ndarray, np.ndarray]] = []
        for table in self.tables(list(dict.fromkeys(columns))):
            for name in words:
                counts = answer.vocabularies[name]
                counts.update(_counts(table[name]))
                if len(counts) > MOST_WORDS:
                    answer.vocabularies[name] = most_frequent(counts, MOST_WORDS // 2)
            values = raw_features.columns(table, features)
            for name, array in values.items():
                bad = np.isinf(array).reshape(len(array), -1).any(axis=1).sum()
                answer.infinite.update({name: int(bad)} if bad else {})
                if name in vector_moments:
                    vector_moments[name].add(array.astype(np.float64), None)
            labels, weights = reading.labels(table, schema).reshape(len(table), -1), self._weights(table)
            moments.add(labels.astype(np.float64), weights)
            ends.append((labels.min(axis=0), labels.max(axis=0)))
            answer.weight += len(table) if weights is None else float(weights.sum())
            answer.rows += len(table)
            if schema.time:
                span = pc.min_max(table[schema.time]).as_py()
                times += [span["min"], span["max"]]
        if ends:
            low, high = np.min([end[0] for end in ends], axis=0), np.max([end[1] for end in ends], axis=0)
            figures = np.stack([low, high, *moments.mean_and_deviation(len(schema.labels))], axis=1).tolist()
            answer.labels = {name: LabelStatistics(*own) for name, own in zip(schema.labels, figures, strict=True)}
        answer.vectors = {
            feature.name: np.stack(vector_moments[feature.name].mean_and_deviation(feature.length))
            for feature in schema.features
            if feature.kind == "vector"
        }
        if times:
            answer.first, answer.last = str(min(times)), str(max(times))
        if schema.weight and answer.rows and not answer.weight:
            raise self._no_weight("a sum above 0", f"0 in each of {answer.rows:,} rows")
        return answer

    def samples(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Values of numbers in the same rows, all of them or about `SAMPLE`; read anew, as they are large.

        Args:
          names: Of the features.

        Returns:
          By name, float32 [sampled rows], NaN where missing.

        Raises:
          TerminalError: As `pieces`.
        """
        features = [feature for feature in self.schema.features if feature.name in names]
        samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
        start = 0
        for table in self.tables(list(names)):
            kept = sampled(start, start + len(table), self._rows, SAMPLE)
            start += len(table)
            for name, values in raw_features.columns(table, features).items():
                samples[name].append(values[kept])
        return {name: _joined(parts) for name, parts in samples.items()}

    def _weights(self, table: pa.Table) -> np.ndarray | None:
        if not self.schema.weight:
            return None
        weights = table[self.schema.weight].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        wrong = weights[~(np.isfinite(weights) & (weights >= 0))]
        if len(wrong):
            raise self._no_weight("finite numbers, 0 or more", f"{wrong[0]}, and {len(wrong) - 1:,} others nearby")
        return weights

    def _no_weight(self, expected: str, received: str) -> TerminalError:
        return TerminalError(
            f"The weights {self.schema.weight} of the split {self.name} weigh nothing.",
            expected=expected,
            received=received,
            remedy="Correct the step that makes the examples.",
        )


def sampled(start: int, stop: int, rows: int, size: int) -> np.ndarray:
    """Which rows belong to a sample of about `size` of all, by a hash of their number.

    Args:
      start: Number of the first row.
      stop: And of the row behind the last.
      rows: Rows in all.
      size: Rows wanted; where there are no more, all are in.

    Returns:
      bool [stop - start].
    """
    if rows <= size:
        return np.ones(stop - start, bool)
    bits = np.arange(start, stop, dtype=np.uint64)
    # SplitMix64's finalizer: neighbouring numbers come far from each other.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits + np.uint64(0x9E3779B97F4A7C15)) if shift == 30 else bits  # noqa: PLR2004
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return (bits ^ (bits >> np.uint64(31))) < np.uint64(int(size / rows * 2**64))


class _Moments:
    """Sums of values [rows, places] and of their squares, by weight, around the first mean; NaN does not count."""

    def __init__(self) -> None:
        self.center: np.ndarray | None = None

    def add(self, values: np.ndarray, weights: np.ndarray | None) -> None:
        known = np.isfinite(values)
        if self.center is None:
            self.center = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            self.weight, self.sum, self.squares = (np.zeros(values.shape[1]) for _ in range(3))
        counted = known * (1.0 if weights is None else weights[:, None])
        moved = np.where(known, values - self.center, 0)
        self.weight += counted.sum(axis=0)
        self.sum += (counted * moved).sum(axis=0)
        self.squares += (counted * moved**2).sum(axis=0)

    def mean_and_deviation(self, places: int) -> tuple[np.ndarray, np.ndarray]:
        if self.center is None:
            return np.full(places, np.nan), np.zeros(places)
        weight = np.maximum(self.weight, np.finfo(float).tiny)
        mean = self.sum / weight
        return self.center + mean, np.sqrt(np.maximum(self.squares / weight - mean**2, 0))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    values = pc.list_flatten(column) if nested else column
    counts = pc.value_counts(values).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts if entry["values"]}


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
