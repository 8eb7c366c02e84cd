"""What the benchmarks of model servers share: models, servers that are stopped between rounds, requests, options."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def path_of(served: Model) -> str:
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
        return [HttpClient(server.rest, path_of(served), body) for body in bodies]
    return [GrpcClient(server.grpc, GRPC_METHOD, body) for body in bodies]


class Load:
    """Requests of all clients with as many rows, and what the model answers to them.

    Args:
      served: The model.
      run: Its prepared callable.
      batch: Rows of a request.
      args: How many clients, and seconds of a round.
    """

    def __init__(self, served: Model, run: Callable[..., Any], batch: int, args: argparse.Namespace) -> None:
        self._served, self._seconds = served, args.seconds
        self._expected = [run(*served.columns(batch, seed).values())[0] for seed in range(args.clients)]
        self._bodies = {
            kind: [body(served, batch, seed) for seed in range(args.clients)]
            for kind, body in (("REST", rest_body), ("gRPC", grpc_body))
        }

    def figures(self, server: Server, kind: str) -> dict[str, float]:
        """Rate and latencies of one round, for which the server goes on; its last answers are compared."""
        server.tell(signal.SIGCONT)
        asking = clients(server, kind, self._bodies[kind], self._served)
        latencies = closed_loop(asking, self._seconds, WARM_UP_S)
        for client in asking:
            client.socket.close()
        server.tell(signal.SIGSTOP)
        if server.checked:
            numbers = {"REST": _rest_numbers, "gRPC": _grpc_numbers}[kind]
            for client, right in zip(asking, self._expected, strict=True):
                np.testing.assert_allclose(numbers(client.answer), right, rtol=0, atol=1e-5)
        return figures_of(latencies, self._seconds)


def figures_of(latencies: np.ndarray, seconds: float) -> dict[str, float]:
    """Requests a second, and percentiles of their latency; latencies in seconds, [requests]."""
    if not len(latencies):
        raise SystemExit(f"no request was answered in {seconds:g} s; give more --seconds, or a quieter machine")
    p50, p99, p999 = np.percentile(1e3 * latencies, [50, 99, 99.9])
    return {"rate": len(latencies) / seconds, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999}


def kill(servers: Sequence[Server]) -> None:
    """Ends all servers, at once: an impatient second Ctrl-C is to leave none behind."""
    for server in servers:
        server.tell(signal.SIGKILL)
    for server in servers:
        server.process.wait()


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """What all benchmarks of model servers take from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small", "flight_delays"])
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of one case in one round, after a second of warm-up"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    return parser


def table_of(
    args: argparse.Namespace, measure_one: Callable[[Model, Callable[..., Any], Path], list[dict]]
) -> list[dict]:
    """The cases of all models, which are written as JSON, too.

    Args:
      args: As of `parser_of`.
      measure_one: Takes a model, its prepared callable and a folder that is removed afterwards.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    table = []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            table += measure_one(*model(name, Path(folder)), Path(folder))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))
    return table
