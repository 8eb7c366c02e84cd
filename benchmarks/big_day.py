"""A day of many predictions, summarized: seconds and memory by the number of rows.

    python -m benchmarks.big_day [--rows 1000000 3000000 10000000] [--spark] [--folder FOLDER]

The rows are 12 numbers (of all magnitudes, whole, missing at times), 6 categories (of 4 to 50,000 values) and two
labels, of which half are known, in Parquet shards of half a million. `components.watch.summarizing` counts them in a
process of its own, with --spark by Spark, whatever it would choose. Memory is the resident memory of that process, the
JVM and Spark's Python workers, added up; what they share counts more than once. Seconds and CPU seconds are those of
the process and its children: Python's imports and Spark's start, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from components.schema import ExampleSchema, Feature, Label

DAY, SPLIT = "2013-07-01", "day"
SIZES = {"shop": 4, "country": 30, "device": 200, "page": 2_000, "city": 15_000, "item": 50_000}
NUMBERS = tuple(f"n{place:02}" for place in range(12))
SCHEMA = ExampleSchema(
    (*(Feature(name, "number", "") for name in NUMBERS), *(Feature(name, "category", "") for name in SIZES)),
    "bought",
    "at",
    ("id",),
    (),
    more_labels=(Label("amount", "regression"),),
)
SHARD, CHUNK = 500_000, 100_000
"""Rows of a file, and of what is made at once."""


def write(folder: Path, rows: int) -> None:
    """Writes a day's examples."""
    target = folder / f"Split-{SPLIT}"
    target.mkdir(parents=True)
    shards = -(-rows // SHARD)
    for shard in range(shards):
        left = min(SHARD, rows - shard * SHARD)
        file = target / f"examples-{shard:05d}-of-{shards:05d}.parquet"
        with contextlib.ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for start in range(0, left, CHUNK):
                table = _table(min(CHUNK, left - start), np.random.default_rng([shard, start]))
                writer = writer or stack.enter_context(pq.ParquetWriter(file, table.schema))
                writer.write_table(table)


def _table(rows: int, rng: np.random.Generator) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for place, name in enumerate(NUMBERS):
        kind = place % 3
        values = (rng.normal(0, 10**place, rows), rng.lognormal(place, 1, rows), rng.poisson(10 * place + 1, rows))
        missing = rng.random(rows) < 0.02 * kind
        columns[name] = pa.array(values[kind].astype(np.float32), mask=missing)
    for name, size in SIZES.items():
        words = pa.array(["", *(f"{name} {number}" for number in range(1, size))])
        # Few values are frequent, as of most categories.
        codes = (size * rng.random(rows, np.float32) ** 3).astype(np.int32)
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes), words).dictionary_decode()
    columns["bought"] = pa.array(rng.integers(0, 2, rows), mask=rng.random(rows) < 0.5)
    columns["amount"] = pa.array(rng.lognormal(3, 1, rows).astype(np.float32), mask=rng.random(rows) < 0.5)
    return pa.table(columns)


def measure(folder: Path, by_spark: bool) -> tuple[float, float, float]:
    """Summarizes a day's examples in a process of its own.

    Returns:
      Its seconds, CPU seconds with its children's, and the most GiB of them all.
    """
    started, peak, used = time.monotonic(), 0, os.times()
    command = [sys.executable, "-m", "benchmarks.big_day", "--count", str(folder), *["--spark"] * by_spark]
    with subprocess.Popen(command) as process:
        top = psutil.Process(process.pid)
        ended = threading.Event()
        threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
        while not ended.wait(0.2):
            with contextlib.suppress(psutil.Error):
                peak = max(peak, sum(p.memory_info().rss for p in (top, *top.children(recursive=True))))
    if process.returncode:
        sys.exit(f"summarizing ended with {process.returncode}")
    now = os.times()
    cpu = now.children_user - used.children_user + now.children_system - used.children_system
    return time.monotonic() - started, cpu, peak / 2**30


def count(folder: Path, by_spark: bool) -> None:
    """What the step `summarize` does to a folder of examples."""
    from components.watch.summarizing import MANY_VALUES, summary_of

    started = time.monotonic()
    summary = summary_of(folder, SPLIT, SCHEMA, DAY, many_values=1 if by_spark else MANY_VALUES)
    size = len(summary.to_json()) / 2**20
    seconds = time.monotonic() - started
    print(
        f"{summary.rows:,} rows, {dict(summary.labels)} labels; summary of {size:.1f} MiB; {seconds:.1f} s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--spark", action="store_true", help="count by Spark")
    parser.add_argument("--folder", help="where the rows are written for the time being")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        count(options.count, options.spark)
        return
    lines = [
        f"| rows, on {os.cpu_count()} cores | seconds | a million rows | CPU seconds | a million rows | GiB at most |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="big-day-", dir=options.folder) as folder:
            write(Path(folder), rows)
            seconds, cpu, peak = measure(Path(folder), options.spark)
        millions = rows / 1e6
        cells = f"{seconds:.1f} | {seconds / millions:.1f} | {cpu:.1f} | {cpu / millions:.1f} | {peak:.2f}"
        lines.append(f"| {rows:,} | {cells} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
