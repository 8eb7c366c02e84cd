"""The batch side of the comparison: the totals by minute that the stream keeps, from the lake's flights, on Spark.

It shares the declaration in `features.py` with the stream, and not a line of how the stream computes.
"""

from __future__ import annotations

import functools
from datetime import datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.flight_delays import features
from pipelines.flight_delays.features import Group


def totals(flights: DataFrame, start: datetime, end: datetime) -> DataFrame:
    """The totals of what became known in [start, end), of every group.

    Args:
      flights: The lake's flights of all days to which something of the interval may belong.
      start: First instant.
      end: First instant after it.

    Returns:
      `group`, `key` (its parts joined by "|"), `minute` (timestamp), and as bigint `count`, `late`, `minutes`,
      `largest`; a row for each key and minute in which something is known.
    """
    return functools.reduce(DataFrame.unionByName, (_of(flights, group, start, end) for group in features.GROUPS))


def _of(flights: DataFrame, group: Group, start: datetime, end: datetime) -> DataFrame:
    known, delay = F.col(group.stream.known_at), F.col(group.stream.value)
    # An event without a delay, or without an aircraft where aircraft are told apart, counts in no window.
    named = [F.col(name).isNotNull() for name in group.by]
    inside = functools.reduce(
        lambda a, b: a & b, [*named, delay.isNotNull(), known >= F.lit(start), known < F.lit(end)]
    )
    key = F.concat_ws("|", *(F.col(name).cast("string") for name in group.by)) if group.by else F.lit("")
    rows = flights.where(inside).select(
        F.lit(group.name).alias("group"),
        key.alias("key"),
        F.date_trunc("minute", known).alias("minute"),
        delay.cast("bigint").alias("delay"),
    )
    return rows.groupBy("group", "key", "minute").agg(
        F.count("*").alias("count"),
        F.count_if(F.col("delay") > features.LATE_MINUTES).alias("late"),
        F.sum("delay").alias("minutes"),
        F.max("delay").alias("largest"),
    )
