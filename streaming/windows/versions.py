"""Versions of one event: the last one counts, and what an earlier one added is taken back, in whichever window."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from streaming.windows.declaration import Stream
from streaming.windows.letters import Letter, letter_bytes
from streaming.windows.messages import LATE_CORRECTION, NO_MESSAGE, Event
from streaming.windows.parsing import LETTERS

BUCKETS = 64
"""Identities share so many keys of the engine's state: a bundle asks for tens of states, and not for each event's."""
SLACK = 256
"""Entries of a bucket's log that are no last version any more before it is written anew, beside as many as are."""
EXPIRIES = 10
"""A bucket forgets so often within a lifetime."""
Change = tuple[int, Event]
"""An event that counts (1), or one that does not count any more (-1)."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, Event]).decode


class Versions(beam.PTransform):
    """`Event` -> `Change`, and `LETTERS`: corrections that come too late.

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

    def expand(self, events: beam.PCollection[Event]) -> Any:
        """See the class."""
        if self._follow:
            keyed = events | "key" >> beam.Map(_in_bucket).with_output_types(tuple[str, bytes])
            last = beam.ParDo(LastVersions(self._stream))
        else:
            keyed = events | "key" >> beam.Map(_by_identity).with_output_types(tuple[str, bytes]) | beam.GroupByKey()
            last = beam.ParDo(_LastOfAll(self._stream))
        return keyed | "last" >> last.with_outputs(LETTERS, main="changes")


def _in_bucket(event: Event) -> tuple[str, bytes]:
    return str(zlib.crc32(event.identity.encode()) % BUCKETS), _encoded(event)


def _by_identity(event: Event) -> tuple[str, bytes]:
    return event.identity, _encoded(event)


def _encoded(event: Event) -> bytes:
    """The event without its records, which are written already."""
    return _encode((0, msgspec.structs.replace(event, records={}) if event.records else event))


class _Decides(beam.DoFn):
    """What a version changes; the same for both ways to hold versions."""

    def __init__(self, stream: Stream) -> None:
        self._name = stream.name
        self._lateness_s = stream.bounds.allowed_lateness_s
        self._lifetime_s = stream.identity.lifetime_s if stream.identity else 0.0
        self._counters = {
            name: Metrics.counter(stream.name, name) for name in ("duplicates", "outdated", "corrected", "late")
        }

    def _decide(self, before: Event | None, event: Event) -> tuple[bool, list[Any]]:
        """Whether the event is what is held from now on, and what goes out."""
        if before is None:
            return True, [(1, event)]
        if event.published_ms < before.published_ms:
            self._counters["outdated"].inc()
            return False, []
        if (event.at, event.fields, event.values) == (before.at, before.fields, before.values):
            self._counters["duplicates"].inc()
            return True, []
        delay_s = event.published_ms / 1000 - before.at
        if delay_s > self._lateness_s:
            self._counters["late"].inc()
            detail = f"published {delay_s:.0f} s after the version that it corrects, which stays"
            letter = Letter(LATE_CORRECTION, detail, *event.message)
            item = WindowedValue((b"", letter_bytes(letter)), Timestamp(event.at), [GlobalWindow()])
            return False, [beam.pvalue.TaggedOutput(LETTERS, item)]
        self._counters["corrected"].inc()
        return True, [(-1, before), (1, event)]


class _LastOfAll(_Decides):
    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[Any]:
        events = sorted((_decode(encoded)[1] for encoded in element[1]), key=lambda event: event.published_ms)
        held: Event | None = None
        for event in events:
            if not element[0]:
                yield 1, event
                continue
            holds, items = self._decide(held, event)
            held = event if holds else held
            yield from items


@dataclass
class _Bucket:
    """What a bucket's log comes to.

    Args:
      token: Of its last change; the same one in the engine's state says that this is what lies there.
      last: Number and encoded entry of the last version, by identity.
      entries: Of the log.
      number: Of its next entry.
      expires: Event time of its timer, seconds; 0 for none.
    """

    token: bytes
    last: dict[str, bytes] = field(default_factory=dict)
    entries: int = 0
    number: int = 1
    expires: float = 0.0


_buckets: dict[tuple[str, str], _Bucket] = {}
"""Of this process, by stream and bucket. Beam's own cache of state measures each entry in milliseconds."""


