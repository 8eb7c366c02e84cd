"""How a stream does that runs in a process of its own: which code it runs, how far it is, and how far behind.

A stream that follows a topic leaves a record when it starts. Whoever asks needs that record, the accounts and the
broker, and no engine: Airflow's side imports this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airtight import fingerprint
from airtight.errors import TransientError
from airtight.files import write_text
from airtight.home import Home
from streaming.accounts import Accounts

PATIENCE_MS = 4000
"""A broker that does not answer within so long is told as away."""
_HOUR_S = 3600


@dataclass(frozen=True)
class Running:
    """What a stream says of itself when it starts.

    Args:
      name: Of the stream.
      module: Which was started, dotted.
      code: Digest of all code that it rests on, `code_of`.
      pid: Of its process.
      since: When it started, ISO 8601.
      accounts: The accounts' file.
      servers: The broker, host:port,host:port.
      topic: What it reads.
      dead_letters: The topic of what cannot be used; "" for who writes none.
      report: A page of its own, a file; "" for who has none.
    """

    name: str
    module: str
    code: str
    pid: int
    since: str
    accounts: str
    servers: str
    topic: str
    dead_letters: str
    report: str = ""

    @property
    def alive(self) -> bool:
        """Whether its process lives, on this machine."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def record_of(home: Home, name: str) -> Path:
    """The file with the record of a stream."""
    return home.path / "stream" / f"{name}.json"


def started(home: Home, name: str, module: str, source: Any, report: Path | None = None) -> Running:
    """Leaves the record of this process, which follows a topic from now on.

    Args:
      home: The state folder.
      name: Of the stream.
      module: Dotted name of what was started.
      source: What it reads, a `streaming.reader.Source`.
      report: A page that it writes.
    """
    told = Running(
        name,
        module,
        code_of(module),
        os.getpid(),
        datetime.now(UTC).isoformat(timespec="seconds"),
        str(source.accounts),
        source.servers,
        source.topic,
        source.dead_letters,
        str(report or ""),
    )
    write_text(record_of(home, name), json.dumps(asdict(told), indent=1))
    return told


def running(home: Home, name: str) -> Running | None:
    """The record of the start before now; None where there was none, or one of another version of this module."""
    try:
        told = json.loads(record_of(home, name).read_text(encoding="utf-8"))
        return Running(**{field.name: told[field.name] for field in fields(Running) if field.name in told})
    except (FileNotFoundError, ValueError, TypeError):
        return None


