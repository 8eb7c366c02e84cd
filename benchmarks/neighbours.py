"""What a small request waits for: the router in front of the server, and neighbours that are large or slow.

    python -m benchmarks.neighbours [--seconds 5] [--rounds 3] [--json FILE]

One row to a model of one multiplication, by REST and by gRPC, from one client in a closed loop and from eight, asked
of the server itself and of a router in front of it, in turns; of a case's rounds the median counts. Then one client
again, while beside it

- a client in a process of its own sends requests of 50 MB without a pause (its answers are as large), by REST or gRPC;
- 200 sockets have sent half a request each and nothing more.

Router, server and all clients share the machine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from benchmarks.load import Client, GrpcClient, HttpClient, closed_loop
from benchmarks.swap_clients import PREDICT
from tests.serving import models
from tests.serving.router import routers

MODEL = "m"
PATH = f"/v1/models/{MODEL}:predict"
SMALL = b'{"instances": [1.0]}'
LARGE = 50 * 10**6
SLOW = 200
WARM_UP_S = 1.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]

Beside = Callable[[models.Server], contextlib.AbstractContextManager[Callable[[], dict[str, float]]]]


def message(numbers: np.ndarray) -> bytes:
    """A PredictRequest in bytes."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(numbers.astype(np.float32)))
    return request.SerializeToString()


def large_by_rest(port: int) -> Callable[[], int]:
    """Sends 50 MB of JSON and returns the status."""
    one = b"0.125, "
    body = b'{"inputs": [' + one * (LARGE // len(one)) + b"1]}"

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", PATH, body)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status

    return ask


def large_by_grpc(port: int) -> Callable[[], int]:
    """Sends 50 MB of floats and returns 200, or raises."""
    data = message(np.full(LARGE // 4, 0.125))
    call = grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED).unary_unary(PREDICT)

    def ask() -> int:
        call(data, timeout=120)
        return http.client.OK

    return ask


def _send_large(kind: str, port: int, ready: Any, stop: Any, results: Any) -> None:
    ask = {"REST": large_by_rest, "gRPC": large_by_grpc}[kind](port)
    took = []
    while not stop.is_set():
        begun = time.monotonic()
        status = ask()
        took.append(time.monotonic() - begun)
        if status != http.client.OK:
            raise SystemExit(f"50 MB by {kind}: {status}")
        ready.set()
    results.put(took)


@contextlib.contextmanager
def alone(_: models.Server) -> Iterator[Callable[[], dict[str, float]]]:
    """Nothing."""
    yield dict


@contextlib.contextmanager
def large(kind: str, server: models.Server) -> Iterator[Callable[[], dict[str, float]]]:
    """Requests of 50 MB, one after the other; how many there were, and how long one took, is known afterwards."""
    context = multiprocessing.get_context("spawn")
    ready, stop, results = context.Event(), context.Event(), context.Queue()
    port = server.rest if kind == "REST" else server.grpc
    process = context.Process(target=_send_large, args=(kind, port, ready, stop, results), daemon=True)
    process.start()
    if not ready.wait(120):
        raise SystemExit(f"no request of 50 MB was answered by {kind}")
    figures: dict[str, float] = {}
    yield lambda: figures
    stop.set()
    took = results.get(timeout=120)
    process.join()
    figures.update(large=len(took), large_s=median(took))


@contextlib.contextmanager
def slow(server: models.Server) -> Iterator[Callable[[], dict[str, float]]]:
    """Half of the sockets stop within the head, half within the body."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    with contextlib.ExitStack() as held:
        for index in range(SLOW):
            each = held.enter_context(socket.create_connection(("127.0.0.1", server.rest)))
            each.sendall(head if index % 2 else head + b"Content-Length: 20\r\n\r\n" + SMALL[:10])
        yield dict


def clients(server: models.Server, kind: str, count: int) -> list[Client]:
    """Connected clients that ask for one row."""
    if kind == "REST":
        return [HttpClient(server.rest, PATH, SMALL) for _ in range(count)]
    return [GrpcClient(server.grpc, PREDICT, message(np.ones(1))) for _ in range(count)]


def measure(servers: dict[str, models.Server], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """All cases, taking turns.

    Returns:
      Per case who was asked, by what, how many clients, what was beside, requests a second, and milliseconds.
    """
    besides: dict[str, Beside] = {
        "nothing": alone,
        "50 MB by REST": lambda server: large("REST", server),
        "50 MB by gRPC": lambda server: large("gRPC", server),
        f"{SLOW} slow sockets": slow,
    }
    measured: dict[tuple[str, int, str, str], list[dict[str, float]]] = defaultdict(list)
    for _ in range(rounds):
        for beside, neighbour in besides.items():
            for count in (1, 8) if neighbour is alone else (1,):
                for kind in ("REST", "gRPC"):
                    for name, server in servers.items():
                        asking = clients(server, kind, count)
                        with neighbour(server) as beside_figures:
                            took = 1e3 * closed_loop(asking, seconds, WARM_UP_S)
                        for client in asking:
                            client.socket.close()
                        p50, p99 = np.percentile(took, [50, 99])
                        figures = {"rate": len(took) / seconds, "p50_ms": p50, "p99_ms": p99, "max_ms": took.max()}
                        measured[beside, count, kind, name].append(figures | beside_figures())
    return [
        {"beside": beside, "clients": count, "api": kind, "asked": name}
        | {key: median(figures[key] for figures in all_rounds) for key in all_rounds[0]}
        for (beside, count, kind, name), all_rounds in measured.items()
    ]


def trial(folder: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """A server and a router in front of it, measured.

    Args:
      folder: An empty folder.
      seconds: Of one case in one round.
      rounds: How often.

    Returns:
      As `measure`.
    """
    root = folder / "models"
    (root / MODEL).mkdir(parents=True)
    models.save_affine(root / MODEL / "1", 2.0)
    flags = (f"--model_name={MODEL}", f"--model_base_path={root / MODEL}")
    with (
        models.running(folder / "server", *flags) as server,
        routers.routing(folder / "router", root, [(server.rest, server.grpc)]) as router,
    ):
        return measure({"server": server, "router": router}, seconds, rounds)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="neighbours-") as folder:
        table = trial(Path(folder), flags.seconds, flags.rounds)
    print("| beside | clients | API | asked | requests/s | p50 ms | p99 ms | max ms | seconds of a large one |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in table:
        took = f"{row['large_s']:.2f}" if "large_s" in row else "-"
        print(
            f"| {row['beside']} | {row['clients']} | {row['api']} | {row['asked']} | {row['rate']:,.0f} | "
            f"{row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['max_ms']:.1f} | {took} |"
        )
    if flags.json:
        flags.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
