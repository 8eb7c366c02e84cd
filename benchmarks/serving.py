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
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from airtight.home import Home
from benchmarks.load import Client, GrpcClient, HttpClient, closed_loop
from benchmarks.row import latest

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 32)
WARM_UP_S = 1.0
START_S = 180.0
FEATURES = [f"x{index}" for index in range(8)]
WORDS = ("EWR", "UA", "BOEING")
GRPC_METHOD = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True)
class Model:
    """What is served.

    Args:
      name: In requests.
      version: The SavedModel's folder.
      texts: For each input, whether it holds strings.
    """

    name: str
    version: Path
    texts: dict[str, bool]

    def rows(self, batch: int, seed: int) -> list[dict[str, Any]]:
        """So many rows; numbers with the digits that data have."""
        rng = np.random.default_rng(seed)
        return [
            {
                name: str(rng.choice(WORDS)) if text else round(float(rng.normal()), 3)
                for name, text in self.texts.items()
            }
            for _ in range(batch)
        ]

    def columns(self, batch: int, seed: int) -> dict[str, np.ndarray]:
        """The same rows as arrays."""
        rows = self.rows(batch, seed)
        return {
            name: np.array([row[name].encode() for row in rows], object)
            if text
            else np.array([row[name] for row in rows], np.float32)
            for name, text in self.texts.items()
        }


@dataclass
class Server:
    """A server that runs, with its processes.

    Args:
      name: For the table.
      process: Leader of its process group.
      rest: Its port for REST, or 0.
      grpc: Its port for gRPC, or 0.
      checked: Whether its answers are the model's.
    """

    name: str
    process: subprocess.Popen
    rest: int = 0
    grpc: int = 0
    checked: bool = True

    def tell(self, number: signal.Signals) -> None:
        """Sends a signal to all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def save_small(folder: Path) -> None:
    """Writes the small model."""
    import tensorflow as tf

    class Small(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = tf.random.Generator.from_seed(0)
            self.hidden = tf.Variable(generator.normal([len(FEATURES), 32]))
            self.out = tf.Variable(generator.normal([32, 1]))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name=name) for name in FEATURES])
        def serve(self, *columns):
            hidden = tf.nn.relu(tf.stack(columns, 1) @ self.hidden)
            return {"probability": tf.sigmoid(hidden @ self.out)[:, 0]}

    module = Small()
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def model(name: str, scratch: Path) -> tuple[Model, Callable[..., Any]]:
    """A model by its name, and its prepared callable as the server has it."""
    from serving.loader import load

    if name == "small":
        version = scratch / name / "1"
        save_small(version)
    else:
        version = latest(Home.current().models(name))
    signature = load(version, version.parent, os.cpu_count() or 1).signature("")
    texts = {spec.name: spec.text for spec in signature.inputs}
    return Model(name, version, texts), signature.run


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
        port = _free_port()
        flags = [f"--port={port}", f"--name={served.name}", f"--model={served.version}"]
        process = spawn([str(python), str(ROOT / "benchmarks" / script), *arguments, *flags])
        servers.append(server := Server(name, process, port))
        await_started(partial(_answers, port, served), server)
    for name, kind in (("none", "none-rest"), ("none", "none-grpc")):
        port = _free_port()
        process = spawn([sys.executable, str(ROOT / "benchmarks/other_servers.py"), kind, f"--port={port}"])
        ports = {"rest": port} if kind == "none-rest" else {"grpc": port}
        servers.append(server := Server(name, process, **ports, checked=False))
        await_started(partial(_listens, port), server)
    for server in servers:
        server.tell(signal.SIGSTOP)


def start_own(served: Model, scratch: Path, name: str, flags: Sequence[str], servers: list[Server]) -> None:
    """Starts this project's server with some flags and adds it to the list at once."""
    model_flags = [f"--model_name={served.name}", f"--model_base_path={served.version.parent}"]
    start_module("serving", scratch, name, [*model_flags, *flags], servers)


def start_module(
    module: str, scratch: Path, name: str, flags: Sequence[str], servers: list[Server], *, root: Path = ROOT
) -> None:
    """Starts the server or router of a checkout on free ports and adds it to the list at once."""
    ready = scratch / f"ready-{len(servers)}.json"
    command = [sys.executable, "-m", module, "--port=0", "--rest_api_port=0", f"--ready_file={ready}", *flags]
    servers.append(server := Server(name, spawn(command, root)))
    await_started(ready.exists, server)
    ports = json.loads(ready.read_text())
    server.rest, server.grpc = ports["rest_api_port"], ports["port"]


