"""A stream for hours, busy and idle in turns: what grows, and how soon a planted stall turns the watching task red.

    python -m benchmarks.stream_soak [--hours 2] [--rate 100] [--busy-minutes 10] [--idle-minutes 10] [--folder FOLDER]

It starts a broker and a Flink cluster of its own. Events bear the time at which they are published; the flights'
declaration has lateness and lifetimes of `--lifetime-minutes` here, so that state could be flat after twice as long.
Each `--every` seconds it notes

- heap: of JobManager and TaskManager, as Flink says;
- rss: resident memory of each program, and of the Python workers together; what processes share, a part in each;
- files: open file handles of all of them;
- state: size of the last checkpoint; folders: temporary files, checkpoints and what the job server keeps; store;
- failures, lag of messages and of the watermark.

Heaps are saws: the table has the least of each half of the time after the warm-up, which is the first third, and its
growth; all samples are in `samples.csv`, and as curves in `samples.png`. At the end the Python workers are stopped
(SIGSTOP) while events go on: the watching task's own trigger looks at it as in Airflow, each ten seconds, until the
task is red.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from airtight.errors import AirtightError
from benchmarks.own_cluster import OwnCluster, own_cluster
from benchmarks.stream_runs import declaration, movements, producer, report, running, say, send
from services import flink as flink_service
from services.environment import environment
from services.supervisor import Supervisor
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import HEAP, Flink
from streaming.topics import servers
from streaming.windows.declaration import Bounds, Identity, Stream, modules_of

PIPELINE = "flight_delays"
MB = 1 << 20
HOUR_S = 3600.0
WARM = 1 / 3
"""Share of the samples that is warm-up."""
FLAT_MB, FLAT_SHARE = 20.0, 0.1
"""What may grow by so much, whichever is more, and is flat."""
PARTITIONS = 4


class Load(threading.Thread):
    """Publishes events that happen now, busy and idle in turns; always busy from `busy_for_good` on."""

    def __init__(self, topic: str, args: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self._topic, self._rate = topic, args.rate
        self._busy_s, self._idle_s = args.busy_minutes * 60, args.idle_minutes * 60
        self.busy_for_good, self.over, self.published = threading.Event(), threading.Event(), 0
        self._began = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether it publishes now."""
        at = (time.monotonic() - self._began) % (self._busy_s + self._idle_s)
        return self.busy_for_good.is_set() or at < self._busy_s

    def run(self) -> None:
        """Publishes until it is over."""
        with producer() as client:
            for event in movements(HOUR_S, seed=time.time_ns() % 1_000_000):
                while not self.is_busy and not self.over.wait(0.5):
                    pass
                if self.over.is_set():
                    return
                send(client, self._topic, msgspec.structs.replace(event, at=datetime.now(UTC)), PARTITIONS)
                self.published += 1
                time.sleep(1 / self._rate)


class Sampler:
    """Looks at what could grow.

    Args:
      cluster: Which.
      stream: The declaration.
      store: Its file.
    """

    def __init__(self, cluster: OwnCluster, stream: Stream, store: Path) -> None:
        self._cluster, self._stream, self._store, self._began = cluster, stream, store, time.monotonic()

    def sample(self, load: Load) -> dict[str, float]:
        """One line; what is not known at the moment is left out. Sizes are in MB."""
        row: dict[str, float] = {"minutes": (time.monotonic() - self._began) / 60, "busy": float(load.is_busy)}
        files = 0
        for name, processes in self._processes():
            with contextlib.suppress(psutil.Error):
                row[f"rss {name}"] = sum(process.memory_full_info().pss for process in processes) / MB
                files += sum(process.num_fds() for process in processes)
        row["files"] = files
        folder = flink_service.place(self._cluster.home)
        for name in ("tmp", "checkpoints", "artifacts"):
            row[f"folder {name}"] = _size(folder / name) / MB
        row["store"] = sum(_size(path) for path in self._store.parent.glob(f"{self._store.name}*")) / MB
        with contextlib.suppress(AirtightError, httpx.HTTPError, KeyError):
            row |= self._of_flink()
        return row

    def _processes(self) -> Iterator[tuple[str, list[psutil.Process]]]:
        for program in Supervisor(self._cluster.home).programs():
            if program.pid and psutil.pid_exists(program.pid):
                yield program.name, [psutil.Process(program.pid)]
        yield "python workers", self._cluster.workers()

    def _of_flink(self) -> dict[str, float]:
        flink = Flink()
        record = job_records.load(self._stream.name)
        assert record is not None
        status = stream_status.status(flink, record)
        row = {f"heap {name}": value / MB for name, value in _heaps(flink.url)}
        if job := status.job:
            row |= {"state": job.checkpoints.bytes / MB, "failures": job.failures}
            row |= {"checkpoint s": job.checkpoints.seconds, "checkpoints failed": job.checkpoints.failed}
            if job.watermark:
                row["watermark lag s"] = time.time() - job.watermark
        if status.lag is not None:
            row["lag"] = status.lag
        return row


