"""Closed-loop load on the model server, beside other servers of the same model and the model called in process.

    python -m benchmarks.serving [--models small flight_delays] [--seconds 5] [--rounds 3] [--clients 8] [--json FILE]

Each client sends its next request when it has the answer to the last one (`benchmarks.load`, one process). Requests
carry 1 or 32 rows, other ones for each client, and each server's answers are compared with the model's. The servers:

- airtight: this project's with `--enable_batching`, and without it, as the local services start it;
- FastAPI with uvicorn: one async route that parses and answers by orjson, and the ordinary typed one;
- LitServe: one worker, one request at a time, and up to 8 together;
- none: answers without looking. It shows what the load generator drives, and is no server of models.

All are started at once, and all but the measured one are stopped with SIGSTOP. They take turns, `--rounds` times, and
of a case's rounds the median counts. The other servers run in an environment of their own, which `make bench-serving`
installs, with this project's TensorFlow. `small` is eight floats, Dense 32, Dense 1; `flight_delays` is the latest
version in the state folder (`make demo`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from airtight.home import Home
from benchmarks.model_servers import (
    BATCHES,
    ROOT,
    WARM_UP_S,
    Load,
    Model,
    Server,
    await_started,
    figures_of,
    kill,
    parser_of,
    path_of,
    rest_body,
    spawn,
    start_own,
    table_of,
)
from benchmarks.ports import free_port


def start(served: Model, scratch: Path, python: Path | None, servers: list[Server]) -> None:
    """Starts all servers and adds each to the list at once; without `python` only this project's."""
    for name, flags in (("airtight", ["--enable_batching"]), ("airtight, no batching", [])):
        start_own(served, scratch, name, flags, servers)
    others = {
        "FastAPI, raw async route": ["other_servers.py", "fastapi-raw"],
        "FastAPI, typed route": ["other_servers.py", "fastapi"],
        "LitServe": ["litserve_server.py"],
        "LitServe, batches of 8": ["litserve_server.py", "--batch=8"],
    }
    for name, (script, *arguments) in others.items() if python else ():
        port = free_port()
        flags = [f"--port={port}", f"--name={served.name}", f"--model={served.version}"]
        process = spawn([str(python), str(ROOT / "benchmarks" / script), *arguments, *flags])
        servers.append(server := Server(name, process, port))
        await_started(partial(_answers, port, served), server)
    for name, kind in (("none", "none-rest"), ("none", "none-grpc")):
        port = free_port()
        process = spawn([sys.executable, str(ROOT / "benchmarks/other_servers.py"), kind, f"--port={port}"])
        ports = {"rest": port} if kind == "none-rest" else {"grpc": port}
        servers.append(server := Server(name, process, **ports, checked=False))
        await_started(partial(_listens, port), server)
    for server in servers:
        server.tell(signal.SIGSTOP)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _answers(port: int, served: Model) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path_of(served), rest_body(served, 1, 0), {"Content-Type": "application/json"})
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def in_process(call: Callable[[], object], seconds: float) -> np.ndarray:
    """Latencies in seconds of one caller."""
    begin = now = time.perf_counter()
    latencies = []
    while now < begin + WARM_UP_S + seconds:
        before = now
        call()
        now = time.perf_counter()
        if before > begin + WARM_UP_S:
            latencies.append(now - before)
    return np.array(latencies)


def floors(served: Model, run: Callable[..., Any], batch: int) -> dict[str, Callable[[], object]]:
    """The model called without a server: by TensorFlow's Python function, and prepared as the server does."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(served.version))
    signature = loaded.signatures["serving_default"]
    columns = served.columns(batch, 0)

    def call(kept: Any = loaded) -> np.ndarray:  # What is loaded holds the variables.
        return signature(**{name: tf.constant(column) for name, column in columns.items()})["probability"].numpy()

    return {
        "in process, the SavedModel's signature": call,
        "in process, the prepared callable": partial(run, *columns.values()),
    }


def measure(served: Model, run: Callable[..., Any], servers: list[Server], args: argparse.Namespace) -> list[dict]:
    """All cases, taking turns."""
    measured: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for batch in BATCHES:
        calls = floors(served, run, batch)
        load = Load(served, run, batch, args)
        for _ in range(args.rounds):
            for name, call in calls.items():
                measured[name, "-", batch].append(figures_of(in_process(call, args.seconds), args.seconds))
            for server in servers:
                for kind, port in (("REST", server.rest), ("gRPC", server.grpc)):
                    if port:
                        measured[server.name, kind, batch].append(load.figures(server, kind))
    return [
        {"model": served.name, "server": name, "api": kind, "batch": batch}
        | {key: median(one[key] for one in rounds) for key in rounds[0]}
        for (name, kind, batch), rounds in measured.items()
    ]


def report(table: list[dict]) -> None:
    """Prints the cases, and this project's rate over the best of the other servers'."""
    print(
        "\n| model | server | API | rows | requests/s | p50 ms | p99 ms | p99.9 ms |\n|---|---|---|---|---|---|---|---|"
    )
    for row in table:
        print(
            f"| {row['model']} | {row['server']} | {row['api']} | {row['batch']} | {row['rate']:,.0f} | "
            f"{row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['p999_ms']:.2f} |"
        )
    print()
    for name, batch in dict.fromkeys((row["model"], row["batch"]) for row in table):
        case = [row for row in table if (row["model"], row["batch"]) == (name, batch)]
        others = [row for row in case if row["server"].startswith(("FastAPI", "LitServe"))]
        if not others:
            continue
        best = max(others, key=lambda row: row["rate"])
        for row in case:
            if row["server"] == "airtight":
                times = row["rate"] / best["rate"]
                print(f"{name}, {batch} rows, {row['api']}: {times:.1f} times the best other server ({best['server']})")


@contextlib.contextmanager
def running(served: Model, scratch: Path, python: Path | None) -> Iterator[list[Server]]:
    """The servers, until the block ends."""
    servers: list[Server] = []
    try:
        start(served, scratch, python, servers)
        yield servers
    finally:
        kill(servers)


def main() -> None:
    """Prints a table and writes it as JSON."""
    args = parser_of(__doc__).parse_args()
    python: Path | None = Home.current().path / "bench" / "servers" / "bin" / "python"
    if not python.exists():
        print("The other servers are not installed (`make bench-serving` does), so they are not measured.")
        python = None

    def measure_one(served: Model, run: Callable[..., Any], scratch: Path) -> list[dict]:
        with running(served, scratch, python) as servers:
            return measure(served, run, servers, args)

    report(table_of(args, measure_one))


if __name__ == "__main__":
    main()
