"""Hours of events in one order, from the lake or from the topic, and the features that are looked up along the way."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError, TransientError
from pipelines.flight_delays import online
from pipelines.flight_delays.events import Event, Flight, minute
from pipelines.flight_delays.prequential import Prequential
from pipelines.flight_delays.replay import events
from pipelines.flight_delays.streams import STREAM, event_of
from streaming.windows.arithmetic import Minutes
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Store
from streaming.windows.tables import Record

HISTORY = timedelta(days=28)
"""How long before the beginning events are looked at, for the longest window."""


@dataclass(frozen=True)
class Hour:
    """What became known in an hour.

    Args:
      number: Hours since 1970.
      events: In the order of their publication.
      offsets: From which to read the topic after it, by partition; empty for the lake.
    """

    number: int
    events: Sequence[Event]
    offsets: Mapping[int, int] = field(default_factory=dict)


class Lookups:
    """Features from an online store.

    Args:
      store: The store.
      planes: The register of aircraft.
      own: Whether this program fills the store itself; else the stream of flights does, and must be as far.
    """

    def __init__(self, store: Store, planes: online.Planes, own: bool) -> None:
        self.store, self._planes, self.own = store, planes, own

    def feed(self, hour: Hour) -> None:
        """Writes an hour into the store, or makes sure that the store has it.

        Raises:
          TransientError: The stream of flights fills it, and is not so far yet.
        """
        end = (hour.number + 1) * 60
        if self.own:
            totals, records = Minutes(STREAM), []
            for event in map(event_of, hour.events):
                totals.add(event)
                records += [Record(table, values) for table, values in event.records.items()]
            self.store.write(totals.rows())
            self.store.upsert(records)
            self.store.advance(end)
        elif (self.store.watermark() or 0) < end:
            raise TransientError(
                "The online store is behind the topic.",
                expected=f"all that became known before minute {end} since 1970",
                received=f"what became known before {self.store.watermark()}",
                remedy="See that the stream of flights runs, and retry; or leave --store away.",
            )

    @property
    def watermark(self) -> int | None:
        """How far the store is, minutes since 1970; None where nothing is in it, or it is not there."""
        missing = isinstance(self.store, SqliteStore) and not self.store.path.exists()
        return None if missing else self.store.watermark()

    def __call__(self, flights: Sequence[Flight]) -> list[dict[str, Any]]:
        """Features of flights, each at its own cut-off."""
        return [known.features for known in online.known(flights, self.store, self._planes)]


def hours_of(ordered: Iterable[Event]) -> Iterator[Hour]:
    """Events that come in order, by the hour."""
    for number, group in itertools.groupby(ordered, key=lambda event: minute(event.at) // 60):
        yield Hour(number, list(group))


def from_lake(
    lake: Path, learner: Prequential, lookups: Lookups, start: datetime | None, end: datetime
) -> Iterator[Hour]:
    """Hours of the lake, from where the learner and its own store go on.

    Raises:
      TerminalError: There is neither a beginning nor anything learned.
    """
    fresh = lookups.watermark
    if learner.hour is not None and fresh is not None and fresh >= (learner.hour + 1) * 60:
        begin = _of_hour(learner.hour + 1)
    elif learner.hour is not None:
        begin = _of_hour(learner.hour) - HISTORY
    elif start is not None:
        begin = start - HISTORY
    else:
        raise TerminalError(
            "Nothing was learned yet, and there is no instant at which to begin.",
            expected="a day or an instant",
            received="no --from",
            remedy="Say --from, or --topic to read the topic from its beginning.",
        )
    whole = end.replace(minute=0, second=0, microsecond=0)
    return hours_of(events(lake, begin, whole)) if begin < whole else iter(())


class Closing:
    """Gathers events by the hour, and gives hours out when no message can be added to them any more.

    An hour is over when the topic's newest message is later than its end by the allowed lateness and by how far
    messages may be out of order. Of the versions of a departure or an arrival the last one counts, as in the stream;
    one whose earlier version is in an hour that was given out counts beside it.

    Args:
      taken: The last hour that was given out before, hours since 1970; what belongs to it or before is passed over.
    """

    def __init__(self, taken: int | None) -> None:
        self._taken = -1 if taken is None else taken
        self._hours: dict[int, dict[str, Event]] = defaultdict(dict)
        self._first: dict[int, dict[int, int]] = defaultdict(dict)
        self._hour_of: dict[str, int] = {}
        self._bounds_s = STREAM.bounds.allowed_lateness_s + STREAM.bounds.out_of_order_s

    def add(self, event: Event, identity: str, partition: int, offset: int) -> None:
        """Takes the event of a message, in the order of its partition; see `streams.event_of` for its identity."""
        hour, identity = minute(event.at) // 60, identity or f"{partition}/{offset}"
        if hour <= self._taken:
            return
        if (before := self._hour_of.get(identity)) is not None:
            self._hours[before].pop(identity, None)
        self._hours[hour][identity] = event
        self._hour_of[identity] = hour
        self._first[hour].setdefault(partition, offset)

    def over(self, newest_ms: int, positions: Mapping[int, int]) -> Iterator[Hour]:
        """Hours that are over, in order.

        Args:
          newest_ms: Stamp to which all partitions were read, milliseconds since 1970.
          positions: The next offset of each partition.
        """
        last = int((newest_ms / 1000 - self._bounds_s) // 3600) - 1
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
    return datetime.fromtimestamp(hour * 3600, UTC)
