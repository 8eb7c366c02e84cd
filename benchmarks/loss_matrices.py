"""Writes matrices of losses, over which `commands.policy replay` replays retraining policies.

    python -m benchmarks.loss_matrices flights [--fortnights] [--challenger] [--examples FOLDER] [--seconds 150]
    python -m benchmarks.loss_matrices bike [--every 3]

flights: LightGBM fitted before each month from March 2013 on, or each fortnight from March to August, its log loss on
each later day and month. What was broken off, or ended after --seconds, goes on. Features are few (schedule, weather of
the hour before, three windows of departures) and made here from the lake; with --examples, the Examples artifact of
2013-12, they are the pipeline's 65.

bike: LightGBM fitted before each month from October 2011 on, of all rides or of those of the last two years, its
absolute error at each later month. Features are the calendar and rides that are known 24 hours ahead.
The lakes are made where they are missing.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.home import Home
from airtight.watch.history import ALL
from components.data import examples as reading
from components.data.lake import Lake
from components.measures.scores import log_losses
from components.watch.loss_matrix import LossMatrix
from pipelines.bike_demand import lake as bike_lake
from pipelines.flight_delays import clock
from pipelines.flight_delays import lake as flights_lake
from pipelines.flight_delays.features import LATE_MINUTES, SCHEMA

FLIGHTS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "verbose": -1,
    "num_threads": 1,
    "seed": 0,
}
FLIGHTS_TREES = 250
CHALLENGER = FLIGHTS | {"learning_rate": 0.1, "num_leaves": 15}
CHALLENGER_TREES = 60
"""A model that costs a second or two to fit."""
RIDES = {
    "objective": "l1",
    "learning_rate": 0.08,
    "num_leaves": 31,
    "min_data_in_leaf": 40,
    "verbose": -1,
    "num_threads": 1,
    "seed": 0,
    "deterministic": True,
}
RIDES_TREES = 200
MONTHS = np.arange("2013-03", "2014-01", dtype="datetime64[M]").astype("datetime64[D]")
FORTNIGHTS = np.arange("2013-03-01", "2013-08-03", 14, dtype="datetime64[D]")
"""First days that a model serves: it has learned from the days before."""
WINDOWS = ((("origin",), 2), (("origin", "carrier"), 6), (("carrier",), 24))
"""Departures that a flight sees: what they share with it, and of how many hours."""
INSTANT = "datetime64[us, UTC]"
CUTOFF = pd.Timedelta("30min")
LAGS_H = (24, 48, 168, 336)
MEANS_H = {168: 24, 672: 48}
"""Hours whose mean is a feature, and how many of them there must be."""


@dataclass(frozen=True)
class Trainer:
    """How models are fitted, where their losses are kept, and when (`time.monotonic`) no further one is begun."""

    settings: dict[str, Any]
    trees: int
    parts: Path
    until: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("flights", "bike"))
    parser.add_argument("--folder", type=Path, default=Home.current().path / "bench" / "watch")
    parser.add_argument("--examples", type=Path, help="flights: the Examples artifact of 2013-12")
    parser.add_argument("--challenger", action="store_true", help="flights: few small trees")
    parser.add_argument("--fortnights", action="store_true", help="flights: a fit each fortnight")
    parser.add_argument("--seconds", type=float, default=1e9, help="flights: fit nothing more after so many")
    parser.add_argument("--every", type=int, default=1, help="bike: a fit each so many months")
    options = parser.parse_args()
    if options.data == "bike":
        bike(options.every).write(options.folder / f"bike-{options.every}.npz")
        return
    name = ("flights-pipeline" if options.examples else "flights") + ("-challenger" if options.challenger else "")
    settings = (CHALLENGER, CHALLENGER_TREES) if options.challenger else (FLIGHTS, FLIGHTS_TREES)
    rows = of_examples(options.examples) if options.examples else of_lake()
    trainer = Trainer(*settings, options.folder / "parts" / name, time.monotonic() + options.seconds)
    if options.fortnights:
        flights(rows, trainer, FORTNIGHTS).write(options.folder / f"{name}-fortnights.npz")
        return
    days = flights(rows, trainer, MONTHS)
    days.write(options.folder / f"{name}-days.npz")
    merged(days).write(options.folder / f"{name}.npz")


def flights(rows: pd.DataFrame, trainer: Trainer, fit_days: np.ndarray) -> LossMatrix:
    """Models of all that was before each of some days, at the days from the first of them on.

    Args:
      rows: Features, and `label` (0 or 1) and `day` (date, local).
      trainer: How they are fitted.
      fit_days: datetime64[D], rising.
    """
    rows = rows.sort_values("day", kind="stable")
    features, labels = rows.drop(columns=["label", "day"]), rows.label.to_numpy()
    of_row = rows.day.to_numpy().astype("datetime64[D]")
    days, counts = np.unique(of_row[of_row >= fit_days[0]], return_counts=True)
    loss, fit_at = np.full((1, len(fit_days), len(days)), np.nan), np.searchsorted(days, fit_days)
    for number, first in enumerate(fit_days):
        started, part = time.monotonic(), trainer.parts / f"{first}.npy"
        if not part.is_file():
            if started > trainer.until:
                sys.exit(f"{number} of {len(fit_days)} models are there; start this again to go on.")
            data = lightgbm.Dataset(features[of_row < first], labels[of_row < first])
            later = of_row >= first
            answers = np.asarray(lightgbm.train(trainer.settings, data, trainer.trees).predict(features[later]))
            losses = np.bincount(np.searchsorted(days, of_row[later]), log_losses(labels[later], answers), len(days))
            part.parent.mkdir(parents=True, exist_ok=True)
            np.save(part, losses / counts)
            print(f"{first}: {time.monotonic() - started:.0f} s", flush=True)
        loss[0, number, fit_at[number] :] = np.load(part)[fit_at[number] :]
    return LossMatrix(loss, np.array([ALL]), fit_at, counts, days.astype(str), "log loss")


def merged(days: LossMatrix) -> LossMatrix:
    """The same with the months between two fits as periods."""
    ends = np.append(days.fit_at, len(days.rows))
    spans = [slice(start, end) for start, end in itertools.pairwise(ends)]
    loss = np.stack([np.average(days.loss[..., span], axis=-1, weights=days.rows[span]) for span in spans], axis=-1)
    rows = np.array([days.rows[span].sum() for span in spans])
    starts = np.array([days.starts[span.start][:7] for span in spans])
    return LossMatrix(loss, days.lengths, np.arange(len(spans)), rows, starts, days.unit)


def of_examples(folder: Path) -> pd.DataFrame:
    """The pipeline's own features of the year."""
    columns = (*SCHEMA.names, SCHEMA.label, SCHEMA.time)
    splits = [reading.read_table(folder, split, SCHEMA, columns) for split in ("train", "validation", "test")]
    table = pa.concat_tables(splits)
    rows = pd.DataFrame(reading.features(table, SCHEMA))
    rows = rows.astype(dict.fromkeys(SCHEMA.of_kind("category"), "category"))
    return rows.assign(label=reading.labels(table, SCHEMA), day=_days(table[SCHEMA.time].to_pandas()))


