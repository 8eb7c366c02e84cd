"""Messages -> events, and what is bad or late, each with its reason."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from airtight.import_string import load
from streaming.windows.declaration import Stream
from streaming.windows.letters import Judged, Letter, letter_bytes
from streaming.windows.messages import AHEAD, LATE, BadMessage, Event, Message

LETTERS = "letters"
"""Tag of the output that `letters.Letters` takes."""


def read(parse: Callable[[Message], Event | None], stream: Stream, message: Message) -> Event | None:
    """Reads a message as the stream does.

    Args:
      parse: The stream's function.
      stream: Its declaration.
      message: The message.

    Returns:
      The event with its publication; None for what is no event of the stream.

    Raises:
      BadMessage: It cannot be read; or the event is more than `ahead_s` after its publication (reason "ahead"), or more
        than `allowed_lateness_s` before it (reason "late").
    """
    event = parse(message)
    if event is None:
        return None
    if not math.isfinite(event.at):
        raise BadMessage(AHEAD, f"the event has no time: {event.at}")
    delay_s = message.published_ms / 1000 - event.at
    bounds = stream.bounds
    if -delay_s > bounds.ahead_s:
        raise BadMessage(AHEAD, f"published {-delay_s:.0f} s before its event, more than {bounds.ahead_s:g} s")
    if delay_s > bounds.allowed_lateness_s:
        raise BadMessage(LATE, f"published {delay_s:.0f} s after its event, more than {bounds.allowed_lateness_s:g} s")
    return Event(event.at, event.fields, event.values, event.identity, message.published_ms)


class Parse(beam.DoFn):
    """(key, value) -> `Event`, and `LETTERS` for those that are none: (b"", encoded `Judged` or `Letter`).

    Metrics: `events`, `other` (no event of the stream), `bad`, `late`, and `read_after_ms`, from the publication of a
    bundle's newest message until it is read, by this host's clock.

    Args:
      stream: The declaration.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._events, self._other, self._bad, self._late = (
            Metrics.counter(stream.name, name) for name in ("events", "other", "bad", "late")
        )
        self._age = Metrics.distribution(stream.name, "read_after_ms")

    def setup(self) -> None:
        """See Beam."""
        self._parse = load(self._stream.parse)

    def start_bundle(self) -> None:
        """See Beam."""
        self._letters: list[Letter] = []
        self._messages, self._others, self._newest_ms = 0, 0, 0

    def process(self, element: tuple[bytes, bytes], stamp: Any = beam.DoFn.TimestampParam) -> Iterator[Event]:
        """See Beam."""
        message = Message(*element, stamp.micros // 1000)
        self._messages += 1
        self._newest_ms = max(self._newest_ms, message.published_ms)
        try:
            event = read(self._parse, self._stream, message)
        except BadMessage as error:
            self._letters.append(Letter(error.reason, error.detail, *message))
        else:
            if event is not None:
                yield event
            else:
                self._others += 1

    def finish_bundle(self) -> Iterator[Any]:
        """See Beam."""
        if not self._messages:
            return
        late = sum(letter.reason == LATE for letter in self._letters)
        bad = len(self._letters) - late
        self._bad.inc(bad)
        self._late.inc(late)
        self._other.inc(self._others)
        self._events.inc(self._messages - bad - late - self._others)
        self._age.update(max(0, round(time.time() * 1000) - self._newest_ms))
        # First how many were good, so that the share is of the whole bundle.
        for item in (Judged(self._messages - bad), *self._letters):
            encoded = (b"", letter_bytes(item))
            yield beam.pvalue.TaggedOutput(
                LETTERS, WindowedValue(encoded, Timestamp(self._newest_ms / 1000), [GlobalWindow()])
            )
