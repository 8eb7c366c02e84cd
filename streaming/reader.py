"""Reads a topic of Kafka, all its partitions, and enters what it reads.

What becomes of each message `sorting.py` decides. Before a batch is handed on, the accounts know of it (`accounts.py`),
and what could not be used is in the dead letters' topic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from airtight.errors import TerminalError, TransientError
from streaming.accounts import Accounts, Resume
from streaming.reader_dead_letters import DeadLetters
from streaming.sorting import HourOf, Sorted, Sorter

FOREVER = 2**62
"""Where a partition ends that does not."""
POLL_RECORDS = 5000
POLL_S = 0.1
DAY = 24
"""Hours; so often the accounts forget."""
IDLE_S = 10.0
"""A partition without new messages for so long holds nobody up."""
CONSUMER: dict[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
    "fetch_max_wait_ms": 100,
    # So little of a partition at once that partitions keep in step: else the engine holds days between them. A larger
    # message comes alone. (Pausing those that are ahead is no way: what the client holds of them may never come back.)
    "max_partition_fetch_bytes": 1 << 16,
}

Ranges: TypeAlias = tuple[tuple[int, int, int], ...]
"""Partition, first offset, and the offset after the last; of plain numbers, so that the engine needs no pickle."""


@dataclass(frozen=True)
class Source:
    """What is read, and where is said what was.

    Args:
      servers: host:port,host:port.
      topic: The topic.
      dead_letters: The topic of what cannot be used.
      accounts: The accounts' file, which the source's machine and the sink's share.
      hour_of: Reads a message.
      lateness_s: The allowed lateness, seconds.
      reach: How many hours before its own the windows of an hour need.
      keep_days: The accounts forget hours so much older than the newest closed one, if they are done; None: never.
      idle_s: A partition without new messages for so long holds nobody up, seconds.
      consumer: Makes a consumer.
      letters: Makes the dead letters' writer, from servers, its topic, and the topic read.
    """

    servers: str
    topic: str
    dead_letters: str
    accounts: Path
    hour_of: HourOf
    lateness_s: float
    reach: int = 0
    keep_days: int | None = None
    idle_s: float = IDLE_S
    consumer: Callable[..., Any] = KafkaConsumer
    letters: Callable[[str, str, str], Any] = DeadLetters

    def connect(self) -> Any:
        """A consumer of Kafka that belongs to no group."""
        _quiet()
        return self.consumer(bootstrap_servers=self.servers.split(","), **CONSUMER)

    def begin(
        self, ends: Mapping[int, int] | None = None, starts: Mapping[int, int] | None = None
    ) -> tuple[int, Ranges]:
        """Starts a new run; an older one that still lives can do no harm any more.

        Args:
          ends: Where each partition ends, for a range of the log; None to follow the topic.
          starts: Where each partition begins for those who never read it; None for its beginning.

        Returns:
          The number of the run, and what it reads.

        Raises:
          TerminalError: There is no such topic, or it no longer holds what is needed.
          TransientError: The broker is away.
        """
        logs = {n: (max(first, (starts or {}).get(n, first)), end) for n, (first, end) in self.logs().items()}
        accounts = Accounts(self.accounts)
        try:
            resume = accounts.begin(logs, self.reach)
        finally:
            accounts.close()
        stops = {partition: FOREVER for partition in logs} if ends is None else ends
        begins = {partition: held.start for partition, held in resume.partitions.items()}
        ranges = ((number, start, max(start, stops.get(number, start))) for number, start in sorted(begins.items()))
        return resume.run, tuple(ranges)

    def logs(self) -> dict[int, tuple[int, int]]:
        """The first offset of each partition, and the offset after its last. Raises as `begin`."""
        try:
            consumer = self.connect()
            try:
                found = consumer.partitions_for_topic(self.topic)
                if not found:
                    raise TerminalError(
                        f"There is no topic {self.topic}.",
                        expected=f"the topic at {self.servers}",
                        received="no partitions",
                        remedy="Declare it and let `make kafka` make it, or name another broker by AIRTIGHT_KAFKA.",
                    )
                partitions = [TopicPartition(self.topic, number) for number in sorted(found)]
                first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            finally:
                consumer.close()
        except KafkaError as error:
            raise _away(self.servers, error) from error
        return {each.partition: (first[each], end[each]) for each in partitions}


class Reader:
    """Reads one topic, and enters what it reads; of one process there is one for a source and run.

    Args:
      source: What is read.
      resume: Where the stream stands.
      ranges: What is read of it.
      now: A clock that only goes forward, seconds.
    """

    def __init__(
        self, source: Source, resume: Resume, ranges: Ranges, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._source, self._run, self._now = source, resume.run, now
        self._sorter = Sorter(resume, source.hour_of, int(source.lateness_s * 1000))
        self._accounts = Accounts(source.accounts)
        self._letters = source.letters(source.servers, source.dead_letters, source.topic)
        self._consumer = source.connect()
        self._partitions = {number: TopicPartition(source.topic, number) for number, _, _ in ranges}
        self._consumer.assign(list(self._partitions.values()))
        self._heard = {number: now() for number in self._partitions}
        self.positions: dict[int, int] = {}
        self.seek(ranges)

    def seek(self, ranges: Ranges) -> None:
        """Goes to the beginning of ranges, if it is not there."""
        self._stops = {number: stop for number, _, stop in ranges}
        for number, start, _ in ranges:
            if self.positions.get(number) != start or self._consumer.position(self._partitions[number]) != start:
                self._consumer.seek(self._partitions[number], start)
                self.positions[number] = start

    def poll(self) -> tuple[dict[int, list[Any]], dict[int, int]]:
        """Reads what is next: messages by partition, and the offset after them of each that went on."""
        polled = self._consumer.poll(timeout_ms=int(POLL_S * 1000), max_records=POLL_RECORDS)
        records, following = {}, {}
        for number, partition in self._partitions.items():
            held, stop = polled.get(partition, []), self._stops[number]
            if held and held[-1].offset >= stop:
                held = [record for record in held if record.offset < stop]
            if held:
                records[number] = held
            # Not every offset is a message: transactions leave marks, and compaction gaps.
            position = min(stop, self._consumer.position(partition))
            if position > self.positions[number]:
                following[number] = position
        return records, following

    def take(self, records: Mapping[int, list[Any]], following: Mapping[int, int]) -> tuple[Sorted, int | None]:
        """Sorts messages and enters them.

        Returns:
          What became of them, and the watermark, milliseconds since 1970, or None.
        """
        self.positions.update(following)
        self._heard.update(dict.fromkeys(records, self._now()))
        out = self._sorter.sort(records, self.positions)
        if late := out.late:
            self._accounts.turn_away(self._run, late)
        self._letters.write(out.dead)
        before = self._sorter.closed
        reached = self._sorter.watermark(self._idle())
        closed = self._sorter.closed
        if out.entries or closed != before:
            self._accounts.enter(self._run, out.entries, closed)
        keep = self._source.keep_days
        if keep is not None and closed is not None and (before is None or closed // DAY > before // DAY):
            self._accounts.forget(closed - keep * DAY, self._source.reach)
        return out, reached

    def _idle(self) -> set[int]:
        """Partitions that had nothing to say for long, and of which the broker says now that nothing is left to read.

        Those of which a range is read to its end are none: nothing more comes of them, whatever the others say.
        """
        now = self._now()
        ended = {number for number, stop in self._stops.items() if self.positions[number] >= stop}
        silent = {n for n, heard in self._heard.items() if now - heard >= self._source.idle_s} - ended
        if not silent:
            return ended
        try:
            ends = self._consumer.end_offsets([self._partitions[number] for number in silent])
        except KafkaError:  # Who cannot be asked may have something to say.
            return ended
        return ended | {number for number in silent if ends[self._partitions[number]] <= self.positions[number]}

    @property
    def ended(self) -> bool:
        """Whether all is read."""
        return all(self.positions[number] >= stop for number, stop in self._stops.items())

    def close(self) -> None:
        """Lets go of broker and accounts."""
        for each in (self._consumer, self._letters, self._accounts):
            each.close()


def _away(servers: str, error: Exception) -> TransientError:
    return TransientError(
        "Kafka does not answer.",
        expected=f"a broker at {servers}",
        received=f"{type(error).__name__}: {error}",
        remedy="Start it: make kafka; or name another by AIRTIGHT_KAFKA.",
    )


def _quiet() -> None:
    """Keeps a warning of Kafka's client out of the log: that its events wait while its caller works."""
    logger = logging.getLogger("kafka.net.selector")
    if _is_news not in logger.filters:
        logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "blocking the event loop" not in record.getMessage()
