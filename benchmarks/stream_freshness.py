"""How long an event takes into the store, and how far the watermark lags, in real time.

    python -m benchmarks.stream_freshness [--minutes 10] [--per-hour 117 1] [--rate 5000] [--rate-minutes 1]

It starts a broker and a Flink cluster of its own. Events bear the time at which they are published, and nothing is
compressed: at one an hour, a run of some minutes has the first event alone, and 130 minutes have three. The last of the
topic's four partitions never holds a message. The flights' declaration has bounds for real time here: the watermark
stays `--out-of-order` s behind, and after `--idle` s of silence it goes on by the clock.

- slow: every rate of `--per-hour` is a stream of its own, all at the same time, for `--minutes`;
- fast: `--rate` events a second for `--rate-minutes`, then: take half of what `benchmarks.stream_rates` reaches.

Event to store: from the call that publishes an event until the store's totals hold as many as were published up to it.
Watermark lag: the clock less the job's watermark, asked each two seconds, once an event was there; its stated bound is
out-of-order + idle + a second (and two for the asking). The store's watermark is a whole minute, up to one older.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from airtight.errors import AirtightError
from benchmarks.own_cluster import own_cluster
from benchmarks.stream_runs import (
    counted,
    declaration,
    failure_of,
    movements,
    percentiles,
    producer,
    report,
    running,
    say,
    send,
)
from pipelines.flight_delays.streams import STREAM
from streaming.engine.flink_rest import Flink, Job
from streaming.windows.declaration import Bounds, Stream

HOUR_S = 3600.0
PARTITIONS = 3
"""That are written to; the topic has one more."""
LOOK_S, ASK_S = 0.02, 2.0
DRAIN_S = 60.0


@dataclass
class Seen:
    """What one stream came to.

    Args:
      published: When each event was published, seconds of the monotonic clock.
      took: Seconds from there into the store, of those that arrived.
      lags: Watermark lags, seconds.
    """

    published: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)


def publish(topic: str, seen: Seen, per_second: float, seconds: float) -> None:
    """Publishes events that happen now."""
    # What is made up here is when; the rest is of `movements`.
    made = movements(HOUR_S, seed=time.time_ns() % 1_000_000)
    began = time.monotonic()
    with producer(linger_ms=5) as client:
        due = began
        while due - began < seconds:
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            event = msgspec.structs.replace(next(made), at=datetime.now(UTC))
            seen.published.append(time.monotonic())
            send(client, topic, event, PARTITIONS)
            due += 1 / per_second
        # What is rare must not wait for the one after it.
        client.flush()
        time.sleep(max(0.0, began + seconds - time.monotonic()))


def watch(held: Callable[[], int], seen: Seen, publishing: threading.Thread) -> None:
    """Notes when events arrive, until all have."""
    ended = 0.0
    while publishing.is_alive() or len(seen.took) < len(seen.published):
        there, now = held(), time.monotonic()
        seen.took += [now - at for at in seen.published[len(seen.took) : there]]
        if not publishing.is_alive():
            ended = ended or now
            if now - ended > DRAIN_S:
                return
        time.sleep(LOOK_S)


def ask(job: Job, seen: Seen, over: threading.Event) -> None:
    """Notes how far the watermark lags; Flink takes a while to answer, so `watch` does not wait for it."""
    flink = Flink()
    while not over.wait(ASK_S):
        with contextlib.suppress(AirtightError):
            watermark = flink.status(job.id).watermark
            if watermark is not None and seen.took:
                seen.lags.append(time.time() - watermark)


def measure(stream: Stream, path: Path, job: Job, per_second: float, seconds: float) -> dict[str, Any]:
    """One stream, which runs, at one rate."""
    seen, over = Seen(), threading.Event()
    # Workers that have just started would make the first event late.
    with producer() as client:
        send(client, stream.topics[0], msgspec.structs.replace(next(movements(1)), at=datetime.now(UTC)), 1)
    while counted(stream, path) < 1:
        if why := failure_of(job):
            raise SystemExit(f"The stream has ended: {why}")
        time.sleep(0.5)
    publishing = threading.Thread(target=publish, args=(stream.topics[0], seen, per_second, seconds), daemon=True)
    asking = threading.Thread(target=ask, args=(job, seen, over), daemon=True)
    publishing.start()
    asking.start()
    watch(lambda: counted(stream, path) - 1, seen, publishing)
    over.set()
    asking.join()
    bounds = stream.bounds
    row = {
        "events an hour": round(per_second * HOUR_S),
        "minutes": seconds / 60,
        "events": len(seen.published),
        "not seen": len(seen.published) - len(seen.took),
        **{f"store {name}": value for name, value in percentiles(seen.took).items()},
        **{f"lag {name}": value for name, value in percentiles(seen.lags).items()},
        "stated lag s": bounds.out_of_order_s + bounds.idle_s + 1 + ASK_S,
    }
    say(str(row))
    return row


def slow(args: argparse.Namespace, bounds: Bounds, folder: Path) -> list[dict[str, Any]]:
    """The slow rates, all at the same time."""
    rows: list[dict[str, Any]] = []
    threads = []
    with contextlib.ExitStack() as jobs:
        for per_hour in args.per_hour:
            stream = declaration(f"slow_{per_hour:g}".replace(".", "_"), bounds=bounds)
            path = folder / f"{stream.name}.sqlite"
            job = jobs.enter_context(running(stream, path))
            arguments = (stream, path, job, per_hour / HOUR_S, args.minutes * 60)
            threads.append(threading.Thread(target=lambda arguments=arguments: rows.append(measure(*arguments))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(rows) < len(threads):
        raise SystemExit("A stream has ended; see above.")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="of the slow rates, in real time")
    parser.add_argument("--per-hour", type=float, nargs="*", default=[117.0, 1.0], help="the slow rates")
    parser.add_argument("--rate", type=float, default=2_000.0, help="events a second of the fast one; 0 is none")
    parser.add_argument("--rate-minutes", type=float, default=0.5)
    parser.add_argument("--out-of-order", type=float, default=5.0, help="s, of the declaration")
    parser.add_argument("--idle", type=float, default=5.0, help="s, of the declaration")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bounds = replace(STREAM.bounds, out_of_order_s=args.out_of_order, idle_s=args.idle)
    slots = max(1, len(args.per_hour))
    with tempfile.TemporaryDirectory(prefix="airtight-bench-") as name, own_cluster(slots=slots):
        rows = slow(args, bounds, Path(name))
        if args.rate:
            stream, path = declaration("fast", bounds=bounds), Path(name) / "fast.sqlite"
            with running(stream, path, [f"--slots={min(2, slots)}"]) as job:
                rows.append(measure(stream, path, job, args.rate, args.rate_minutes * 60))
    report("Freshness in real time", {"bounds": str(bounds)}, rows, args.json)


if __name__ == "__main__":
    main()
