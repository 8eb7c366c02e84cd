"""The engines that `benchmarks.growth` compares: each reads the tables of a folder and writes features as Parquet."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from components.features import interval_sums
from pipelines.flight_delays import clock, features
from pipelines.flight_delays import transform as flagship
from pipelines.flight_delays.features import Overdue, Window

DECLARED = (*features.WINDOWS, *features.OVERDUE)
GROUPS = tuple(dict.fromkeys(of.by for of in DECLARED))
CUTOFF_S = int(clock.CUTOFF.total_seconds())
MINUTE_S = 60


@contextlib.contextmanager
def _spark(folder: Path) -> Iterator[Callable[[str], Any]]:
    """Gives a function from a table's name to its rows in a session that is warm."""
    from components.data.spark import REMOTE, session

    os.environ.pop(REMOTE, None)
    with session("growth") as spark:
        yield lambda name: spark.read.parquet(str(folder / name))


def _spark_all(table: Callable[[str], Any]) -> Any:
    return flagship.transform(table)


def _spark_windows(table: Callable[[str], Any]) -> Any:
    from pyspark.sql import functions as F

    flights = table("flights").withColumn("cutoff", F.unix_micros("scheduled_departure") - F.lit(CUTOFF_S * 1_000_000))
    made = flights.select("flight_id")
    for by in GROUPS:
        made = made.join(flagship._recent(flights, by), "flight_id", "left")
    return made


def _spark_windows_by_key(table: Callable[[str], Any]) -> Any:
    interval_sums.SPAN_MINUTES = 731 * 24 * 60  # Counted from 1970, one of these holds 2013 whole.
    return _spark_windows(table)


def _run_spark(make: Callable[[Callable[[str], Any]], Any]) -> Callable[[Path, Path], float]:
    def run(source: Path, out: Path) -> float:
        with _spark(source) as table:
            few = {name: table(name).limit(2_000) for name in ("flights", "weather", "planes")}
            make(few.__getitem__).write.mode("overwrite").parquet(str(out.with_name("warm")))
            start = time.perf_counter()
            make(table).write.parquet(str(out))
            return time.perf_counter() - start

    return run


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    """Seconds since 1970, -1 where there is none; every time of the table is a whole minute."""
    return pc.divide(column.cast(pa.int64()), 1_000_000).fill_null(-1).to_numpy()


class _Sorted:
    """Events of one kind by key and time, and how many there were, and of how much, before an instant.

    Args:
      key: Number of each event's key.
      at: When it happened, seconds since 1970.
      adds: What it adds to each total.
    """

    BITS = 32

    def __init__(self, key: np.ndarray, at: np.ndarray, *adds: np.ndarray) -> None:
        place = (key << self.BITS) + at
        order = np.argsort(place, kind="stable")
        self._place = place[order]
        self._totals = [np.concatenate([[0], np.cumsum(add[order])]) for add in adds]

    def before(self, key: np.ndarray, at: np.ndarray) -> list[np.ndarray]:
        """Their number before each instant, among all keys before it too, and the totals."""
        places = np.searchsorted(self._place, (key << self.BITS) + at, side="left")
        return [places, *(total[places] for total in self._totals)]


