"""What the prediction log costs the model server: requests a second, and CPU of the serving process for each.

    python -m benchmarks.prediction_log [--models small flight_delays] [--seconds 5] [--rounds 3] [--clients 8]
                                        [--kafka HOST:PORT] [--json FILE]

Closed loop over REST as in `benchmarks.serving`, 1 or 32 rows a request. The servers are the same but for the log:
none, Parquet files, Kafka, and Parquet files with `--prediction_log_durable`. They take turns, `--rounds` times, and of
a case's rounds the median counts. CPU is that of the server's own process, all its threads; the shipper's is not in it.
Without `--kafka` nobody takes the rows, which wait in the spool; what the server does is the same.

Before that, the log alone in this process: 1,000 notes of the same requests, CPU of all threads until they are written.
What else the machine does disturbs that least.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.load import closed_loop
from benchmarks.model_servers import Model, Server, model, rest_body, start_own
from benchmarks.serving import BATCHES, WARM_UP_S, clients

SETTLE_S = 0.6
"""After the load, the server writes what it has not written yet."""
SHIPPER_S = 4.0
"""After the first request, the shipper starts; that is not measured."""
ALONE_NOTES, ALONE_ROUNDS = 1000, 7
NOBODY = "127.0.0.1:9"


def log_flags(scratch: Path, kafka: str) -> dict[str, list[str]]:
    """The servers by their names: the flags of their logs."""
    folder = scratch / "log"
    to_kafka = [f"--prediction_log=kafka://{kafka}/predictions-benchmark", f"--prediction_log_spool={folder / 'spool'}"]
    return {
        "no log": [],
        "Parquet": [f"--prediction_log={folder / 'parquet'}"],
        "Kafka": to_kafka,
        "Parquet, durable": [f"--prediction_log={folder / 'durable'}", "--prediction_log_durable"],
    }


def cpu_s(pid: int) -> float:
    """Seconds of processors that a process has used, its children's not."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(served: Model, scratch: Path, kafka: str) -> Iterator[list[Server]]:
    """The servers, stopped, until the block ends."""
    servers: list[Server] = []
    try:
        for name, flags in log_flags(scratch, kafka).items():
            start_own(served, scratch, name, flags, servers)
            servers[-1].send(signal.SIGSTOP)
        yield servers
    finally:
        for server in servers:
            server.send(signal.SIGKILL)
            server.process.wait()


async def alone_us(served: Model, batch: int) -> float:
    """Microseconds of CPU that the log takes for a request, without a server."""
    from serving.config import ModelSettings
    from serving.loader import load
    from serving.prediction_log.log import TICK_S, PredictionLog
    from serving.prediction_log.notes import Answered
    from serving.prediction_log.settings import Destination, LogSettings
    from serving.versions import Model as ServedModel
    from serving.versions import Registry

    signature = load(served.version, served.version.parent, 1).signature("")
    inputs = list(served.columns(batch, 0).values())
    outputs = signature.run(*inputs)
    registry = Registry()
    registry.models[served.name] = ServedModel(ModelSettings(served.name, served.version.parent))
    scope = {"headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"9")]}
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        log = PredictionLog(LogSettings(Destination("parquet", folder)), registry)
        for _ in range(ALONE_ROUNDS):
            calls = [
                Answered(1, signature, [array.copy() for array in inputs], [array.copy() for array in outputs])
                for _ in range(ALONE_NOTES)
            ]
            before = time.process_time()
            while calls:
                log.note(
                    served.name, None, "Predict", "OK", 1e-3, protocol="REST", header_source=scope, calls=[calls.pop()]
                )
            await asyncio.sleep(3 * TICK_S)
            costs.append(1e6 * (time.process_time() - before) / ALONE_NOTES)
        await asyncio.to_thread(log.close)
    return median(costs)


def measure(served: Model, servers: list[Server], args: argparse.Namespace) -> list[dict]:
    """All cases, taking turns."""
    rounds: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for server in servers:
        server.send(signal.SIGCONT)
        first = clients(server, "REST", [rest_body(served, 1, 0)], served)
        closed_loop(first, WARM_UP_S, 0.0)
        time.sleep(SHIPPER_S)
        first[0].socket.close()
        server.send(signal.SIGSTOP)
    for batch in BATCHES:
        bodies = [rest_body(served, batch, seed) for seed in range(args.clients)]
        for _ in range(args.rounds):
            for server in servers:
                server.send(signal.SIGCONT)
                connected = clients(server, "REST", bodies, served)
                closed_loop(connected, WARM_UP_S, 0.0)
                before = cpu_s(server.process.pid)
                requests = len(closed_loop(connected, args.seconds, 0.0))
                time.sleep(SETTLE_S)
                cost_us = 1e6 * (cpu_s(server.process.pid) - before) / requests
                for client in connected:
                    client.socket.close()
                server.send(signal.SIGSTOP)
                rounds[server.name, batch].append((requests / args.seconds, cost_us))
    rows = []
    for (name, batch), figures in rounds.items():
        rate, cost_us = (median(values) for values in zip(*figures, strict=True))
        base_rate, base_us = (median(values) for values in zip(*rounds["no log", batch], strict=True))
        rows.append(
            {"model": served.name, "batch": batch, "log": name, "rate": rate, "cpu_us": cost_us}
            | {"rate_ratio": rate / base_rate, "cpu_ratio": cost_us / base_us}
        )
    return rows


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small", "flight_delays"])
    parser.add_argument("--seconds", type=float, default=5.0, help="of one case in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kafka", default=NOBODY, help="host:port of a Kafka that takes the rows")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table, alone = [], []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            served, _ = model(name, Path(folder))
            alone += [(name, batch, asyncio.run(alone_us(served, batch))) for batch in BATCHES]
            with running(served, Path(folder), args.kafka) as servers:
                table += measure(served, servers, args)
    print("| model | rows | the log alone, CPU us/request |\n|---|---|---|")
    for name, batch, cost_us in alone:
        print(f"| {name} | {batch} | {cost_us:.1f} |")
    print("\n| model | rows | log | requests/s | CPU us/request | CPU to no log | requests/s to no log |")
    print("|---|---|---|---|---|---|---|")
    for row in table:
        print(
            f"| {row['model']} | {row['batch']} | {row['log']} | {row['rate']:,.0f} | {row['cpu_us']:,.0f} | "
            f"{row['cpu_ratio']:.2f} | {row['rate_ratio']:.2f} |"
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main()
