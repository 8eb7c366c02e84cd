"""The source of a stream: messages of Kafka with the times of their events, without an end or bounded by offsets.

Each element is the pair (key, value) of a message, both bytes, with the message's own timestamp as the element's; a
key or value that a message does not have is empty.
"""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.io.iobase import BoundedSource, RangeTracker, SourceBundle
from apache_beam.io.range_trackers import OffsetRangeTracker
from apache_beam.transforms.external import ExternalTransform, NamedTupleBasedPayloadBuilder
from apache_beam.transforms.window import TimestampedValue
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from airtight.errors import TerminalError, TransientError
from streaming.engine.addresses import expansion_service

URN = "airtight:kafka:v1"
"""services/java/airtight/ReadEvents.java."""
Event = tuple[bytes, bytes]
"""Key and value."""
POLL_MS = 500
SILENCE_S = 60.0
"""A broker that brings nothing of what it has for so long is away."""


# By a call: as a class its types would be strings here, of which Beam makes a schema of opaque bytes.
_Payload = typing.NamedTuple(  # noqa: UP014
    "_Payload",
    [("consumer", typing.Mapping[str, str]), ("topics", list[str]), ("out_of_order_ms", int), ("idle_ms", int)],
)
"""The fields of ReadEvents.Configuration."""


class ReadEvents(beam.PTransform):
    """Reads topics without an end; runs inside Flink, which keeps the offsets in its checkpoints.

    A partition's watermark is the largest timestamp read of it less `out_of_order_s`. One that is read to its end, or
    has never held a message, follows the largest timestamp in all of the topics' partitions, less the same bound. Where
    that has not grown for `idle_s`, event time goes on as fast as the clock on the wall, but never past now less the
    bound: quiet topics close their windows, and a replay of 2013 stays in 2013. A timestamp ahead of the TaskManager's
    clock counts as now, one ahead by a day not at all; the element keeps it. Ten in a row that are ahead by a day end
    the job: that clock is behind.

    Partitions that are added to a topic are read within seconds, from their beginning. Messages that come to one before
    that may be late.

    Without a checkpoint a job begins at the beginning of the topics. An offset that is not there any more, and a topic
    that was made anew, end it with that reason. A resumed job keeps its position; with a group it takes over what the
    other arguments say now: a topic that was added is read from its beginning, one that was left out no more.

    Args:
      servers: The brokers, host:port,host:port.
      topics: Topics that are there already.
      out_of_order_s: How much older than the newest message of the topics one that comes may be, seconds.
      idle_s: Silence of all partitions after which event time goes on by the clock, seconds; 0 is never.
      group: Consumer group to which offsets are committed with each checkpoint, for Kafka's own tools; nothing is
        resumed from them. One group, one job. Empty commits none.
      consumer: More settings of Kafka's Java consumer, such as those of its security.
      expansion: Address of the expansion service; empty is that of the Flink cluster's job server.
    """

    def __init__(
        self,
        servers: str,
        topics: Sequence[str],
        *,
        out_of_order_s: float,
        idle_s: float = 0.0,
        group: str = "",
        consumer: Mapping[str, str] | None = None,
        expansion: str = "",
    ) -> None:
        super().__init__()
        if isinstance(topics, str) or not topics or not servers or out_of_order_s < 0 or idle_s < 0:
            raise TerminalError(
                "The source of the stream is not described whole.",
                expected="servers, a list of topics, and bounds of 0 s or more",
                received=f"servers={servers!r}, topics={topics!r}, out_of_order_s={out_of_order_s}, idle_s={idle_s}",
                remedy="Correct the arguments of ReadEvents.",
            )
        own = {
            "bootstrap.servers": servers,
            # What was aborted never happened.
            "isolation.level": "read_committed",
            **({"group.id": group} if group else {}),
        }
        self._payload = _Payload(
            {**(consumer or {}), **own}, list(topics), round(out_of_order_s * 1000), round(idle_s * 1000)
        )
        self._expansion = expansion

    def expand(self, begin: typing.Any) -> typing.Any:
        """Adds the Java source.

        Returns:
          PCollection of (key, value), bytes.
        """
        address = self._expansion or expansion_service()
        return begin | "Kafka" >> ExternalTransform(URN, NamedTupleBasedPayloadBuilder(self._payload), address)


@dataclass(frozen=True)
class Offsets:
    """A part of one partition.

    Args:
      topic: Name in Kafka.
      partition: Of that topic.
      start: First offset.
      stop: One past the last.
    """

    topic: str
    partition: int
    start: int
    stop: int


