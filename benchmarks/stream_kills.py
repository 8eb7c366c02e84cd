"""The stream under random kills on two TaskManagers: its store equals that of a run without kills, row by row.

    python -m benchmarks.stream_kills [--events 1000000] [--kills 40] [--rate 5000] [--seed 1]

It starts a broker and a Flink cluster of its own. Departures and arrivals, each fiftieth of them corrected afterwards,
are published while one program after another gets a SIGKILL: a TaskManager, the JobManager, the job server (with its
expansion service), the pool of Python workers, a worker, the broker. The publisher is at most one part of
events / kills ahead of the kills, so that all of them happen under load. A JobManager that was killed has forgotten the
job: it is resumed from its last checkpoint, as the DAG's task `ensure` does.

A kill is recovered when the cluster is well, the job runs whole, and all that was published before the kill is in the
store. At the end the same topic is read anew by the same steps without kills, into a second store. Rows that are in one
of both alone, or an event that does not count once, are exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from airtight.errors import AirtightError, TransientError
from benchmarks.own_cluster import OwnCluster, own_cluster
from benchmarks.stream_runs import (
    await_watermark,
    close_windows,
    counted,
    declaration,
    movements,
    percentiles,
    producer,
    report,
    running,
    say,
    send,
    steps_of,
)
from pipelines.flight_delays.events import Event
from streaming.engine import flink_jobs
from streaming.engine.flink_rest import Flink, Job
from streaming.windows.__main__ import UNCACHED
from streaming.windows.declaration import Stream

SLOTS = ["--slots=2"]
WORKER = "Python worker"
KINDS = {
    "TaskManager": ("flink-taskmanager", "flink-taskmanager-2"),
    "JobManager": ("flink-jobmanager",),
    "job server": ("flink-job-server",),
    "worker pool": ("beam-workers",),
    WORKER: (),
    "broker": ("kafka",),
}
"""What is killed, and the supervisor's programs of that kind."""
NOTICED = ("TaskManager", "JobManager", WORKER)
"""Kinds whose death fails the job."""
NOTICE_S = 60.0
RECOVERY_S = 900.0
CORRECTED = 50
"""One of so many events is corrected afterwards."""
POLL_S = 0.25


