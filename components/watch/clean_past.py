"""What a feature is compared with: its last days without a fault, however long one has been open.

The summaries of the last days hold the fault, and those of the days before it may be gone. So these days of a feature
that had a fault of late are kept in the state of the watch, until the last days are without one again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from components.watch.day_statistics import pooled
from components.watch.day_summary import DaySummary, Numbers
from components.watch.fault_rules import ROWS

POOL_DAYS = 28
"""Days that are the past of distances, new values and hard rules."""


@dataclass(frozen=True)
class CleanPast:
    """Which features are not compared with the last days as they are, and with what instead.

    Args:
      since: Features with an open fault, or ROWS, with the day on which it began.
      kept: By feature its last days without a fault, in order, where these are not simply the last days.
    """

    since: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, tuple[DaySummary, ...]] = field(default_factory=dict)

    def of(self, feature: str, past: Sequence[DaySummary]) -> Sequence[DaySummary]:
        """The days that a feature is compared with, of the last ones."""
        return self.kept.get(feature, past)

    def pool(self, past: Sequence[DaySummary], version: int = 0) -> DaySummary:
        """The days that the features are compared with as one; at least one last day.

        Args:
          past: The last days.
          version: The model whose predictions are compared; what another version predicted is left out.
        """
        pool = pooled(past)
        pool.predicted = _predicted(past, version)
        for name, days in self.kept.items():
            for of in (pool.numbers, pool.categories, pool.predicted):
                of.pop(name, None)
            if days:
                own = pooled(days)
                pool.numbers.update(own.numbers)
                pool.categories.update(own.categories)
                pool.predicted.update(_predicted(days, version))
        return pool

    def after(self, day: DaySummary, past: Sequence[DaySummary], faulty: Collection[str]) -> CleanPast:
        """What holds for the next day.

        Args:
          day: The day.
          past: The last days before it.
          faulty: Features with a fault on it, and ROWS.
        """
        there = {ROWS, *day.numbers, *day.categories, *day.predicted}
        last = [known.day for known in (*past, day)][-POOL_DAYS:]
        kept, spoiled = {}, touched(day, faulty)
        for name in sorted({*self.kept, *spoiled} & there):
            days = [*self.of(name, past), *([] if name in spoiled else [day])][-POOL_DAYS:]
            if [known.day for known in days] != last:
                kept[name] = tuple(only(known, name) for known in days)
        return CleanPast({name: self.since.get(name, day.day) for name in sorted(faulty)}, kept)

    def after_few(self, day: DaySummary, past: Sequence[DaySummary], *, faulty: bool) -> CleanPast:
        """What holds after a day of too few rows, which says nothing but how many they are.

        Args:
          day: The day.
          past: The last days before it.
          faulty: Whether their number is a fault.
        """
        since = {name: first for name, first in self.since.items() if name != ROWS}
        if not faulty:
            return replace(self, since=since)
        days = tuple(only(known, ROWS) for known in self.of(ROWS, past))
        return CleanPast({**since, ROWS: self.since.get(ROWS, day.day)}, {**self.kept, ROWS: days})

    def accepting(self, features: Collection[str], past: Sequence[DaySummary]) -> CleanPast:
        """What holds where the state since their fault began is the usual one of some features.

        Args:
          features: They, and the predictions that are made of them (`touched`).
          past: The last days.
        """
        since = {name: day for name, day in self.since.items() if name not in features}
        all_since = max(self.since[name] for name in features if name in self.since)
        began = {name: self.since.get(name, all_since) for name in features}
        new = {name: tuple(only(d, name) for d in past if d.day >= began[name]) for name in features}
        return CleanPast(since, {**self.kept, **new})

    def to_bytes(self) -> bytes:
        """The same bytes for the same days."""
        kept = {name: [json.loads(day.to_json()) for day in days] for name, days in self.kept.items()}
        return json.dumps({"since": dict(self.since), "kept": kept}, sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> CleanPast:
        """The inverse of `to_bytes`."""
        known = json.loads(data)
        kept = {n: tuple(DaySummary.from_json(json.dumps(day)) for day in days) for n, days in known["kept"].items()}
        return CleanPast(known["since"], kept)


def touched(day: DaySummary, faulty: Collection[str]) -> set[str]:
    """What is no part of usual days: the features with a fault, and what a model predicts of them."""
    return {*faulty, *(day.predicted if {*faulty} - {ROWS} else ())}


def _predicted(days: Sequence[DaySummary], version: int) -> dict[str, Numbers]:
    of_version = [known for known in days if known.version == version]
    return pooled(of_version).predicted if of_version else {}


def only(day: DaySummary, feature: str) -> DaySummary:
    """The day with one feature or prediction alone, or of ROWS with none."""
    numbers, predicted = ({feature: of[feature]} if feature in of else {} for of in (day.numbers, day.predicted))
    categories = {feature: day.categories[feature]} if feature in day.categories else {}
    sources = {source: {feature: sums[feature]} for source, sums in day.sources.items() if feature in sums}
    of_day = DaySummary(day.day, day.rows, day.labelled, numbers, categories, version=day.version)
    return replace(of_day, predicted=predicted, sources=sources)
