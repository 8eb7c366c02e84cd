"""The lake as the source of a stream's steps; a module of its own, because a job of Flink does not need it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue

from streaming.run import Build
from streaming.windows import replay
from streaming.windows.declaration import MINUTE_S, Stream
from streaming.windows.pipeline import Span, build


def build_span(stream: Stream, lake: Path, start: datetime, end: datetime, store: str) -> Build:
    """The steps of a stream over the lake, for the windows that lie in [start, end), each of them whole.

    What else the lake has that may count in them is read, too: what was published later, up to the allowed lateness,
    and, where events have an identity, before, as long as it is known. So the rows are those that the stream itself
    would write, and may take the place of its own.

    Args:
      stream: The declaration, with a replay.
      lake: Folder of the lake.
      start: With its offset from UTC.
      end: Likewise.
      store: Address of the store.
    """
    bounds, known_s = stream.bounds, stream.identity.lifetime_s if stream.identity else 0.0
    since = start - timedelta(seconds=bounds.ahead_s + known_s)
    source = Replayed(stream, lake, since, end + timedelta(seconds=bounds.allowed_lateness_s))
    span: Span = math.ceil(start.timestamp() / MINUTE_S), int(end.timestamp() // MINUTE_S)
    return build(stream, source, store, follow=False, span=span)


class Replayed(beam.PTransform):
    """What the lake has of a span, read as the steps take it; never all of its messages are held.

    Args:
      stream: The declaration, with a replay.
      lake: Folder of the lake.
      start: With its offset from UTC.
      end: Likewise; not included.
    """

    def __init__(self, stream: Stream, lake: Path, start: datetime, end: datetime) -> None:
        super().__init__()
        self._span = stream, lake, start, end

    def expand(self, begin: Any) -> Any:
        """Adds the source.

        Returns:
          PCollection of (key, value), bytes, with the publication as time.
        """
        read = beam.FlatMap(_stamped, *self._span).with_output_types(tuple[bytes, bytes])
        return begin | beam.Impulse() | read


def _stamped(_: bytes, stream: Stream, lake: Path, start: datetime, end: datetime) -> Iterator[TimestampedValue]:
    for message in replay.messages(stream, lake, start, end):
        yield TimestampedValue((message.key, message.value), message.published_ms / 1000)