def of_lake() -> pd.DataFrame:
    """A few features of the year's flights, known half an hour before the scheduled departure."""
    flights, weather = (_read(table, flights_lake.build) for table in ("flights", "weather"))
    # Instants of one unit: pandas joins no others.
    instants = ["scheduled_departure", "departed_at"]
    flights[instants] = flights[instants].astype(INSTANT)
    weather["observed_at"] = weather.observed_at.astype(INSTANT)
    flights["cutoff"] = flights.scheduled_departure - CUTOFF
    flights["observed_at"] = flights.cutoff.dt.floor("h").astype(INSTANT) - pd.Timedelta("1h")
    weather = weather.drop(columns="wind_gust").drop_duplicates(["origin", "observed_at"])
    rows = flights.merge(weather, on=["origin", "observed_at"], how="left").sort_values("cutoff", kind="stable")
    local = rows.scheduled_departure.dt.tz_convert(clock.ZONE)
    categories = {name: rows[name].astype("category") for name in ("origin", "carrier", "dest")}
    seen = rows[["distance", "temp", "dewp", "humid", "wind_speed", "wind_dir", "precip", "pressure", "visib"]]
    seen = seen.assign(**categories, hour=local.dt.hour, weekday=local.dt.dayofweek)
    for keys, hours in WINDOWS:
        seen = seen.assign(**departures(rows, list(keys), pd.Timedelta(hours=hours)))
    arrived = rows.arr_delay.notna()
    late = (rows.arr_delay[arrived] > LATE_MINUTES).astype(int)
    return seen[arrived].assign(label=late, day=_days(rows.scheduled_departure[arrived]))


