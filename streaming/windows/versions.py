"""Versions of one event: the last one counts, and what an earlier one added is taken back, in whichever window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from streaming.windows.batches import Batch
from streaming.windows.declaration import Stream
from streaming.windows.letters import Letter, letter_bytes
from streaming.windows.messages import LATE_CORRECTION, NO_MESSAGE, Event
from streaming.windows.mirrored_log import KeepsLog, shared_key
from streaming.windows.parsing import LETTERS

BUCKETS = 16
"""Identities share so many keys of the engine's state."""
EXPIRIES = 10
"""A bucket forgets so often within a lifetime at most."""
Change = tuple[int, Event]
"""An event that counts (1), or one that does not count any more (-1)."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, Event]).decode
_decode_events = msgspec.msgpack.Decoder(list[Event]).decode


class Versions(beam.PTransform):
    """Lists of `Event` -> lists of `Change`, and `LETTERS`: corrections that come too late.

    Duplicates change nothing. A version counts when its publication is not before that of the one that is held; two of
    the same instant count in the order of their partition. A correction is late when the version that it replaces is
    so old that its windows may be closed; then that one stays.

    Metrics: `duplicates`, `outdated` (older than what is held), `corrected`.

    Args:
      stream: The declaration, with an identity.
      follow: Whether the input goes on for ever; of one that ends, all versions of an identity are gathered first.
    """

    def __init__(self, stream: Stream, follow: bool) -> None:
        super().__init__()
        self._stream, self._follow = stream, follow

    def expand(self, events: beam.PCollection[list[Event]]) -> Any:
        """See the class."""
        if self._follow:
            keyed = events | "key" >> beam.FlatMap(_in_buckets).with_output_types(tuple[str, bytes])
            last = beam.ParDo(LastVersions(self._stream))
        else:
            keyed = (
                events | "key" >> beam.FlatMap(_by_identity).with_output_types(tuple[str, bytes]) | beam.GroupByKey()
            )
            last = beam.ParDo(_LastOfAll(self._stream))
        return keyed | "last" >> last.with_output_types(Batch).with_outputs(LETTERS, main="changes")


def _in_buckets(events: list[Event]) -> Iterator[tuple[str, bytes]]:
    """A bundle's events, together as far as they share a key: the engine's cost is by element."""
    buckets: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        buckets[shared_key(event.identity, BUCKETS)].append(_without_records(event))
    for bucket, own in buckets.items():
        yield bucket, _encode(own)


def _by_identity(events: list[Event]) -> Iterator[tuple[str, bytes]]:
    for event in events:
        yield event.identity, _encode([_without_records(event)])


def _without_records(event: Event) -> Event:
    """Its records are written already."""
    return msgspec.structs.replace(event, records={}) if event.records else event


class _Decides(beam.DoFn):
    """What a version changes; the same for both ways to hold versions."""

    def __init__(self, stream: Stream) -> None:
        self._lateness_s = stream.bounds.allowed_lateness_s
        self._counters = {
            name: Metrics.counter(stream.name, name) for name in ("duplicates", "outdated", "corrected", "late")
        }

    def _decide(self, before: Event | None, event: Event, changes: list[Change]) -> tuple[bool, Any]:
        """Whether the event is what is held from now on, and its letter, or None; adds to the changes."""
        if before is None:
            changes.append((1, event))
            return True, None
        if event.published_ms < before.published_ms:
            self._counters["outdated"].inc()
            return False, None
        if (event.at, event.fields, event.values) == (before.at, before.fields, before.values):
            self._counters["duplicates"].inc()
            return True, None
        delay_s = event.published_ms / 1000 - before.at
        if delay_s > self._lateness_s:
            self._counters["late"].inc()
            detail = f"published {delay_s:.0f} s after the version that it corrects, which stays"
            letter = Letter(LATE_CORRECTION, detail, *event.message)
            item = WindowedValue((b"", letter_bytes(letter)), Timestamp(event.at), [GlobalWindow()])
            return False, beam.pvalue.TaggedOutput(LETTERS, item)
        self._counters["corrected"].inc()
        changes += [(-1, before), (1, event)]
        return True, None


class _LastOfAll(_Decides):
    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[Any]:
        events = [event for encoded in element[1] for event in _decode_events(encoded)]
        if not element[0]:
            yield [(1, event) for event in events]
            return
        held: Event | None = None
        changes: list[Change] = []
        for event in sorted(events, key=lambda event: event.published_ms):
            holds, letter = self._decide(held, event, changes)
            held = event if holds else held
            if letter:
                yield letter
        yield changes


class _Bucket(dict[str, bytes]):
    """Number and encoded event of the last version, by identity.

    Args:
      entries: The same, which the log holds.
      number: Of its next entry.
    """

    def __init__(self, entries: dict[str, bytes], number: int) -> None:
        super().__init__(entries)
        self.number = number


class LastVersions(_Decides, KeepsLog[_Bucket]):
    """(bucket, encoded events) -> list of `Change`; holds the last versions in the engine's state.

    A bucket forgets identities of which nothing was published for a lifetime.
    """

    def __init__(self, stream: Stream) -> None:
        _Decides.__init__(self, stream)
        lifetime_s = stream.identity.lifetime_s if stream.identity else 0.0
        KeepsLog.__init__(self, f"{stream.name} versions", lifetime_s, lifetime_s / EXPIRIES)

    def process(
        self,
        element: tuple[str, bytes],
        log: Any = beam.DoFn.StateParam(KeepsLog.LOG),
        token: Any = beam.DoFn.StateParam(KeepsLog.TOKEN),
        expiry: Any = beam.DoFn.TimerParam(KeepsLog.EXPIRY),
    ) -> Iterator[Any]:
        """See Beam."""
        name, encoded = element
        events = _decode_events(encoded)
        changes: list[Change] = [(1, event) for event in events if not event.identity]
        if len(changes) == len(events):
            yield changes
            return
        mirrored = self._log_of(name, log, token)
        bucket = mirrored.content
        for event in events:
            if not event.identity:
                continue
            held = bucket.get(event.identity)
            holds, letter = self._decide(_decode(held)[1] if held else None, event, changes)
            if letter:
                yield letter
            if holds:
                entry = _encode((bucket.number, msgspec.structs.replace(event, message=NO_MESSAGE)))
                log.add(entry)
                bucket[event.identity] = entry
                bucket.number, mirrored.entries = bucket.number + 1, mirrored.entries + 1
        self._added(mirrored, log, expiry)
        yield changes

    def _read(self, log: Iterable[bytes]) -> tuple[_Bucket, int]:
        last: dict[str, tuple[int, bytes]] = {}
        entries = 0
        for entry in log:
            number, event = _decode(entry)
            entries += 1
            if number > last.get(event.identity, (0, b""))[0]:
                last[event.identity] = number, entry
        number = max((number for number, _ in last.values()), default=0) + 1
        return _Bucket({identity: entry for identity, (_, entry) in last.items()}, number), entries

    def _entries(self, content: _Bucket) -> Iterable[bytes]:
        return content.values()

    def _times(self, content: _Bucket) -> Iterable[float]:
        return map(_published, content.values())

    def _forget(self, content: _Bucket, before_s: float) -> None:
        for identity in [identity for identity, entry in content.items() if _published(entry) <= before_s]:
            del content[identity]


def _published(entry: bytes) -> float:
    return _decode(entry)[1].published_ms / 1000
