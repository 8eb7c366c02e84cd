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
import json
import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from airtight.home import Home
from benchmarks.load import Client, GrpcClient, HttpClient, closed_loop
from benchmarks.model_servers import Model, Server, model, predict_path, rest_body, running

BATCHES = (1, 32)
WARM_UP_S = 1.0
GRPC_METHOD = "/tensorflow.serving.PredictionService/Predict"


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
        return [HttpClient(server.rest, predict_path(served), body) for body in bodies]
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
                    server.send(signal.SIGCONT)
                    asking = clients(server, kind, bodies[kind], served)
                    latencies = closed_loop(asking, args.seconds, WARM_UP_S)
                    for client in asking:
                        client.socket.close()
                    server.send(signal.SIGSTOP)
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