def departures(rows: pd.DataFrame, keys: list[str], span: pd.Timedelta) -> dict[str, np.ndarray]:
    """Number, share of late ones and mean delay of the departures that became known in the span before a cut-off."""
    events = rows.dropna(subset=["dep_delay"]).sort_values("departed_at", kind="stable")
    events = events[[*keys, "departed_at", "dep_delay"]].assign(n=1.0, late=events.dep_delay > LATE_MINUTES)
    sums = ["n", "late", "dep_delay"]
    events[sums] = events.groupby(keys)[sums].cumsum()

    def until(instants: pd.Series) -> np.ndarray:
        departures = (
            rows[keys].assign(at=instants.astype(INSTANT), row=np.arange(len(rows))).sort_values("at", kind="stable")
        )
        joined = pd.merge_asof(
            departures, events, left_on="at", right_on="departed_at", by=keys, allow_exact_matches=False
        )
        return np.asarray(joined.sort_values("row")[sums].fillna(0.0), np.float64)

    count, late, delay = (until(rows.cutoff) - until(rows.cutoff - span)).T
    there = np.where(count > 0, count, np.nan)
    name = "_".join(keys)
    return {f"{name}_count": count, f"{name}_late": late / there, f"{name}_delay": delay / there}


def bike(step: int) -> LossMatrix:
    """Models before each `step`-th month from October 2011 on, at all of these months."""
    rides = _read("rides", bike_lake.build).sort_values("starts_at")
    hour, count = pd.to_datetime(rides.hour), rides.rides
    features = pd.DataFrame(
        {"hour": hour.dt.hour, "weekday": hour.dt.dayofweek, "month": hour.dt.month, "day": hour.dt.dayofyear}
        | {f"rides_{lag}h": count.shift(lag) for lag in LAGS_H}
        | {f"mean_{span}h": count.shift(24).rolling(span, min_periods=least).mean() for span, least in MEANS_H.items()}
    ).to_numpy(np.float64)
    labels, month = count.to_numpy(np.float64), hour.dt.to_period("M")
    months = pd.period_range("2011-10", month.max(), freq="M")
    place = (month.dt.year.to_numpy() - 2011) * 12 + month.dt.month.to_numpy() - 10
    fit_at, lengths = np.arange(0, len(months), step), np.array([ALL, 24])
    rows = np.bincount(place[place >= 0])
    loss = np.full((2, len(fit_at), len(months)), np.nan)
    for number, first in enumerate(fit_at.tolist()):
        started, later = time.monotonic(), place >= first
        for variant, length in enumerate(lengths.tolist()):
            known = (place < first) & (place >= first - length if length else True)
            booster = lightgbm.train(RIDES, lightgbm.Dataset(features[known], labels[known]), RIDES_TREES)
            errors = np.abs(np.asarray(booster.predict(features[later])) - labels[later])
            loss[variant, number, first:] = (np.bincount(place[later], errors) / rows)[first:]
        print(f"{months[first]}: {time.monotonic() - started:.0f} s", flush=True)
    return LossMatrix(loss, lengths, fit_at, rows, np.array([str(m) for m in months]), "absolute error")


def _read(table: str, build: Any) -> pd.DataFrame:
    lake = Lake(Home.current().lake)
    if not lake.numbers(table):
        build(Home.current().lake)
    files: Sequence[Any] = lake.snapshot(table).files
    return pa.concat_tables([pq.read_table(Home.current().lake / file.path) for file in files]).to_pandas()


def _days(instants: pd.Series) -> pd.Series:
    """Local days of the flights' zone, without a zone."""
    return instants.dt.tz_convert(clock.ZONE).dt.tz_localize(None).dt.normalize()


if __name__ == "__main__":
    main()
