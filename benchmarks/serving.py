"""Closed-loop load on the model server, beside the same model called in process.

`python -m benchmarks.serving [--seconds 5] [--clients 8] [--json FILE]`, with the checkout's root on PYTHONPATH.

The model: eight floats in, Dense 32 and Dense 1, one probability out. Each client sends its next request when it has
the answer to the last one. The clients are processes of their own: they do not share the interpreter of the server,
yet they share its cores, so that on a small machine the rates are a lower bound. Requests carry 1 or 32 rows.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 32)
WARM_UP_S = 1.0
FEATURES = [f"x{index}" for index in range(8)]


def save_model(folder: Path) -> None:
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


def rows(batch: int) -> list[dict[str, float]]:
    numbers = np.random.default_rng(0).normal(size=(batch, len(FEATURES))).round(3)
    return [dict(zip(FEATURES, row, strict=True)) for row in numbers.tolist()]


@contextlib.contextmanager
def served(base_path: Path, folder: Path) -> Iterator[dict[str, int]]:
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "serving", "--port=0", "--rest_api_port=0", f"--ready_file={ready}"]
    command += ["--model_name=small", f"--model_base_path={base_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.05)
        yield json.loads(ready.read_text())
    finally:
        process.terminate()
        process.wait()


def rest_caller(ports: dict[str, int], batch: int) -> Callable[[], object]:
    connection = http.client.HTTPConnection("127.0.0.1", ports["rest_api_port"])
    body = json.dumps({"instances": rows(batch)}).encode()

    def call() -> None:
        connection.request("POST", "/v1/models/small:predict", body)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == http.client.OK, answer

    return call


def grpc_caller(ports: dict[str, int], batch: int) -> Callable[[], object]:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "small"
    for name in FEATURES:
        request.inputs[name].CopyFrom(tf.make_tensor_proto([row[name] for row in rows(batch)], tf.float32))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"127.0.0.1:{ports['port']}"))
    return partial(stub.Predict, request)


def in_process_caller(version: Path, batch: int) -> Callable[[], object]:
    import tensorflow as tf

    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    columns = {name: np.array([row[name] for row in rows(batch)], np.float32) for name in FEATURES}

    def call() -> np.ndarray:
        return signature(**{name: tf.constant(column) for name, column in columns.items()})["probability"].numpy()

    return call


def session_caller(version: Path, batch: int) -> Callable[[], object]:
    from serving.loader import load

    signature = load(version, version.parent, 1).signature("")
    columns = [np.array([row[spec.name] for row in rows(batch)], np.float32) for spec in signature.inputs]
    return partial(signature.run, *columns)


def client(start, results, seconds: float, kind: str, ports: dict[str, int], batch: int) -> None:  # noqa: PLR0917
    call = {"REST": rest_caller, "gRPC": grpc_caller}[kind](ports, batch)
    call()
    start.wait()
    results.put(_measured(call, seconds))


def _measured(call: Callable[[], object], seconds: float) -> np.ndarray:
    """Latencies in seconds of the calls after the warm-up."""
    begin = time.perf_counter()
    latencies = []
    now = begin
    while now < begin + WARM_UP_S + seconds:
        before = now
        call()
        now = time.perf_counter()
        if before > begin + WARM_UP_S:
            latencies.append(now - before)
    return np.array(latencies)


def closed_loop(kind: str, ports: dict[str, int], batch: int, clients: int, seconds: float) -> np.ndarray:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(clients), context.Queue()
    processes = [
        context.Process(target=client, args=(start, results, seconds, kind, ports, batch)) for _ in range(clients)
    ]
    for process in processes:
        process.start()
    latencies = np.concatenate([results.get() for _ in processes])
    for process in processes:
        process.join()
    return latencies


def report(name: str, batch: int, latencies: np.ndarray, seconds: float) -> dict[str, object]:
    p50, p99, p999 = np.percentile(1e3 * latencies, [50, 99, 99.9])
    row = {
        "case": name,
        "batch": batch,
        "rate": len(latencies) / seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
    }
    print(f"| {name} | {batch} | {row['rate']:,.0f} | {p50:.2f} | {p99:.2f} | {p999:.2f} |", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        version = Path(scratch, "small", "1")
        save_model(version)
        print("| case | batch | requests/s | p50 ms | p99 ms | p99.9 ms |\n|---|---|---|---|---|---|")
        for batch in BATCHES:
            for name, make in (
                ("in process, SavedModel's signature", in_process_caller),
                ("in process, prepared", session_caller),
            ):
                table.append(report(name, batch, _measured(make(version, batch), flags.seconds), flags.seconds))
        with served(version.parent, Path(scratch)) as ports:
            for kind in ("REST", "gRPC"):
                for batch in BATCHES:
                    latencies = closed_loop(kind, ports, batch, flags.clients, flags.seconds)
                    table.append(report(f"{kind}, {flags.clients} clients", batch, latencies, flags.seconds))
    if flags.json:
        flags.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
