"""Alarms about the data of every day of 2013: those by chance, and faults planted into one column at a time.

    python -m benchmarks.data_alarms [--days 2013-07-01] [--every 1] [--json FILE]

Every flight of the lake counts, cancelled ones too, with its weather and aircraft: 13 numbers and 4 categories. Days
are judged in their order, each from the state of the day before. A fault is planted into one column of one real day,
which is judged with the state before it; nothing is planted into the past.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.home import Home
from components.data.lake import Lake
from components.schema import Feature
from components.watch.data_alarms import POOL_DAYS, YEAR_DAYS, State, after
from components.watch.day_summary import DaySummary
from pipelines.flight_delays import clock, lake

STABLE = ("local_minute", "scheduled_minutes", "distance", "flight", "plane_year", "seats", "dep_delay")
WEATHER = ("temp", "dewp", "humid", "wind_speed", "pressure", "visib", "precip")
CATEGORIES = ("carrier", "origin", "dest", "manufacturer")
FEATURES = [
    *(Feature(name, "number", "") for name in (*STABLE, *WEATHER)),
    *(Feature(name, "category", "") for name in CATEGORIES),
]
UNUSUAL = {
    **dict.fromkeys(("2013-01-01", "2013-05-27", "2013-07-04", "2013-09-02", "2013-11-28", "2013-12-25"), "holiday"),
    **dict.fromkeys(("2013-01-21", "2013-02-18", "2013-10-14", "2013-11-11"), "holiday"),
    **dict.fromkeys(("2013-11-29", "2013-12-24", "2013-12-31"), "day beside a holiday"),
    **dict.fromkeys(("2013-02-08", "2013-02-09"), "blizzard"),
    "2013-12-30": "the source's weather ends at 18:00",
}
"""Days that may alarm; all others are usual."""
Fault = Callable[[pd.DataFrame, str, np.random.Generator], pd.Series]


def _some(rows: pd.DataFrame, name: str, rng: np.random.Generator, share: float, value: object) -> pd.Series:
    return rows[name].mask(rng.random(len(rows)) < share, value)


def _scaled(factor: float, spread: float = 0.0) -> Fault:
    return lambda rows, name, _: rows[name] * factor + spread * rows.attrs["deviation"][name]


def _third(rows: pd.DataFrame, name: str) -> object:
    return rows[name][rows[name] != ""].value_counts().index[2 if rows[name].nunique() > 3 else 0]


def _doubled(rows: pd.DataFrame, name: str, rng: np.random.Generator) -> pd.Series:
    third = _third(rows, name)
    share = (rows[name] == third).mean()
    return _some(rows, name, rng, share / (1 - share), third)


NUMBER_FAULTS: dict[str, Fault] = {
    "all missing": lambda rows, name, _: rows[name] * math.nan,
    "30 % missing": lambda rows, name, rng: _some(rows, name, rng, 0.3, math.nan),
    "10 % missing": lambda rows, name, rng: _some(rows, name, rng, 0.1, math.nan),
    "constant": lambda rows, name, _: rows[name] * 0 + rows[name].median(),
    "10 % become -1": lambda rows, name, rng: _some(rows, name, rng, 0.1, -1.0),
    "10 % become 9999": lambda rows, name, rng: _some(rows, name, rng, 0.1, 9999.0),
    "5 % become 0": lambda rows, name, rng: _some(rows, name, rng, 0.05, 0.0),
    "1 % infinite": lambda rows, name, rng: _some(rows, name, rng, 0.01, math.inf),
    "other sign": _scaled(-1),
    "times 10": _scaled(10),
    "times 0.45 (another unit)": _scaled(0.4536),
    "plus 0.5 sd": _scaled(1, 0.5),
    "plus 1 sd": _scaled(1, 1.0),
}
CATEGORY_FAULTS: dict[str, Fault] = {
    "all missing": lambda rows, name, _: pd.Series("", rows.index),
    "10 % missing": lambda rows, name, rng: _some(rows, name, rng, 0.1, ""),
    "constant": lambda rows, name, _: pd.Series(rows[name].mode()[0], rows.index),
    "10 % become unknown": lambda rows, name, rng: _some(rows, name, rng, 0.1, "unknown"),
    "lower case": lambda rows, name, _: rows[name].str.lower(),
    "third value doubles": _doubled,
    "third value is gone": lambda rows, name, _: rows[name].where(
        rows[name] != _third(rows, name), rows[name].mode()[0]
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", default="2013-07-01", help="faults are planted from this day on")
    parser.add_argument("--every", type=int, default=1, help="into each so many days")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    rows = flights()
    parts = {str(day): part for day, part in rows.groupby("day", sort=True)}
    summaries = [DaySummary.of(day, FEATURES, [_table(part, FEATURES)], "dep_delay") for day, part in parts.items()]
    print(f"{len(summaries)} summaries: {time.monotonic() - started:.0f} s", flush=True)
    state, states, judgements = State(), [], []
    for number, summary in enumerate(summaries):
        states.append(state)
        state, judgement = after(state, summary, summaries[max(0, number - POOL_DAYS) : number])
        judgements.append(judgement)
    by_chance(judgements)
    chosen = [n for n, summary in enumerate(summaries) if summary.day >= options.days][:: options.every]
    table = planted(parts, summaries, states, chosen, judgements)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))
    print(f"{time.monotonic() - started:.0f} s")


def by_chance(judgements: Sequence) -> None:
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


def planted(
    parts: dict[str, pd.DataFrame],
    summaries: Sequence[DaySummary],
    states: Sequence[State],
    chosen: Sequence[int],
    judgements: Sequence,
) -> dict[str, dict[str, float]]:
    """Share of days on which each fault was found on that day, by fault and column; prints a table."""
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    days = list(parts)
    for number in chosen:
        rng = np.random.default_rng([20130701, number])
        rows, past = parts[days[number]], summaries[max(0, number - POOL_DAYS) : number]
        quiet = {(finding.feature, finding.what) for finding in judgements[number].findings}
        for feature in FEATURES:
            # A feature is judged by itself: what is planted changes no other.
            alone = [_only(known, feature.name) for known in past]
            for fault, plant in (NUMBER_FAULTS if feature.kind == "number" else CATEGORY_FAULTS).items():
                changed = pd.DataFrame({feature.name: plant(rows, feature.name, rng)})
                day = DaySummary.of(days[number], [feature], [_table(changed, [feature])])
                _, judgement = after(states[number], day, alone)
                news = {(finding.feature, finding.what) for finding in judgement.findings} - quiet
                hits[fault][feature.name].append(any(name == feature.name for name, _ in news))
    groups = {"stable": STABLE, "weather": WEATHER, "categories": CATEGORIES}
    print(f"| fault, on {len(chosen)} days | {' | '.join(groups)} |\n|---|{'---:|' * len(groups)}")
    for fault, by_column in hits.items():
        cells = [[hit for name in names for hit in by_column.get(name, ())] for names in groups.values()]
        print(f"| {fault} | {' | '.join(f'{np.mean(cell):.0%}' if cell else '' for cell in cells)} |")
    for group, names in groups.items():
        every = [hit for by_column in hits.values() for name in names for hit in by_column.get(name, ())]
        print(f"{group}: {np.mean(every):.1%} of {len(every)} found on day one")
    return {fault: {name: float(np.mean(hit)) for name, hit in columns.items()} for fault, columns in hits.items()}


def _only(day: DaySummary, name: str) -> DaySummary:
    """The day with one feature alone."""
    numbers, categories = ({k: v for k, v in d.items() if k == name} for d in (day.numbers, day.categories))
    return DaySummary(day.day, day.rows, day.labelled, numbers, categories)


def flights() -> pd.DataFrame:
    """All flights of the year with weather and aircraft, and `day`, local."""
    tables = {name: _read(name) for name in ("flights", "weather", "planes")}
    rows = tables["flights"]
    rows["observed_at"] = rows.scheduled_departure.dt.floor("h").astype("datetime64[us, UTC]")
    tables["weather"]["observed_at"] = tables["weather"].observed_at.astype("datetime64[us, UTC]")
    rows = rows.merge(tables["weather"].drop_duplicates(["origin", "observed_at"]), "left", ["origin", "observed_at"])
    planes = tables["planes"][["tailnum", "year", "seats", "manufacturer"]].rename(columns={"year": "plane_year"})
    rows = rows.merge(planes, "left", "tailnum")
    rows["day"] = rows.scheduled_departure.dt.tz_convert(clock.ZONE).dt.date.astype(str)
    rows[list(CATEGORIES)] = rows[list(CATEGORIES)].fillna("").astype(str)
    numbers = [*STABLE, *WEATHER]
    rows[numbers] = rows[numbers].astype(np.float64)
    rows.attrs["deviation"] = rows[numbers].std().to_dict()
    return rows


def _read(table: str) -> pd.DataFrame:
    path = Home.current().lake
    if not Lake(path).numbers(table):
        lake.build(path)
    return pa.concat_tables([pq.read_table(path / file.path) for file in Lake(path).snapshot(table).files]).to_pandas()


def _table(rows: pd.DataFrame, features: Sequence[Feature]) -> pa.Table:
    kinds = {"number": pa.float32(), "category": pa.string()}
    columns = {f.name: pa.array(rows[f.name], kinds[f.kind], from_pandas=True) for f in features}
    if "dep_delay" in rows and "dep_delay" not in columns:
        columns["dep_delay"] = pa.array(rows["dep_delay"], pa.float32(), from_pandas=True)
    return pa.table(columns)


if __name__ == "__main__":
    main()