class ReadOffsets(beam.PTransform):
    """Reads parts of topics to their end, in Python and without Flink: for backfill, tests and comparison.

    Args:
      servers: The brokers, host:port,host:port.
      parts: What to read; `whole_topics` names all that is there.
    """

    def __init__(self, servers: str, parts: Sequence[Offsets]) -> None:
        super().__init__()
        self._servers, self._parts = servers, tuple(parts)

    def expand(self, begin: typing.Any) -> typing.Any:
        """Adds a bounded source for each part.

        Returns:
          PCollection of (key, value), bytes.
        """
        sources = [begin | repr(part) >> beam.io.Read(_Part(self._servers, part)) for part in self._parts]
        return tuple(sources) | beam.Flatten(pipeline=begin.pipeline)


class EventsOf(beam.PTransform):
    """The events of a list, for tests.

    Args:
      events: Key, value and time in seconds since 1970 of each.
    """

    def __init__(self, events: Sequence[tuple[bytes, bytes, float]]) -> None:
        super().__init__()
        self._events = list(events)

    def expand(self, begin: typing.Any) -> typing.Any:
        """Adds the list.

        Returns:
          PCollection of (key, value), bytes.
        """
        stamped = beam.MapTuple(lambda key, value, at: TimestampedValue((key, value), at))
        return begin | beam.Create(self._events) | stamped.with_output_types(Event)


def whole_topics(servers: str, topics: Sequence[str]) -> list[Offsets]:
    """All that the partitions of some topics hold at this moment.

    Raises:
      TerminalError: There is no such topic.
      TransientError: The broker does not answer.
    """
    with _consumer(servers) as consumer:
        parts: list[TopicPartition] = []
        for topic in topics:
            numbers = consumer.partitions_for_topic(topic)
            if not numbers:
                raise TerminalError(
                    f"There is no topic {topic}.",
                    expected=f"a topic at {servers}",
                    received=sorted(consumer.topics()),
                    remedy="Correct its name, or make it first.",
                )
            parts += [TopicPartition(topic, number) for number in sorted(numbers)]
        starts, stops = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
    return [Offsets(part.topic, part.partition, starts[part], stops[part]) for part in parts]


class _Part(BoundedSource):
    """Beam's bounded source of one part of a partition; a runner may split it further."""

    def __init__(self, servers: str, part: Offsets) -> None:
        self._servers, self._part = servers, part

    def estimate_size(self) -> int:
        return max(0, self._part.stop - self._part.start)

    def get_range_tracker(self, start: int | None, stop: int | None) -> RangeTracker:
        return OffsetRangeTracker(
            self._part.start if start is None else start, self._part.stop if stop is None else stop
        )

    def default_output_coder(self) -> typing.Any:
        return beam.coders.registry.get_coder(tuple[bytes, bytes])

    def split(
        self, desired_bundle_size: int, start_position: int | None = None, stop_position: int | None = None
    ) -> Iterator[SourceBundle]:
        start = self._part.start if start_position is None else start_position
        stop = self._part.stop if stop_position is None else stop_position
        while start < stop:
            end = min(stop, start + max(1, desired_bundle_size))
            yield SourceBundle(end - start, self, start, end)
            start = end

    def read(self, tracker: RangeTracker) -> Iterator[TimestampedValue]:
        part = TopicPartition(self._part.topic, self._part.partition)
        start, stop = tracker.start_position(), tracker.stop_position()
        if start >= stop:
            return
        with _consumer(self._servers) as consumer:
            consumer.assign([part])
            consumer.seek(part, start)
            silent = 0.0
            # The position also passes what is no message: marks of transactions, and what compaction removed.
            while consumer.position(part) < stop:
                records = consumer.poll(timeout_ms=POLL_MS).get(part, [])
                silent = 0.0 if records else silent + POLL_MS / 1000
                if silent > SILENCE_S:
                    raise _away(self._servers, f"nothing of {part} at {consumer.position(part)} for {SILENCE_S:g} s")
                for record in records:
                    if record.offset >= stop or not tracker.try_claim(record.offset):
                        return
                    yield TimestampedValue((record.key or b"", record.value or b""), record.timestamp / 1000)


@contextlib.contextmanager
def _consumer(servers: str) -> Iterator[typing.Any]:
    """A consumer of its own assignment; what it raises becomes a TransientError."""
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=servers.split(","), enable_auto_commit=False, isolation_level="read_committed"
        )
        try:
            yield consumer
        finally:
            consumer.close()
    except KafkaError as error:
        raise _away(servers, str(error) or type(error).__name__) from error


def _away(servers: str, received: str) -> TransientError:
    return TransientError(
        "Kafka does not answer.",
        expected=f"a broker at {servers}",
        received=received,
        remedy="Start it, or correct its address.",
    )