def spawn(command: Sequence[str], root: Path = ROOT) -> subprocess.Popen:
    """Starts a process in a group of its own, with the code of a checkout, without input and output."""
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def await_started(condition: Callable[[], bool], server: Server) -> None:
    """Waits until a server that was started serves; ends the program where it does not."""
    deadline = time.monotonic() + START_S
    while not condition():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{server.name} did not start")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _answers(port: int, served: Model) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", _path(served), rest_body(served, 1, 0), {"Content-Type": "application/json"})
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _path(served: Model) -> str:
    return f"/v1/models/{served.name}:predict"


def rest_body(served: Model, batch: int, seed: int) -> bytes:
    """A request by REST, of so many rows."""
    return json.dumps({"instances": served.rows(batch, seed)}).encode()


def grpc_body(served: Model, batch: int, seed: int) -> bytes:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = served.name
    for name, column in served.columns(batch, seed).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(column))
    return request.SerializeToString()


def _rest_numbers(answer: bytes) -> list[float]:
    return json.loads(answer)["predictions"]


def _grpc_numbers(answer: bytes) -> list[float]:
    from tensorflow_serving.apis import predict_pb2

    return list(predict_pb2.PredictResponse.FromString(answer).outputs["probability"].float_val)


def clients(server: Server, kind: str, bodies: list[bytes], served: Model) -> list[Client]:
    """Connected clients, one for each body."""
    if kind == "REST":
        return [HttpClient(server.rest, _path(served), body) for body in bodies]
    return [GrpcClient(server.grpc, GRPC_METHOD, body) for body in bodies]


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
        expected = [run(*served.columns(batch, seed).values())[0] for seed in range(args.clients)]
        bodies = {
            "REST": [rest_body(served, batch, seed) for seed in range(args.clients)],
            "gRPC": [grpc_body(served, batch, seed) for seed in range(args.clients)],
        }
        for _ in range(args.rounds):
            for name, call in calls.items():
                measured[name, "-", batch].append(figures(in_process(call, args.seconds), args.seconds))
            for server in servers:
                for kind, port in (("REST", server.rest), ("gRPC", server.grpc)):
                    if not port:
                        continue
                    server.tell(signal.SIGCONT)
                    asking = clients(server, kind, bodies[kind], served)
                    latencies = closed_loop(asking, args.seconds, WARM_UP_S)
                    for client in asking:
                        client.socket.close()
                    server.tell(signal.SIGSTOP)
                    measured[server.name, kind, batch].append(figures(latencies, args.seconds))
                    if server.checked:
                        numbers = {"REST": _rest_numbers, "gRPC": _grpc_numbers}[kind]
                        for client, right in zip(asking, expected, strict=True):
                            np.testing.assert_allclose(numbers(client.answer), right, rtol=0, atol=1e-5)
    return [
        {"model": served.name, "server": name, "api": kind, "batch": batch}
        | {key: median(one[key] for one in rounds) for key in rounds[0]}
        for (name, kind, batch), rounds in measured.items()
    ]


def figures(latencies: np.ndarray, seconds: float) -> dict[str, float]:
    if not len(latencies):
        raise SystemExit(f"no request was answered in {seconds:g} s; give more --seconds, or a quieter machine")
    p50, p99, p999 = np.percentile(1e3 * latencies, [50, 99, 99.9])
    return {"rate": len(latencies) / seconds, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999}


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
        for server in servers:  # All at once: an impatient second Ctrl-C is to leave none behind.
            server.tell(signal.SIGKILL)
        for server in servers:
            server.process.wait()


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small", "flight_delays"])
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of one case in one round, after a second of warm-up"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    python: Path | None = Home.current().path / "bench" / "servers" / "bin" / "python"
    if not python.exists():
        print("The other servers are not installed (`make bench-serving` does), so they are not measured.")
        python = None
    table = []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            served, run = model(name, Path(folder))
            with running(served, Path(folder), python) as servers:
                table += measure(served, run, servers, args)
    report(table)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main()
