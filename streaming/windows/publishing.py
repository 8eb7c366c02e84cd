"""Publishes messages to a topic as a producer would have: in event time, at a speed-up, late by chance."""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from airtight.errors import TransientError
from streaming.windows.messages import Message

_LOG = logging.getLogger(__name__)
PROGRESS_S = 5.0
SETTINGS: dict[str, Any] = {
    "enable_idempotence": True,
    "acks": "all",
    "linger_ms": 20,
    "batch_size": 1 << 18,
    "compression_type": "gzip",
    "max_block_ms": 60_000,
}
"""Of Kafka's producer: a message that is sent again, because nobody confirmed it, is written once."""


def delayed(published: Iterable[Message], minutes: float, seed: int) -> Iterator[Message]:
    """Messages as they would arrive if each were delayed by chance, with the stamp of its arrival.

    Args:
      published: In the order of their stamps.
      minutes: The longest delay; 0 for none.
      seed: Of the chance.
    """
    dice = random.Random(seed)
    held: list[tuple[int, int, Message]] = []
    for number, message in enumerate(published):
        while held and held[0][0] <= message.published_ms:
            yield heapq.heappop(held)[2]
        arrives_ms = message.published_ms + round(dice.uniform(0, minutes * 60_000) if minutes else 0)
        heapq.heappush(held, (arrives_ms, number, message._replace(published_ms=arrives_ms)))
    while held:
        yield heapq.heappop(held)[2]


@dataclass
class Pace:
    """The clock of a replay.

    Args:
      start: What it shows at the beginning.
      speed: Seconds on it in one second; 0 where nobody waits.
      now: This host's clock, seconds.
      sleep: Waits some seconds.
    """

    start: datetime
    speed: float
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._began = self.now()

    def wait(self, stamp_ms: int) -> None:
        """Waits until the clock shows a stamp."""
        if self.speed:
            due_s = (stamp_ms / 1000 - self.start.timestamp()) / self.speed - (self.now() - self._began)
            if due_s > 0:
                self.sleep(due_s)


def publish(
    servers: str,
    topic: str,
    published: Iterable[Message],
    pace: Pace | None = None,
    *,
    partitions: Sequence[int] = (),
    spread_minutes: float = 0.0,
    producer: Callable[..., Any] = KafkaProducer,
) -> int:
    """Sends messages with their keys and stamps, in their order.

    Args:
      servers: The brokers, host:port,host:port.
      topic: One that is there.
      published: The messages.
      pace: When each is due; None sends them at once.
      partitions: Only to these, by the key; () leaves it to the producer.
      spread_minutes: How much later than it should a message may come, of which then others are not sent yet.
      producer: Makes Kafka's producer.

    Returns:
      How many were sent, each of them confirmed.

    Raises:
      TransientError: Kafka did not confirm some; it says from which instant to go on.
    """
    unconfirmed: list[int] = []
    stamp_ms: int | None = None
    sent = before = 0
    reported = time.monotonic()

    def since() -> str:
        if stamp_ms is None:
            return "the beginning"
        first_ms = min([stamp_ms, *unconfirmed]) - round(spread_minutes * 60_000)
        return datetime.fromtimestamp(first_ms / 1000, UTC).isoformat()

    try:
        sender = producer(bootstrap_servers=servers.split(","), **SETTINGS)
        try:
            for message in published:
                if pace:
                    pace.wait(message.published_ms)
                stamp_ms = message.published_ms
                partition = partitions[sum(message.key) % len(partitions)] if partitions else None
                confirmation = sender.send(
                    topic, key=message.key, value=message.value, timestamp_ms=stamp_ms, partition=partition
                )
                confirmation.add_errback(lambda _, stamp=stamp_ms: unconfirmed.append(stamp))
                sent += 1
                if (now := time.monotonic()) - reported >= PROGRESS_S:
                    at = datetime.fromtimestamp(stamp_ms / 1000, UTC).isoformat(" ", "minutes")
                    _LOG.info("%s  %d messages  %.0f/s", at, sent, (sent - before) / (now - reported))
                    reported, before = now, sent
            sender.flush()
        except KeyboardInterrupt:
            sender.flush()
            _LOG.info("Broken off after %d messages. Go on from %s", sent, since())
            raise
        finally:
            sender.close(timeout=10)
    except KafkaError as error:
        raise _not_confirmed(topic, str(error) or type(error).__name__, since()) from error
    if unconfirmed:
        raise _not_confirmed(topic, f"{len(unconfirmed)} of {sent} not", since())
    return sent


def _not_confirmed(topic: str, received: str, since: str) -> TransientError:
    return TransientError(
        f"Messages could not be published to {topic}.",
        expected="every message confirmed",
        received=received,
        remedy=f"See to the broker, and publish them again from {since}; events with an identity then count once.",
    )
