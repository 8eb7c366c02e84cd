"""What the served model said of a flight, and what the flight did: the words of `make demo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from airtight.home import Home
from components.data.lake import Lake
from pipelines.flight_delays import clock
from pipelines.flight_delays.features import LATE_MINUTES

if TYPE_CHECKING:
    from commands.demo import Answer


def in_words(answer: Answer, home: Home) -> str:
    """The flight, the prediction and what happened, for a person."""
    flight = answer.row
    airlines, airports = _names(home, "airlines", "carrier"), _names(home, "airports", "faa")
    known = (flight[answer.schema.time] - clock.CUTOFF).astimezone(ZoneInfo(clock.ZONE))
    minutes = round(arrival_delay(home, flight))
    came = f"{minutes} minutes late" if minutes > 0 else f"{-minutes} minutes early" if minutes else "on time"
    late = "so it was late" if flight[answer.schema.label] else "so it was not late"
    stood = f", as it stood at {known:%H:%M}" if answer.is_foresight else ""
    (probability,) = answer.outputs.values()
    return (
        f"{airlines.get(flight['carrier'], flight['carrier'])} flight {flight['carrier']} {flight['flight']}, "
        f"{airports.get(flight['origin'], flight['origin'])} ({flight['origin']}) to "
        f"{airports.get(flight['dest'], flight['dest'])} ({flight['dest']}),\n"
        f"planned for {answer.time}{stood}:\n"
        f"  model {answer.settings.name} {answer.version} says {probability:.1%} "
        f"that it arrives more than {LATE_MINUTES} minutes late;\n"
        f"  it really arrived {came}, {late}."
    )


def arrival_delay(home: Home, flight: Mapping[str, Any]) -> float:
    """Minutes by which the flight really came late, from the lake."""
    lake = Lake(home.lake)
    files = [file for file in lake.snapshot("flights").files if file.day == str(flight["local_date"])]
    rows = pa.concat_tables(
        pq.read_table(lake.path / file.path, columns=["flight_id", "arr_delay"]) for file in files
    ).to_pylist()
    return float(next(row["arr_delay"] for row in rows if row["flight_id"] == flight["flight_id"]))


def _names(home: Home, table: str, key: str) -> dict[str, str]:
    lake = Lake(home.lake)
    files = lake.snapshot(table).files
    rows = pa.concat_tables(pq.read_table(lake.path / f.path, columns=[key, "name"]) for f in files).to_pylist()
    return {row[key]: row["name"] for row in rows}
