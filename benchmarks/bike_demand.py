"""Rides of the next hour, monthly, by bike_demand's model beside three baselines, on the very same rows and features.

    python -m benchmarks.bike_demand --every 4 --without ours
    python -m benchmarks.bike_demand 2019-06 2019-07 2019-08
    python -m benchmarks.bike_demand --table docs/benchmarks-bike.md

A month is judged by models of all hours before it. The features are the pipeline's own, made once of all hours: an
hour's know nothing after its start, so that they are the same in every run. Figures are kept as they come, and a month
and model that is there is not computed again: what was broken off goes on.

The last week's and the last hour's rides are predictions as they are; their quantiles lie around them as rides lay
around them in the history. LightGBM fits each quantile on rides as they are, with its defaults and with better settings
(`TUNED`, chosen by hand with quarters of 2012, 2014, 2016 and 2018 in sight, which favours LightGBM: see
docs/benchmarks-bike.md).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tfx.types import standard_artifacts

from airtight.home import Home
from airtight.interval import Interval
from components.data.lake import Lake
from components.data.spark import session
from components.schema import LABEL_KNOWN_AT
from pipelines.bike_demand import lake
from pipelines.bike_demand.schema import SCHEMA
from pipelines.bike_demand.settings import SETTINGS
from pipelines.bike_demand.transform import transform

MONTHS = [f"{month}" for month in pd.period_range("2012-01", "2019-08", freq="M")]
QUANTILES = np.array(SCHEMA.quantiles)
DEFAULTS = {"verbose": -1, "seed": 1, "num_threads": 1}
TUNED = {
    **DEFAULTS,
    "learning_rate": 0.06,
    "num_leaves": 31,
    "min_child_samples": 100,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5,
}
TREES, TUNED_TREES = 100, 300


@dataclass(frozen=True)
class Month:
    """The rows before a month whose label was known when it began, and the rows of the month."""

    name: str
    history: pd.DataFrame
    test: pd.DataFrame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("months", nargs="*", help="such as 2019-08; by default all 92")
    parser.add_argument("--every", type=int, default=1, help="of all months every so many")
    parser.add_argument("--without", nargs="*", default=[], choices=list(MODELS), help="models that are not computed")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin nothing more after so many")
    parser.add_argument("--folder", type=Path, default=Home.current().path / "bench" / "bike_demand")
    parser.add_argument("--table", type=Path, help="put the table of what is there into this Markdown file")
    args = parser.parse_args()
    figures = Figures(args.folder / "figures.jsonl")
    if args.table:
        write_table(args.table, figures)
        return
    rows, started = examples(args.folder / "examples.parquet"), time.monotonic()
    for name in args.months or MONTHS[:: args.every]:
        for model, predict in MODELS.items():
            if model in args.without or (name, model) in figures.rows or time.monotonic() - started > args.seconds:
                continue
            month, begun = month_of(rows, name), time.monotonic()
            predicted = np.sort(np.maximum(predict(month, args.folder), 0), axis=1)
            figures.add(name, model, {**judged(month.test.rides.to_numpy(), predicted), "s": time.monotonic() - begun})


class Figures:
    """What was measured, by month and model, in a file of a line for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.rows = {(row["month"], row["model"]): row for row in map(json.loads, lines)}

    def add(self, month: str, model: str, measured: dict[str, float]) -> None:
        """Keeps and prints a line."""
        row = self.rows[month, model] = {"month": month, "model": model, **measured}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def examples(path: Path) -> pd.DataFrame:
    """The examples of all hours, in order; made once."""
    if not path.is_file():
        home = Home.current()
        if not Lake(home.lake).numbers(lake.RIDES.name):
            lake.build(home.lake)
        files = [f"{home.lake}/{file.path}" for file in Lake(home.lake).snapshot(lake.RIDES.name).files]
        path.parent.mkdir(parents=True, exist_ok=True)
        with session("benchmark") as spark:
            # One file of them all: Spark plans some seconds over thousands.
            pq.write_table(pa.concat_tables(map(pq.read_table, files)), path.with_suffix(".rides"))
            made = transform(lambda _: spark.read.parquet(str(path.with_suffix(".rides")))).toArrow()
        pq.write_table(made.sort_by(SCHEMA.time), path)
    rows: pd.DataFrame = pd.read_parquet(path)
    return rows.astype({name: "category" for name in SCHEMA.of_kind("category")})


def month_of(rows: pd.DataFrame, name: str) -> Month:
    interval = Interval.parse(name, SETTINGS.zone)
    inside = (rows[SCHEMA.time] >= interval.start) & (rows[SCHEMA.time] < interval.end)
    return Month(name, rows[rows[LABEL_KNOWN_AT] <= interval.start], rows[inside])


