"""The dead letters of a declared stream: lists, explains and publishes them again.

    python -m streaming.dead_letters list bike_demand              how many there are of each reason, and since when
    python -m streaming.dead_letters explain bike_demand           each one, and what the stream makes of it today
    python -m streaming.dead_letters republish bike_demand --reason "wrong schema"

What is published again has its key and value, and the newest stamp of its topic: event time goes neither back nor on.
What would be late with that stamp is left where it is, and counted: the stream reads the messages themselves, at their
own stamps, when it is started with --anew. Those of a reason are published again once, and remembered in a consumer
group of the dead letters' topic.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import operator
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from airtight.errors import EXIT_TERMINAL, AirtightError, TerminalError, TransientError
from airtight.import_string import load
from streaming.topics import servers
from streaming.windows import publishing
from streaming.windows.declaration import Stream, declared
from streaming.windows.letters import DETAIL, KEY_SIZE, REASON, SIZE, TOPIC
from streaming.windows.messages import LATE, LATE_CORRECTION, BadMessage, Event, Message, read

POLL_MS = 1000
SILENT_POLLS = 30
BATCH = 10_000
"""Letters that are published before their offsets are committed."""
SHOWN = 200
"""Bytes of a value that are shown."""
_LATE = (LATE, LATE_CORRECTION)


def letters(address: str, topic: str, reason: str = "") -> Iterator[Any]:
    """Dead letters that are there now, partition by partition.

    Args:
      address: The brokers.
      topic: Of the dead letters.
      reason: Only those; empty for all.

    Yields:
      kafka-python's records, whose headers are a dict of str here.
    """
    with _consumer(address) as consumer:
        parts = _partitions(consumer, topic)
        starts, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
        consumer.assign(parts)
        for part in parts:
            yield from (record for record in _part(consumer, part, starts[part], ends[part]) if _has(record, reason))


def _part(consumer: Any, part: TopicPartition, start: int, end: int) -> Iterator[Any]:
    consumer.pause(*(other for other in consumer.assignment() if other != part))
    consumer.resume(part)
    consumer.seek(part, start)
    silent = 0
    while consumer.position(part) < end:
        records = consumer.poll(timeout_ms=POLL_MS).get(part, [])
        silent = 0 if records else silent + 1
        if silent > SILENT_POLLS:
            raise KafkaError(f"nothing of {part} at {consumer.position(part)}")
        for record in records:
            if record.offset < end:
                headers = {name: value.decode() for name, value in record.headers}
                yield record._replace(headers=headers)


def _has(record: Any, reason: str) -> bool:
    return not reason or record.headers.get(REASON) == reason


def _partitions(consumer: Any, topic: str) -> list[TopicPartition]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise TerminalError(
            f"There is no topic {topic}.",
            expected="the stream's topics and that of its dead letters, which it makes when it is started",
            received=sorted(consumer.topics()),
            remedy="Start the stream, or correct the topic's name.",
        )
    return [TopicPartition(topic, number) for number in sorted(numbers)]


@contextlib.contextmanager
def _consumer(address: str, group: str = "") -> Iterator[Any]:
    try:
        with KafkaConsumer(
            bootstrap_servers=address.split(","), group_id=group or None, enable_auto_commit=False
        ) as consumer:
            yield consumer
    except KafkaError as error:
        raise TransientError(
            "Kafka does not answer.",
            expected=f"a broker at {address}",
            received=str(error) or type(error).__name__,
            remedy="Start it, or correct its address.",
        ) from error


def newest_stamp(address: str, topic: str) -> int:
    """The newest stamp among the last messages of a topic's partitions, milliseconds since 1970; 0 in an empty one."""
    newest = 0
    with _consumer(address) as consumer:
        parts = _partitions(consumer, topic)
        starts, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
        consumer.assign(parts)
        for part in parts:
            records = _part(consumer, part, max(starts[part], ends[part] - 10), ends[part])
            newest = max([newest, *(record.timestamp for record in records)])
    return newest


def summary(address: str, stream: Stream) -> list[str]:
    """A line for each reason: how many, the first and the last publication, and the last detail."""
    kinds: dict[str, list[Any]] = defaultdict(list)
    for record in letters(address, stream.dead_letters):
        kinds[record.headers.get(REASON, "?")].append(record)
    return [
        f"{reason}: {len(records)}, {_time(min(r.timestamp for r in records))} to "
        f"{_time(max(r.timestamp for r in records))}; the last one: {records[-1].headers.get(DETAIL, '')}"
        for reason, records in sorted(kinds.items())
    ]


def explanation(stream: Stream, record: Any, stamp_ms: int = 0) -> str:
    """One dead letter: where it is, why it is there, its content, and what the stream makes of it today.

    Args:
      stream: The declaration.
      record: The letter.
      stamp_ms: With which it would be published again, where that is later than its own.
    """
    value = record.value or b""
    event = _reread(stream, record, stamp_ms)
    if isinstance(event, BadMessage):
        today = f"{event}" + (", if it is published again" if event.reason in _LATE else "")
    else:
        today = "no event of the stream" if event is None else f"an event of {event.fields}"
    more = f"... ({record.headers.get(SIZE)} bytes)" if len(value) > SHOWN else ""
    return (
        f"{record.partition}/{record.offset} of {_time(record.timestamp)}, key {record.key or b''!r}\n"
        f"  why:   {record.headers.get(REASON)}: {record.headers.get(DETAIL)}\n"
        f"  today: {today}\n"
        f"  value: {value[:SHOWN].decode(errors='backslashreplace')}{more}"
    )


