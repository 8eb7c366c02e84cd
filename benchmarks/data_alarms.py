"""Alarms about the data of every day of 2013: those by chance, and faults planted into one column at a time.

    python -m benchmarks.data_alarms [--days 2013-07-01] [--every 12] [--ours] [--one-source] [--json FILE]

Every flight of the lake counts, cancelled ones too, with its weather and aircraft: 14 numbers and 4 categories. Days
are judged in their order, each from the state of the day before. A fault is planted into one column of one real day,
which is judged with the state before it; nothing is planted into the past. With --one-source the faults of numbers are
planted into the rows of one airport, too, and all is judged with and without comparing the airports. The rules of other
tools (`benchmarks.alarm_rules`) judge the same days and faults by the same budget, each in that of its settings which
finds most on days before the first one (--choose).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.alarm_rules import hits_of_rules
from benchmarks.planted_faults import (
    FEATURES,
    GROUPS,
    SOURCE,
    UNUSUAL,
    Hits,
    flights,
    no_hits,
    planted,
    planted_at,
    share,
    table_of,
)
from components.schema import Feature
from components.watch.clean_past import POOL_DAYS, only
from components.watch.data_alarms import YEAR_DAYS, Judgement, State, after, narrowed
from components.watch.day_summary import DaySummary

OURS, ALONE = "ours", "without sources"
Plant = Callable[[pd.DataFrame, int], Iterator[tuple[Feature, str, pd.Series]]]


@dataclass(frozen=True)
class Year:
    """The days in their order, as we judge them: rows, summaries, the state before each, judgements; and airports."""

    parts: dict[str, pd.DataFrame]
    summaries: list[DaySummary]
    states: list[State]
    judgements: list[Judgement]
    sources: tuple[str, ...]

    @classmethod
    def judged(cls, rows: pd.DataFrame, compares: bool = True) -> Year:
        """Of all flights; airports are compared with each other, or not."""
        sources = tuple(sorted(set(rows[SOURCE]))) if compares else ()
        parts = {str(day): part for day, part in rows.groupby("day", sort=True)}
        summaries = [
            DaySummary.of(d, FEATURES, [table_of(part, FEATURES)], ("dep_delay",), SOURCE, sources)
            for d, part in parts.items()
        ]
        state, states, judgements = State(), [], []
        for number, summary in enumerate(summaries):
            states.append(state)
            state, judgement = after(state, summary, summaries[max(0, number - POOL_DAYS) : number])
            judgements.append(judgement)
        return cls(parts, summaries, states, judgements, sources)

    def from_day(self, first: str, last: str, every: int) -> list[int]:
        """Each so many of the days from the first to before the last that have a threshold, usual or not."""
        days = [n for n, j in enumerate(self.judgements) if math.isfinite(j.threshold) and first <= j.day < last]
        return days[::every]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", default="2013-07-01", help="faults are planted from this day on")
    parser.add_argument("--until", default="2014-01-01", help="and before this one")
    parser.add_argument("--every", type=int, default=12, help="into each so many days")
    parser.add_argument("--choose", type=int, default=12, help="settings are chosen on each so many days before")
    parser.add_argument("--ours", action="store_true", help="without the rules of other tools")
    parser.add_argument("--one-source", action="store_true", help="also faults of one airport, and without comparing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    rows = flights()
    year = Year.judged(rows)
    print(f"{len(year.summaries)} days judged: {time.monotonic() - started:.0f} s", flush=True)
    by_chance(year.judgements)
    chosen = year.from_day(options.days, options.until, options.every)
    columns = {OURS: our_hits(year, chosen)}
    if options.one_source:
        alone = Year.judged(rows, compares=False)
        print(f"{ALONE}:")
        by_chance(alone.judgements)
        columns[ALONE] = our_hits(alone, chosen)
        columns |= {
            f"one source: {name}": our_hits(of, chosen, planted_at) for name, of in ((OURS, year), (ALONE, alone))
        }
    if not options.ours:
        held = np.array([math.isfinite(judgement.threshold) for judgement in year.judgements])
        columns |= hits_of_rules(year.parts, held, year.from_day("", options.days, options.choose), chosen)
    tables(columns, len(chosen))
    if options.json:
        options.json.write_text(json.dumps(columns, indent=1))
    print(f"{time.monotonic() - started:.0f} s")


def by_chance(judgements: Sequence[Judgement]) -> None:
    """Prints every alarm of the year, and how many there are when each day is judged by all other days' scores."""
    for judgement in judgements:
        if judgement.findings:
            kind = UNUSUAL.get(judgement.day, "USUAL")
            print(f"  {judgement.day} {kind}: {'; '.join(f.words for f in judgement.findings[:3])}")
    judged = [j for j in judgements if math.isfinite(j.threshold) and math.isfinite(j.score)]
    usual = [j for j in judged if j.findings and j.day not in UNUSUAL]
    print(f"{len(judged)} days with a threshold, from {judged[0].day}: {len(usual)} alarms on usual days")
    hard = [j for j in judgements if any(f.hard for f in j.findings) and j.day not in UNUSUAL]
    print(f"{len(judgements)} days: {len(hard)} alarms of hard rules on usual days")
    scored = np.array([j.score for j in judgements if math.isfinite(j.score)])
    rank = max(1, math.floor(4 / YEAR_DAYS * len(scored)))
    others = [np.sort(np.delete(scored, place))[-rank] for place in range(len(scored))]
    print(f"{len(scored)} days, each by the scores of all others: {int((scored > others).sum())} alarms")