def judged(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MAE of the median, mean pinball loss, and the share of hours between the outer quantiles."""
    error = labels[:, None] - predicted
    return {
        "mae": float(np.abs(error[:, len(QUANTILES) // 2]).mean()),
        "pinball": float(np.maximum(QUANTILES * error, (QUANTILES - 1) * error).mean()),
        "inside": float(((labels >= predicted[:, 0]) & (labels <= predicted[:, -1])).mean()),
        "rows": len(labels),
    }


def _as_it_is(column: str) -> Callable[[Month, Path], np.ndarray]:
    def predict(month: Month, _: Path) -> np.ndarray:
        around = np.nanquantile(month.history.rides - month.history[column], QUANTILES)
        around[len(QUANTILES) // 2] = 0
        return month.test[column].to_numpy()[:, None] + around

    return predict


def _boosted(settings: dict[str, Any], trees: int) -> Callable[[Month, Path], np.ndarray]:
    def predict(month: Month, _: Path) -> np.ndarray:
        def fitted(level: float) -> np.ndarray:
            data = lightgbm.Dataset(month.history[list(SCHEMA.names)], month.history.rides)
            booster = lightgbm.train({**settings, "objective": "quantile", "alpha": level}, data, trees)
            return np.asarray(booster.predict(month.test[list(SCHEMA.names)]))

        return np.stack([fitted(level) for level in QUANTILES], axis=1)

    return predict


def _ours(month: Month, folder: Path) -> np.ndarray:
    """The pipeline's own training, the last days for validation; answers through the serving signature."""
    from components.modelling import saved_model
    from components.train import train

    interval = Interval.parse(month.name, SETTINGS.zone)
    days = pd.Timedelta(days=int(SETTINGS.default("validation_days")))
    split = interval.start - days
    folder = folder / "ours" / month.name
    artifact = _artifact(standard_artifacts.Examples, folder / "examples")
    artifact.set_string_custom_property("interval_start", interval.start.isoformat())
    artifact.set_string_custom_property("interval_end", interval.end.isoformat())
    earlier = month.history[SCHEMA.time] < split
    parts = {"train": month.history[earlier], "validation": month.history[~earlier], "test": month.test}
    artifact.splits = list(parts)
    for name, rows in parts.items():
        path = folder / "examples" / f"Split-{name}" / "examples-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_typed(rows), path)
    model = _artifact(standard_artifacts.Model, folder / "model")
    chosen = {name: SETTINGS.default(name) for name in ("epochs", "seed", "strategy", "refit")}
    train.test_call(
        examples=artifact,
        model=model,
        model_run=_artifact(standard_artifacts.ModelRun, folder / "run"),
        schema="pipelines.bike_demand.schema:SCHEMA",
        model_fn=SETTINGS.model,
        **chosen,
        **SETTINGS.node_parameters.get("train", {}),
    )
    return np.asarray(saved_model.Predictor(saved_model.serving_folder(model.uri), SCHEMA)(_raw(month.test)))


def _typed(rows: pd.DataFrame) -> pa.Table:
    """Rows as transform writes examples."""
    columns = {name: pa.array(rows[name].to_numpy(np.float32)) for name in SCHEMA.of_kind("number")}
    columns |= {name: pa.array(rows[name].astype(str)) for name in (*SCHEMA.of_kind("category"), *SCHEMA.keys)}
    columns[SCHEMA.label] = pa.array(rows.rides.to_numpy(np.float64))
    columns[SCHEMA.time] = pa.array(rows[SCHEMA.time], pa.timestamp("us", tz="UTC"))
    return pa.table(columns)


def _raw(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    raw = {name: rows[name].to_numpy(np.float32) for name in SCHEMA.of_kind("number")}
    return raw | {name: rows[name].astype(str).to_numpy(object) for name in SCHEMA.of_kind("category")}


def _artifact(kind: type, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    artifact = kind()
    artifact.uri = str(folder)
    return artifact


MODELS: dict[str, Callable[[Month, Path], np.ndarray]] = {
    "last_week": _as_it_is("rides_168h"),
    "last_hour": _as_it_is("rides_1h"),
    "lightgbm": _boosted(DEFAULTS, TREES),
    "lightgbm_tuned": _boosted(TUNED, TUNED_TREES),
    "ours": _ours,
}
WORDS = {
    "last_week": "the same hour last week",
    "last_hour": "the last hour",
    "lightgbm": "LightGBM, defaults",
    "lightgbm_tuned": "LightGBM, tuned",
    "ours": "Airtight",
}
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def write_table(path: Path, figures: Figures) -> None:
    """Replaces what is between the marks of a Markdown file by means over the hours of each year, and of all."""
    text = path.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text("\n".join([f"{before}{BEGIN}", *table(figures), f"{END}{after}"]), encoding="utf-8")


def table(figures: Figures) -> Iterator[str]:
    rows = pd.DataFrame(figures.rows.values())
    # Models are compared on the months that all of those have which are there at all.
    whole = rows.groupby("month").model.nunique() == rows.model.nunique()
    rows = rows[rows.month.isin(whole.index[whole])]
    yield f"Months: {rows.month.nunique()} of {len(MONTHS)}."
    yield ""
    years = [*sorted({month[:4] for month in rows.month}), "all"]
    for name, words in (("mae", "MAE, rides"), ("pinball", "Pinball loss, rides"), ("inside", "Between .1 and .9")):
        yield f"| {words} | {' | '.join(years)} |"
        yield "|---|" + "---|" * len(years)
        for model in MODELS:
            cells = []
            for year in years:
                some = rows[(rows.model == model) & ((rows.month.str[:4] == year) | (year == "all"))]
                cells.append(f"{np.average(some[name], weights=some.rows):.3f}" if len(some) else "not yet")
            yield f"| {WORDS[model]} | {' | '.join(cells)} |"
        yield ""


if __name__ == "__main__":
    main()
