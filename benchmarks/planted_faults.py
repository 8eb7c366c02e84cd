"""The flights of 2013 by day, and faults that are planted into one column of one day."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.home import Home
from components.data.lake import Lake
from components.schema import Feature
from pipelines.flight_delays import clock, lake

STABLE = ("local_minute", "scheduled_minutes", "distance", "flight", "plane_year", "seats", "dep_delay")
WEATHER = ("temp", "dewp", "humid", "wind_speed", "pressure", "visib", "precip")
CATEGORIES = ("carrier", "origin", "dest", "manufacturer")
SOURCE = "origin"
"""The column that says which source, an airport, a row comes from."""
GROUPS = {"stable": STABLE, "weather": WEATHER, "categories": CATEGORIES}
FEATURES = [
    *(Feature(name, "number", "") for name in (*STABLE, *WEATHER)),
    *(Feature(name, "category", "") for name in CATEGORIES),
]
ALL = tuple(feature.name for feature in FEATURES)
UNUSUAL = {
    **dict.fromkeys(("2013-01-01", "2013-05-27", "2013-07-04", "2013-09-02", "2013-11-28", "2013-12-25"), "holiday"),
    **dict.fromkeys(("2013-01-21", "2013-02-18", "2013-10-14", "2013-11-11"), "holiday"),
    **dict.fromkeys(("2013-11-29", "2013-12-24", "2013-12-31"), "day beside a holiday"),
    **dict.fromkeys(("2013-02-08", "2013-02-09"), "blizzard"),
    "2013-12-30": "the source's weather ends at 18:00",
}
"""Days that may alarm; all others are usual."""
Hits = dict[str, dict[str, list[bool]]]
"""Whether a fault was found, a day after the other, by fault and column."""
Fault = Callable[[pd.DataFrame, str, np.random.Generator], pd.Series]


def _some(rows: pd.DataFrame, name: str, rng: np.random.Generator, share: float, value: object) -> pd.Series:
    return rows[name].mask(rng.random(len(rows)) < share, value)


def _scaled(factor: float) -> Fault:
    return lambda rows, name, _: rows[name] * factor


def _shifted(deviations: float) -> Fault:
    def plant(rows: pd.DataFrame, name: str, _: np.random.Generator) -> pd.Series:
        shift = deviations * rows.attrs["deviation"][name]
        is_whole = (rows[name].dropna() % 1 == 0).all()
        # Whole numbers stay whole: fractions alone would give the fault away.
        return rows[name] + (round(shift) if is_whole else shift)

    return plant


def _third(rows: pd.DataFrame, name: str) -> object:
    counts = rows[name][rows[name] != ""].value_counts()
    return counts.index[min(2, len(counts) - 1)]


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
    "plus 0.5 sd": _shifted(0.5),
    "plus 1 sd": _shifted(1.0),
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


def planted_at(rows: pd.DataFrame, seed: int) -> Iterator[tuple[Feature, str, pd.Series]]:
    """Each fault of numbers in the rows of one airport, each day of another one: the day's columns with it."""
    airport = sorted(set(rows[SOURCE]))[seed % 3]
    for feature, fault, column in planted(rows[rows[SOURCE] == airport], seed):
        if feature.kind == "number":
            yield feature, fault, column.reindex(rows.index).where(rows[SOURCE] == airport, rows[feature.name])


def planted(rows: pd.DataFrame, seed: int) -> Iterator[tuple[Feature, str, pd.Series]]:
    """Each fault in each column of a day's rows: feature, fault, the column with it. The same of the same seed."""
    rng = np.random.default_rng([20130701, seed])
    for feature in FEATURES:
        for fault, plant in (NUMBER_FAULTS if feature.kind == "number" else CATEGORY_FAULTS).items():
            yield feature, fault, plant(rows, feature.name, rng)


def no_hits() -> Hits:
    """Of no days yet."""
    return defaultdict(lambda: defaultdict(list))


def share(hits: Hits, names: Sequence[str] = ALL) -> float:
    """Of the faults in these columns that were found."""
    return float(np.mean([hit for columns in hits.values() for name in names for hit in columns.get(name, ())]))


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


def table_of(rows: pd.DataFrame, features: Sequence[Feature]) -> pa.Table:
    """Columns of features as examples have them."""
    kinds = {"number": pa.float32(), "category": pa.string()}
    columns = {f.name: pa.array(rows[f.name], kinds[f.kind], from_pandas=True) for f in features}
    return pa.table(columns)


def _read(table: str) -> pd.DataFrame:
    path = Home.current().lake
    if not Lake(path).numbers(table):
        lake.build(path)
    return pa.concat_tables([pq.read_table(path / file.path) for file in Lake(path).snapshot(table).files]).to_pandas()
