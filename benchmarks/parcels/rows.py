"""Rows of parcels: their table, the schema of the examples, and how the days are made."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from components.data.lake import Lake, Table
from components.schema import LABEL_KNOWN_AT, ExampleSchema, Feature

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROWS_A_DAY = 720
CARRIERS = ("north", "south", "east", "west")
TURNED = ("north", "south")
"""The carriers for which the relation of distance and label turns around with the shift."""
BROKEN_SHARE = 0.1
PARCELS = Table(
    "parcels",
    pa.schema(
        {
            "id": pa.string(),
            "sent_at": pa.timestamp("us", "UTC"),
            "carrier": pa.string(),
            "depot": pa.string(),
            "distance": pa.float64(),
            "weight": pa.float64(),
            "late": pa.int64(),
        }
    ),
    key=("id",),
    time="sent_at",
)
TABLES = (PARCELS,)
SCHEMA = ExampleSchema(
    features=(
        Feature("carrier", "category", "Who carries it"),
        Feature("depot", "category", "Number of the depot that it is sent from"),
        Feature("distance", "number", "How far it goes", "km"),
        Feature("weight", "number", "What it weighs", "kg"),
    ),
    label="late",
    time="sent_at",
    keys=("id",),
    slices=("carrier",),
)


def transform(table: Callable[[str], DataFrame]) -> DataFrame:
    """Each parcel; whether it is late is known an hour after it was sent."""
    from pyspark.sql import functions as F

    return table("parcels").withColumn(LABEL_KNOWN_AT, F.col("sent_at") + F.expr("INTERVAL 1 HOUR"))


def rows_of(day: date, *, shifted: bool = False, broken: bool = False) -> pa.Table:
    """The rows of a day, always the same ones.

    Args:
      day: The day.
      shifted: Whether half of the carriers are late where they were not, and the other way round.
      broken: Whether `BROKEN_SHARE` of the weights are -1.
    """
    rng = np.random.default_rng(day.toordinal())
    carrier = rng.choice(CARRIERS, ROWS_A_DAY)
    depot = rng.integers(1, 9, ROWS_A_DAY)
    distance, weight = rng.gamma(4, 75, ROWS_A_DAY), rng.gamma(2, 2, ROWS_A_DAY)
    sign = np.where(np.isin(carrier, TURNED) & shifted, -1, 1)
    logit = sign * ((distance - 280) / 50 + 0.4 * (depot > 5)) + 0.1 * (weight - 4)
    late = rng.random(ROWS_A_DAY) < 1 / (1 + np.exp(-logit))
    if broken:
        weight[rng.random(ROWS_A_DAY) < BROKEN_SHARE] = -1
    midnight = datetime.combine(day, time(), UTC)
    columns: dict[str, Any] = {
        "id": [f"{day}-{number:03}" for number in range(ROWS_A_DAY)],
        "sent_at": [midnight + timedelta(minutes=2 * number) for number in range(ROWS_A_DAY)],
        "carrier": carrier,
        "depot": depot.astype(str),
        "distance": distance,
        "weight": weight,
        "late": late.astype(np.int64),
    }
    return pa.table({name: pa.array(values, PARCELS.schema.field(name).type) for name, values in columns.items()})


def become_known(lake: Lake, *days: date, shifted: bool = False, broken: bool = False) -> None:
    """Writes days into the lake; see `rows_of`."""
    lake.write(PARCELS.name, {day: rows_of(day, shifted=shifted, broken=broken) for day in days})
