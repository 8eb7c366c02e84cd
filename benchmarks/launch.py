"""What running a node costs: a no-op node as an Airflow task beside a no-op Airflow task, and the floors below it.

    python -m benchmarks.launch

Starts its own launcher and its own Airflow database in a temporary folder. Figures are medians.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

from airtight.home import ROOT, Home
from benchmarks import plain
from runtime.client import call
from runtime.compiled_store import path_of
from runtime.protocol import CompileRequest, NodeRequest

ROUNDS = 20
SOURCE = "benchmarks.noop:create_pipeline"
_DAGS = f"""{plain.DAG}
import json
from plugins.tfx_airflow import TfxDag

nodes = TfxDag({SOURCE!r}, dag_id="nodes", schedule=None)

if __name__ == "__main__":
    durations = {{}}
    for dag in (plain, nodes, plain, nodes):
        run = dag.test()
        found = run.get_task_instances()
        assert {{ti.state for ti in found}} == {{"success"}}, found
        durations[dag.dag_id] = [(ti.end_date - ti.start_date).total_seconds() for ti in found]
    print("DURATIONS", json.dumps(durations))
"""


def fork_floor() -> float:
    """Seconds to fork a process that has imported what the launcher has, and to see the child end."""
    script = (
        "import gc, importlib, json, os, time\nfrom runtime.prefork_server import LIBRARIES\n"
        "[importlib.import_module(n) for n in LIBRARIES]\ngc.collect(); gc.freeze()\nseconds = []\n"
        f"for _ in range({ROUNDS}):\n    start = time.perf_counter()\n    pid = os.fork()\n"
        "    if pid == 0:\n        os._exit(0)\n    os.waitpid(pid, 0)\n"
        "    seconds.append(time.perf_counter() - start)\n"
        "print(json.dumps(seconds))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return median(json.loads(done.stdout.splitlines()[-1]))


def node_seconds(home: Home, warm: bool, rounds: int) -> float:
    """Seconds from the client's request to the outcome, for a no-op node."""
    seconds = []
    for _ in range(rounds):
        name = uuid.uuid4().hex
        request = NodeRequest(str(path_of(SOURCE, home)), "step_0", name, name, str(home.path))
        start = time.perf_counter()
        call(request, home.launcher_socket if warm else None).raise_if_failed()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def task_seconds(home: Home) -> dict[str, float]:
    """Seconds from start to end of a task in Airflow, for no-op nodes and for no-op tasks of the same shape."""
    file = home.path / "dags" / "bench.py"
    file.parent.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "AIRTIGHT_HOME": str(home.path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(file.parent),
        "AIRFLOW_HOME": str(home.path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    }
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, cwd=ROOT, capture_output=True, check=True)
    file.write_text(_DAGS)
    command = [sys.executable, str(file)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("DURATIONS")]
    return {name: median(seconds) for name, seconds in json.loads(line.partition(" ")[2]).items()}


def main() -> None:
    """Prints a table and the same as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        environment = os.environ | {"AIRTIGHT_HOME": folder, "PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(
            [sys.executable, "-m", "runtime", "serve"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            while not home.launcher_socket.exists():
                time.sleep(0.1)
            start = time.perf_counter()
            call(CompileRequest(SOURCE, folder), home.launcher_socket).raise_if_failed()
            compiled = time.perf_counter() - start
            tasks = task_seconds(home)
            results = {
                "fork_floor_s": fork_floor(),
                "warm_node_s": node_seconds(home, warm=True, rounds=ROUNDS),
                "cold_node_s": node_seconds(home, warm=False, rounds=2),
                "airflow_task_s": tasks["plain"],
                "airflow_task_with_node_s": tasks["nodes"],
                "node_over_task_s": tasks["nodes"] - tasks["plain"],
                "warm_compile_s": compiled,
            }
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    for name, seconds in results.items():
        print(f"{name.removesuffix('_s').replace('_', ' '):28} {seconds:8.3f} s")
    print(json.dumps({"launch": {name: round(seconds, 4) for name, seconds in results.items()}}))


if __name__ == "__main__":
    main()
