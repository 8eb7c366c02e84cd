"""What a small model's requests take alone, and beside a model whose requests take five seconds each.

    python -m benchmarks.slow_model [--seconds 5] [--rounds 2] [--clients 4]

One server has both models. Four clients ask the slow one, without a pause, for a loop of as many steps as take five
seconds of a processor; the clients of the small one are a closed loop. Alone and beside take turns.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.load import closed_loop
from benchmarks.serving import Model, Server, clients, grpc_body, rest_body, save_small

SLOW_S = 5.0
SLOW_CLIENTS = 4
CHEAP_CALLS = 100


def steps_of(version: Path) -> int:
    """How many steps of the slow model take `SLOW_S`."""
    from serving.loader import load

    run = load(version, version.parent, os.cpu_count() or 1).signature("").run
    run(np.array([10], np.int64))
    started, steps = time.thread_time(), 20_000
    run(np.array([steps], np.int64))
    return int(steps * SLOW_S / (time.thread_time() - started))


def ask_slow(port: int, steps: int) -> None:
    """One request to the slow model."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/models/slow:predict", json.dumps({"instances": [steps]}))
    connection.getresponse().read()
    connection.close()


def measure(server: Server, served: Model, steps: int, args: argparse.Namespace) -> dict[tuple[str, str], np.ndarray]:
    """Latencies in seconds, by protocol and company."""
    latencies: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for _ in range(CHEAP_CALLS):
        ask_slow(server.rest, 3)

    def keep_asking(stop: threading.Event) -> None:
        while not stop.is_set():
            ask_slow(server.rest, steps)

    for company in ("alone", "beside") * args.rounds:
        stop = threading.Event()
        threads = [threading.Thread(target=keep_asking, args=(stop,)) for _ in range(SLOW_CLIENTS)]
        for thread in threads if company == "beside" else ():
            thread.start()
        for kind, body in (("REST", rest_body), ("gRPC", grpc_body)):
            asking = clients(server, kind, [body(served, 1, seed) for seed in range(args.clients)], served)
            latencies[kind, company].append(closed_loop(asking, args.seconds, 0.5))
            for client in asking:
                client.socket.close()
        stop.set()
        for thread in threads if company == "beside" else ():
            thread.join()
    return {case: np.concatenate(parts) for case, parts in latencies.items()}


def main() -> None:
    """Prints p50 and p99 of each case."""
    from serving.loader import load
    from tests.serving import models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        for name in ("slow", "small"):
            (root / name).mkdir(parents=True)
        save_small(root / "small" / "1")
        models.save_spinning(root / "slow" / "1")
        texts = {spec.name: spec.text for spec in load(root / "small" / "1", root, 1).signature("").inputs}
        served, steps = Model("small", root / "small" / "1", texts), steps_of(root / "slow" / "1")
        for flags in ((), ("--enable_batching",)):
            with models.running(
                Path(folder), f"--models_root={root}", "--rest_api_timeout_in_ms=300000", *flags
            ) as one:
                server = Server("airtight", one.process, one.rest, one.grpc)
                for (kind, company), seconds in sorted(measure(server, served, steps, args).items()):
                    p50, p99 = 1e3 * np.percentile(seconds, [50, 99])
                    print(f"{' '.join(flags) or 'no batching'}, {kind}, {company}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main()
