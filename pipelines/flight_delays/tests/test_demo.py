"""The words of `make demo` about a flight."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from airtight.home import Home
from commands.demo import Answer
from components.data.lake import Lake
from pipelines.flight_delays import demo
from pipelines.flight_delays.features import SCHEMA
from pipelines.flight_delays.lake import AIRLINES, AIRPORTS
from pipelines.flight_delays.settings import SETTINGS

FLIGHT = "2013-06-14/UA/1545/EWR"
JUNE, SEPTEMBER = 201307010400001, 201310010400001


def answer(flight_id: str, late: int, version: int = JUNE, probability: float = 0.314) -> Answer:
    day, carrier, number, origin = flight_id.split("/")
    row: dict[str, Any] = {"flight_id": flight_id, "local_date": date.fromisoformat(day), "flight": int(number)}
    row |= {"carrier": carrier, "origin": origin, "dest": "BQN", SCHEMA.label: late}
    row[SCHEMA.time] = datetime(2013, 6, 14, 21, 45, tzinfo=UTC)
    return Answer(SETTINGS, SCHEMA, row, version, JUNE, {"probability": probability})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A lake of two flights."""
    home = Home(tmp_path)
    lake = Lake(home.lake)
    delays = pa.table({"flight_id": [FLIGHT, "2013-06-14/B6/1/JFK"], "arr_delay": [42.0, -7.0]})
    lake.write("flights", {date(2013, 6, 14): delays})
    names = pa.table({"carrier": ["UA"], "name": ["United Air Lines Inc."]}, AIRLINES.schema)
    lake.write("airlines", {None: names})
    known = {name: [None] for name in AIRPORTS.schema.names} | {"faa": ["EWR"], "name": ["Newark Liberty Intl"]}
    lake.write("airports", {None: pa.table(known, AIRPORTS.schema)})
    return home


def test_the_flight_in_words(home: Home) -> None:
    assert demo.in_words(answer(FLIGHT, 1), home) == (
        "United Air Lines Inc. flight UA 1545, Newark Liberty Intl (EWR) to BQN (BQN),\n"
        "planned for Friday, 14 June 2013, 17:45, as it stood at 17:15:\n"
        "  model flight_delays 201307010400001 says 31.4% that it arrives more than 15 minutes late;\n"
        "  it really arrived 42 minutes late, so it was late."
    )


def test_a_later_model_is_not_said_to_have_foreseen_the_flight(home: Home) -> None:
    assert "as it stood" not in demo.in_words(answer(FLIGHT, 1, SEPTEMBER), home)
    assert "as it stood at 17:15" in demo.in_words(answer(FLIGHT, 1, 201306010400001), home)


def test_an_early_flight_in_words(home: Home) -> None:
    text = demo.in_words(answer("2013-06-14/B6/1/JFK", 0), home)
    assert "it really arrived 7 minutes early, so it was not late." in text