def code_of(module: str) -> str:
    """SHA-256 of every file of ours that a module rests on, and of the versions of the packages, hexadecimal."""
    fingerprint.look_again()
    files, packages = fingerprint.closure([module])
    content = json.dumps([fingerprint.digests(files), fingerprint.versions(packages)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Partition:
    """One partition of the topic that is read.

    Args:
      number: Its number.
      next: The first offset that was never read.
      end: The offset after its last message; None while the broker is away.
      come: How far its messages have come, ISO 8601, or "".
    """

    number: int
    next: int
    end: int | None
    come: str

    @property
    def lag(self) -> int | None:
        """How many messages were never read; None while the broker is away."""
        return None if self.end is None else max(0, self.end - self.next)


@dataclass(frozen=True)
class Status:
    """How a stream does.

    Args:
      at: When it was asked, ISO 8601.
      run: How often it was started.
      partitions: By number.
      watermark: How far the slowest partition has come that has something to read, ISO 8601, or "".
      hour_done: Beginning of the newest hour that is done, with all before it, ISO 8601, or "".
      undone: How many hours are not done.
      messages: Good messages in hours that are remembered.
      bad: Bad messages.
      late: Messages that came too late.
      dead_letters: Messages in the dead letters' topic; None while the broker is away, and for who writes none.
      broker: "" or why the broker could not be asked.
    """

    at: str
    run: int
    partitions: tuple[Partition, ...]
    watermark: str
    hour_done: str
    undone: int
    messages: int
    bad: int
    late: int
    dead_letters: int | None
    broker: str

    @property
    def lag(self) -> int | None:
        """How many messages were never read, in all; None while the broker is away."""
        told = [partition.lag for partition in self.partitions]
        return None if self.broker else sum(lag for lag in told if lag is not None)

    @property
    def read(self) -> int:
        """A number that grows whenever a message is read for the first time."""
        return sum(partition.next for partition in self.partitions)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the lags with them."""
        partitions = [asdict(partition) | {"lag": partition.lag} for partition in self.partitions]
        return asdict(self) | {"partitions": partitions, "lag": self.lag}

    def __str__(self) -> str:
        lags = ", ".join(f"{each.number}: {'?' if each.lag is None else each.lag}" for each in self.partitions)
        told = [
            f"lag {'not known' if self.lag is None else self.lag} ({lags})",
            f"watermark {self.watermark or 'none yet'}",
            f"last hour done {self.hour_done or 'none yet'}, {self.undone} not done",
            f"bad {self.bad}, late {self.late}",
            *([] if self.dead_letters is None else [f"dead letters {self.dead_letters}"]),
            *([f"the broker is away: {self.broker}"] if self.broker else []),
        ]
        return "; ".join(told)


def status(told: Running, connect: Callable[..., Any] | None = None) -> Status:
    """Asks accounts and broker how a stream does.

    Args:
      told: Its record.
      connect: Makes a consumer; None for Kafka's.

    Raises:
      TransientError: The accounts are held by another process for long.
    """
    accounts = Accounts(Path(told.accounts))
    try:
        standing = accounts.standing()
    finally:
        accounts.close()
    ends, dead, away = _offsets(told, connect)
    partitions = tuple(
        Partition(number, following, ends.get(number), _instant(standing.clocks.get(number)))
        for number, following in sorted(standing.next.items())
    )
    known = [each for each in partitions if each.come]
    # Who has nothing left to read holds nobody up.
    busy = [each.come for each in known if each.lag != 0]
    watermark = min(busy) if busy else max((each.come for each in known), default="")
    done = _done(standing.closed, standing.undone)
    return Status(
        datetime.now(UTC).isoformat(timespec="seconds"),
        standing.run,
        partitions,
        watermark,
        "" if done is None else _instant(done * _HOUR_S * 1000),
        len(standing.undone),
        standing.messages,
        standing.bad,
        standing.late,
        dead,
        away,
    )


def _done(closed: int | None, undone: tuple[int, ...]) -> int | None:
    """The newest hour that is done with all before it."""
    if closed is None:
        return None
    return min(closed, min(undone) - 1) if undone else closed


def messages_of(servers: str, topic: str, connect: Callable[..., Any] | None = None) -> int | None:
    """How many messages a topic has.

    Args:
      servers: The broker.
      topic: The topic.
      connect: Makes a consumer; None for Kafka's.

    Returns:
      Their number; None where there is no such topic.

    Raises:
      TransientError: The broker is away.
    """
    try:
        with _consumer(servers, connect) as (consumer, of):
            partitions = of(topic)
            if not partitions:
                return None
            first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            return sum(end[each] - first[each] for each in partitions)
    except _Away as away:
        raise TransientError(
            "Kafka does not answer.",
            expected=f"a broker at {servers}",
            received=str(away),
            remedy="See that it runs: python -m services status; or name another by AIRTIGHT_KAFKA.",
        ) from away


def _offsets(told: Running, connect: Callable[..., Any] | None) -> tuple[Mapping[int, int], int | None, str]:
    """The end of each partition, how many dead letters there are, and why that is not known."""
    try:
        with _consumer(told.servers, connect) as (consumer, of):
            ends = consumer.end_offsets(of(told.topic))
            dead = None
            if told.dead_letters:
                letters = of(told.dead_letters)
                first, last = consumer.beginning_offsets(letters), consumer.end_offsets(letters)
                dead = sum(last[each] - first[each] for each in letters)
    except _Away as away:
        return {}, None, str(away)
    return {each.partition: end for each, end in ends.items()}, dead, ""


class _Away(Exception):
    """The broker cannot be asked."""


@contextlib.contextmanager
def _consumer(servers: str, connect: Callable[..., Any] | None) -> Iterator[tuple[Any, Callable[[str], Sequence[Any]]]]:
    """A consumer, and what tells the partitions of a topic; a fault of Kafka's becomes `_Away`."""
    # Kafka's client takes longer to import than all the rest, and who draws a graph does not need it.
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    # Each look would be fifteen lines of connecting in the log of who looks.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    make = connect or KafkaConsumer
    try:
        consumer = make(
            bootstrap_servers=servers.split(","),
            group_id=None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            bootstrap_timeout_ms=PATIENCE_MS,
            request_timeout_ms=PATIENCE_MS,
        )
        with contextlib.closing(consumer):
            yield (
                consumer,
                lambda topic: [TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic) or ())],
            )
    except (KafkaError, OSError, RuntimeError, ValueError) as error:
        raise _Away(f"{type(error).__name__}: {error}"[:300]) from error


def _instant(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
