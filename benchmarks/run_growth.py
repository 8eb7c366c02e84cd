"""How a run of flight_delays grows with the flights: 1, 10 and 50 times as many, from ingest to push.

    python -m benchmarks.run_growth [--factors 1 10 50] [--interval 2013-02] [--limit 7200] [--json]

The lake holds copies of the flights up to the interval's end, each with airports, carriers, aircraft and flight numbers
of its own (`benchmarks.growth`). Every node runs in a process of its own, with a Spark session of its own, as where no
services run. Everything is as the pipeline ships it, but for two things: its expectations know the copies' origins, and
the trial of the server has ten seconds for an answer, so that a busy machine does not stop the run before the push. No
model server is there to take what is pushed.

Of a node's own process, of Spark's JVM, of Spark's Python workers and of all others (the server that is tried) the
peak is the kernel's high-water mark of the largest one (VmHWM: resident, shared pages included), read twice a second;
`all` is the largest sum of their proportional sizes (PSS: a page that several share counts once), twice a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.home import Home
from airtight.interval import Interval
from benchmarks.growth import with_own_keys
from components.data.lake import Lake
from pipelines.flight_delays import clock, lake
from pipelines.flight_delays.settings import SETTINGS as SHIPPED

SETTINGS = replace(
    SHIPPED,
    expectations="benchmarks.run_growth:subjects",
    defaults={**SHIPPED.defaults, "p99_limit_ms": 10_000.0},
)
"""The pipeline that is measured."""
KINDS = NODE, JVM, WORKER, OTHER = "own process", "Spark's JVM", "Spark's Python", "others"
ALL, SECONDS = "all", "seconds"
_TICK_S = 0.5
_LIMIT_MIB = 4096


def subjects(reader: Any, spark: Any) -> Iterator[Any]:
    """The pipeline's own expectations, for the origins of all copies.

    Args:
      reader: The run's data (`components.data.dataset.DatasetReader`).
      spark: The session that computes.
    """
    from pipelines.flight_delays import expectations

    expectations.ORIGINS = sorted(reader.arrow_table("weather", columns=["origin"])["origin"].unique().to_pylist())
    yield from expectations.subjects(reader, spark)


def write_copies(year: Lake, lake_: Lake, factor: int, last_day: str) -> int:
    """Writes a lake with copies of another's tables, a day at a time; of airports those that are flown to are copied.

    Args:
      year: The lake of flight_delays.
      lake_: An empty lake.
      factor: How many copies.
      last_day: Local day, ISO 8601, after which nothing is written of tables that grow in time.

    Returns:
      How many flights it holds.
    """
    dests: set[str] = set()
    for table in lake.TABLES:
        for file in year.snapshot(table.name).files:
            if file.day and file.day > last_day:
                continue
            rows = original = pq.read_table(year.path / file.path, partitioning=None)
            if table is lake.FLIGHTS:
                dests |= set(rows["dest"].unique().to_pylist())
            elif table is lake.AIRPORTS:
                rows = pa.concat_tables(
                    [rows.schema.empty_table(), pa.table({"faa": sorted(dests)})], promote_options="default"
                )
            copies = [original, *(with_own_keys(rows, copy) for copy in range(1, factor))]
            if table.time is None:
                lake_.write_static(table.name, copies)
            else:
                lake_.write(table.name, {date.fromisoformat(str(file.day)): pa.concat_tables(copies)})
    return lake_.snapshot("flights").rows


class Watch:
    """Samples the sizes of the processes that this one starts within the block, until it ends.

    `peaks` has mebibytes by `KINDS`, of the largest process of that kind, and as `ALL` of all of them together.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self._earlier = {process.pid for process in psutil.Process().children(recursive=True)}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_ended, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample_until_ended(self) -> None:
        while not self._ended.wait(_TICK_S):
            together, top = 0.0, psutil.Process()
            started = (process for process in top.children(recursive=True) if process.pid not in self._earlier)
            for process in started:
                with contextlib.suppress(psutil.Error, OSError, ValueError):
                    kind = _kind(process)
                    self.peaks[kind] = max(self.peaks.get(kind, 0.0), _high_water_mib(process.pid))
                    together += process.memory_full_info().pss / 2**20
            self.peaks[ALL] = max(self.peaks.get(ALL, 0.0), together)


def _kind(process: psutil.Process) -> str:
    words = process.cmdline()
    if "pyspark.daemon" in words:
        return WORKER
    if words and Path(words[0]).name == "java":
        return JVM
    return NODE if words[-3:] == ["-m", "runtime", "answer"] else OTHER


