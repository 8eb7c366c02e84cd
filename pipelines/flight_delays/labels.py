"""Which flights arrived late, and since when that is known; without the features, so that it is cheap."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from components.schema import LABEL_KNOWN_AT
from pipelines.flight_delays import features

NEVER_AFTER = "INTERVAL 1 DAY"
"""A flight that has not arrived so long after its scheduled arrival was cancelled or diverted: it gets no label."""


def labels(table: Callable[[str], DataFrame]) -> DataFrame:
    """A row for each flight: `flight_id`, scheduled departure, label, and since when it is known.

    Args:
      table: Gives the rows of a table of the lake by name.
    """
    late = (F.col("arr_delay") > features.LATE_MINUTES).cast("long")
    never = F.col("scheduled_arrival") + F.expr(NEVER_AFTER)
    return table("flights").select(
        "flight_id",
        features.SCHEMA.time,
        late.alias(features.SCHEMA.label),
        F.when(late.isNotNull(), F.col("arrived_at")).otherwise(never).alias(LABEL_KNOWN_AT),
    )
