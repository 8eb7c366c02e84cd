"""Hours of messages in one order, from the lake or from the topic, and features that are looked up along the way."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from airtight.errors import TerminalError, TransientError
from airtight.import_string import load
from streaming.learning.declaration import Learning, Subject
from streaming.learning.prequential import Known, Prequential
from streaming.windows import replay
from streaming.windows.arithmetic import Minutes
from streaming.windows.declaration import Stream
from streaming.windows.messages import BadMessage, Event, Message, or_bad, read
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Store
from streaming.windows.tables import Record

_LOG = logging.getLogger(__name__)
HOUR_S = 3600
LOOKUPS = 500
"""Instances that are looked up at once."""
AFTER_ITS_HOUR = "after its hour was taken"
"""Why a message is passed over that came when its hour was over already, by the stamps of others."""


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
      read: The first offset of each partition that was not read yet; empty for the lake.
      topic: Kafka's id of that topic; empty for the lake.
    """

    number: int
    observed: Sequence[Observed]
    offsets: Mapping[int, int] = field(default_factory=dict)
    read: Mapping[int, int] = field(default_factory=dict)
    topic: str = ""

    @property
    def known(self) -> list[Known]:
        """What rows are due, and what became of rows, with the instant of their event."""
        return [(one.event.at, subject) for one in self.observed for subject in one.subjects]


def observer(learning: Learning, passed: Counter[str]) -> Callable[[Message], Observed | None]:
    """The function that reads a message; it answers None for what is no event, is late or is bad.

    Args:
      learning: The declaration.
      passed: Counts those that are late or bad, by the reason.
    """
    parse, subjects, stream = load(learning.stream.parse), learning.reader, learning.stream

    def observed(message: Message) -> Observed | None:
        try:
            event = read(parse, stream, message)
            return None if event is None else Observed(event, or_bad(lambda one: tuple(subjects(one)), message))
        except BadMessage as error:
            passed[error.reason] += 1
            return None

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


def hours_of(learning: Learning, messages: Iterable[Message], first: int, end: int) -> Iterator[Hour]:
    """The hours [first, end), hours since 1970, of messages in the order of their publication; late and bad ones are
    passed over.

    Args:
      learning: The declaration.
      messages: From the first that may be of `first` to the last that may be of the hour before `end`.
      first: What belongs to an earlier hour is passed over.
      end: The hours before it that are not over with the last message are so nevertheless.
    """
    closing = Closing(learning.stream, first - 1)
    observe = observer(learning, closing.passed)
    for number, message in enumerate(messages):
        observed = observe(message)
        if observed is not None:
            closing.add(observed, 0, number)
        yield from closing.over(message.published_ms, {})
    yield from closing.through(end - 1, {})
    report_passed(closing.passed)


def report_passed(passed: Counter[str]) -> None:
    """Logs what was passed over."""
    if passed:
        _LOG.warning("Messages that were passed over: %s", dict(sorted(passed.items())))


def from_lake(
    lake: Path, learner: Prequential, features: FeatureStore, start: datetime | None, end: datetime
) -> Iterator[Hour]:
    """Hours of the lake before an end, from where the learner and its own store go on.

    What was published until no message can be added to the last of them is read, as far as the lake has it.

    Raises:
      TerminalError: There is neither a beginning nor anything learned, or the stream has no replay.
    """
    learning, fresh, bounds = features.learning, features.watermark, features.learning.stream.bounds
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
    first, last = (int(instant.timestamp() // HOUR_S) for instant in (begin, end))
    if first >= last:
        return iter(())
    # Clocks differ: a message may be published before its event.
    since = _of_hour(first) - timedelta(seconds=bounds.ahead_s)
    until = _of_hour(last) + timedelta(seconds=bounds.allowed_lateness_s + bounds.out_of_order_s)
    return hours_of(learning, replay.messages(learning.stream, lake, since, until), first, last)


class Closing:
    """Gathers events by the hour, and gives hours out when no message can be added to them any more.

    An hour is over when the topic's newest message is later than its end by the allowed lateness and by how far
    messages may be out of order. Of the versions of an event the last one counts, as in the stream; one whose earlier
    version is in an hour that was given out counts beside it.

    Args:
      stream: The declaration.
      taken: The last hour that was given out before, hours since 1970; what belongs to it or before is passed over.
      read: By partition the offset from which on nothing was read before; what comes earlier was in its hour.

    Attributes:
      passed: How many messages were passed over, by the reason; here those whose hour had been given out.
    """

    def __init__(self, stream: Stream, taken: int | None, read: Mapping[int, int] | None = None) -> None:
        self.passed = Counter[str]()
        self._taken = self._taken_before = -1 if taken is None else taken
        self._read = read or {}
        self._hours: dict[int, dict[str, Observed]] = defaultdict(dict)
        self._first: dict[int, dict[int, int]] = defaultdict(dict)
        self._hour_of: dict[str, int] = {}
        self._bounds_s = stream.bounds.allowed_lateness_s + stream.bounds.out_of_order_s

    def add(self, observed: Observed, partition: int, offset: int) -> None:
        """Takes the event of a message, in the order of its partition."""
        event = observed.event
        hour, identity = int(event.at // HOUR_S), event.identity or f"{partition}/{offset}"
        if hour <= self._taken:
            if hour > self._taken_before or offset >= self._read.get(partition, offset + 1):
                self.passed[AFTER_ITS_HOUR] += 1
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
        return self.through(int((newest_ms / 1000 - self._bounds_s) // HOUR_S) - 1, positions)

    def through(self, last: int, positions: Mapping[int, int]) -> Iterator[Hour]:
        """Hours up to a last one, hours since 1970, in order; `positions` as for `over`."""
        for hour in sorted(number for number in self._hours if number <= last):
            held = self._hours.pop(hour)
            self._first.pop(hour, None)
            for identity in held:
                self._hour_of.pop(identity, None)
            self._taken = hour
            offsets = {
                partition: min([position, *(first[partition] for first in self._first.values() if partition in first)])
                for partition, position in positions.items()
            }
            yield Hour(hour, list(held.values()), offsets, dict(positions))


def _of_hour(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * HOUR_S, UTC)
