"""The year by one backfill: wall-clock, peak memory, and whether another parallelism comes to the same.

    python -m benchmarks.year --parallel 1 --json one.json
    python -m benchmarks.year --parallel 2 --against one.json
    python -m benchmarks.year --parallel 2 --state FOLDER
    python -m benchmarks.year --dag flight_delays_warm --parallel 2 --state FOLDER

February to December 2013 from nothing but the lake, in a state folder of its own, with the services and settings that
the demo ships; stop those of the demo first (make stop), the ports are the same. Memory is what the whole machine uses
more than before the services started, looked at every second. Two runs are the same when what they made has the same
bytes (data, examples, model) and their metrics differ by at most 1e-6. With --state that folder is used and kept: a
second DAG finds what the first one made, and `commands.report --compare` sets them side by side.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from airtight.home import Home
from airtight.supervised import find
from commands import backfill, report
from commands.preparation import fill_lake
from services.supervisor import Supervisor

CLOSE = 1e-6


class Memory(threading.Thread):
    """The most memory that the machine used beyond what it did at the start, bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_available = psutil.virtual_memory().available
        self.peak = 0

    def run(self) -> None:
        """Looks every second."""
        while True:
            self.peak = max(self.peak, self.start_available - psutil.virtual_memory().available)
            time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--dag", default="flight_delays", help="a pipeline")
    parser.add_argument("--first", default="2013-02")
    parser.add_argument("--last", default="2013-12")
    parser.add_argument("--json", type=Path, help="write what each month came to")
    parser.add_argument("--against", type=Path, help="such a file of another parallelism")
    parser.add_argument("--page", type=Path, help="keep the year's page here")
    parser.add_argument("--state", type=Path, help="a state folder to work in and to keep")
    args = parser.parse_args()
    pipeline, _ = find(args.dag)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kept = contextlib.nullcontext(args.state) if args.state else tempfile.TemporaryDirectory(prefix="airtight-")
    with kept as folder:
        home = Home(Path(folder).resolve())
        os.environ["AIRTIGHT_HOME"] = str(home.path)
        memory = Memory()
        memory.start()
        try:
            backfill.start(home)
            fill_lake(pipeline, home)
            started = time.monotonic()
            span = backfill.span(pipeline, args.first, args.last)
            succeeded = backfill.backfill(pipeline, home, span, parallel=args.parallel, reprocess="none")
            wall = time.monotonic() - started
            months = [asdict(month) for month in report.months(pipeline, home)]
            if args.page:
                args.page.write_bytes(report.page_of(pipeline, home).read_bytes())
        finally:
            Supervisor(home).stop()
    print(f"\n{args.dag}, {args.first} to {args.last}, {args.parallel} at once, {os.cpu_count()} cores")
    print(f"{len(months)} runs in {wall:.0f} s ({wall / 60:.1f} minutes), at most {memory.peak / 2**30:.1f} GiB")
    if args.json:
        args.json.write_text(json.dumps({"parallel": args.parallel, "wall": wall, "months": months}, indent=1))
    if not args.against:
        return 0 if succeeded else 1
    other = json.loads(args.against.read_text(encoding="utf-8"))
    differing = differences(months, other["months"])
    print(
        f"Beside {other['parallel']} at once ({other['wall']:.0f} s): "
        + ("all the same" if not differing else "DIFFERENT")
    )
    print("\n".join(differing))
    return 0 if succeeded and not differing else 1


def _figures(month: dict[str, Any]) -> dict[str, float | None]:
    """What was measured of a month, by name."""
    figures = {"drift": month["drift"]}
    for title, value, champion, _ in month["metrics"]:
        figures |= {title: value, f"{title} of the champion": champion}
    return figures


def differences(months: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[str]:
    """What two years do not share, a line each."""
    differing = []
    if [month["name"] for month in months] != [month["name"] for month in others]:
        return [f"other months: {[m['name'] for m in months]} and {[m['name'] for m in others]}"]
    for month, other in zip(months, others, strict=True):
        one_figures, other_figures = _figures(month), _figures(other)
        for name in one_figures | other_figures:
            one, two = one_figures.get(name), other_figures.get(name)
            if (one is None) != (two is None) or (one is not None and abs(one - two) > CLOSE):
                differing.append(f"{month['name']} {name}: {one} and {two}")
        for name, digest in month["digests"].items():
            if digest != other["digests"][name]:
                differing.append(f"{month['name']} {name}: other bytes")
        decided = [
            {gate: result["passed"] for gate, result in one["gates"].items()} | {"version": one["version"]}
            for one in (month, other)
        ]
        if decided[0] != decided[1]:
            differing.append(f"{month['name']}: {decided[0]} and {decided[1]}")
    return differing


if __name__ == "__main__":
    sys.exit(main())
