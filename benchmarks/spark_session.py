"""What the warm Spark server spares: validate and transform with a Spark session of their own, and over Spark Connect.

    python -m benchmarks.spark_session --interval 2013-06 [--runs 2]

Each node runs in a process of its own, as tasks do; importing Python's packages is not counted. The server is that of
the running services (make start), which has worked before: the node before the first counted one warms it up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airtight.home import ROOT, Home
from services.environment import environment
from services.settings import Settings

NODES = ("session and one query", "validate", "transform")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", default="2013-06")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _child(args.interval, args.child)
        return
    home = Home.current()
    warm = environment(Settings.of_running(home), home)
    own = {name: value for name, value in warm.items() if name != "SPARK_REMOTE"}
    _measure(args.interval, warm)
    seconds: dict[str, dict[str, list[float]]] = {"own": defaultdict(list), "warm": defaultdict(list)}
    for _ in range(args.runs):
        for way, variables in (("own", own), ("warm", warm)):
            for node, value in _measure(args.interval, variables).items():
                seconds[way][node].append(value)
    print(f"\n{args.interval}, {os.cpu_count()} cores, medians of {args.runs}, seconds.\n")
    print("| node | session of its own | warm server | spared |\n|---|---:|---:|---:|")
    for node in NODES:
        mine, shared = (statistics.median(seconds[way][node]) for way in ("own", "warm"))
        print(f"| {node} | {mine:.1f} | {shared:.1f} | {mine - shared:.1f} |")


def _measure(interval: str, variables: dict[str, str]) -> dict[str, float]:
    """Each of the three in a process of its own, which the one before has left what it needs."""
    with tempfile.TemporaryDirectory(prefix="airtight-") as folder:
        for node in NODES:
            command = [sys.executable, "-m", "benchmarks.spark_session", "--interval", interval, "--child", folder]
            subprocess.run(command, env=variables | {"NODE": node}, cwd=ROOT, check=True)
        return json.loads((Path(folder) / "seconds.json").read_text(encoding="utf-8"))


def _child(interval: str, folder: Path) -> None:
    from benchmarks import quality
    from components.data.spark import session

    node, file = os.environ["NODE"], folder / "seconds.json"
    seconds: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    @contextmanager
    def timed() -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[node] = time.monotonic() - started

    if node == NODES[0]:
        quality.ingest_month(interval, folder)
        with timed(), session("benchmark") as spark:
            spark.range(1000).selectExpr("sum(id)").collect()
    else:
        step = {"validate": quality.validate_month, "transform": quality.transform_month}[node]
        with timed():
            step(interval, folder)
    file.write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
