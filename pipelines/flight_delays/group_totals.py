"""Totals of an hour of events by the minute, for every group that `features.py` declares: NumPy, and no engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines.flight_delays import features
from pipelines.flight_delays.events import Columns
from pipelines.flight_delays.features import Group
from streaming.queries import Totals


def totals(columns: Columns, groups: Iterable[Group] = features.GROUPS) -> list[Totals]:
    """The totals of departures and arrivals, one for each group.

    Args:
      columns: The events of an hour in the log's order; of those of one kind and flight the last counts.
      groups: What to tell apart.
    """
    hour = Hour.of(columns)
    return [hour.totals(group) for group in groups]


@dataclass(frozen=True)
class Hour:
    """The departures and arrivals of an hour, each once.

    Args:
      columns: [rows] each.
    """

    columns: Columns

    @classmethod
    def of(cls, columns: Columns) -> Hour:
        """An hour's events; of those of one kind and flight the last counts."""
        last = {key: row for row, key in enumerate(zip(columns.stream, columns.flight_id, strict=True))}
        if len(last) == len(columns.stream):
            return cls(columns)
        kept = np.sort(np.fromiter(last.values(), np.int64, len(last)))
        return cls(Columns(*(column[kept] for column in columns)))

    def totals(self, group: Group) -> Totals:
        """One row for each key and minute in which something of the group is known.

        Late is an event of which the delay exceeds `features.LATE_MINUTES`. An event without an aircraft is in no
        total by aircraft, and one of which the delay is not known is in none at all.
        """
        columns = self.columns
        rows = self._known[group.stream.name]
        if "tailnum" in group.by:
            rows = rows[columns.tailnum[rows] != ""]
        if not len(rows):
            empty = np.zeros(0, np.int64)
            return Totals(group.name, [], empty, empty, empty, empty, empty)
        minutes, delay = columns.minute[rows], columns.delay[rows]
        cell = np.zeros(len(rows), np.int64)
        for name in group.by:
            words, number = self._numbered[name]
            cell = cell * words + number[rows]
        begin = int(minutes.min())
        cell = cell * (int(minutes.max()) - begin + 1) + minutes - begin
        _, first, row = np.unique(cell, return_index=True, return_inverse=True)
        late, sums = (np.zeros(len(first), np.int64) for _ in range(2))
        largest = np.full(len(first), np.iinfo(np.int64).min)
        np.add.at(late, row, delay > features.LATE_MINUTES)
        np.add.at(sums, row, delay)
        np.maximum.at(largest, row, delay)
        parts = [getattr(columns, name)[rows[first]] for name in group.by]
        keys = list(map("|".join, zip(*parts, strict=True))) if parts else [""] * len(first)
        return Totals(group.name, keys, minutes[first], np.bincount(row).astype(np.int64), late, sums, largest)

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        """Rows of which the delay is known, by stream."""
        columns = self.columns
        return {
            stream.name: np.flatnonzero(columns.known & (columns.stream == stream.name)) for stream in features.STREAMS
        }

    @cached_property
    def _numbered(self) -> dict[str, tuple[int, np.ndarray]]:
        """Each column of words as numbers: how many words, and the number of each row's, int64 [rows]."""
        numbered = {}
        for name in {name for group in features.GROUPS for name in group.by}:
            words: dict[str, int] = {}
            numbers = [words.setdefault(word, len(words)) for word in getattr(self.columns, name)]
            numbered[name] = max(len(words), 1), np.array(numbers, np.int64)
        return numbered
