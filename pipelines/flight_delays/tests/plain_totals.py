"""Totals of events by a slow and obvious reading of their definition, and stores filled with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pipelines.flight_delays import features, flight_state
from pipelines.flight_delays.events import Arrival, Departure, Event, minute
from streaming.windows.store import Row, Store
from streaming.windows.tables import Record


def rows(events: Iterable[Event]) -> list[Row]:
    """Those of every group, key and minute."""
    kinds = {features.DEPARTURES: Departure, features.ARRIVALS: Arrival}
    delays: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for event in events:
        for group in features.GROUPS:
            if type(event) is kinds[group.stream] and event.delay is not None:
                parts = [getattr(event, column) for column in group.by]
                if None not in parts:
                    delays[group.name, "|".join(map(str, parts)), minute(event.at)].append(event.delay)
    return [
        Row(*place, 1, (len(of), sum(delay > features.LATE_MINUTES for delay in of), sum(of), max(of)))
        for place, of in delays.items()
    ]


def put(store: Store, events: Sequence[Event], watermark: int | None = None) -> None:
    """Writes events and the watermark, by default the end of the newest minute."""
    store.write(rows(events))
    records = [Record(*record) for event in events for record in flight_state.records(event).items()]
    store.upsert(records)
    store.advance(watermark or max(minute(event.at) for event in events) + 1)
