"""The model server of two checkouts, this one and an earlier one: rates of a closed loop, taking turns in one run.

    python -m benchmarks.serving_versions --before FOLDER [--models small flight_delays] [--seconds 5] [--rounds 3]

FOLDER is a checkout of an earlier commit that works with this environment. Each of both serves in four ways: alone,
with batching, with a prediction log in Parquet, and as the local services install it: with the log, behind the router.
All servers but the measured ones are stopped with SIGSTOP; a model is the same for all. See `benchmarks.serving`.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.model_servers import BATCHES, ROOT, Load, Model, Server, kill, parser_of, table_of
from benchmarks.model_servers import start_module as start

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
                        "serving.router",
                        folder,
                        name,
                        [f"--models_root={folder}", address, *admin],
                        way.servers,
                        root=root,
                    )
                way.send(signal.SIGSTOP)
        yield ways
    finally:
        kill([server for way in ways for server in way.servers])


def measure(served: Model, run: Callable[..., Any], ways: list[Way], args: argparse.Namespace) -> list[dict]:
    """All cases, taking turns."""
    rounds: dict[tuple[str, str, str, int], list[dict[str, float]]] = defaultdict(list)
    for batch in BATCHES:
        load = Load(served, run, batch, args)
        for _ in range(args.rounds):
            for kind in ("REST", "gRPC"):
                for way in sorted(ways, key=lambda way: way.name):  # Both checkouts, one after the other.
                    way.send(signal.SIGCONT)
                    rounds[way.name, way.checkout, kind, batch].append(load.figures(way.servers[-1], kind))
                    way.send(signal.SIGSTOP)
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
    parser = parser_of(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of an earlier commit")
    args = parser.parse_args()

    def measure_one(served: Model, run: Callable[..., Any], scratch: Path) -> list[dict]:
        with serving(served, scratch, args.before.resolve()) as ways:
            return measure(served, run, ways, args)

    report(table_of(args, measure_one))


if __name__ == "__main__":
    main()