def _reread(stream: Stream, record: Any, stamp_ms: int) -> Event | BadMessage | None:
    """What the stream makes of a letter today, if it is published again with a stamp; None for no event of it."""
    if record.headers.get(REASON) == LATE_CORRECTION:
        return BadMessage(LATE_CORRECTION, "the version that it corrects is older still")
    message = Message(record.key or b"", record.value or b"", max(stamp_ms, record.timestamp))
    try:
        return read(load(stream.parse), stream, message)
    except BadMessage as error:
        return error


class Republished(NamedTuple):
    """How many were published, and how many were left because they would be late again."""

    published: int
    late: int


def republish(address: str, stream: Stream, reason: str, topic: str = "") -> Republished:
    """Publishes dead letters of a reason again, to the topic that they came from.

    Offsets are committed after each batch that the broker confirmed: after a fault the next try goes on with the batch
    that was not, of which some messages may then be there twice.

    Args:
      address: The brokers.
      stream: The declaration.
      reason: Which ones.
      topic: Where to; empty for the one that the letter names.

    Raises:
      TerminalError: One names several topics, or was cut off; then none is published.
      TransientError: The broker does not answer.
    """
    group = f"{stream.dead_letters}.republished.{reason.replace(' ', '-')}"
    published = late = 0
    stamps: dict[str, int] = {}
    with _consumer(address, group) as consumer:
        parts = _partitions(consumer, stream.dead_letters)
        starts, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
        consumer.assign(parts)

        def chosen(part: TopicPartition) -> Iterator[tuple[str, Any]]:
            start = max(starts[part], consumer.committed(part) or 0)
            for record in _part(consumer, part, start, ends[part]):
                if _has(record, reason):
                    yield _target(record, stream, topic), record

        def due(part: TopicPartition) -> Iterator[tuple[str, Any]]:
            for target, record in chosen(part):
                event = _reread(stream, record, stamps[target])
                yield "" if isinstance(event, BadMessage) and event.reason in _LATE else target, record

        for part in parts:  # All of them are checked before the first is sent.
            for target, _ in chosen(part):
                if target not in stamps:
                    stamps[target] = newest_stamp(address, target)
        for part in parts:
            for target, records in _batches(due(part)):
                if target:
                    # With the stamp by which they were judged, whatever is published meanwhile.
                    published += _send(address, target, records, stamps[target])
                else:
                    late += len(records)
                _commit(consumer, part, records[-1].offset + 1)
            _commit(consumer, part, ends[part])
    return Republished(published, late)


def _target(record: Any, stream: Stream, topic: str) -> str:
    """The topic to which a dead letter goes; raises where it cannot be published again."""
    target = topic or record.headers.get(TOPIC, "")
    key, size, key_size = record.key or b"", record.headers.get(SIZE), record.headers.get(KEY_SIZE)
    # Letters of older versions do not say how long the key was.
    whole = (len(record.value or b""), len(key)) == (int(size or -1), int(key_size or len(key)))
    if target not in stream.topics or not whole:
        raise TerminalError(
            "A dead letter cannot be published again.",
            expected=f"a whole message of one of {stream.topics}",
            received=f"{record.partition}/{record.offset}, of {target!r}" + ("" if whole else ", cut off"),
            remedy="Name a topic with --to, or another reason.",
        )
    return target


def _batches(letters: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Neighbours that go to one topic, `BATCH` at most."""
    for target, group in itertools.groupby(letters, key=operator.itemgetter(0)):
        while records := [record for _, record in itertools.islice(group, BATCH)]:
            yield target, records


def _commit(consumer: Any, part: TopicPartition, offset: int) -> None:
    consumer.commit({part: OffsetAndMetadata(offset, "", -1)})


def _send(address: str, topic: str, records: list[Any], stamp_ms: int) -> int:
    return publishing.publish(
        address, topic, (Message(r.key or b"", r.value or b"", max(stamp_ms, r.timestamp)) for r in records)
    )


def _time(stamp_ms: int) -> str:
    return datetime.fromtimestamp(stamp_ms / 1000, UTC).isoformat(" ", "seconds")


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line says.

    Returns:
      The exit status: 0, or that of a fault that may or may not heal.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("list", "explain", "republish"))
    parser.add_argument("pipeline", help="name of a pipeline, or import string of its stream")
    parser.add_argument("--reason", default="", help="only those")
    parser.add_argument("--to", default="", help="topic, with republish")
    options = parser.parse_args(arguments)
    if options.command == "republish" and not options.reason:
        parser.error("republish needs --reason")
    try:
        stream, address = declared(options.pipeline), servers()
        if options.command == "list":
            print("\n".join(summary(address, stream)) or "There are none.")
        elif options.command == "explain":
            stamps = {topic: newest_stamp(address, topic) for topic in stream.topics}
            for record in letters(address, stream.dead_letters, options.reason):
                print(explanation(stream, record, stamps.get(record.headers.get(TOPIC, ""), 0)))
        else:
            published, late = republish(address, stream, options.reason, options.to)
            print(f"{published} messages are published again.")
            if late:
                print(f"{late} are not, as they would be late: start the stream with --anew.", file=sys.stderr)
                return EXIT_TERMINAL
    except AirtightError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
