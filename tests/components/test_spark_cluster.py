"""The Spark steps on a cluster of two workers, each a process of its own: the same bytes as on this machine's cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airtight.home import ROOT
from benchmarks import step_memory

pytestmark = pytest.mark.slow

RUN = """
import json, sys
from pathlib import Path
from airtight.files import digest_of_tree
from benchmarks import step_memory
from components.data.spark import session

folder = Path(sys.argv[1])
with session("cluster") as spark:
    # The driver is one of them.
    executors = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1
    count = spark.range(8, numPartitions=8).mapInArrow(lambda rows: rows, "id long").count()
    for step in ("transform", "transform for prediction", "batch_predict"):
        step_memory.run(step, folder)
digests = [digest_of_tree(folder / name) for name in ("examples", "rows", "predictions")]
print(json.dumps([executors, count, digests]))
"""


def run(folder: Path, master: str) -> tuple[int, int, list[str]]:
    step_memory.write_lake(folder, 4000)
    step_memory.write_model(folder / "models" / "m" / "1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIRTIGHT_SPARK_MASTER": master, "SPARK_DRIVER_MEMORY": "1g"}
    environment.pop("SPARK_REMOTE", None)
    command = [sys.executable, "-c", RUN, str(folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    executors, rows, digests = json.loads(done.stdout.splitlines()[-1])
    return executors, rows, digests


def test_two_workers_make_the_same_examples_and_predictions(tmp_path: Path) -> None:
    here = run(tmp_path / "here", "local[2]")
    cluster = run(tmp_path / "cluster", "local-cluster[2,1,1024]")
    assert (here[0], cluster[0]) == (0, 2)
    assert here[1:] == cluster[1:]
