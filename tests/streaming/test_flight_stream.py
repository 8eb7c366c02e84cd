"""The whole stream of flights on Beam, in this process: from a log of messages into store and lake."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from airtight.home import Home
from pipelines.flight_delays import facts, stream
from pipelines.flight_delays.events import SCHEMA, Arrival, Departure, Event, columns, decode, encode
from pipelines.flight_delays.group_totals import totals
from streaming import run
from streaming.accounts import Accounts
from streaming.queries import Sum
from streaming.reader import Source
from tests.streaming.fake_kafka import Broker, settings

BEGIN = datetime(2013, 6, 1, 10, tzinfo=UTC)
Rows = dict[tuple[str, str, int], tuple[int, int, int, int]]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    yield Broker(str(tmp_path), partitions=3)
    del Broker.all[str(tmp_path)]


@pytest.fixture
def source(broker: Broker, tmp_path: Path) -> Source:
    return stream.source_of(Home.current(), servers=str(tmp_path), **settings())


def events(hours: int, seed: int = 0, an_hour: int = 60) -> list[Event]:
    dice, made = random.Random(seed), []
    for number in range(hours * an_hour):
        made.append(
            dice.choice([Departure, Arrival])(
                schema=SCHEMA,
                at=BEGIN + timedelta(minutes=dice.randrange(hours * 60)),
                flight_id=f"2013-06-01/UA/{number}/EWR",
                carrier="UA",
                flight=number,
                tailnum=f"N{number % 7}",
                origin=("EWR", "JFK", "LGA")[number % 3],
                dest="BOS",
                delay=dice.randrange(-10, 60),
            )
        )
    return sorted(made, key=lambda event: event.at)


def publish(broker: Broker, told: list[Event], delay_min: float = 0, seed: int = 0) -> None:
    """Events to partitions by their flight, in the order in which they arrive."""
    dice = random.Random(seed)
    arriving = [(event.at + timedelta(minutes=dice.uniform(0, delay_min)), event) for event in told]
    for at, event in sorted(arriving, key=lambda pair: pair[0]):
        broker.add(event.flight % len(broker.log), int(at.timestamp() * 1000), encode(event))


def truth(told: list[Event]) -> Rows:
    return {
        (each.group, key, minute): tuple(rest)
        for each in totals(columns(told))
        for key, minute, *rest in zip(each.keys, *(array.tolist() for array in each[2:]), strict=True)
    }


def in_lake(root: Path | None = None) -> Rows:
    rows: Rows = {}
    for path in sorted((root or stream.totals_of(Home.current())).rglob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            key = row["group"], row["key"], int(row["minute"].timestamp()) // 60
            assert key not in rows
            rows[key] = row["count"], row["late"], row["minutes"], row["largest"]
    return rows


def read(source: Source) -> None:
    run.in_process(stream.from_kafka(source, Home.current(), to_end=True))


def test_every_window_is_there_once_in_store_and_lake(broker: Broker, source: Source) -> None:
    told = events(hours=4)
    publish(broker, told)
    read(source)
    assert in_lake() == truth(told)
    begin = int(BEGIN.timestamp()) // 60
    (found,) = facts.store().read([Sum("departures_all", "", begin, begin + 240)])
    departed = [event.delay for event in told if isinstance(event, Departure)]
    assert found == (len(departed), sum(delay > 15 for delay in departed), sum(departed))
    assert not broker.dead
    assert Accounts(source.accounts).standing().messages == len(told)


def test_shuffled_within_the_allowed_lateness_it_is_the_same(broker: Broker, source: Source) -> None:
    told = events(hours=8)
    publish(broker, told, delay_min=120)
    read(source)
    assert in_lake() == truth(told) and not broker.dead


def test_bad_messages_and_those_too_late_are_set_aside_and_nothing_else(broker: Broker, source: Source) -> None:
    told = events(hours=8)
    publish(broker, told[:200])
    now = int(told[200].at.timestamp() * 1000)
    ahead = Departure(
        **{n: getattr(told[0], n) for n in told[0].__struct_fields__} | {"at": told[200].at + timedelta(1)}
    )
    bad = [None, b"{", encode(told[0])[:-1], b'{"kind":"departure"}', b'"' + b"x" * 10_000_000 + b'"', encode(ahead)]
    for value in bad:
        broker.add(0, now, value)
    publish(broker, told[200:])
    broker.add(1, int(told[-1].at.timestamp() * 1000), encode(told[0]))  # Hours too late.
    read(source)
    assert sorted(dead.reason for (dead,) in broker.dead.values()) == sorted(
        ["null", "no JSON", "no JSON", "wrong schema", "too large", "clock ahead", "late"]
    )
    assert in_lake() == truth(told)
    standing = Accounts(source.accounts).standing()
    assert (standing.bad, standing.late, standing.messages) == (6, 1, len(told))


def test_a_message_that_is_there_twice_counts_once(broker: Broker, source: Source) -> None:
    told = events(hours=2)
    publish(broker, sorted([*told, *told[:50]], key=lambda event: event.at))
    read(source)
    assert in_lake() == truth(told)


def test_it_goes_on_where_it_stopped(broker: Broker, source: Source) -> None:
    """Each run sees more of the log; windows that were half there grow whole."""
    told = events(hours=8)
    for part in range(0, len(told), 160):
        publish(broker, told[part : part + 160])
        read(source)
    assert in_lake() == truth(told) and not broker.dead
    standing = Accounts(source.accounts).standing()
    # The last hours may still grow, whatever was written of them.
    assert standing.run == 3 and min(standing.undone) > int(BEGIN.timestamp()) // 3600 + 3


def test_a_partition_without_messages_stops_nothing(broker: Broker, source: Source) -> None:
    told = [event for event in events(hours=8) if event.flight % 3]
    publish(broker, told)
    read(source)
    assert in_lake() == truth(told)
    assert Accounts(source.accounts).standing().closed is not None


def test_a_store_that_was_removed_is_filled_again(broker: Broker, source: Source) -> None:
    told = events(hours=4)
    publish(broker, told)
    read(source)
    for path in Home.current().path.glob("online.sqlite*"):
        path.unlink()
    read(source)
    begin = int(BEGIN.timestamp()) // 60
    (found,) = facts.store().read([Sum("departures_all", "", begin, begin + 240)])
    assert found[0] == sum(isinstance(event, Departure) for event in told)
    assert in_lake() == truth(told)


def test_over_the_lake_it_makes_the_same_files(
    broker: Broker, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = events(hours=3)
    publish(broker, told)
    read(source)
    monkeypatch.setattr(stream, "events", lambda *_: iter(told))
    run.in_process(stream.from_lake(tmp_path, BEGIN, BEGIN + timedelta(hours=3), tmp_path / "again"))
    assert in_lake(tmp_path / "again") == in_lake() != {}


def test_a_range_of_offsets_goes_into_files_of_its_own(broker: Broker, source: Source, tmp_path: Path) -> None:
    told = events(hours=3)
    publish(broker, told)
    offsets = {number: (5, 30) for number in broker.log}
    apart = replace(source, accounts=tmp_path / "range" / "accounts.sqlite")
    run.in_process(stream.from_offsets(apart, offsets, tmp_path / "range"))
    within = [decode(message.value, message.timestamp) for log in broker.log.values() for message in log[5:30]]
    assert in_lake(tmp_path / "range") == truth(within)
    assert not in_lake() and not source.accounts.exists()
