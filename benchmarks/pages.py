"""How long the pages in Airflow's UI take over a year: a training run and a watched day for each day of it.

    python -m benchmarks.pages [--rounds 7]

Fills a store with a made-up year (tests/plugins/past_year.py), and asks this process for each page as the API server
does, without its login. The first request imports what the pages need; the others are medians, in milliseconds of the
clock and of this process's CPU time. The aim is a second.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from urllib.parse import quote

from airtight.home import Home
from tests.plugins.page_client import get, signed_in
from tests.plugins.past_models import MODEL
from tests.plugins.past_year import year

MEMORY = Path("/dev/shm")
RUN = "scheduled__2026-07-01T04:00:00+00:00"


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Each page: its size, the first answer and the median of the others."""
    from plugins.tfx_airflow.pages.app import app

    run = f"/{MODEL}/runs/{quote(RUN, safe='')}"
    pages = {"model": f"/{MODEL}/model", "gates": run, "report": f"{run}/tasks/validate/-1"}
    results = {}
    with signed_in():
        for name, path in pages.items():
            wall, processor, size = [], [], 0
            for _ in range(rounds + 1):
                start = time.perf_counter(), time.process_time()
                answer = get(app, path)
                wall.append(1000 * (time.perf_counter() - start[0]))
                processor.append(1000 * (time.process_time() - start[1]))
                assert answer.status_code == 200, answer.text
                size = len(answer.content)
            results[name] = {
                "kB": round(size / 1000),
                "first_ms": round(wall[0]),
                "ms": round(median(wall[1:])),
                "cpu_ms": round(median(processor[1:])),
            }
    return results


def main() -> None:
    """Prints a table and the same as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        os.environ["AIRTIGHT_HOME"] = folder
        start = time.perf_counter()
        year(Home(Path(folder)), daily=True)
        print(f"A year of days, filled in {time.perf_counter() - start:.0f} s")
        results = measure(rounds)
    for name, result in results.items():
        print(f"  {name:7} " + "  ".join(f"{what} {value:6}" for what, value in result.items()))
    print(json.dumps({"pages": results}))


if __name__ == "__main__":
    main()
