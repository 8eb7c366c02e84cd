"""Kills the stream, the job server and the broker at random moments, and looks whether anything is missing or doubled.

    python -m benchmarks.stream_kills [--events 100000] [--kills 20] [--seconds 600] [--seed 0]

Broker, job server and stream are its own, on ports and in a state folder of their own; the events are the lake's,
shuffled within the allowed lateness, published at a steady rate while it kills. What is killed is started again a few
seconds later; a stream that ends by itself, because what it needs is gone, is started again as a supervisor would.
In the end what the topic holds is read to its end, and every total of every minute in the lake, and the messages of
every hour in the store, are compared with what was published.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from kafka import KafkaProducer

from airtight.home import Home
from pipelines.flight_delays import facts, stream
from pipelines.flight_delays.events import columns, encode, key
from pipelines.flight_delays.group_totals import totals
from pipelines.flight_delays.replay import SETTINGS, events, shuffled
from pipelines.flight_delays.topics import EVENTS, TOPICS
from streaming.accounts import Accounts
from streaming.topics import ensure

BEGIN = datetime(2013, 3, 1, tzinfo=UTC)
SHUFFLE_MINUTES = 100.0
PORTS = {
    "KAFKA": 39092,
    "KAFKA_CONTROLLER": 39093,
    "FLINK_JOB": 38099,
    "FLINK_ARTIFACT": 38098,
    "FLINK_EXPANSION": 38097,
}
BROKER, JOB_SERVER = f"127.0.0.1:{PORTS['KAFKA']}", f"127.0.0.1:{PORTS['FLINK_JOB']}"
READY_S = 180.0


@dataclass
class Program:
    """A process that is started again whenever it has ended."""

    module: str
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    held: bool = False

    def keep(self) -> None:
        """Starts it where it does not run, unless it is held."""
        if not self.held and (self.process is None or self.process.poll() is not None):
            with self.log.open("ab") as log:
                command = [sys.executable, "-m", self.module]
                self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
            self.starts += 1

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, and waits until it has."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sign)
            self.process.wait()


def publishing(producer: Any, told: list[tuple[datetime, Any]], seconds: float, failed: list[BaseException]) -> None:
    began = time.monotonic()
    for number, (arrived, event) in enumerate(told):
        if (wait := began + seconds * number / len(told) - time.monotonic()) > 0:
            time.sleep(wait)
        stamp = round(arrived.timestamp() * 1000)
        sent = producer.send(EVENTS.name, key=key(event), value=encode(event), timestamp_ms=stamp)
        sent.add_errback(failed.append)
    producer.flush()


def compare(home: Home, told: list[Any]) -> dict[str, int]:
    """How many totals are missing, too many or different, and hours of which the store has other messages."""
    wanted = {
        (each.group, name, minute): tuple(rest)
        for each in totals(columns(told))
        for name, minute, *rest in zip(each.keys, *(array.tolist() for array in each[2:]), strict=True)
    }
    found: dict[tuple[str, str, int], tuple[int, ...]] = {}
    doubled = 0
    for path in stream.totals_of(home).rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            name = (row["group"], row["key"], int(row["minute"].timestamp()) // 60)
            doubled += name in found
            found[name] = row["count"], row["late"], row["minutes"], row["largest"]
    store = facts.store(str(home.online_store))
    hours = Counter(int(event.at.timestamp() // 3600) for event in told)
    return {
        "totals": len(wanted),
        "missing": len(wanted.keys() - found.keys()),
        "extra": len(found.keys() - wanted.keys()),
        "doubled": doubled,
        "different": sum(wanted[name] != found[name] for name in wanted.keys() & found.keys()),
        "hours": len(hours),
        "hours_that_differ_in_the_store": sum(store.messages(hour) != number for hour, number in hours.items()),
    }


def kill_at_random(
    programs: tuple[Program, ...], publisher: threading.Thread, dice: random.Random, kills: int, seconds: float
) -> Counter[str]:
    """Keeps programs running and kills one now and then, until all is published; how often each was killed."""
    moments = sorted(dice.uniform(10, seconds) for _ in range(kills))
    began, back, killed = time.monotonic(), dict.fromkeys(map(id, programs), 0.0), Counter[str]()
    while publisher.is_alive() or moments:
        now = time.monotonic() - began
        if moments and now >= moments[0]:
            moments.pop(0)
            victim = dice.choice(programs)
            victim.held = True
            victim.kill()
            killed[victim.module] += 1
            back[id(victim)] = now + dice.uniform(0, 5)
        for program in programs:
            program.held = program.held and now < back[id(program)]
            program.keep()
        time.sleep(0.1)
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600.0, help="of publishing, and of killing")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    told = list(islice(events(Home.current().lake, BEGIN, BEGIN + timedelta(days=300)), given.events))
    with tempfile.TemporaryDirectory(prefix="airtight-kills-") as place:
        home = Home(Path(place))
        ports = {f"AIRTIGHT_{name}_PORT": str(port) for name, port in PORTS.items()}
        own = {**os.environ, **ports, "AIRTIGHT_HOME": place, "AIRTIGHT_KAFKA": "", "AIRTIGHT_FLINK": ""}
        theirs = {**own, "AIRTIGHT_KAFKA": BROKER, "AIRTIGHT_FLINK": JOB_SERVER}
        broker = Program("services.kafka", own, home.path / "kafka.log")
        server = Program("services.flink_local", own, home.path / "flink.log")
        reader = Program("pipelines.flight_delays.stream", theirs, home.path / "stream.log")
        programs = (broker, server, reader)
        failed: list[BaseException] = []
        try:
            broker.keep()
            server.keep()
            ensure(BROKER, TOPICS, timeout_s=READY_S)
            producer = KafkaProducer(bootstrap_servers=BROKER, **{**SETTINGS, "delivery_timeout_ms": 600_000})
            arriving = list(shuffled(told, SHUFFLE_MINUTES, given.seed))
            publisher = threading.Thread(target=publishing, args=(producer, arriving, given.seconds, failed))
            publisher.start()
            killed = kill_at_random(programs, publisher, random.Random(given.seed), given.kills, given.seconds)
            publisher.join()
            reader.held = True
            reader.kill()
            broker.keep()
            ensure(BROKER, TOPICS, timeout_s=READY_S)
            command = [sys.executable, "-m", "pipelines.flight_delays.stream", "--to-end"]
            with reader.log.open("ab") as log:
                subprocess.run(command, env=theirs, stdout=log, stderr=log, check=True)
            standing = Accounts(stream.accounts_of(home)).standing()
            found = {
                "events": len(told),
                "unconfirmed": len(failed),
                "killed": dict(killed),
                "starts_of_the_stream": reader.starts,
                "read": standing.messages,
                "bad": standing.bad,
                "late": standing.late,
                **compare(home, told),
            }
            print(json.dumps(found, indent=2))
        finally:
            for program in reversed(programs):
                program.kill(signal.SIGTERM)


if __name__ == "__main__":
    main()
