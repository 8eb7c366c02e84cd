"""Thousands of random and malformed requests: what the server answers, and what they leave in its memory.

`python -m benchmarks.hostile [--count 10000] [--http 500] [--seed 0] [--json FILE]`, with the checkout's root on
PYTHONPATH. A tenth of the count goes before, with another seed, so that what any server keeps is there already; then
resident memory before and after is compared. The exit status is 1 when anything but an answer or a refusal came back,
when the server is gone, or when its memory grew by 5 % or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.serving import hostile, models

MAX_GROWTH = 0.05


def trial(folder: Path, count: int, http: int, seed: int) -> dict[str, Any]:
    """One run on a server of its own.

    Args:
      folder: An empty folder.
      count: REST bodies, and as many protobufs.
      http: Connections with broken HTTP.
      seed: Of all that is random.

    Returns:
      Answers by status and code, faults in words, and resident bytes before and after.
    """
    root = folder / "models"
    for name in ("half", "mixed"):
        (root / name).mkdir(parents=True)
    models.save_half_plus_two(root / "half" / "3")
    models.save_mixed(root / "mixed" / "1")
    with models.running(folder, f"--models_root={root}") as server:
        process = psutil.Process(server.process.pid)
        family = [process, *process.children(recursive=True)]

        def resident() -> int:
            return sum(member.memory_info().rss for member in family)

        def send(share: float, seed: int) -> dict[str, Any]:
            report: dict[str, Any] = {}
            for name, fuzz, port, number in (
                ("rest", hostile.fuzz_rest, server.rest, count),
                ("http", hostile.fuzz_http, server.rest, http),
                ("grpc", hostile.fuzz_grpc, server.grpc, count),
            ):
                begun = time.monotonic()
                seen, faults = fuzz(port, int(number * share), seed)
                counts = {str(key): seen[key] for key in sorted(seen, key=str)}
                report[name] = {"seen": counts, "faults": faults, "seconds": round(time.monotonic() - begun, 1)}
            return report

        warm_up = send(0.1, seed + 1)
        before = resident()
        report = send(1.0, seed)
        report["warm_up_faults"] = [fault for outcome in warm_up.values() for fault in outcome["faults"]]
        report["alive"] = server.process.poll() is None
        after = resident()
        report["resident_mb"] = {"before": round(before / 1e6, 1), "after": round(after / 1e6, 1)}
        report["growth"] = round(after / before - 1, 4)
    return report


def main() -> int:
    """Runs it and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--http", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        report = trial(Path(folder), flags.count, flags.http, flags.seed)
    print(json.dumps(report, indent=1))
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=1))
    faults = [
        *report["warm_up_faults"],
        *(fault for name in ("rest", "http", "grpc") for fault in report[name]["faults"]),
    ]
    return int(bool(faults) or not report["alive"] or report["growth"] >= MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
