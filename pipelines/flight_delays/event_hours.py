"""Hours of events in one order, from the lake or from the topic, and the features that are looked up along the way."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError, TransientError
from pipelines.flight_delays import facts, online, topics
from pipelines.flight_delays.events import Event, Flight, columns, minute
from pipelines.flight_delays.group_totals import totals
from pipelines.flight_delays.prequential import Prequential
from pipelines.flight_delays.replay import events
from streaming.reader import Reader, Source
from streaming.sorting import HOUR_MS, Batch
from streaming.store import KEEP_MINUTES, SqliteStore, Store

HISTORY = timedelta(days=28)
"""So long before the beginning events are looked at, for the longest window."""
_ALL = 2**62


@dataclass(frozen=True)
class Hour:
    """What became known in an hour.

    Args:
      number: Hours since 1970.
      messages: Of how many messages it is made.
      events: In the log's order.
    """

    number: int
    messages: int
    events: Sequence[Event]


class Lookups:
    """Features from the online store.

    Args:
      store: The store.
      planes: The register of aircraft.
      own: Whether this program fills the store itself; else somebody else does, and must be as far.
    """

    def __init__(self, store: Store, planes: online.Planes, own: bool) -> None:
        self.store, self._planes, self.own = store, planes, own

    def feed(self, hour: Hour) -> None:
        """Has the store know an hour, or makes sure that it does.

        Raises:
          TransientError: Somebody else fills it, and is not so far yet.
        """
        end = (hour.number + 1) * 60
        if self.own:
            rows = facts.rows(hour.events)
            self.store.put_hour(hour.number, hour.messages, totals(columns(hour.events)), rows, end)
        elif (self.store.freshest() or 0) < end:
            raise TransientError(
                "The online store is behind the topic.",
                expected=f"all that became known before minute {end} since 1970",
                received=f"what became known before {self.store.freshest()}",
                remedy="See that the stream of flights runs, and retry; or leave --store away.",
            )

    @property
    def freshest(self) -> int | None:
        """How far the own store is, minutes since 1970; None where nothing is in it, or it is not there any more."""
        return self.store.freshest() if self._there else None

    def messages(self, hour: int) -> int:
        """Of how many messages the own store's hour is made."""
        return self.store.messages(hour) if self._there else 0

    @property
    def _there(self) -> bool:
        return not isinstance(self.store, SqliteStore) or self.store.path.exists()

    def __call__(self, flights: Sequence[Flight]) -> list[dict[str, Any]]:
        """Features of flights, each at its own cut-off."""
        return [each.features for each in online.known(flights, self.store, self._planes)]


def hours_of(told: Iterator[Event]) -> Iterator[Hour]:
    """Events that come in order, by the hour."""
    for number, group in itertools.groupby(told, key=lambda event: minute(event.at) // 60):
        held = list(group)
        yield Hour(number, len(held), held)


def from_lake(
    lake: Path, learner: Prequential, lookups: Lookups, start: datetime | None, end: datetime
) -> Iterator[Hour]:
    """Hours of the lake, from where the learner and its own store go on.

    Raises:
      TerminalError: Nobody says where to begin.
    """
    fresh = lookups.freshest
    if learner.hour is not None and fresh is not None and fresh >= (learner.hour + 1) * 60:
        begin = _of_hour(learner.hour + 1)
    elif learner.hour is not None:
        begin = _of_hour(learner.hour) - HISTORY
    elif start is not None:
        begin = start - HISTORY
    else:
        raise TerminalError(
            "Nothing was learned yet, and nobody says where to begin.",
            expected="a day or an instant",
            received="no --from",
            remedy="Say --from, or --topic to read the topic from its beginning.",
        )
    whole = end.replace(minute=0, second=0, microsecond=0)
    return hours_of(events(lake, begin, whole)) if begin < whole else iter(())


class FromTopic:
    """Hours of the topic that take no more messages, from where a learner goes on.

    Bad messages and late ones are passed over: the stream of flights keeps them.

    Args:
      servers: The broker.
      learner: Where it goes on.
      lookups: Where it looks features up.
      accounts: File of what was read and done.
      follow: Whether to go on at the end of the topic.
      ended: Says whether to stop reading.
      settings: Other fields of the source, for tests.
    """

    def __init__(
        self,
        servers: str,
        learner: Prequential,
        lookups: Lookups,
        accounts: Path,
        *,
        follow: bool,
        ended: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> None:
        from pipelines.flight_delays.windows import ALLOWED_LATENESS_S, gathered, hour_of
        from streaming.accounts import Accounts

        self._gathered, self._follow, self._ended = gathered, follow, ended
        told: dict[str, Any] = {
            "servers": servers,
            "topic": topics.EVENTS.name,
            "dead_letters": "",
            "accounts": accounts,
            "hour_of": hour_of,
            "lateness_s": ALLOWED_LATENESS_S,
            "letters": lambda *_: _NoLetters(),
        }
        self.source = Source(**{**told, **settings})
        self._book = Accounts(accounts)
        # What the state and the store hold is believed, not what was entered of it.
        taken = -1 if learner.hour is None else learner.hour
        self._book.recheck(lambda hour: _ALL if hour <= taken else 0, _ALL)
        if lookups.own:
            self._book.recheck(lookups.messages, KEEP_MINUTES // 60)

    def __iter__(self) -> Iterator[Hour]:
        """Hours in order. Raises as `Source.begin`."""
        ends = None if self._follow else {number: end for number, (_, end) in self.source.logs().items()}
        number, ranges = self.source.begin(ends)
        reader = Reader(self.source, self._book.resume(number), ranges)
        held: dict[int, list[Batch]] = defaultdict(list)
        try:
            while not reader.ended:
                if self._ended():
                    return
                batches, reached = reader.take(*reader.poll())
                for hour, batch in batches.batches.items():
                    held[hour].append(batch)
                if reached is not None:
                    yield from self._over(held, reached)
            # The reader tells no watermark of what has ended; each partition's own clock is in the accounts.
            clocks = [clock for clock in self._book.standing().clocks.values() if clock is not None]
            if clocks:
                yield from self._over(held, min(clocks))
        finally:
            reader.close()

    def done(self, hours: Sequence[Hour]) -> None:
        """Enters hours whose work is written down."""
        for hour in hours:
            self._book.write(hour.number, hour.messages)

    def close(self) -> None:
        """Lets go of the accounts."""
        self._book.close()

    def _over(self, held: dict[int, list[Batch]], reached: int) -> Iterator[Hour]:
        closed = (reached - int(self.source.lateness_s * 1000)) // HOUR_MS - 1
        for hour in sorted(each for each in held if each <= closed):
            whole = self._gathered(hour, held.pop(hour), over=True)
            yield Hour(hour, whole.messages, whole.events)


class _NoLetters:
    def write(self, dead: Sequence[Any]) -> None:
        """Leaves them to the stream of flights."""

    def close(self) -> None:
        """Nothing is open."""


def _of_hour(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * 3600, UTC)
