"""Totals by the minute against a walk through the events, one by one."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.flight_delays import features
from pipelines.flight_delays.events import SCHEMA, Arrival, Departure, columns
from pipelines.flight_delays.group_totals import totals

HOUR = datetime(2013, 6, 1, 10, tzinfo=UTC)


def some_events(seed: int, number: int = 300) -> list[Departure | Arrival]:
    dice, made = random.Random(seed), []
    for _ in range(number):
        flight = dice.randrange(40)  # Some are told twice, with another delay.
        kind = dice.choice([Departure, Arrival])
        delay = dice.choice([-5, 0, 15, 16, 200, None if kind is Arrival else 3])
        made.append(
            kind(
                schema=SCHEMA,
                at=HOUR + timedelta(seconds=dice.randrange(3600)),
                flight_id=f"2013-06-01/UA/{flight}/EWR",
                carrier=("UA", "B6")[flight % 2],
                flight=flight // 4,
                tailnum=(None, "N1", "N2", "N3")[flight % 4],
                origin=("EWR", "JFK", "LGA")[flight % 3],
                dest=("BOS", "SFO")[flight % 2],
                delay=delay,
            )
        )
    return made


def by_hand(events: list[Departure | Arrival]) -> dict[tuple[str, str, int], tuple[int, int, int, int]]:
    last = {(type(event), event.flight_id): event for event in events}
    delays = defaultdict(list)
    for event in last.values():
        stream = "departures" if isinstance(event, Departure) else "arrivals"
        for group in features.GROUPS:
            parts = [getattr(event, name) for name in group.by]
            if group.stream.name == stream and event.delay is not None and None not in parts:
                minute = int(event.at.timestamp()) // 60
                delays[group.name, "|".join(map(str, parts)), minute].append(event.delay)
    return {key: (len(d), sum(x > 15 for x in d), sum(d), max(d)) for key, d in delays.items()}


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_a_walk_through_the_events(seed: int) -> None:
    events = some_events(seed)
    made = {}
    for each in totals(columns(events)):
        for key, *row in zip(each.keys, *(a.tolist() for a in each[2:]), strict=True):
            assert made.setdefault((each.group, key, row[0]), tuple(row[1:])) == tuple(row[1:])
    assert made == by_hand(events)


def test_every_group_is_there_and_whole_numbers() -> None:
    for events in ([], some_events(0)):
        made = totals(columns(events))
        assert [each.group for each in made] == [group.name for group in features.GROUPS]
        assert {array.dtype.name for each in made for array in each[2:]} == {"int64"}
        assert all(len(each.keys) == len(array) for each in made for array in each[2:])


def test_the_last_of_two_with_one_name_counts() -> None:
    first, second = some_events(1, 1)[0], some_events(1, 1)[0]
    changed = type(first)(**{name: getattr(first, name) for name in first.__struct_fields__} | {"delay": 99})
    every = next(each for each in totals(columns([first, second, changed])) if each.keys == ["UA"] or each.keys)
    assert every.count.tolist() == [1] and every.minutes.tolist() == [99]
