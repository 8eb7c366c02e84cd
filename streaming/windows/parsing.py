"""Messages -> events, and what is bad or late, each with its reason."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from airtight.import_string import load
from streaming.engine.flink_rest import WORKER_MEMORY
from streaming.windows.declaration import Stream
from streaming.windows.letters import Judged, Letter, letter_bytes
from streaming.windows.messages import LATE, BadMessage, Event, Message, read

EVENTS = 10_000
"""In one list: a bundle has one where Flink ends it after as many messages, and several where it runs to its end."""
LETTERS = "letters"
"""Tag of the output that `letters.Letters` takes."""


class Parse(beam.DoFn):
    """(key, value) -> lists of `Event`, and `LETTERS` for those that are none: (b"", encoded `Judged` or `Letter`).

    Metrics: `events`, `other` (no event of the stream), `bad`, `late`, and `read_after_ms`, from the publication of a
    bundle's newest message until it is read, by this host's clock; `worker_memory_mb`, resident memory of this process.

    Args:
      stream: The declaration.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._events, self._other, self._bad, self._late = (
            Metrics.counter(stream.name, name) for name in ("events", "other", "bad", "late")
        )
        self._age = Metrics.distribution(stream.name, "read_after_ms")
        self._memory = Metrics.gauge(stream.name, WORKER_MEMORY)

    def setup(self) -> None:
        """See Beam."""
        self._parse = load(self._stream.parse)

    def start_bundle(self) -> None:
        """See Beam."""
        self._batch: list[Event] = []
        self._letters: list[Letter] = []
        self._messages, self._others, self._newest_ms = 0, 0, 0

    def process(self, element: tuple[bytes, bytes], stamp: Any = beam.DoFn.TimestampParam) -> Sequence[list[Event]]:
        """See Beam."""
        message = Message(*element, stamp.micros // 1000)
        self._messages += 1
        self._newest_ms = max(self._newest_ms, message.published_ms)
        try:
            event = read(self._parse, self._stream, message)
        except BadMessage as error:
            self._letters.append(Letter(error.reason, error.detail, *message))
        else:
            if event is None:
                self._others += 1
                return ()
            self._batch.append(event)
            if len(self._batch) == EVENTS:
                full, self._batch = self._batch, []
                return [full]
        return ()

    def finish_bundle(self) -> Iterator[Any]:
        """See Beam."""
        if not self._messages:
            return
        at = Timestamp(self._newest_ms / 1000)
        if self._batch:
            yield WindowedValue(self._batch, at, [GlobalWindow()])
        late = sum(letter.reason == LATE for letter in self._letters)
        bad = len(self._letters) - late
        self._bad.inc(bad)
        self._late.inc(late)
        self._other.inc(self._others)
        self._events.inc(self._messages - bad - late - self._others)
        self._memory.set(_resident_mb())
        self._age.update(max(0, round(time.time() * 1000) - self._newest_ms))
        # First how many were good, so that the share is of the whole bundle.
        for item in (Judged(self._messages - bad), *self._letters):
            encoded = (b"", letter_bytes(item))
            yield beam.pvalue.TaggedOutput(LETTERS, WindowedValue(encoded, at, [GlobalWindow()]))


def _resident_mb() -> int:
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20
    return 0
