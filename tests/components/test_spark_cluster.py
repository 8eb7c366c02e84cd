"""The Spark steps on a cluster of two workers, each a process of its own: the same bytes as on this machine's cores."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

from airtight.home import ROOT
from benchmarks import step_memory
from benchmarks.ports import free_port

pytestmark = pytest.mark.slow

RUN = """
import json, sys
from pathlib import Path
from airtight.files import digest_of_tree
from benchmarks import step_memory
from components.data.spark import session

folder = Path(sys.argv[1])
with session("cluster") as spark:
    count = spark.range(8, numPartitions=8).mapInArrow(lambda rows: rows, "id long").count()
    for step in ("transform", "transform for prediction", "batch_predict"):
        step_memory.run(step, folder)
    # The driver is one of them.
    executors = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1
digests = [digest_of_tree(folder / name) for name in ("examples", "rows", "predictions")]
print(json.dumps([executors, count, digests]))
"""


def run(folder: Path, model: Path, master: str) -> tuple[int, int, list[str]]:
    step_memory.write_lake(folder, 4000)
    shutil.copytree(model, folder / "models" / "m" / "1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIRTIGHT_SPARK_MASTER": master, "SPARK_DRIVER_MEMORY": "1g"}
    environment.pop("SPARK_REMOTE", None)
    command = [sys.executable, "-c", RUN, str(folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    executors, rows, digests = json.loads(done.stdout.splitlines()[-1])
    return executors, rows, digests


@pytest.fixture
def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A standalone cluster: a master and two workers of a core each."""
    # Nothing here lives long enough to be worth a second compilation, for speed.
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
    port = free_port()
    address = f"spark://127.0.0.1:{port}"
    program = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    local = ("--host", "127.0.0.1", "--webui-port", "0")
    workers = ("--port", "0", "--cores", "1", "--memory", "1g", "--work-dir", str(tmp_path / "work"), address)
    commands = [
        [program, "org.apache.spark.deploy.master.Master", *local, "--port", str(port)],
        *([[program, "org.apache.spark.deploy.worker.Worker", *local, *workers]] * 2),
    ]
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    with contextlib.ExitStack() as started, (tmp_path / "log").open("wb") as log:
        for command in commands:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            started.callback(process.wait)
            started.callback(os.killpg, process.pid, signal.SIGKILL)
        await_listener(port)
        yield address


def await_listener(port: int) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    pytest.fail(f"nothing listens on {port}")


def test_two_workers_make_the_same_examples_and_predictions(tmp_path: Path, master: str) -> None:
    model = tmp_path / "model"
    step_memory.write_model(model)
    here, cluster = run(tmp_path / "here", model, "local[2]"), run(tmp_path / "cluster", model, master)
    assert (here[0], cluster[0]) == (0, 2)
    assert here[1:] == cluster[1:]
