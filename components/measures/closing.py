"""A stream's rows beside those of the batch: which are missing, extra or different, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from airtight.interval import Interval
from airtight.verdict import Check

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

KEYS = ("group", "key", "minute")
MEAN_LIMIT = 1e-9
MOST_KEPT = 10_000
"""Rows of differences that are kept; all are counted."""
MISSING, EXTRA, DIFFERING = "missing", "extra", "differing"


@dataclass(frozen=True)
class Columns:
    """What is compared of each key and minute.

    Args:
      totals: Columns of whole numbers: "count", and the stream's measures.
      means: By name, which total it is made of, by the count. Features are made of these.
    """

    totals: tuple[str, ...]
    means: Mapping[str, str]

    @property
    def limits(self) -> dict[str, float]:
        """By name, how far both sides may be apart."""
        return dict.fromkeys(self.totals, 0.0) | dict.fromkeys(self.means, MEAN_LIMIT)


def compared(
    spark: SparkSession, batch: DataFrame, files: Sequence[str], interval: Interval, columns: Columns
) -> tuple[dict[str, Any], pa.Table]:
    """Sets the rows of both side by side.

    Args:
      spark: The session.
      batch: Columns of KEYS (minute a timestamp) and of totals (bigint).
      files: The stream's Parquet files; whatever of them is outside of the interval is passed over.
      interval: What is compared.
      columns: Of both.

    Returns:
      How many rows the batch has, how many are missing from the stream, extra in it and differ, the largest difference
      of each column, infinite where a row has a value on one side only; and the rows that are not equal, in order,
      MOST_KEPT at most.
    """
    totals = ", ".join(f"`{name}` bigint" for name in columns.totals)
    schema = f"`group` string, `key` string, `minute` timestamp, {totals}"
    stream = spark.read.schema(schema).parquet(*files) if files else spark.createDataFrame([], schema)
    stream = stream.where((F.col("minute") >= F.lit(interval.start)) & (F.col("minute") < F.lit(interval.end)))

    def side(frame: DataFrame, name: str) -> DataFrame:
        means = [F.try_divide(of, "count").alias(f"{name}_{mean}") for mean, of in columns.means.items()]
        # A row that is there twice is one too many: numbered, its second finds no counterpart.
        numbered = F.row_number().over(Window.partitionBy(*KEYS).orderBy("count"))
        own = (F.col(total).alias(f"{name}_{total}") for total in columns.totals)
        return frame.select(*KEYS, numbered.alias("number"), *own, *means)

    both = side(batch, "batch").join(side(stream, "stream"), [*KEYS, "number"], "full_outer")
    missing, extra = F.col("stream_count").isNull(), F.col("batch_count").isNull()
    apart = {name: F.when(~missing & ~extra, _apart(name)) for name in columns.limits}
    unequal = F.lit(False)
    for name, limit in columns.limits.items():
        unequal |= apart[name] > F.lit(limit)
    kind = F.when(missing, MISSING).when(extra, EXTRA).when(unequal, DIFFERING)
    with_kind = both.withColumn("kind", kind)
    figures = with_kind.agg(
        F.count("batch_count").alias("rows"),
        *(F.count_if(F.col("kind") == name).alias(name) for name in (MISSING, EXTRA, DIFFERING)),
        *(F.max(difference).alias(f"largest_{name}") for name, difference in apart.items()),
    )
    (row,) = figures.collect()
    differing = with_kind.where("kind IS NOT NULL").orderBy("minute", "group", "key").limit(MOST_KEPT)
    kept = ("kind", *KEYS, *(f"{of}_{name}" for name in columns.totals for of in ("batch", "stream")))
    return {name: value or 0 for name, value in row.asDict().items()}, differing.select(*kept).toArrow()


def _apart(name: str) -> Column:
    """How far both sides of a row are apart: 0 where neither has a value, infinite where one alone has."""
    batch, stream = F.col(f"batch_{name}"), F.col(f"stream_{name}")
    one_sided = F.when(batch.eqNullSafe(stream), 0.0).otherwise(math.inf)
    return F.coalesce(F.abs(batch - stream).cast("double"), one_sided)


def checks(figures: Mapping[str, Any], behind_minutes: int, columns: Columns) -> tuple[Check, ...]:
    """The rules: nothing missing, nothing extra, whole numbers the same, means to MEAN_LIMIT.

    Args:
      figures: As `compared` gives them.
      behind_minutes: How far before the interval's end the stream's watermark is; 0 where it has passed it.
      columns: What was compared.
    """
    note = f"{figures['rows']} rows of the batch"
    if behind_minutes:
        note += f"; the stream's watermark is {behind_minutes} minutes before the interval's end"
    return (
        Check("missing", figures["missing"] == 0, figures["missing"], "0", note=note),
        Check("extra", figures["extra"] == 0, figures["extra"], "0", note="rows that the stream alone has"),
        *(_difference(name, figures[f"largest_{name}"], limit) for name, limit in columns.limits.items()),
    )


def _difference(name: str, largest: float, limit: float) -> Check:
    note = "some rows have it on one side only" if math.isinf(largest) else ""
    return Check(f"{name}, largest difference", largest <= limit, largest, f"<= {limit:g}" if limit else "0", note=note)