def our_hits(year: Year, numbers: Iterable[int], plant: Plant = planted) -> Hits:
    """Which faults we find, by a finding about the column that the day without the fault does not have."""
    hits = no_hits()
    for number in numbers:
        day, past = year.summaries[number].day, year.summaries[max(0, number - POOL_DAYS) : number]
        quiet = {(finding.feature, finding.what) for finding in year.judgements[number].findings}
        # A feature is judged by itself: what is planted changes no other.
        alone = {feature.name: [only(known, feature.name) for known in past] for feature in FEATURES}
        states = {f.name: _of(year.states[number], f.name) for f in FEATURES}
        for feature, fault, column in plant(year.parts[day], number):
            rows = table_of(year.parts[day].assign(**{feature.name: column}), _with_source(feature))
            spoiled = DaySummary.of(day, [feature], [rows], (), SOURCE, year.sources)
            _, judgement = after(states[feature.name], spoiled, alone[feature.name])
            news = {(finding.feature, finding.what) for finding in judgement.findings} - quiet
            hits[fault][feature.name].append(any(name == feature.name for name, _ in news))
    return hits


def tables(by_rule: dict[str, Hits], days: int) -> None:
    """Prints shares of faults that were found on their day: of numbers, and of categories."""
    for groups in (("stable", "weather"), ("categories",)):
        rules = {
            rule: hits for rule, hits in by_rule.items() if any(GROUPS[groups[0]][0] in of for of in hits.values())
        }
        heads = [f"{group}: {rule}" for group in groups for rule in rules]
        print(f"| fault, on {days} days | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
        faults = [f for f, columns in by_rule[OURS].items() if any(name in columns for name in GROUPS[groups[0]])]
        for fault in faults:
            cells = [share({fault: hits[fault]}, GROUPS[group]) for group in groups for hits in rules.values()]
            print(f"| {fault} | {' | '.join(f'{cell:.0%}' for cell in cells)} |")
        cells = [share(hits, GROUPS[group]) for group in groups for hits in rules.values()]
        print(f"| all | {' | '.join(f'**{cell:.1%}**' for cell in cells)} |")
    print("ours by column: " + ", ".join(f"{f.name} {share(by_rule[OURS], [f.name]):.0%}" for f in FEATURES))


def _with_source(feature: Feature) -> list[Feature]:
    return [feature, *(by for by in FEATURES if by.name == SOURCE != feature.name)]


def _of(state: State, name: str) -> State:
    """The state with the figures of one feature alone."""
    return narrowed(state, np.array([feature == name for feature, _ in state.keys], bool))


if __name__ == "__main__":
    main()
