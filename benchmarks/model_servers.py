"""Servers of one model as processes, this project's and others, and what they are asked."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from airtight.home import Home
from benchmarks.row import latest

ROOT = Path(__file__).resolve().parents[1]
START_S = 180.0
FEATURES = [f"x{index}" for index in range(8)]
WORDS = ("EWR", "UA", "BOEING")


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

    def send(self, number: signal.Signals) -> None:
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
        server.send(signal.SIGSTOP)


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
        connection.request("POST", predict_path(served), rest_body(served, 1, 0), {"Content-Type": "application/json"})
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def predict_path(served: Model) -> str:
    return f"/v1/models/{served.name}:predict"


def rest_body(served: Model, batch: int, seed: int) -> bytes:
    """A request by REST, of so many rows."""
    return json.dumps({"instances": served.rows(batch, seed)}).encode()


@contextlib.contextmanager
def running(served: Model, scratch: Path, python: Path | None) -> Iterator[list[Server]]:
    """The servers, until the block ends."""
    servers: list[Server] = []
    try:
        start(served, scratch, python, servers)
        yield servers
    finally:
        for server in servers:  # All at once: an impatient second Ctrl-C is to leave none behind.
            server.send(signal.SIGKILL)
        for server in servers:
            server.process.wait()