def _measures(of: Window | Overdue, cutoff: np.ndarray, count: Any, late: Any, minutes: Any) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        if isinstance(of, Window):
            measures = {"count": count, "late_share": late / count, "mean_delay": minutes / count}
            return {of.feature(measure): measures[measure] for measure in of.measures}
        return {of.count: count, of.mean: (cutoff // MINUTE_S * count - minutes) / count}


def _pandas(source: Path, out: Path) -> float:
    start = time.perf_counter()
    names = ["flight_id", "scheduled_departure", "departed_at", "arrived_at", "dep_delay", "arr_delay"]
    keys = ("origin", "carrier", "dest", "flight")
    rows = ds.dataset(source / "flights").to_table([*names, *keys])
    at = {name: _seconds(rows[name]) for name in ("scheduled_departure", "departed_at", "arrived_at")}
    delay = {name: rows[name].to_numpy() for name in ("dep_delay", "arr_delay")}
    codes = {name: pd.factorize(rows[name].to_pandas())[0].astype(np.int64) for name in keys}
    scheduled = at["scheduled_departure"]
    cutoff = scheduled - CUTOFF_S
    made: dict[str, Any] = {"flight_id": rows["flight_id"]}
    for by in GROUPS:
        frame = pd.DataFrame({name: codes[name] for name in by}, index=range(rows.num_rows))
        key = (frame.groupby(list(by), sort=False).ngroup() if by else frame.assign(key=0).key).to_numpy(np.int64)
        events: dict[str, _Sorted] = {}
        for of in (of for of in DECLARED if of.by == by):
            if isinstance(of, Window):
                if of.stream.name not in events:
                    minutes = delay[of.stream.delay]
                    known = ~np.isnan(minutes)
                    late, whole = (minutes[known] > features.LATE_MINUTES), minutes[known].astype(np.int64)
                    events[of.stream.name] = _Sorted(key[known], at[of.stream.known_at][known], late, whole)
                stream = events[of.stream.name]
                ends = stream.before(key, cutoff), stream.before(key, cutoff - of.hours * 3600)
            else:
                enter, leave = scheduled + of.AFTER_MINUTES * MINUTE_S, scheduled + of.UNTIL_MINUTES * MINUTE_S
                left = at["departed_at"]
                leave = np.where(left >= 0, np.minimum(left, leave), leave)
                lives, minute = enter < leave, scheduled // MINUTE_S
                none = np.zeros(lives.sum(), np.int64)
                ends = tuple(
                    _Sorted(key[lives], when[lives], none, minute[lives]).before(key, cutoff) for when in (enter, leave)
                )
            made |= _measures(of, cutoff, *(high - low for high, low in zip(*ends, strict=True)))
    out.mkdir()
    pq.write_table(pa.table(made), out / "all.parquet")
    return time.perf_counter() - start


def _polars(source: Path, out: Path) -> float:
    import polars as pl

    start = time.perf_counter()
    read = pl.scan_parquet(source / "flights" / "*.parquet").with_row_index("row")
    seconds = [pl.col(n).dt.epoch("s") for n in ("scheduled_departure", "departed_at", "arrived_at")]
    keys = [pl.col(name).cast(pl.Categorical) for name in ("origin", "carrier", "dest")]
    columns = ("row", "flight_id", "flight", "dep_delay", "arr_delay")
    rows = read.select(*columns, *keys, *seconds).collect()
    rows = rows.with_columns(cutoff=pl.col("scheduled_departure") - CUTOFF_S)
    answers = [rows.select("flight_id")]
    for by in GROUPS:
        lives = [of for of in DECLARED if of.by == by]
        parts = [rows.select(*by, "row", at="cutoff", order=pl.lit(0))]
        for number, of in enumerate(lives):
            if isinstance(of, Window):
                enter, minutes = pl.col(of.stream.known_at), pl.col(of.stream.delay)
                events = rows.filter(minutes.is_not_null()).select(*by, enter=enter, minutes=minutes.cast(pl.Int64))
                events = events.with_columns(leave=pl.col("enter") + of.hours * 3600)
            else:
                due = pl.col("scheduled_departure")
                leave = pl.min_horizontal("departed_at", due + of.UNTIL_MINUTES * MINUTE_S)
                events = rows.select(*by, enter=due + of.AFTER_MINUTES * MINUTE_S, leave=leave, minutes=due // MINUTE_S)
                events = events.filter(pl.col("enter") < pl.col("leave"))
            late = (pl.col("minutes") > features.LATE_MINUTES).cast(pl.Int64)
            for at, sign in (("enter", 1), ("leave", -1)):
                totals = {f"count_{number}": pl.lit(sign, pl.Int64), f"late_{number}": sign * late}
                totals |= {f"minutes_{number}": sign * pl.col("minutes")}
                parts.append(events.select(*by, at=at, order=pl.lit(1), **totals))
        all_rows = pl.concat(parts, how="diagonal").sort(*by, "at", "order")
        names = [f"{name}_{number}" for number in range(len(lives)) for name in ("count", "late", "minutes")]
        sums = [pl.col(name).fill_null(0).cum_sum() for name in names]
        done = all_rows.with_columns(*((total.over(by) if by else total) for total in sums))
        done = done.filter(pl.col("row").is_not_null()).sort("row")
        made = {}
        for number, of in enumerate(lives):
            count, late, minutes = (pl.col(f"{name}_{number}") for name in ("count", "late", "minutes"))
            if isinstance(of, Window):
                measures = {"count": count, "late_share": late / count, "mean_delay": minutes / count}
                made |= {of.feature(measure): measures[measure] for measure in of.measures}
            else:
                made |= {of.count: count, of.mean: (pl.col("at") // MINUTE_S * count - minutes) / count}
        answers.append(done.select(**made))
    out.mkdir()
    pl.concat(answers, how="horizontal").write_parquet(out / "all.parquet")
    return time.perf_counter() - start


CASES: dict[str, Callable[[Path, Path], float]] = {
    "spark, every feature": _run_spark(_spark_all),
    "windows, spark": _run_spark(_spark_windows),
    "windows, spark, one span": _run_spark(_spark_windows_by_key),
    "windows, pandas": _pandas,
    "windows, polars": _polars,
}
