"""Days of 2013 in which everything odd happens, and a sample of their flights with some of each odd kind."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from pipelines.flight_delays import clock, features
from pipelines.flight_delays.tests import reference

DAYS = [
    *("2013-01-01", "2013-01-02"),
    "2013-02-12",  # a wind of 1,048 miles per hour was read
    *("2013-03-09", "2013-03-10"),  # daylight saving starts
    *("2013-06-12", "2013-06-13"),  # thunderstorms
    *("2013-11-02", "2013-11-03"),  # daylight saving ends
]
LONG_RECORD = (("VX", "HA"), "2013-07-01", "2013-09-01")
"""Two small carriers over two months, so that windows of 28 days fill and empty."""
SAMPLE = 200


def tables(lake: Path) -> dict[str, pa.Table]:
    """Flights, weather and planes; of the flights those days and the long record."""
    whole = {
        name: pa.dataset.dataset(lake / name, format="parquet", exclude_invalid_files=True).to_table()
        for name in ("flights", "weather", "planes")
    }
    date = pc.strftime(whole["flights"]["local_date"], format="%Y-%m-%d")
    carriers, first, after = LONG_RECORD
    record = pc.and_(
        pc.is_in(whole["flights"]["carrier"], pa.array(carriers)),
        pc.and_(pc.greater_equal(date, first), pc.less(date, after)),
    )
    some = pc.or_(pc.is_in(date, pa.array(DAYS)), record)
    return {**whole, "flights": whole["flights"].filter(some)}


def sample(rows: dict[str, list[dict]]) -> set[str]:
    """The ids of 200 flights: some of each odd kind, and the rest at random."""
    dice = random.Random(20130613)
    flights = sorted(rows["flights"], key=lambda flight: (flight["scheduled_departure"], flight["flight_id"]))
    planes = {plane["tailnum"] for plane in rows["planes"]}
    limit = features.WIND_SPEED_LIMIT_MPH
    gales = {(row["origin"], row["observed_at"]) for row in rows["weather"] if (row["wind_speed"] or 0) > limit}
    kinds = {
        "first of the year": flights[:10],
        "daylight saving": [f for f in flights if str(f["local_date"]) in ("2013-03-10", "2013-11-03")],
        "around midnight": [f for f in flights if f["local_minute"] > 23 * 60 or f["local_minute"] < 6 * 60],
        "no tail number": [f for f in flights if f["tailnum"] is None],
        "unknown plane": [f for f in flights if f["tailnum"] and f["tailnum"] not in planes],
        "impossible wind": [f for f in flights if (f["origin"], clock.weather_hour(f["scheduled_departure"])) in gales],
        "cancelled": [f for f in flights if f["departed_at"] is None],
        "long record": [f for f in flights if f["carrier"] in LONG_RECORD[0] and f["local_date"].month == 8],
    }
    chosen: set[str] = set()
    for name, kind in kinds.items():
        assert kind, name
        chosen |= {flight["flight_id"] for flight in dice.sample(kind, min(10, len(kind)))}
    rest = [flight["flight_id"] for flight in flights if flight["flight_id"] not in chosen]
    return chosen | set(dice.sample(rest, SAMPLE - len(chosen)))


def plain(value: object, kind: str) -> str | float:
    """A feature as the examples keep it."""
    return (value or "") if kind == "category" else reference.as_float32(value)
