"""How the cost of the features grows with the data: the year of flights once, 10 and 50 times, evenly and skewed.

    python -m benchmarks.growth [--factors 1 10 50] [--shapes even skewed] [--limit 600] [--memory 12]

A copy of the year has carriers, airports, aircraft and flight numbers of its own, so that the keys multiply with the
rows. Skewed, one airport and one carrier hold four fifths of all rows. Each case is a process of its own that reads
Parquet and writes Parquet:

- spark: the flagship's transform, every feature;
- windows, spark: its heaviest part alone, the recent delays and the flights overdue;
- windows, spark, one span: the same, dealt out by key and not by key and span of time;
- windows, pandas: the same windows by sorted arrays, running sums and binary search, on one core;
- windows, polars: the same windows by running totals; only if polars is installed (`make bench-growth` does).

Seconds are those of reading, computing and writing, after the session is open and has compiled its code on a small
part; memory is the highest sum of the resident sizes of the case's processes, twice a second. The answers of all
engines are compared, exactly. Spark is local, with SPARK_DRIVER_MEMORY (2g); SPARK_REMOTE is not heard.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipelines.flight_delays import clock, features, lake
from pipelines.flight_delays import transform as flagship
from pipelines.flight_delays.features import Overdue, Window

SHAPES = ("even", "skewed")
SKEW = 0.8
"""Share of the skewed rows that are of one airport and one carrier."""
SPLIT = 1_000_000
"""Flights are numbered apart by it from copy to copy."""
COMPARED = 5_000
"""Flights whose answers are compared."""
DECLARED = (*features.WINDOWS, *features.OVERDUE)
GROUPS = tuple(dict.fromkeys(of.by for of in DECLARED))
CUTOFF_S = int(clock.CUTOFF.total_seconds())
MINUTE_S = 60


def write_year(folder: Path) -> None:
    """The three tables that the features need, one file each."""
    lake.build(folder / "lake")
    for name in ("flights", "weather", "planes"):
        rows = ds.dataset(folder / "lake" / name, format="parquet", exclude_invalid_files=True).to_table()
        (folder / "year").mkdir(exist_ok=True)
        pq.write_table(rows, folder / "year" / f"{name}.parquet")


def multiply(year: Path, folder: Path, factor: int, shape: str) -> None:
    """Writes the tables `factor` times: one file for each copy, keys of its own."""
    tables = {name: pq.read_table(year / f"{name}.parquet") for name in ("flights", "weather", "planes")}
    for name in tables:
        (folder / name).mkdir(parents=True)
    for copy in range(factor):
        for name, rows in tables.items():
            own = _own(rows, copy, crowded=shape == "skewed" and name == "flights")
            if shape == "skewed" and name == "weather" and copy:
                own = own.filter(pc.not_equal(own["origin"], "EWR"))
            pq.write_table(own, folder / name / f"{copy:03d}.parquet")


def _own(rows: pa.Table, copy: int, *, crowded: bool) -> pa.Table:
    """A copy of the rows whose keys are its own, but for the share of a crowd that flies for UA from EWR."""
    crowd = pa.array(np.random.default_rng(copy).random(rows.num_rows) < SKEW) if crowded else None
    for name in ("flight_id", "carrier", "origin", "dest", "tailnum", "flight"):
        if name not in rows.schema.names:
            continue
        own = rows[name]
        if name == "flight":
            own = pc.cast(pc.add(own, copy * SPLIT), pa.int32())
        elif copy:
            own = pc.binary_join_element_wise(own, str(copy), "~")
        if crowd is not None and name in ("carrier", "origin"):
            own = pc.if_else(crowd, {"carrier": "UA", "origin": "EWR"}[name], own)
        rows = rows.set_column(rows.schema.get_field_index(name), name, own)
    return rows


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
    flagship.SPAN_MINUTES = 731 * 24 * 60  # Counted from 1970, one of these holds 2013 whole.
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
        found = np.searchsorted(self._place, (key << self.BITS) + at, side="left")
        return [found, *(total[found] for total in self._totals)]


def _measures(of: Window | Overdue, cutoff: np.ndarray, count: Any, late: Any, minutes: Any) -> dict[str, np.ndarray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        if isinstance(of, Window):
            told = {"count": count, "late_share": late / count, "mean_delay": minutes / count}
            return {of.feature(measure): told[measure] for measure in of.measures}
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
                told = events[of.stream.name]
                ends = told.before(key, cutoff), told.before(key, cutoff - of.hours * 3600)
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
                told = rows.filter(minutes.is_not_null()).select(*by, enter=enter, minutes=minutes.cast(pl.Int64))
                told = told.with_columns(leave=pl.col("enter") + of.hours * 3600)
            else:
                due = pl.col("scheduled_departure")
                leave = pl.min_horizontal("departed_at", due + of.UNTIL_MINUTES * MINUTE_S)
                told = rows.select(*by, enter=due + of.AFTER_MINUTES * MINUTE_S, leave=leave, minutes=due // MINUTE_S)
                told = told.filter(pl.col("enter") < pl.col("leave"))
            late = (pl.col("minutes") > features.LATE_MINUTES).cast(pl.Int64)
            for at, sign in (("enter", 1), ("leave", -1)):
                totals = {f"count_{number}": pl.lit(sign, pl.Int64), f"late_{number}": sign * late}
                totals |= {f"minutes_{number}": sign * pl.col("minutes")}
                parts.append(told.select(*by, at=at, order=pl.lit(1), **totals))
        all_rows = pl.concat(parts, how="diagonal").sort(*by, "at", "order")
        names = [f"{name}_{number}" for number in range(len(lives)) for name in ("count", "late", "minutes")]
        sums = [pl.col(name).fill_null(0).cum_sum() for name in names]
        done = all_rows.with_columns(*((total.over(by) if by else total) for total in sums))
        done = done.filter(pl.col("row").is_not_null()).sort("row")
        made = {}
        for number, of in enumerate(lives):
            count, late, minutes = (pl.col(f"{name}_{number}") for name in ("count", "late", "minutes"))
            if isinstance(of, Window):
                told = {"count": count, "late_share": late / count, "mean_delay": minutes / count}
                made |= {of.feature(measure): told[measure] for measure in of.measures}
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


def measure(case: str, source: Path, out: Path, limit_s: float, memory: float = math.inf) -> dict[str, Any]:
    """Runs one case in a process of its own.

    Returns:
      seconds (None when it failed, or passed the limit of seconds or of bytes of memory, and then why), peak, and bytes
      read and written.
    """
    command = [sys.executable, "-m", "benchmarks.growth", "--case", case, str(source), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak, ended = [0], threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peak, ended, memory))
        watch.start()
        seconds, why = None, ""
        try:
            told = process.communicate(timeout=limit_s)[0]
            seconds = float(told.split()[-1]) if process.returncode == 0 else None
            why = f"over {memory / 2**30:.0f} GiB" if peak[0] > memory else f"failed, {process.returncode}"
        except subprocess.TimeoutExpired:
            why = f"over {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                _kill(process.pid)
            ended.set()
            watch.join()
    return {"seconds": seconds, "why": why, "peak": peak[0], "read": _bytes(source), "written": _bytes(out)}


def _kill(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        for each in (*top.children(recursive=True), top):
            each.kill()


def _watch(pid: int, peak: list[int], ended: threading.Event, memory: float) -> None:
    while not ended.wait(0.5):
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(pid)
            peak[0] = max(peak[0], sum(p.memory_info().rss for p in (top, *top.children(recursive=True))))
        if peak[0] > memory:
            _kill(pid)
            return


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet")) if folder.is_dir() else 0


def compare(source: Path, answers: dict[str, Path]) -> str:
    """Whether the engines gave the same answers for some flights, exactly."""
    flights = ds.dataset(source / "flights").to_table(["flight_id"])["flight_id"]
    some = flights.take(np.random.default_rng(0).choice(len(flights), COMPARED, replace=False))
    told: dict[str, pd.DataFrame] = {}
    for case, folder in answers.items():
        rows = ds.dataset(folder, format="parquet").to_table(filter=pc.field("flight_id").isin(some)).to_pandas()
        told[case] = rows.set_index("flight_id").sort_index().astype("float64")
    first, *others = told
    columns = sorted(told[first].columns)
    for case in others:
        if not told[first][columns].equals(told[case][columns]):
            differ = (told[first][columns] != told[case][columns]) & told[first][columns].notna()
            raise SystemExit(f"{first} and {case} differ: {differ.sum()[differ.sum() > 0].to_dict()}")
    return f"{len(told[first]):,} flights, {len(columns)} features: {', '.join(told)} answer alike"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10], help="how many times the year")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=tuple(CASES))
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a case is given up")
    half = psutil.virtual_memory().total / 2**31
    parser.add_argument("--memory", type=float, default=half, help="GiB beyond which a case is given up (half of all)")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.case:
        case, source, out = told.case
        print(CASES[case](Path(source), Path(out)))
        return
    # A measurement that is broken off leaves no process and no folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cases = [case for case in told.cases if "polars" not in case or importlib.util.find_spec("polars")]
    print(f"{os.cpu_count()} cores\n\n| flights | keys | case | seconds | peak MiB | read MiB | written MiB |")
    print("|---:|---|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="airtight-growth-") as folder:
        root, alike = Path(folder), []
        write_year(root)
        for factor in told.factors:
            for shape in told.shapes:
                source = root / "tables"
                multiply(root / "year", source, factor, shape)
                rows, answers = ds.dataset(source / "flights").count_rows(), {}
                for number, case in enumerate(cases):
                    found = measure(case, source, root / f"answer{number}", told.limit, told.memory * 2**30)
                    sizes = " | ".join(f"{found[name] / 2**20:,.0f}" for name in ("peak", "read", "written"))
                    seconds = f"{found['seconds']:.1f}" if found["seconds"] else found["why"]
                    print(f"| {rows:,} | {shape} | {case} | {seconds} | {sizes} |", flush=True)
                    if found["seconds"] and case.startswith("windows"):
                        answers[case] = root / f"answer{number}"
                if len(answers) > 1:
                    alike.append(f"{rows:,} {shape}: {compare(source, answers)}.")
                for path in (source, root / "warm", *(root / f"answer{n}" for n in range(len(cases)))):
                    shutil.rmtree(path, ignore_errors=True)
        print("", *alike, sep="\n")


if __name__ == "__main__":
    main()
