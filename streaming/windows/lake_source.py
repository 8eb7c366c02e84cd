"""The lake as the source of a stream's steps; a module of its own, because a job of Flink does not need it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue

from streaming.windows import replay
from streaming.windows.declaration import Stream


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
