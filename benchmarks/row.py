"""What a served row costs: the pushed flagship, called as the model server calls it, without the server around it.

    python -m benchmarks.row [--seconds 3]

The latest version in the state folder, loaded by the server's own loader, on one thread; the rows are the first of the
month that the latest run judged its model on. Figures are medians of all calls in so many seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

from airtight.home import Home
from components.data.examples import features, read_table
from pipelines.flight_delays.features import SCHEMA
from serving.loader import load

NAME = "flight_delays"
BATCHES = (1, 64, 1024)


def latest(folder: Path) -> Path:
    """The folder of the highest number in a folder."""
    if not (numbered := [path for path in folder.glob("*") if path.name.isdigit()]):
        raise SystemExit(f"There is nothing in {folder}. Run `make demo` first: it trains a model and pushes it.")
    return max(numbered, key=lambda path: int(path.name))


def main() -> None:
    """Prints a table and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    home = Home.current()
    version = latest(home.models(NAME))
    examples = latest(home.pipeline_root(NAME) / "transform" / "examples")
    signature = load(version, version.parent, threads=1).signature("")
    rows = features(read_table(examples, "test", SCHEMA), SCHEMA)
    print(f"version {version.name} of {NAME}")
    result = {}
    for batch in BATCHES:
        columns = [rows[spec.name][:batch] for spec in signature.inputs]
        seconds: list[float] = []
        end = time.perf_counter() + args.seconds
        while (start := time.perf_counter()) < end:
            signature.run(*columns)
            seconds.append(time.perf_counter() - start)
        result[f"rows_{batch}_ms"] = round(median(seconds) * 1000, 3)
        print(f"{batch:5} rows {median(seconds) * 1000:9.3f} ms  (median of {len(seconds)} calls)")
    print(json.dumps({"row": result}))


if __name__ == "__main__":
    main()
