"""The lake and the examples of the tiny supervised pipeline."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from components.data.lake import Lake, Table
from components.schema import LABEL_KNOWN_AT
from tests.components import toy

SCHEMA = toy.SCHEMA
FIRST, DAYS, ROWS_A_DAY = datetime(2020, 2, 1, tzinfo=UTC), 31, 100
PARTS = Table(
    "parts",
    pa.schema(
        {
            "id": pa.string(),
            "at": pa.timestamp("us", "UTC"),
            "colour": pa.string(),
            "size": pa.float64(),
            "weight": pa.float64(),
            "broken": pa.int64(),
        }
    ),
    key=("id",),
    time="at",
)
TABLES = (PARTS,)


def fill(path: Path) -> None:
    """Writes a month of parts."""
    days = {}
    for day in range(DAYS):
        rows = toy.table(ROWS_A_DAY, seed=day)
        at = [FIRST + timedelta(days=day, minutes=minute) for minute in range(ROWS_A_DAY)]
        ids = [f"{day:02}-{place:03}" for place in range(ROWS_A_DAY)]
        size = np.where(np.isnan(rows["size"].to_numpy()), None, rows["size"].to_numpy())
        rows = rows.select(["colour", "weight", "broken"]).append_column("at", pa.array(at, pa.timestamp("us", "UTC")))
        rows = rows.append_column("id", pa.array(ids)).append_column("size", pa.array(size, pa.float64()))
        days[(FIRST + timedelta(days=day)).date()] = rows.select(PARTS.schema.names).cast(PARTS.schema)
    Lake(path).write("parts", days)


def transform(table):
    """Each part; whether it breaks is known an hour later."""
    known = F.col("at") + F.expr("INTERVAL 1 HOUR")
    return table("parts").select("*", known.alias(LABEL_KNOWN_AT))
