"""Totals of events by a slow and obvious reading of their definition, and stores filled with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from pipelines.flight_delays import facts, features
from pipelines.flight_delays.events import Arrival, Departure, Event, minute
from streaming.queries import Totals
from streaming.store import Store


def totals(events: Iterable[Event]) -> list[Totals]:
    """Those of every group."""
    kinds = {features.DEPARTURES: Departure, features.ARRIVALS: Arrival}
    told = []
    for group in features.GROUPS:
        delays: dict[tuple[str, int], list[int]] = defaultdict(list)
        for event in events:
            if type(event) is not kinds[group.stream] or event.delay is None:
                continue
            parts = [getattr(event, column) for column in group.by]
            if None not in parts:
                delays["|".join(map(str, parts)), minute(event.at)].append(event.delay)
        rows = [
            (at, len(of), sum(delay > features.LATE_MINUTES for delay in of), sum(of), max(of))
            for (_, at), of in delays.items()
        ]
        arrays = np.array(rows, np.int64).reshape(-1, 5).T
        told.append(Totals(group.name, [key for key, _ in delays], *arrays))
    return told


def by_hour(events: Iterable[Event]) -> dict[int, list[Event]]:
    """Events by the hours since 1970 in which they became known, in their order."""
    hours: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        hours[minute(event.at) // 60].append(event)
    return hours


def put(
    store: Store,
    hours: Mapping[int, Sequence[Event]],
    watermark: int | None = None,
    of: Callable[[Sequence[Event]], list[Totals]] = totals,
) -> None:
    """Writes hours, with the totals that `of` makes."""
    for hour, events in hours.items():
        store.put_hour(hour, len(events), of(events), facts.rows(events), watermark)
