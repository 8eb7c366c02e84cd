"""Rows to a topic of Kafka, each a JSON message under the request's id."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from airtight.predictions import INPUT, OTHER_INPUTS, OTHER_OUTPUTS, OUTPUT, REQUEST
from serving.prediction_log.journal_rows import REQUEST_COLUMNS

logger = logging.getLogger(__name__)

WAIT_S = 5.0
"""Kafka has so long to confirm what it was sent."""
AWAY_S = 10.0
"""A Kafka that did not is left alone so long."""
_SLICE = 1000
"""Rows that are made into messages together."""
_SETTINGS: dict[str, Any] = {
    "acks": "all",
    "linger_ms": 20,
    "compression_type": "gzip",
    "max_block_ms": 2000,
    "bootstrap_timeout_ms": 3000,
    "request_timeout_ms": 3000,
    "delivery_timeout_ms": 4000,
}


class KafkaAway(Exception):
    """Kafka does not take rows now."""


class KafkaSender:
    """Sends rows to a topic, and waits until they are taken.

    A row that Kafka took, and could not confirm in time, is sent twice; readers tell it by its request's id.

    Args:
      servers: host:port,host:port.
      topic: The topic.
      connect: Makes a producer.
    """

    def __init__(self, servers: str, topic: str, connect: Callable[..., Any] = KafkaProducer) -> None:
        self._servers, self._topic, self._connect = servers, topic, connect
        self._producer: Any = None
        self._away_until = 0.0
        self._reason = ""

    def check(self) -> None:
        """Raises `KafkaAway` where Kafka is left alone for now."""
        if time.monotonic() < self._away_until:
            raise KafkaAway(self._reason)

    def send(self, rows: pa.Table) -> pa.Table:
        """Sends rows as readers see them.

        Returns:
          The rows that Kafka never takes: a message of each is too large.

        Raises:
          KafkaAway: Not all were confirmed; send them all again later.
        """
        self.check()
        try:
            if self._producer is None:
                self._producer = self._connect(bootstrap_servers=self._servers.split(","), **_SETTINGS)
            futures = [self._send_one(key, value) for key, value in as_messages(rows)]
            with contextlib.suppress(KafkaTimeoutError):  # What was confirmed by then was taken.
                self._producer.flush(timeout=WAIT_S)
        except KafkaError as error:
            raise self._leave(error) from error
        failed = [future for future in futures if future is not None and not future.succeeded()]
        if failed:
            raise self._leave(next((future.exception for future in failed if future.failed()), None))
        too_large = [number for number, future in enumerate(futures) if future is None]
        return rows.take(pa.array(too_large, pa.int64()))

    def close(self) -> None:
        """Closes the connection."""
        if self._producer is not None:
            self._producer.close(timeout=WAIT_S)

    def _send_one(self, key: bytes, value: bytes) -> Any:
        """The future of a message, or None for one that is larger than Kafka takes."""
        try:
            return self._producer.send(self._topic, key=key, value=value)
        except MessageSizeTooLargeError:
            return None

    def _leave(self, error: BaseException | None) -> KafkaAway:
        self._reason = f"{type(error).__name__}: {error}" if error else f"not all was confirmed within {WAIT_S:g} s"
        self._away_until = time.monotonic() + AWAY_S
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=0)
        logger.warning("The prediction log's Kafka, %s, is away: %s", self._servers, self._reason)
        return KafkaAway(self._reason)


def as_messages(rows: pa.Table) -> Iterator[tuple[bytes, bytes]]:
    """Each row as a key (the request's id) and JSON: inputs and outputs by name, instants in ISO 8601, NaN as null."""
    for start in range(0, rows.num_rows, _SLICE):
        for row in rows.slice(start, _SLICE).to_pylist():
            yield row[REQUEST].encode(), orjson.dumps(_message(row))


def _message(row: Mapping[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {name: row[name] for name in REQUEST_COLUMNS}
    for side, prefix, other in (("inputs", INPUT, OTHER_INPUTS), ("outputs", OUTPUT, OTHER_OUTPUTS)):
        named = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        message[side] = named | (orjson.loads(row[other]) if row.get(other) else {})
    return message
