"""Versions of one event: the last one counts, and what an earlier one added is taken back, in whichever window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from streaming.windows.declaration import Stream
from streaming.windows.letters import Letter, letter_bytes
from streaming.windows.messages import LATE_CORRECTION, Event
from streaming.windows.parsing import LETTERS

Change = tuple[int, Event]
"""An event that counts (1), or one that does not count any more (-1)."""
_json = msgspec.json.Encoder().encode
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Event).decode


class Versions(beam.PTransform):
    """`Event` -> `Change`, and `LETTERS`: corrections that come too late.

    Duplicates change nothing. A version counts when its publication is not before that of the one that is held; two of
    the same instant count in the order of their partition. A correction is late when the version that it replaces is
    so old that its windows may be closed; then that one stays.

    Metrics: `duplicates`, `outdated` (older than what is held), `corrected`.

    Args:
      stream: The declaration, with an identity.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def expand(self, events: beam.PCollection[Event]) -> Any:
        """See the class."""
        return (
            events
            | "key" >> beam.Map(_keyed).with_output_types(tuple[str, bytes])
            | "last" >> beam.ParDo(_LastVersion(self._stream)).with_outputs(LETTERS, main="changes")
        )


def _keyed(event: Event) -> tuple[str, bytes]:
    return event.identity, _encode(event)


class _LastVersion(beam.DoFn):
    VERSION = ReadModifyWriteStateSpec("version", BytesCoder())
    EXPIRY = TimerSpec("expiry", TimeDomain.WATERMARK)

    def __init__(self, stream: Stream) -> None:
        self._lifetime_s = stream.identity.lifetime_s if stream.identity else 0.0
        self._lateness_s = stream.bounds.allowed_lateness_s
        self._duplicates, self._outdated, self._corrected, self._late = (
            Metrics.counter(stream.name, name) for name in ("duplicates", "outdated", "corrected", "late")
        )

    def process(
        self,
        element: tuple[str, bytes],
        version: Any = beam.DoFn.StateParam(VERSION),
        expiry: Any = beam.DoFn.TimerParam(EXPIRY),
    ) -> Iterator[Any]:
        identity, encoded = element
        event = _decode(encoded)
        if not identity:
            yield 1, event
            return
        held = version.read()
        before = _decode(held) if held else None
        if before is not None and event.published_ms < before.published_ms:
            self._outdated.inc()
            return
        if before is not None and _content(event) != _content(before):
            delay_s = event.published_ms / 1000 - before.at
            if delay_s > self._lateness_s:
                self._late.inc()
                detail = f"corrects {identity}, published {delay_s:.0f} s after what it replaces, which stays"
                letter = Letter(LATE_CORRECTION, detail, identity.encode(), _json(event), event.published_ms)
                item = WindowedValue((b"", letter_bytes(letter)), Timestamp(event.at), [GlobalWindow()])
                yield beam.pvalue.TaggedOutput(LETTERS, item)
                return
            self._corrected.inc()
            yield -1, before
            yield 1, event
        elif before is None:
            yield 1, event
        else:
            self._duplicates.inc()
        version.write(encoded)
        expiry.set(Timestamp(event.published_ms / 1000 + self._lifetime_s))

    @on_timer(EXPIRY)
    def expire(self, version: Any = beam.DoFn.StateParam(VERSION)) -> None:
        version.clear()


def _content(event: Event) -> tuple[Any, ...]:
    return event.at, event.fields, event.values
