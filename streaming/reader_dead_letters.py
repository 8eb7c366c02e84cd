"""Where messages go that cannot be used: a topic of their own, with the reason and where they were."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError

from airtight.errors import TransientError
from streaming.sorting import Dead

KEPT_BYTES = 64 * 1024
"""So much of a message's value is kept, from its beginning."""
CONFIRMED_S = 120.0
"""The broker has so long to confirm."""


class DeadLetters:
    """Writes dead letters; one that is written again after a restart has the same key.

    Args:
      servers: host:port,host:port.
      topic: Where they go.
      source: The topic that they were read from.
      connect: Makes a producer.
    """

    def __init__(self, servers: str, topic: str, source: str, connect: Callable[..., Any] = KafkaProducer) -> None:
        self._topic, self._source = topic, source
        self._connect = lambda: connect(bootstrap_servers=servers.split(","), acks="all")
        self._producer: Any = None

    def write(self, dead: Sequence[Dead]) -> None:
        """Writes messages and waits until the broker has them.

        Raises:
          TransientError: It did not confirm them in time.
        """
        if not dead:
            return
        try:
            if self._producer is None:
                self._producer = self._connect()
            sent = [
                self._producer.send(self._topic, key=key_of(self._source, each), value=value_of(self._source, each))
                for each in dead
            ]
            for future in sent:
                future.get(timeout=CONFIRMED_S)
        except KafkaError as error:
            raise TransientError(
                "The dead letters could not be written.",
                expected=f"{len(dead)} messages confirmed in the topic {self._topic}",
                received=f"{type(error).__name__}: {error}",
                remedy="See that the broker runs; the stream goes on where it stopped.",
            ) from error

    def close(self) -> None:
        """Lets go of the broker."""
        if self._producer is not None:
            self._producer.close(timeout=CONFIRMED_S)


def key_of(topic: str, dead: Dead) -> bytes:
    """Topic, partition and offset: one message, one key."""
    return f"{topic}-{dead.partition}-{dead.offset}".encode()


def value_of(topic: str, dead: Dead) -> bytes:
    """JSON; `value` is the first 64 KiB in Base64, null where the message had none."""
    value = dead.value
    return msgspec.json.encode(
        {
            "reason": dead.reason,
            "detail": dead.detail[:1000],
            "topic": topic,
            "partition": dead.partition,
            "offset": dead.offset,
            "size": 0 if value is None else len(value),
            "value": None if value is None else base64.b64encode(value[:KEPT_BYTES]).decode(),
        }
    )