class Publisher(threading.Thread):
    """Publishes events, and never more than one part ahead of the kills.

    Args:
      topic: Where to.
      args: Of the command line: how many events, kills, and so on.
    """

    def __init__(self, topic: str, args: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self._topic, self._events, self._parts, self._rate = topic, args.events, args.kills + 1, args.rate
        self._made = movements(args.density, seed=args.seed)
        # Parts that may be published, and events that are, without corrections.
        self.allowed, self.published = 1, 0
        self.last: Event | None = None
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Publishes all of them."""
        try:
            with producer() as client:
                for event in self._paced():
                    send(client, self._topic, event)
                    if self.published % CORRECTED == 0 and event.delay is not None:
                        send(client, self._topic, msgspec.structs.replace(event, delay=event.delay + 1))
        except BaseException as fault:
            self.fault = fault
            raise

    def _paced(self) -> Iterator[Event]:
        due = time.monotonic()
        for event in islice(self._made, self._events):
            while self.published * self._parts >= self.allowed * self._events:
                time.sleep(0.05)
                due = time.monotonic()
            if (early := due - time.monotonic()) > 0.005:
                time.sleep(early)
            due += 1 / self._rate
            yield event
            self.published, self.last = self.published + 1, event


class Recovery:
    """Waits until the stream is well again after a kill, and resumes it where Flink has forgotten it.

    Args:
      cluster: Where it runs.
      stream: The declaration.
      path: Its store.
    """

    def __init__(self, cluster: OwnCluster, stream: Stream, path: Path) -> None:
        self._cluster, self._stream, self._path = cluster, stream, path
        self._flink = Flink()
        self.resumed = 0

    def failures(self) -> tuple[str, int]:
        """The job and how often it has failed."""
        while True:
            with contextlib.suppress(TransientError):
                job = self._job()
                return job.id, self._flink.status(job.id).failures
            time.sleep(POLL_S)

    def wait(self, kind: str, before: tuple[str, int], published: int) -> float:
        """Waits.

        Args:
          kind: What was killed just now.
          before: `failures` before that.
          published: Events that had been published by then.

        Returns:
          Seconds that it took.

        Raises:
          SystemExit: It takes longer than `RECOVERY_S`.
        """
        began, state = time.monotonic(), "the cluster is away"
        while (seconds := time.monotonic() - began) < RECOVERY_S:
            with contextlib.suppress(AirtightError):
                if self._cluster.is_well():
                    job, held = self._job(), counted(self._stream, self._path)
                    is_noticed = kind not in NOTICED or seconds > NOTICE_S or self.failures() != before
                    state = f"{job.state}, whole: {job.complete}, {held} of {published} events in the store"
                    if job.complete and is_noticed and held >= published:
                        return seconds
            time.sleep(POLL_S)
        raise SystemExit(f"Not recovered from the kill of the {kind} within {RECOVERY_S:g} s: {state}")

    def _job(self) -> Job:
        job = self._flink.running(self._stream.name)
        if job is None:
            self.resumed += 1
            # Anew each time: Beam's transforms belong to one pipeline.
            job = flink_jobs.resume(steps_of(self._stream, self._path), self._stream.name, [*UNCACHED, *SLOTS])
        return job


def kill(cluster: OwnCluster, kind: str, dice: random.Random) -> bool:
    """Kills one process of a kind; False where none runs."""
    if kind == WORKER:
        workers = cluster.workers()
        if workers:
            dice.choice(workers).kill()
        return bool(workers)
    return cluster.kill(dice.choice(KINDS[kind]))


def differences(one: Path, other: Path) -> dict[str, int]:
    """How many rows only one of two stores has, by table; without the table of watermarks."""
    differences = {}
    with closing(sqlite3.connect(one)) as db:
        db.execute("ATTACH ? AS other", (str(other),))
        query = "SELECT name FROM {}.sqlite_master WHERE type = 'table' AND name NOT IN ('streams', 'sqlite_stat1')"
        names = {name for side in ("main", "other") for (name,) in db.execute(query.format(side))}
        for name in sorted(names):
            only = [
                db.execute(
                    f"SELECT count(*) FROM (SELECT * FROM {a}.{name} EXCEPT SELECT * FROM {b}.{name})"
                ).fetchone()[0]
                for a, b in (("main", "other"), ("other", "main"))
            ]
            differences[name] = sum(only)
    return differences


def rows_of(path: Path, stream: Stream) -> int:
    """Totals in a store."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute(f"SELECT count(*) FROM totals_{stream.name}").fetchone()[0])


def under_kills(
    cluster: OwnCluster, stream: Stream, path: Path, args: argparse.Namespace
) -> tuple[dict[str, list[float]], Publisher]:
    """The run with kills; seconds of each recovery by kind, and what published."""
    dice = random.Random(args.seed)
    publisher = Publisher(stream.topics[0], args)
    recovery, took, deck = Recovery(cluster, stream, path), defaultdict(list), []
    with running(stream, path, SLOTS):
        publisher.start()
        for number in range(1, args.kills + 1):
            # Dealt like cards, so that every kind comes up.
            deck = deck or dice.sample(list(KINDS), len(KINDS))
            kind = deck.pop()
            while publisher.published < (number - 0.5 + dice.uniform(-0.4, 0.4)) * args.events / (args.kills + 1):
                time.sleep(0.05)
                if publisher.fault:
                    raise SystemExit(f"The publisher has ended: {publisher.fault}")
            before = recovery.failures()
            while not kill(cluster, kind, dice):
                time.sleep(POLL_S)
            took[kind].append(recovery.wait(kind, before, publisher.published))
            publisher.allowed = number + 1
            say(f"{number} of {args.kills}: {kind}, {took[kind][-1]:.1f} s, {publisher.published:,} events published")
        publisher.join()
        assert publisher.last is not None
        close_windows(stream.topics[0], publisher.last.at)
        job = Flink().running(stream.name)
        assert job is not None
        await_watermark(stream, path, publisher.last.at, job)
    say(f"The job was resumed {recovery.resumed} times; the others Flink did itself.")
    return took, publisher


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--rate", type=float, default=5_000, help="events a second at most")
    parser.add_argument("--density", type=float, default=10_000, help="events an hour of event time")
    parser.add_argument("--seed", type=int, default=1, help="of the events and of what is killed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    # What its client says of a broker that was killed.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="airtight-bench-") as folder, own_cluster(taskmanagers=2) as cluster:
        killed, whole = Path(folder) / "killed.sqlite", Path(folder) / "whole.sqlite"
        stream = declaration("kills")
        began = time.monotonic()
        took, publisher = under_kills(cluster, stream, killed, args)
        seconds = time.monotonic() - began
        say("The same without kills.")
        assert publisher.last is not None
        with running(stream, whole, SLOTS) as job:
            await_watermark(stream, whole, publisher.last.at, job)
        different, events, rows = differences(killed, whole), counted(stream, killed), rows_of(whole, stream)
    lines: list[dict[str, Any]] = [
        {"killed": kind, "times": len(took[kind]), **percentiles(took[kind])} for kind in KINDS if took[kind]
    ]
    of_all = [*itertools.chain.from_iterable(took.values())]
    lines.append({"killed": "all", "times": len(of_all), **percentiles(of_all)})
    equal = not any(different.values()) and events == args.events and bool(rows)
    result = {"events": args.events, "in_store": events, "rows": rows, "differences": different, "equal": equal}
    title = f"{args.kills} kills, seconds until recovered; {args.events:,} events in {seconds:.0f} s"
    report(title, result | {"seconds": round(seconds), "seed": args.seed}, lines, args.json)
    print(f"\n{'EQUAL' if equal else 'NOT EQUAL'}: {rows:,} totals, {events:,} events counted, {different}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
