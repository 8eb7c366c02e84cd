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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.growth_engines import CASES
from pipelines.flight_delays import lake

SHAPES = ("even", "skewed")
SKEW = 0.8
"""Share of the skewed rows that are of one airport and one carrier."""
SPLIT = 1_000_000
"""Flights are numbered apart by it from copy to copy."""
KEYS = ("flight_id", "carrier", "origin", "dest", "tailnum", "flight", "faa")
"""Columns by which a copy's rows are told from those of others."""
COMPARED = 5_000
"""Flights whose answers are compared."""


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
            own = with_own_keys(rows, copy, crowded=shape == "skewed" and name == "flights")
            if shape == "skewed" and name == "weather" and copy:
                own = own.filter(pc.not_equal(own["origin"], "EWR"))
            pq.write_table(own, folder / name / f"{copy:03d}.parquet")


def with_own_keys(rows: pa.Table, copy: int, *, crowded: bool = False) -> pa.Table:
    """A copy of a table's rows whose keys are its own, but for the share of a crowd that flies for UA from EWR.

    Args:
      rows: Of a table of `pipelines.flight_delays.lake`.
      copy: Number of the copy; the first one, 0, has the keys of the source.
      crowded: Whether most rows are of one carrier and one origin.
    """
    crowd = pa.array(np.random.default_rng(copy).random(rows.num_rows) < SKEW) if crowded else None
    for name in KEYS:
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
            printed = process.communicate(timeout=limit_s)[0]
            seconds = float(printed.split()[-1]) if process.returncode == 0 else None
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
        for process in (*top.children(recursive=True), top):
            process.kill()


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
    by_case: dict[str, pd.DataFrame] = {}
    for case, folder in answers.items():
        rows = ds.dataset(folder, format="parquet").to_table(filter=pc.field("flight_id").isin(some)).to_pandas()
        by_case[case] = rows.set_index("flight_id").sort_index().astype("float64")
    first, *others = by_case
    columns = sorted(by_case[first].columns)
    for case in others:
        if not by_case[first][columns].equals(by_case[case][columns]):
            differ = (by_case[first][columns] != by_case[case][columns]) & by_case[first][columns].notna()
            raise SystemExit(f"{first} and {case} differ: {differ.sum()[differ.sum() > 0].to_dict()}")
    return f"{len(by_case[first]):,} flights, {len(columns)} features: {', '.join(by_case)} answer alike"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10], help="how many times the year")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=tuple(CASES))
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a case is given up")
    half = psutil.virtual_memory().total / 2**31
    parser.add_argument("--memory", type=float, default=half, help="GiB beyond which a case is given up (half of all)")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        case, source, out = args.case
        print(CASES[case](Path(source), Path(out)))
        return
    # A measurement that is broken off leaves no process and no folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cases = [case for case in args.cases if "polars" not in case or importlib.util.find_spec("polars")]
    print(f"{os.cpu_count()} cores\n\n| flights | keys | case | seconds | peak MiB | read MiB | written MiB |")
    print("|---:|---|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="airtight-growth-") as folder:
        root, alike = Path(folder), []
        write_year(root)
        for factor in args.factors:
            for shape in args.shapes:
                source = root / "tables"
                multiply(root / "year", source, factor, shape)
                rows, answers = ds.dataset(source / "flights").count_rows(), {}
                for number, case in enumerate(cases):
                    measured = measure(case, source, root / f"answer{number}", args.limit, args.memory * 2**30)
                    sizes = " | ".join(f"{measured[name] / 2**20:,.0f}" for name in ("peak", "read", "written"))
                    seconds = f"{measured['seconds']:.1f}" if measured["seconds"] else measured["why"]
                    print(f"| {rows:,} | {shape} | {case} | {seconds} | {sizes} |", flush=True)
                    if measured["seconds"] and case.startswith("windows"):
                        answers[case] = root / f"answer{number}"
                if len(answers) > 1:
                    alike.append(f"{rows:,} {shape}: {compare(source, answers)}.")
                for path in (source, root / "warm", *(root / f"answer{n}" for n in range(len(cases)))):
                    shutil.rmtree(path, ignore_errors=True)
        print("", *alike, sep="\n")


if __name__ == "__main__":
    main()
