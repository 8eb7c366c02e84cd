"""Hours of a stream's topic that take no more messages, read to the end that it has now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from airtight.errors import TerminalError, TransientError
from streaming.learning.declaration import Learning
from streaming.learning.hours import Closing, Hour, observer, report_passed
from streaming.windows.messages import Message

SILENCE_S = 30.0
"""Partitions that are not at their end and give nothing for that long make a fault."""
POLL_MS = 1000


def from_topic(
    learning: Learning,
    servers: str,
    taken: int | None,
    offsets: Mapping[int, int],
    topic_id: str = "",
    *,
    read: Mapping[int, int] | None = None,
    consumer: Callable[..., Any] = KafkaConsumer,
) -> Iterator[Hour]:
    """Hours in order; bad messages and late ones are passed over: the stream's job keeps them.

    Time goes on with messages that count: a stamp that does not go with its event, as one of today in a topic of 2013,
    ends no hours. What comes nevertheless when its hour is over is counted among those that are passed over.

    Args:
      learning: Of the stream; its first topic is read.
      servers: The brokers, host:port,host:port.
      taken: The last hour that was taken before, hours since 1970.
      offsets: From which to read, by partition; a partition that is not named is read from its beginning.
      topic_id: Kafka's id of the topic that the offsets are of; "" where it is not known.
      read: By partition the offset up to which all was read before.
      consumer: Makes Kafka's consumer.

    Raises:
      TerminalError: The topic is not there, was made anew, or holds an offset no more.
      TransientError: The broker does not answer.
    """
    try:
        with contextlib.closing(
            consumer(
                bootstrap_servers=servers.split(","),
                enable_auto_commit=False,
                isolation_level="read_committed",
                allow_auto_create_topics=False,
            )
        ) as open_consumer:
            topic = learning.stream.topics[0]
            # Asking for partitions has it learn the ids of topics, which nothing public gives.
            _parts(open_consumer, topic)
            now = str(open_consumer._cluster.topic_id(topic) or "")
            if topic_id and now and now != topic_id:
                raise _anew(topic, topic_id, now)
            closing = Closing(learning.stream, taken, read)
            for hour in _hours(open_consumer, learning, servers, offsets, closing):
                yield replace(hour, topic=now)
    except KafkaError as error:
        raise _away(servers, str(error) or type(error).__name__) from error


def _hours(
    consumer: Any, learning: Learning, servers: str, offsets: Mapping[int, int], closing: Closing
) -> Iterator[Hour]:
    topic, observe = learning.stream.topics[0], observer(learning, closing.passed)
    parts = _parts(consumer, topic)
    first, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
    _check(topic, parts, offsets, first, ends)
    consumer.assign(parts)
    for part in parts:
        consumer.seek(part, offsets.get(part.partition, first[part]))
    clocks: dict[TopicPartition, int] = {}
    silent = 0.0
    while open_parts := [part for part in parts if consumer.position(part) < ends[part]]:
        polled = consumer.poll(timeout_ms=POLL_MS, max_records=500)
        silent = 0.0 if polled else silent + POLL_MS / 1000
        if silent > SILENCE_S:
            raise _away(servers, f"nothing of {open_parts} for {SILENCE_S:g} s")
        for part, records in polled.items():
            for record in records:
                observed = observe(Message(record.key or b"", record.value or b"", record.timestamp))
                if observed is not None:
                    clocks[part] = max(clocks.get(part, 0), record.timestamp)
                    closing.add(observed, part.partition, record.offset)
        positions = {part.partition: consumer.position(part) for part in parts}
        # A partition that was read to its end holds nothing up.
        behind = [clocks.get(part, 0) for part in parts if positions[part.partition] < ends[part]]
        yield from closing.over(min(behind) if behind else max(clocks.values(), default=0), positions)
    report_passed(closing.passed)


def _parts(consumer: Any, topic: str) -> list[Any]:
    return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]


def _anew(topic: str, expected: str, received: str) -> TerminalError:
    return TerminalError(
        f"The topic {topic} was made anew since it was learned from.",
        expected=f"the topic with the id {expected}",
        received=received,
        remedy="To learn from the new one, move the state of learning away.",
    )


def _check(topic: str, parts: list[Any], offsets: Mapping[int, int], first: Any, ends: Any) -> None:
    if not parts:
        raise TerminalError(
            f"There is no topic {topic}.", expected="a topic", received="no partitions", remedy="make kafka"
        )
    for part in parts:
        wanted = offsets.get(part.partition, first[part])
        if not first[part] <= wanted <= ends[part]:
            raise TerminalError(
                f"The topic {topic} holds no more what is to be read next.",
                expected=f"offset {wanted} of partition {part.partition}",
                received=f"{first[part]} to {ends[part]}",
                remedy="Let the topic keep its messages (retention.ms=-1); to begin anew, move the state away.",
            )


def _away(servers: str, received: str) -> TransientError:
    return TransientError(
        "Kafka does not answer.",
        expected=f"a broker at {servers}",
        received=received,
        remedy="Start it: make kafka; or name another by AIRTIGHT_KAFKA.",
    )