def _high_water_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def measure(home: Home, interval: str, limit_s: float) -> dict[str, Any]:
    """Takes one run of the pipeline, each node in a process of its own.

    Args:
      home: A state folder with a lake.
      interval: The data interval.
      limit_s: Seconds after which the run is stopped.

    Returns:
      `nodes`: of each node, in order, `SECONDS` and mebibytes by `KINDS` and `ALL`; `seconds` of the run; `end`, what
      the push says, or why the run ended before it.
    """
    from runtime import local
    from runtime.client import Call
    from runtime.compiled_pipeline import CompiledPipeline

    nodes: dict[str, dict[str, float]] = {}
    started = time.monotonic()

    def cold(request: Any) -> Any:
        begun = time.monotonic()
        with Watch() as watch, Call(request, None) as call:
            timer = threading.Timer(max(0.0, started + limit_s - begun), call.stop)
            timer.daemon = True
            timer.start()
            for line in call.lines():
                print(f"  {line}", file=sys.stderr, flush=True)
            timer.cancel()
            outcome = call.outcome
        nodes[request.node] = {SECONDS: time.monotonic() - begun, **watch.peaks}
        print(f"{request.node}: {nodes[request.node]}", file=sys.stderr, flush=True)
        return outcome

    # In a process of its own, as it imports TFX.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        compiled = pool.submit(_compile, home).result()
    values = local.typed(CompiledPipeline.read(compiled), interval, [])
    started = time.monotonic()
    outcomes = local.run(compiled, home, "growth", values, by=cold)
    failed = next((outcome.summary for outcome in outcomes.values() if outcome.state == "failed"), "")
    push = outcomes.get("push")
    end = failed or (push.outputs["pushed"][0]["properties"]["reason"] if push else "nothing was pushed")
    return {"nodes": nodes, SECONDS: time.monotonic() - started, "end": end}


def _compile(home: Home) -> Path:
    from runtime.compile import compile_pipeline

    return compile_pipeline("benchmarks.run_growth:SETTINGS", home, make_current=False)


def in_words(measured: dict[int, dict[str, Any]]) -> str:
    """The markdown tables of all factors: nodes, runs, and how the last factor compares with the one before it."""
    lines = [f"| flights | node | {SECONDS} | {' | '.join(KINDS)} | {ALL} |", f"|---:|---|{'---:|' * 6}"]
    for run in measured.values():
        for node, figures in run["nodes"].items():
            sizes = " | ".join(f"{figures[kind]:,.0f}" if kind in figures else "-" for kind in (*KINDS, ALL))
            lines.append(f"| {run['flights']:,} | {node} | {figures[SECONDS]:.1f} | {sizes} |")
    lines += ["", "| flights | seconds | of 1,000 flights | largest process, MiB | end |", "|---:|---:|---:|---:|---|"]
    for run in measured.values():
        largest = max(
            (size for node in run["nodes"].values() for kind, size in node.items() if kind in KINDS), default=0
        )
        over = " (**over 4 GiB**)" if largest > _LIMIT_MIB else ""
        a_thousand = run[SECONDS] / run["flights"] * 1000
        lines.append(
            f"| {run['flights']:,} | {run[SECONDS]:.0f} | {a_thousand:.2f} | {largest:,.0f}{over} | {run['end']} |"
        )
    if len(measured) > 1:
        (small, before), (large, after) = list(measured.items())[-2:]
        lines += ["", f"| {small} to {large} times | {SECONDS} | {' | '.join(KINDS)} | {ALL} |"]
        lines.append(f"|---|{'---:|' * 6}")
        for node, figures in after["nodes"].items():
            base = before["nodes"].get(node, {})
            ratios = [
                f"{figures[name] / base[name]:.2f}" if name in figures and base.get(name) else "-"
                for name in (SECONDS, *KINDS, ALL)
            ]
            lines.append(f"| {node} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10, 50], help="how many times the flights")
    parser.add_argument("--interval", default="2013-02")
    parser.add_argument("--limit", type=float, default=7200, help="seconds after which a run is stopped")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    args = parser.parse_args()
    # A measurement that is broken off leaves no process and no folder behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # The servers and stores that these name are other runs'.
    for name in ("AIRTIGHT_METADATA", "AIRTIGHT_MODEL_SERVER", "AIRTIGHT_ROUTER", "SPARK_REMOTE"):
        os.environ.pop(name, None)
    last_day = max(Interval.parse(args.interval, clock.ZONE).days(clock.ZONE)).isoformat()
    measured: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="airtight-run-growth-") as folder:
        year = Lake(Path(folder).resolve() / "year")
        lake.build(year.path)
        for factor in args.factors:
            home = Home(Path(folder).resolve() / f"{factor}")
            os.environ["AIRTIGHT_HOME"] = str(home.path)
            flights = write_copies(year, Lake(home.lake), factor, last_day)
            print(f"{factor} times: {flights:,} flights", file=sys.stderr, flush=True)
            measured[factor] = {"flights": flights, **measure(home, args.interval, args.limit)}
            print(in_words({factor: measured[factor]}), file=sys.stderr, flush=True)
    print(json.dumps(measured, indent=1) if args.json else f"{os.cpu_count()} cores\n\n{in_words(measured)}")


if __name__ == "__main__":
    main()
