"""The stream's windows over events of flights, in Beam: fixed hours of event time, and in each totals by the minute.

A sliding window of any length that slides by the minute is a sum of these (adr/0014). Every group of keys is a step of
its own name over the gathered hour, so that engine and people can tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.transforms import trigger, window
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from pipelines.flight_delays import facts, features
from pipelines.flight_delays.events import Event, columns, decode
from pipelines.flight_delays.features import Group
from pipelines.flight_delays.group_totals import Hour
from streaming.queries import Totals
from streaming.sorting import Batch, decode_batch

HOUR_S = 3600
"""Length of the windows, seconds of event time; they begin at the whole hour, UTC."""
ALLOWED_LATENESS_S = 2 * 3600
"""An event that is published so long after the end of its hour still corrects it, seconds of event time."""
FRESH_S = 1
"""What has come to an hour is seen so long afterwards, seconds of the clock on the wall."""


def hour_of(value: bytes | None, published_ms: int) -> int:
    """The hour since 1970 in which a message's event became known.

    Args:
      value: The message.
      published_ms: When it was published, milliseconds since 1970.

    Raises:
      Poison: It is no message of ours.
    """
    return int(decode(value, published_ms).at.timestamp() // HOUR_S)


@dataclass(frozen=True)
class EventHour:
    """What is known of an hour of event time.

    Args:
      number: Hours since 1970.
      over: Whether the hour is over; what is told before is told again, fuller.
      messages: Of how many messages this is made.
      watermark: The minute since 1970 to which the whole log had come; None while nobody knows.
      events: In the log's order.
      moved: Departures and arrivals, each once.
      totals: By group, as far as they are made.
      rows: Facts for the online store, by table.
    """

    number: int
    over: bool
    messages: int
    watermark: int | None
    events: Sequence[Event]
    moved: Hour
    totals: tuple[Totals, ...] = ()
    rows: Mapping[str, list[dict[str, Any]]] | None = None


def gathered(number: int, batches: Iterable[Batch], over: bool) -> EventHour:
    """An hour of its batches; a message that is there twice counts once.

    Args:
      number: Hours since 1970.
      batches: In any order.
      over: Whether the hour is over.
    """
    found: dict[int, tuple[bytes, int]] = {}
    reached: list[int] = []
    for batch in batches:
        found.update(zip(batch.places, zip(batch.values, batch.published, strict=True), strict=True))
        if batch.reached is not None:
            reached.append(batch.reached)
    events = [decode(*found[place]) for place in sorted(found)]
    minute = max(reached) // 60_000 if reached else None
    return EventHour(number, over, len(events), minute, events, Hour.of(columns(events)))


class GatherHour(beam.PTransform):
    """Batches of messages by hour -> `EventHour`.

    Windows: fixed, an hour of event time. Firings: every `FRESH_S` seconds by the clock on the wall while something
    comes to the hour, once when the watermark has passed its end, and again `FRESH_S` after anything late. Allowed
    lateness: `ALLOWED_LATENESS_S`. Panes accumulate: each tells the whole of the hour that is known.

    Args:
      follow: Whether the input goes on for ever; of one that ends, nobody needs an hour before it is over.
    """

    def __init__(self, follow: bool = True) -> None:
        super().__init__()
        self._follow = follow

    def expand(self, batches: beam.PCollection[tuple[int, bytes]]) -> beam.PCollection[EventHour]:
        """See the class."""
        # Beam's runner in this process knows no clock on the wall where the input ends.
        early, late = [trigger.AfterProcessingTime(FRESH_S)] * 2 if self._follow else (None, trigger.AfterCount(1))
        return (
            batches
            | "an_hour"
            >> beam.WindowInto(
                window.FixedWindows(HOUR_S),
                trigger=trigger.AfterWatermark(early=early, late=late),
                accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
                allowed_lateness=ALLOWED_LATENESS_S,
            )
            | "by_hour" >> beam.GroupByKey()
            | "gather" >> beam.ParDo(_Gather())
        )


class _Gather(beam.DoFn):
    def process(
        self, element: tuple[int, Iterable[bytes]], pane: PaneInfo = beam.DoFn.PaneInfoParam
    ) -> Iterator[EventHour]:
        number, batches = element
        hour = gathered(number, map(decode_batch, batches), pane.timing != PaneInfoTiming.EARLY)
        # A window that expires fires for the last time, with nothing in it if nothing has come since.
        if hour.messages:
            yield hour


class GroupTotals(beam.PTransform):
    """Adds one group's totals by minute to each hour: events, those late, their minutes of delay, the largest delay.

    Args:
      group: The group.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(group.name)
        self.group = group

    def expand(self, hours: beam.PCollection[EventHour]) -> beam.PCollection[EventHour]:
        """See the class."""
        group = self.group
        return hours | beam.Map(lambda hour: replace(hour, totals=(*hour.totals, hour.moved.totals(group))))


class Facts(beam.PTransform):
    """Adds to each hour what its events say of single flights and of the weather, for the online store."""

    def expand(self, hours: beam.PCollection[EventHour]) -> beam.PCollection[EventHour]:
        """See the class."""
        return hours | beam.Map(lambda hour: replace(hour, rows=facts.rows(hour.events)))


class FlightWindows(beam.PTransform):
    """All windows over events of flights: batches of messages by hour -> whole hours.

    Args:
      follow: Whether the input goes on for ever.
    """

    def __init__(self, follow: bool = True) -> None:
        super().__init__()
        self._follow = follow

    def expand(self, batches: beam.PCollection[tuple[int, bytes]]) -> beam.PCollection[EventHour]:
        """See the class."""
        hours = batches | "gather_hour" >> GatherHour(self._follow)
        for group in features.GROUPS:
            hours |= GroupTotals(group)
        return hours | "facts" >> Facts()
