"""Hours of messages in one order, from the lake or from the topic, and features that are looked up along the way."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from airtight.errors import TerminalError, TransientError
from airtight.import_string import load
from streaming.learning.declaration import Learning, Subject
from streaming.learning.prequential import Known, Prequential
from streaming.windows import replay
from streaming.windows.arithmetic import Minutes
from streaming.windows.declaration import Stream
from streaming.windows.messages import Event, Message, read
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Store
from streaming.windows.tables import Record

HOUR_S = 3600
LOOKUPS = 500
"""Instances that are looked up at once."""


class Observed(NamedTuple):
    """An event of the stream, and what it says of rows."""

    event: Event
    subjects: tuple[Subject, ...]


@dataclass(frozen=True)
class Hour:
    """What became known in an hour.

    Args:
      number: Hours since 1970.
      observed: In the order of their publication.
      offsets: From which to read the topic after it, by partition; empty for the lake.
    """

    number: int
    observed: Sequence[Observed]
    offsets: Mapping[int, int] = field(default_factory=dict)

    @property
    def known(self) -> list[Known]:
        """What rows are due, and what became of rows, with the instant of their event."""
        return [(one.event.at, subject) for one in self.observed for subject in one.subjects]


def observer(learning: Learning) -> Callable[[Message], Observed | None]:
    """The function that reads a message; it answers None for what is no event, and raises `BadMessage`."""
    parse, subjects, stream = load(learning.stream.parse), learning.reader, learning.stream

    def observed(message: Message) -> Observed | None:
        event = read(parse, stream, message)
        return None if event is None else Observed(event, tuple(subjects(message)))

    return observed


class FeatureStore:
    """Features from the stream's store.

    Args:
      store: The store.
      learning: The declaration.
      own: Whether this program fills the store itself; else the stream's job does, and must be as far.
    """

    def __init__(self, store: Store, learning: Learning, own: bool) -> None:
        self.store, self.learning, self.own = store, learning, own
        self._lookup = learning.lookup_in(store)

    def feed(self, hour: Hour) -> None:
        """Writes an hour into the store, or makes sure that the store has it.

        Raises:
          TransientError: The stream's job fills it, and is not so far yet.
        """
        end = (hour.number + 1) * 60
        if self.own:
            totals, records = Minutes(self.learning.stream), []
            for event, _ in hour.observed:
                if event.counts:
                    totals.add(event)
                records += [Record(table, values) for table, values in event.records.items()]
            self.store.write(totals.rows())
            self.store.upsert(records)
            self.store.advance(end)
        elif (self.store.watermark() or 0) < end:
            raise TransientError(
                "The stream's store is behind the topic.",
                expected=f"all that became known before minute {end} since 1970",
                received=f"what became known before {self.store.watermark()}",
                remedy="See that the stream runs, and retry; or leave --store away.",
            )

    @property
    def watermark(self) -> int | None:
        """How far the store is, minutes since 1970; None where nothing is in it, or it is not there."""
        missing = isinstance(self.store, SqliteStore) and not self.store.path.exists()
        return None if missing else self.store.watermark()

    def __call__(self, instances: Sequence[Any]) -> list[dict[str, Any]]:
        """Features of instances, each at its own cut-off."""
        parts = (instances[begin : begin + LOOKUPS] for begin in range(0, len(instances), LOOKUPS))
        return [features for part in parts for features in self._lookup(part)[0]]


def hours_of(ordered: Iterable[Observed]) -> Iterator[Hour]:
    """Events that come in order, by the hour."""
    for number, group in itertools.groupby(ordered, key=lambda one: int(one.event.at // HOUR_S)):
        yield Hour(number, list(group))


def from_lake(
    lake: Path, learner: Prequential, features: FeatureStore, start: datetime | None, end: datetime
) -> Iterator[Hour]:
    """Hours of the lake, from where the learner and its own store go on.

    Raises:
      TerminalError: There is neither a beginning nor anything learned, or the stream has no replay.
    """
    learning, fresh = features.learning, features.watermark
    if learner.hour is not None and fresh is not None and fresh >= (learner.hour + 1) * 60:
        begin = _of_hour(learner.hour + 1)
    elif learner.hour is not None:
        begin = _of_hour(learner.hour) - learning.history
    elif start is not None:
        begin = start - learning.history
    else:
        raise TerminalError(
            "Nothing was learned yet, and there is no instant at which to begin.",
            expected="a day or an instant",
            received="no --from",
            remedy="Say --from, or --topic to read the topic from its beginning.",
        )
    whole = end.replace(minute=0, second=0, microsecond=0)
    if begin >= whole:
        return iter(())
    return hours_of(filter(None, map(observer(learning), replay.messages(learning.stream, lake, begin, whole))))


class Closing:
    """Gathers events by the hour, and gives hours out when no message can be added to them any more.

    An hour is over when the topic's newest message is later than its end by the allowed lateness and by how far
    messages may be out of order. Of the versions of an event the last one counts, as in the stream; one whose earlier
    version is in an hour that was given out counts beside it.

    Args:
      stream: The declaration.
      taken: The last hour that was given out before, hours since 1970; what belongs to it or before is passed over.
    """

    def __init__(self, stream: Stream, taken: int | None) -> None:
        self._taken = -1 if taken is None else taken
        self._hours: dict[int, dict[str, Observed]] = defaultdict(dict)
        self._first: dict[int, dict[int, int]] = defaultdict(dict)
        self._hour_of: dict[str, int] = {}
        self._bounds_s = stream.bounds.allowed_lateness_s + stream.bounds.out_of_order_s

    def add(self, observed: Observed, partition: int, offset: int) -> None:
        """Takes the event of a message, in the order of its partition."""
        event = observed.event
        hour, identity = int(event.at // HOUR_S), event.identity or f"{partition}/{offset}"
        if hour <= self._taken:
            return
        if (before := self._hour_of.get(identity)) is not None:
            self._hours[before].pop(identity, None)
        self._hours[hour][identity] = observed
        self._hour_of[identity] = hour
        self._first[hour].setdefault(partition, offset)

    def over(self, newest_ms: int, positions: Mapping[int, int]) -> Iterator[Hour]:
        """Hours that are over, in order.

        Args:
          newest_ms: Stamp to which all partitions were read, milliseconds since 1970.
          positions: The next offset of each partition.
        """
        last = int((newest_ms / 1000 - self._bounds_s) // HOUR_S) - 1
        for hour in sorted(number for number in self._hours if number <= last):
            held = self._hours.pop(hour)
            self._first.pop(hour, None)
            for identity in held:
                self._hour_of.pop(identity, None)
            self._taken = hour
            offsets = dict(positions)
            for first in self._first.values():
                for partition, offset in first.items():
                    offsets[partition] = min(offsets[partition], offset)
            yield Hour(hour, list(held.values()), offsets)


def _of_hour(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * HOUR_S, UTC)
