"""The model server of two checkouts, this one and an earlier one: rates of a closed loop, taking turns in one run.

    python -m benchmarks.serving_versions --before FOLDER [--models small flight_delays] [--seconds 3] [--rounds 3]

FOLDER is a checkout of an earlier commit that works with this environment. Each of both serves in four ways: alone,
with batching, with a prediction log in Parquet, and as the local services install it: with the log, behind the router.
All servers but the measured ones are stopped with SIGSTOP; a model is the same for all. See `benchmarks.serving`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.load import closed_loop
from benchmarks.serving import BATCHES, ROOT, WARM_UP_S, Model, Server, clients, figures, grpc_body, model, rest_body
from benchmarks.serving import start_module as start

BEFORE, NOW = "before", "now"


@dataclass
class Way:
    """A way in which a checkout serves.

    Args:
      name: For the table.
      checkout: `BEFORE` or `NOW`.
      servers: Its processes; the last one is asked.
    """

    name: str
    checkout: str
    servers: list[Server]

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all of its processes."""
        for server in self.servers:
            server.tell(number)


@contextlib.contextmanager
def serving(served: Model, scratch: Path, before: Path) -> Iterator[list[Way]]:
    """All ways of both checkouts, stopped, until the block ends."""
    ways: list[Way] = []
    flags = [f"--model_name={served.name}", f"--model_base_path={served.version.parent}"]
    try:
        for checkout, root in ((BEFORE, before), (NOW, ROOT)):
            for name in ("alone", "batching", "log", "log and router"):
                folder = scratch / f"{checkout}-{name}"
                folder.mkdir()
                extra = {"alone": [], "batching": ["--enable_batching"]}.get(name, [f"--prediction_log={folder}/log"])
                ways.append(way := Way(name, checkout, []))
                start("serving", folder, name, [*flags, *extra], way.servers, root=root)
                if name == "log and router":
                    rest, grpc = way.servers[0].rest, way.servers[0].grpc
                    address = f"--server=http://127.0.0.1:{rest}=127.0.0.1:{grpc}"
                    admin = ["--admin_port=0"] if checkout == NOW else []
                    start(
                        "serving.router", folder, name, [f"--models_root={folder}", address, *admin], way.servers, root
                    )
                way.send(signal.SIGSTOP)
        yield ways
    finally:
        for way in ways:
            way.send(signal.SIGKILL)


def measure(served: Model, ways: list[Way], args: argparse.Namespace) -> list[dict]:
    """All cases, taking turns."""
    rounds: dict[tuple[str, str, str, int], list[dict[str, float]]] = defaultdict(list)
    for batch in BATCHES:
        bodies = {
            "REST": [rest_body(served, batch, seed) for seed in range(args.clients)],
            "gRPC": [grpc_body(served, batch, seed) for seed in range(args.clients)],
        }
        for _ in range(args.rounds):
            for kind, requests in bodies.items():
                for way in sorted(ways, key=lambda way: way.name):  # Both checkouts, one after the other.
                    way.send(signal.SIGCONT)
                    connected = clients(way.servers[-1], kind, requests, served)
                    latencies = closed_loop(connected, args.seconds, WARM_UP_S)
                    for client in connected:
                        client.socket.close()
                    way.send(signal.SIGSTOP)
                    rounds[way.name, way.checkout, kind, batch].append(figures(latencies, args.seconds))
    return [
        {"model": served.name, "way": name, "checkout": checkout, "api": kind, "batch": batch}
        | {key: median(one[key] for one in several) for key in several[0]}
        for (name, checkout, kind, batch), several in rounds.items()
    ]


def report(table: list[dict]) -> None:
    """Prints each case with both rates and their ratio."""
    print("\n| model | served | API | rows | before, requests/s | now | times | p99 ms before | now |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|")
    cases: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for row in table:
        cases[row["model"], row["way"], row["api"], row["batch"]][row["checkout"]] = row
    for (name, way, api, batch), both in cases.items():
        before, now = both[BEFORE], both[NOW]
        print(
            f"| {name} | {way} | {api} | {batch} | {before['rate']:,.0f} | {now['rate']:,.0f} | "
            f"{now['rate'] / before['rate']:.2f} | {before['p99_ms']:.2f} | {now['p99_ms']:.2f} |"
        )


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of an earlier commit")
    parser.add_argument("--models", nargs="+", default=["small", "flight_delays"])
    parser.add_argument("--seconds", type=float, default=3.0, help="of one case in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table = []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            served, _ = model(name, Path(folder))
            with serving(served, Path(folder), args.before.resolve()) as ways:
                table += measure(served, ways, args)
    report(table)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main()