class LastVersions(_Decides):
    """(bucket, encoded event) -> `Change`; holds the last versions in the engine's state.

    Each bucket is a log of versions in state, and the same in this process's memory. A token, written with each
    change, says whether they agree: after a fault, or when another worker had the bucket, the log is read again.
    """

    LOG = BagStateSpec("log", BytesCoder())
    TOKEN = ReadModifyWriteStateSpec("token", BytesCoder())
    EXPIRY = TimerSpec("expiry", TimeDomain.WATERMARK)

    def start_bundle(self) -> None:
        """See Beam."""
        self._current: dict[str, _Bucket] = {}

    def process(
        self,
        element: tuple[str, bytes],
        log: Any = beam.DoFn.StateParam(LOG),
        token: Any = beam.DoFn.StateParam(TOKEN),
        expiry: Any = beam.DoFn.TimerParam(EXPIRY),
    ) -> Iterator[Any]:
        """See Beam."""
        name, encoded = element
        _, event = _decode(encoded)
        if not event.identity:
            yield 1, event
            return
        bucket = self._bucket(name, log, token)
        held = bucket.last.get(event.identity)
        holds, items = self._decide(_decode(held)[1] if held else None, event)
        if holds:
            entry = _encode((bucket.number, msgspec.structs.replace(event, message=NO_MESSAGE)))
            log.add(entry)
            bucket.last[event.identity] = entry
            bucket.number, bucket.entries = bucket.number + 1, bucket.entries + 1
            if bucket.entries > 2 * len(bucket.last) + SLACK:
                _rewrite(bucket, log)
            if not bucket.expires:
                # After a restart a timer may wait; it is set anew for what the log held before.
                bucket.expires = _oldest(bucket) + self._lifetime_s
                expiry.set(Timestamp(bucket.expires))
        yield from items

    @on_timer(EXPIRY)
    def expire(
        self,
        name: Any = beam.DoFn.KeyParam,
        log: Any = beam.DoFn.StateParam(LOG),
        token: Any = beam.DoFn.StateParam(TOKEN),
        stamp: Any = beam.DoFn.TimestampParam,
        expiry: Any = beam.DoFn.TimerParam(EXPIRY),
    ) -> None:
        """Forgets identities of which nothing was published for a lifetime."""
        bucket = self._bucket(name, log, token)
        now = stamp.micros / 1e6
        published = {identity: _published(entry) for identity, entry in bucket.last.items()}
        fresh = {identity: at for identity, at in published.items() if at + self._lifetime_s > now}
        bucket.last = {identity: bucket.last[identity] for identity in fresh}
        _rewrite(bucket, log)
        bucket.expires = 0.0
        if fresh:
            bucket.expires = max(min(fresh.values()) + self._lifetime_s, now + self._lifetime_s / EXPIRIES)
            expiry.set(Timestamp(bucket.expires))

    def _bucket(self, name: str, log: Any, token: Any) -> _Bucket:
        """The bucket, as it is in state; from now on it is another one."""
        if name in self._current:
            return self._current[name]
        written, bucket = token.read(), _buckets.get((self._name, name))
        if bucket is None or bucket.token != written:
            bucket = _read(log)
        bucket.token = uuid.uuid4().bytes
        token.write(bucket.token)
        self._current[name] = _buckets[self._name, name] = bucket
        return bucket


def _read(log: Any) -> _Bucket:
    """What a log says, whatever order the engine gives it in."""
    bucket = _Bucket(b"")
    numbers: dict[str, int] = {}
    for entry in log.read():
        number, event = _decode(entry)
        bucket.entries, bucket.number = bucket.entries + 1, max(bucket.number, number + 1)
        if number > numbers.get(event.identity, 0):
            numbers[event.identity], bucket.last[event.identity] = number, entry
    return bucket


def _published(entry: bytes) -> float:
    return _decode(entry)[1].published_ms / 1000


def _oldest(bucket: _Bucket) -> float:
    return min(map(_published, bucket.last.values()))


def _rewrite(bucket: _Bucket, log: Any) -> None:
    log.clear()
    for entry in bucket.last.values():
        log.add(entry)
    bucket.entries = len(bucket.last)
