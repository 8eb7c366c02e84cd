"""What becomes of each message that was read: into its hour, or to the dead letters; and how far the log has come.

Nothing here reads or writes anything: what is decided about a message follows from the log's own order, and from what
the accounts (`accounts.py`) remember, so that it is decided the same however often the message is read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from streaming.accounts import Entry, Resume

HOUR_MS = 3_600_000
CONFIRMED_BY = 5
"""A partition has come as far as so many messages in a row say: one clock that is ahead moves nothing."""
AHEAD_MS = 300_000
"""No message is published later than this after now, by clocks that differ."""
LATE, AHEAD, UNREADABLE = "late", "clock ahead", "unreadable"
"""Reasons of dead letters; a bad message's own says more."""
_OFFSETS = 1 << 48

HourOf = Callable[[bytes | None, int], int]
"""The hour since 1970 of a message, from its value and when it was published (milliseconds since 1970).

It raises whatever it likes for a message that is bad; the exception's `reason`, or else its type, is kept with it.
"""


class Record(Protocol):
    """A message as Kafka's client gives it."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """When it was published, milliseconds since 1970."""

    @property
    def value(self) -> bytes | None:
        """Its bytes."""


class Batch(msgspec.Struct, array_like=True):
    """Messages of one hour, as the engine carries them.

    Args:
      places: Where each is in the log, see `place`.
      published: When each was published, milliseconds since 1970.
      values: What each says.
      reached: The instant that the log had come to, milliseconds since 1970; None while nobody knows.
    """

    places: list[int]
    published: list[int]
    values: list[bytes]
    reached: int | None = None


_DECODER = msgspec.msgpack.Decoder(Batch)
encode_batch: Callable[[Batch], bytes] = msgspec.msgpack.Encoder().encode
"""A batch as bytes, MessagePack."""
decode_batch: Callable[[bytes], Batch] = _DECODER.decode
"""The inverse of `encode_batch`."""


def place(partition: int, offset: int) -> int:
    """One number for a place in the log, in the order of partitions and offsets."""
    return partition * _OFFSETS + offset


@dataclass(frozen=True)
class Dead:
    """A message for the dead letters.

    Args:
      partition: Where it was.
      offset: Where it was.
      reason: A few words.
      detail: What is wrong with this one.
      value: Its bytes.
    """

    partition: int
    offset: int
    reason: str
    detail: str
    value: bytes | None


@dataclass
class Sorted:
    """What became of the messages of one poll.

    Args:
      batches: The good ones by hour since 1970.
      dead: The others that were not set aside for sure before.
      entries: What the accounts must know, by partition.
    """

    batches: dict[int, Batch] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    entries: dict[int, Entry] = field(default_factory=dict)

    @property
    def late(self) -> list[tuple[int, int]]:
        """Partition and offset of what came too late."""
        return [(dead.partition, dead.offset) for dead in self.dead if dead.reason == LATE]


class _ClockAhead(Exception):
    reason = AHEAD


class _Clock:
    """How far a partition has come: the latest instant that `CONFIRMED_BY` messages in a row have reached."""

    __slots__ = ("now", "recent")

    def __init__(self, now: int | None, recent: Iterable[int]) -> None:
        self.now = now
        self.recent = deque(recent, CONFIRMED_BY)

    def tick(self, published: int) -> None:
        recent = self.recent
        recent.append(published)
        if (self.now is None or published > self.now) and len(recent) == CONFIRMED_BY:
            reached = min(recent)
            self.now = reached if self.now is None else max(self.now, reached)


class Sorter:
    """Sorts messages, partition by partition in the order of their offsets.

    A message is late when its hour ended more than the allowed lateness before the instant that its partition had come
    to, or when its hour was closed for all.

    Args:
      resume: Where the stream stands.
      hour_of: Reads a message.
      lateness_ms: The allowed lateness, milliseconds.
      now: The clock on the wall, seconds since 1970.
    """

    def __init__(self, resume: Resume, hour_of: HourOf, lateness_ms: int, now: Callable[[], float] = time.time) -> None:
        self.closed = resume.closed
        self._now = now
        self._hour_of, self._lateness = hour_of, lateness_ms
        self._partitions = resume.partitions
        self._next = {number: held.next for number, held in resume.partitions.items()}
        # What is read again ends where this run began to read what nobody had read.
        self._again = {number: held.next for number, held in resume.partitions.items() if held.start < held.next}
        self._clocks = {number: _Clock(held.clock, held.recent) for number, held in resume.partitions.items()}

    def sort(self, polled: Mapping[int, Iterable[Record]], positions: Mapping[int, int]) -> Sorted:
        """Sorts what was read next.

        Args:
          polled: Messages by partition.
          positions: The offset that is read next, by partition.
        """
        out = Sorted()
        newest = int(self._now() * 1000) + AHEAD_MS
        for partition, records in polled.items():
            self._sort(partition, records, newest, out)
        self._again = {number: end for number, end in self._again.items() if positions.get(number, 0) < end}
        return out

    def _sort(self, partition: int, records: Iterable[Record], newest: int, out: Sorted) -> None:
        following, clock, late = self._next[partition], self._clocks[partition], self._partitions[partition].late
        entry, batches, base, hour_of = Entry(following, clock.now), out.batches, place(partition, 0), self._hour_of
        for record in records:
            offset, published, value = record.offset, record.timestamp, record.value
            new = offset >= following
            if new:
                entry.next = offset + 1
                if published <= newest:
                    clock.tick(published)
            try:
                if published > newest:
                    raise _ClockAhead(f"published at {published} ms since 1970, which is yet to come")
                hour = hour_of(value, published)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one message, the stream goes on.
                if new:
                    entry.bad += 1
                    reason = getattr(error, "reason", UNREADABLE)
                    out.dead.append(Dead(partition, offset, reason, f"{type(error).__name__}: {error}", value))
                continue
            if offset in late or (new and self._is_late(hour, clock.now)):
                if new:
                    entry.late += 1
                    detail = f"its hour, {hour} since 1970, took no more messages"
                    out.dead.append(Dead(partition, offset, LATE, detail, value))
                continue
            batch = batches.get(hour)
            if batch is None:
                batch = batches[hour] = Batch([], [], [])
            batch.places.append(base + offset)
            batch.published.append(published)
            batch.values.append(value)  # type: ignore[arg-type]  # Who can read a message without a value?
            if new:
                first, messages = entry.hours.get(hour, (offset, 0))
                entry.hours[hour] = first, messages + 1
        if entry.next > following:
            entry.clock, entry.recent = clock.now, tuple(clock.recent)
            self._next[partition] = entry.next
            out.entries[partition] = entry

    def _is_late(self, hour: int, now: int | None) -> bool:
        if self.closed is not None and hour <= self.closed:
            return True
        return now is not None and (hour + 1) * HOUR_MS + self._lateness <= now

    def watermark(self, idle: Container[int] = ()) -> int | None:
        """The instant that all partitions have come to, milliseconds since 1970; None where one is not known yet.

        It closes the hours that take no more messages. As long as anything is read again it is not known: nothing of
        what was read before may come too late for the engine now.

        Args:
          idle: Partitions that hold nobody up.
        """
        if self._again:
            return None
        clocks = [clock.now for number, clock in self._clocks.items() if number not in idle]
        known = [now for now in clocks if now is not None]
        if not known or len(known) < len(clocks):
            return None
        reached = min(known)
        closed = (reached - self._lateness) // HOUR_MS - 1
        self.closed = closed if self.closed is None else max(self.closed, closed)
        return reached
