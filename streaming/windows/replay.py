"""Messages of what the lake holds: for backfill in process, and to publish them as a producer would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from kafka import KafkaProducer
from kafka.errors import KafkaError

from airtight.errors import TerminalError, TransientError
from airtight.import_string import load
from components.data.lake import Lake
from streaming.windows.declaration import Stream
from streaming.windows.messages import Message

_PRODUCER: dict[str, Any] = {"enable_idempotence": True, "acks": "all", "linger_ms": 20}


def messages(stream: Stream, lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """What was published in [start, end), as the lake has it.

    Args:
      stream: The declaration, with a replay.
      lake: Folder of the lake.
      start: With its offset from UTC.
      end: Likewise.

    Raises:
      TerminalError: The stream has no replay, or the lake no such rows.
    """
    if not stream.replay:
        raise TerminalError(
            f"The stream {stream.name} cannot be replayed.",
            expected="a function that makes messages of the lake's rows",
            received="replay=''",
            remedy="Declare it, or publish to its topics and use --to-end.",
        )
    yield from load(stream.replay)(lake, start, end)


def rows(lake: Path, table: str, time: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Rows of a table in the order of a column of instants.

    Args:
      lake: Folder of the lake.
      table: Its name.
      time: The column; rows whose instant is in [start, end) count.
      start: With its offset from UTC.
      end: Likewise.

    Raises:
      TerminalError: The lake has no such rows.
    """
    files = Lake(lake).snapshot(table).files
    day, whole = timedelta(days=1), (start.astimezone(UTC), end.astimezone(UTC))
    # Days of the lake are local, and an instant may lie in the day before its row's.
    days = whole[0].date() - 2 * day, whole[1].date() + 2 * day
    held = [file for file in files if file.day is None or days[0] <= date.fromisoformat(file.day) <= days[1]]
    if not held:
        raise TerminalError(
            f"The lake has no {table} of these days.",
            expected=f"{table} between {start.isoformat()} and {end.isoformat()}",
            received=f"days {files[0].day} to {files[-1].day}" if files else "no days at all",
            remedy="Fill the lake, or name other days.",
        )
    content = pa.concat_tables([pq.read_table(lake / file.path, partitioning=None) for file in held])
    lower, upper = (pa.scalar(instant, content.schema.field(time).type) for instant in whole)
    inside = pc.and_(pc.greater_equal(content[time], lower), pc.less(content[time], upper))
    return content.filter(inside).sort_by(time).to_pylist()


def publish(servers: str, topic: str, published: Iterable[Message]) -> int:
    """Sends messages with their keys and stamps, in their order.

    Args:
      servers: The brokers, host:port,host:port.
      topic: One that is there.
      published: The messages.

    Returns:
      How many were sent, each of them confirmed.

    Raises:
      TransientError: Kafka did not confirm some.
    """
    failed: list[BaseException] = []
    count = 0
    try:
        with KafkaProducer(bootstrap_servers=servers.split(","), **_PRODUCER) as producer:
            for message in published:
                future = producer.send(topic, key=message.key, value=message.value, timestamp_ms=message.published_ms)
                future.add_errback(failed.append)
                count += 1
            producer.flush()
    except KafkaError as error:
        failed.append(error)
    if failed:
        raise TransientError(
            f"Messages could not be published to {topic}.",
            expected="every message confirmed",
            received=f"{len(failed)} of {count} not: {failed[0]}",
            remedy="See to the broker, and publish them again; events with an identity then count once.",
        )
    return count
