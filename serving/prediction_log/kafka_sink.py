"""Rows to a topic of Kafka, each a JSON message under the request's id; where Kafka does not take them, to files."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from serving.prediction_log.parquet_sink import ParquetSink
from serving.prediction_log.rows import as_messages

logger = logging.getLogger(__name__)

WAIT_S = 5.0
"""Kafka has so long to confirm what it was sent."""
AWAY_S = 10.0
"""A Kafka that did not is left alone so long."""
_SETTINGS: dict[str, Any] = {
    "acks": "all",
    "linger_ms": 20,
    "compression_type": "gzip",
    "max_block_ms": 2000,
    "bootstrap_timeout_ms": 3000,
    "request_timeout_ms": 3000,
    "delivery_timeout_ms": 4000,
}


class NotTaken(Exception):
    """Rows that nobody took.

    Args:
      rows: How many.
      why: In words.
    """

    def __init__(self, rows: int, why: str) -> None:
        super().__init__(why)
        self.rows = rows


class KafkaSink:
    """Sends tables to a topic, and waits until they are taken; it runs on the log's own thread.

    A row that Kafka took, and could not confirm in time, is written twice; readers tell it by its request's id.

    Args:
      servers: host:port,host:port.
      topic: The topic.
      fallback: Gets what Kafka does not take; None when that is lost.
      connect: Makes a producer.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        fallback: ParquetSink | None = None,
        connect: Callable[..., Any] = KafkaProducer,
    ) -> None:
        self._servers, self._topic, self._fallback, self._connect = servers.split(","), topic, fallback, connect
        self._producer: Any = None
        self._away_until = 0.0
        self._why = ""

    def write(self, model: str, table: pa.Table) -> None:
        """Sends rows of one model.

        Raises:
          NotTaken: Kafka did not take some of them, and there is no fallback.
        """
        left = table if time.monotonic() < self._away_until else self._send(table)
        if not left.num_rows:
            return
        if self._fallback is None:
            raise NotTaken(left.num_rows, f"Kafka at {','.join(self._servers)} does not take them: {self._why}")
        self._fallback.write(model, left)

    def roll(self, everything: bool = False) -> None:
        """Closes what the fallback has open; and the connection, when all is over."""
        if everything and self._producer is not None:
            self._producer.close(timeout=WAIT_S)
        if self._fallback is not None:
            self._fallback.roll(everything)

    def _send(self, table: pa.Table) -> pa.Table:
        """Returns the rows that were not taken."""
        try:
            if self._producer is None:
                self._producer = self._connect(bootstrap_servers=self._servers, **_SETTINGS)
            sent = [self._sent(key, value) for key, value in as_messages(table)]
        except KafkaError as error:
            self._gone(error)
            return table
        with contextlib.suppress(KafkaTimeoutError):  # What was confirmed by then was taken.
            self._producer.flush(timeout=WAIT_S)
        lost = [number for number, future in enumerate(sent) if future is None or not future.succeeded()]
        failed = [future for future in sent if future is not None and not future.succeeded()]
        if failed:
            self._gone(next((future.exception for future in failed if future.failed()), None))
        return table.take(pa.array(lost, pa.int64()))

    def _sent(self, key: bytes, value: bytes) -> Any:
        """The future of a message, or None for one that is larger than Kafka takes."""
        try:
            return self._producer.send(self._topic, key=key, value=value)
        except MessageSizeTooLargeError:
            self._why = f"a row of {len(value)} bytes is more than a message may have"
            return None

    def _gone(self, error: BaseException | None) -> None:
        self._why = f"{type(error).__name__}: {error}" if error else f"nothing was confirmed within {WAIT_S:g} s"
        self._away_until = time.monotonic() + AWAY_S
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=0)
        to = f"; rows go to {self._fallback.root}" if self._fallback else ""
        logger.warning("The prediction log's Kafka, %s, is away (%s)%s", ",".join(self._servers), self._why, to)
