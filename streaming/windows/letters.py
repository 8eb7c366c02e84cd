"""Dead letters: what is bad or late goes to a topic of its own; where too much is bad, the job stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from kafka import KafkaProducer
from kafka.errors import KafkaError

from airtight.errors import TerminalError, TransientError
from streaming.windows.declaration import BadShare, Stream
from streaming.windows.messages import LATE, LATE_CORRECTION

REASON, DETAIL, TOPIC, SIZE = "airtight.reason", "airtight.detail", "airtight.topic", "airtight.size"
"""Headers of a dead letter, UTF-8; the size is the value's. Key, value and stamp are those of the message itself."""
KEY_SIZE = "airtight.key_size"
"""A header likewise."""
KEPT_BYTES, KEPT_KEY_BYTES = 900_000, 100_000
"""A value or a key that is larger is cut off there: brokers take no message that is much larger."""
MAX_DETAIL = 1000
CONFIRMED_S = 60.0


class Judged(msgspec.Struct, frozen=True, tag=True):
    """How many messages of a bundle were not bad."""

    good: int


class Letter(msgspec.Struct, frozen=True, tag=True):
    """A message that does not count, and why; the fields are `BadMessage`'s and `Message`'s."""

    reason: str
    detail: str
    key: bytes
    value: bytes
    published_ms: int

    @property
    def bad(self) -> bool:
        """Whether it is bad; else late."""
        return self.reason not in (LATE, LATE_CORRECTION)


letter_bytes = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Judged | Letter).decode
_decode_counts = msgspec.msgpack.Decoder(tuple[float, float]).decode


class Letters(beam.PTransform):
    """The letters' output of `parsing.Parse` -> the topic of dead letters.

    Args:
      stream: The declaration.
      servers: The brokers, host:port,host:port; "" has letters counted only.
    """

    def __init__(self, stream: Stream, servers: str) -> None:
        super().__init__()
        self._stream, self._servers = stream, servers

    def expand(self, letters: beam.PCollection[tuple[bytes, bytes]]) -> beam.PCollection[Letter]:
        """See the class."""
        typed = letters | "typed" >> beam.Map(lambda pair: pair).with_output_types(tuple[bytes, bytes])
        stopped = typed | "bad_share" >> beam.ParDo(StopAtBadShare(self._stream.name, self._stream.bad_share))
        if not (self._stream.dead_letters and self._servers):
            return stopped
        return stopped | "write" >> beam.ParDo(WriteLetters(self._stream, self._servers))


class StopAtBadShare(beam.DoFn):
    """(b"", encoded `Judged` or `Letter`) -> `Letter`; raises when too large a share of the last messages is bad.

    The counts are state of the engine: a job that goes back to its last checkpoint stops at the same message again, and
    what came before it is not let through bit by bit.

    Args:
      name: Of the stream.
      limit: When.
    """

    COUNTS = ReadModifyWriteStateSpec("bad_and_all", BytesCoder())

    def __init__(self, name: str, limit: BadShare) -> None:
        self._name, self._limit = name, limit

    def start_bundle(self) -> None:
        """See Beam."""
        self._counts: tuple[float, float] | None = None

    def process(self, element: tuple[bytes, bytes], counts: Any = beam.DoFn.StateParam(COUNTS)) -> Iterator[Letter]:
        """See Beam."""
        item = _decode(element[1])
        if self._counts is None:
            held = counts.read()
            self._counts = _decode_counts(held) if held else (0.0, 0.0)
        bad, messages = self._counts
        if isinstance(item, Judged):
            messages += item.good
        elif item.bad:
            bad, messages = bad + 1, messages + 1
            if messages >= self._limit.messages and bad > self._limit.limit * messages:
                share = f"{bad / messages:.1%}"
                raise TerminalError(
                    f"{share} of the last messages of the stream {self._name} are bad, lastly: {item.reason}.",
                    expected=f"at most {self._limit.limit:.0%} of about {self._limit.messages}",
                    received=f"{item.reason}: {item.detail}"[:MAX_DETAIL],
                    remedy="Correct the producer, or how the stream reads messages; or raise its bad_share.",
                )
        while messages > 2 * self._limit.messages:
            bad, messages = bad / 2, messages / 2
        self._counts = bad, messages
        counts.write(letter_bytes(self._counts))
        if isinstance(item, Letter):
            yield item


class WriteLetters(beam.DoFn):
    """`Letter` -> the topic of dead letters, when the bundle ends. After a fault some are written again.

    Args:
      stream: The declaration.
      servers: The brokers.
    """

    def __init__(self, stream: Stream, servers: str) -> None:
        self._stream, self._servers = stream, servers
        self._producer: Any = None

    def start_bundle(self) -> None:
        """See Beam."""
        self._letters: list[Letter] = []

    def process(self, letter: Letter) -> None:
        """See Beam."""
        self._letters.append(letter)

    def finish_bundle(self) -> None:
        """Waits until the broker has them.

        Raises:
          TransientError: It does not confirm them.
        """
        if not self._letters:
            return
        try:
            if self._producer is None:
                self._producer = KafkaProducer(bootstrap_servers=self._servers.split(","), acks="all")
            sent = [self._producer.send(self._stream.dead_letters, **self._record(letter)) for letter in self._letters]
            for future in sent:
                future.get(timeout=CONFIRMED_S)
        except KafkaError as error:
            raise TransientError(
                "The dead letters cannot be written.",
                expected=f"{len(self._letters)} messages confirmed in the topic {self._stream.dead_letters}",
                received=f"{type(error).__name__}: {error}",
                remedy="See that the broker runs and has the topic.",
            ) from error

    def teardown(self) -> None:
        """See Beam."""
        if self._producer is not None:
            self._producer.close(timeout=CONFIRMED_S)

    def _record(self, letter: Letter) -> dict[str, Any]:
        headers = {
            REASON: letter.reason,
            DETAIL: letter.detail[:MAX_DETAIL],
            TOPIC: ",".join(self._stream.topics),
            SIZE: str(len(letter.value)),
            KEY_SIZE: str(len(letter.key)),
        }
        return {
            "key": letter.key[:KEPT_KEY_BYTES],
            "value": letter.value[:KEPT_BYTES],
            "timestamp_ms": letter.published_ms,
            "headers": [(name, text.encode()) for name, text in headers.items()],
        }
