"""How long Airflow takes to parse each file of dags/, in a process that has imported airflow.sdk.

    python -m benchmarks.parse

The compiled pipelines are there already: this is what happens every 30 seconds and in every task.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from airtight.home import ROOT

ROUNDS = 5
_SCRIPT = """
import airflow.sdk, json, runpy, sys, time
start = time.perf_counter()
runpy.run_path(sys.argv[1])
first = time.perf_counter() - start
start = time.perf_counter()
runpy.run_path(sys.argv[1])
again = time.perf_counter() - start
heavy = ("tensorflow", "tfx", "pyspark", "apache_beam", "great_expectations", "pandas")
print(json.dumps({"first_ms": first * 1e3, "again_ms": again * 1e3, "heavy": [m for m in heavy if m in sys.modules]}))
"""


def measure(file: Path) -> dict:
    """Parses a file in new processes; the first process also compiles what is missing and does not count."""
    # As the local services run: modules are compiled once and kept.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": str(ROOT)}
    runs = []
    for _ in range(ROUNDS + 1):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(file)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    runs = runs[1:]
    return {
        "file": file.name,
        "first_ms": round(median(run["first_ms"] for run in runs), 1),
        "again_ms": round(median(run["again_ms"] for run in runs), 1),
        "heavy": runs[0]["heavy"],
    }


def main() -> None:
    """Prints a table and the same as JSON."""
    results = [measure(file) for file in sorted((ROOT / "dags").glob("*.py"))]
    print(f"{'file':32} {'first parse':>12} {'again':>9}  heavy modules   (median of {ROUNDS} processes)")
    for result in results:
        heavy = ", ".join(result["heavy"]) or "none"
        print(f"{result['file']:32} {result['first_ms']:>9} ms {result['again_ms']:>6} ms  {heavy}")
    print(json.dumps({"parse": results}))


if __name__ == "__main__":
    main()