def _heaps(url: str) -> Iterator[tuple[str, float]]:
    """Used heap of each Java program of Flink, bytes."""
    query = f"metrics?get={HEAP}.Used"
    yield "JobManager", float(httpx.get(f"{url}/jobmanager/{query}").json()[0]["value"])
    managers = [one["id"] for one in httpx.get(f"{url}/taskmanagers").json()["taskmanagers"]]
    for manager in managers:
        yield "TaskManager", float(httpx.get(f"{url}/taskmanagers/{manager}/{query}").json()[0]["value"])


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; they come and go meanwhile."""
    total = 0
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def growth(samples: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """The least of both halves of the samples after the warm-up, and whether it is flat."""
    rest = samples[int(len(samples) * WARM) :]
    halves = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    rows = []
    for name in dict.fromkeys(name for sample in rest for name in sample):
        first, second = ([sample[name] for sample in half if name in sample] for half in halves)
        if first and second and name not in ("minutes", "busy"):
            grown = min(second) - min(first)
            # The store keeps what it gets for 30 days.
            flat = name == "store" or grown <= max(FLAT_MB, FLAT_SHARE * min(first))
            rows.append(
                {"what": name, "first": min(first), "second": min(second), "grown": grown, "max": max(first + second)}
                | {"flat": flat}
            )
    return rows


def stall(cluster: OwnCluster, stream: Stream) -> dict[str, Any]:
    """Stops the Python workers, and waits until the watching task is red."""
    from plugins.tfx_airflow.stream import WatchStream
    from plugins.tfx_airflow.stream_watch import POLL_S, StreamWatched

    task = WatchStream(task_id="watch", stream=stream.name, declaration=PIPELINE)
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    trigger = StreamWatched(
        stream=stream.name,
        declaration=PIPELINE,
        until=until,
        stalled_minutes=task.stalled_minutes,
        memory_mb=task.memory_mb,
    )
    for _ in range(3):
        trigger.poll()
        time.sleep(POLL_S)
    workers = cluster.workers()
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        while (event := trigger.poll()) is None or "error" in event:
            time.sleep(POLL_S)
        try:
            task.execute({}, event)
        except Exception as fault:  # noqa: BLE001
            return {"red_after_s": round(time.monotonic() - began, 1), "reason": str(fault)}
        raise SystemExit(f"The task is green: {event}")
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()


def save(samples: Sequence[dict[str, float]], folder: Path) -> None:
    """Writes the samples as CSV and as curves."""
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    with (folder / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(samples)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {"heap": "heap, MB", "rss": "resident, MB", "folder": "folders, MB"}
    kinds |= {name: name for name in ("state", "store", "files", "lag", "watermark lag s")}
    figure, axes = pyplot.subplots(len(kinds), 1, figsize=(10, 2.6 * len(kinds)), sharex=True)
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for name in [name for name in names if name == kind or name.startswith(f"{kind} ")]:
            points = [(sample["minutes"], sample[name]) for sample in samples if name in sample]
            axis.plot(*zip(*points, strict=True), label=name.removeprefix(f"{kind} "))
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        if axis.lines:
            axis.legend(fontsize=7, ncol=3)
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(folder / "samples.png", dpi=110)


def declared_for(args: argparse.Namespace) -> Stream:
    """The flights' stream for real time."""
    lifetime_s = args.lifetime_minutes * 60
    bounds = Bounds(out_of_order_s=5, allowed_lateness_s=lifetime_s, idle_s=10)
    return declaration("soak", bounds=bounds, identity=Identity(lifetime_s))


def record(stream: Stream) -> None:
    """Notes with the job what those who watch it need, as `python -m streaming.windows` does."""
    known = job_records.load(stream.name)
    assert known is not None
    code = stream_status.code_of(*modules_of(PIPELINE))
    job_records.save(
        replace(known, code=code, servers=servers(), topics=stream.topics, dead_letters=stream.dead_letters)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=100.0, help="events a second while it is busy")
    parser.add_argument("--busy-minutes", type=float, default=1.0)
    parser.add_argument("--idle-minutes", type=float, default=1.0)
    parser.add_argument("--lifetime-minutes", type=float, default=1.0, help="allowed lateness, and of identities")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--folder", type=Path, help="where samples.csv and samples.png go")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    samples: list[dict[str, float]] = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="airtight-bench-")))
        cluster = stack.enter_context(own_cluster())
        # Where Airflow's own code, of which the watching is a part, has its settings.
        os.environ["AIRFLOW_HOME"] = environment(cluster.settings, cluster.home)["AIRFLOW_HOME"]
        stream = declared_for(args)
        store = place / "store.sqlite"
        stack.enter_context(running(stream, store))
        record(stream)
        load, sampler = Load(stream.topics[0], args), Sampler(cluster, stream, store)
        load.start()
        ends = time.monotonic() + args.hours * HOUR_S
        while time.monotonic() < ends:
            samples.append(sampler.sample(load))
            if len(samples) % 60 == 1:
                say(", ".join(f"{name} {value:.1f}" for name, value in samples[-1].items()))
            time.sleep(args.every)
        published = load.published
        load.busy_for_good.set()
        stalled = stall(cluster, stream)
        load.over.set()
        load.join()
    rows = growth(samples)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        save(samples, args.folder)
    result = {"hours": args.hours, "events": published, "samples": len(samples), "stall": stalled}
    grown = [row["what"] for row in rows if not row["flat"]]
    report(f"{args.hours:g} h, {published:,} events; MB, but for files and lags", result, rows, args.json)
    print(
        f"\n{f'Grown: {grown}.' if grown else 'All flat.'} The task was red {stalled['red_after_s']} s after the stall."
    )


if __name__ == "__main__":
    main()
