"""A stream's rows beside those of the batch: which are missing, extra or different, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from airtight.interval import Interval
from airtight.verdict import Check

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

KEYS = ("group", "key", "minute")
WHOLE = ("count", "late", "minutes", "largest")
"""Of each key and minute: events, those late, the sum of their delays, the largest."""
MEANS = {"mean_delay": "minutes", "late_share": "late"}
"""What features are made of these: each is that sum by the count."""
MEAN_LIMIT = 1e-9
MOST_KEPT = 10_000
"""Rows of differences that are kept; all are counted."""
MISSING, EXTRA, DIFFERING = "missing", "extra", "differing"


def compared(
    spark: SparkSession, batch: DataFrame, files: Sequence[str], interval: Interval
) -> tuple[dict[str, Any], pa.Table]:
    """Sets the rows of both side by side.

    Args:
      spark: The session.
      batch: Columns of KEYS (minute a timestamp) and of WHOLE (bigint).
      files: The stream's Parquet files; whatever of them is outside of the interval is passed over.
      interval: What is compared.

    Returns:
      How many rows the batch has, how many are missing from the stream, extra in it and differ, the largest difference
      of each figure; and the rows that are not equal, in order, MOST_KEPT at most.
    """
    schema = f"`group` string, `key` string, `minute` timestamp, {', '.join(f'`{name}` bigint' for name in WHOLE)}"
    stream = spark.read.schema(schema).parquet(*files) if files else spark.createDataFrame([], schema)
    stream = stream.where((F.col("minute") >= F.lit(interval.start)) & (F.col("minute") < F.lit(interval.end)))

    def side(frame: DataFrame, name: str) -> DataFrame:
        means = [F.try_divide(of, "count").alias(f"{name}_{mean}") for mean, of in MEANS.items()]
        # A row that is there twice is one too many: numbered, its second finds no counterpart.
        numbered = F.row_number().over(Window.partitionBy(*KEYS).orderBy("count"))
        return frame.select(*KEYS, numbered.alias("number"), *(F.col(n).alias(f"{name}_{n}") for n in WHOLE), *means)

    both = side(batch, "batch").join(side(stream, "stream"), [*KEYS, "number"], "full_outer")
    missing, extra = F.col("stream_count").isNull(), F.col("batch_count").isNull()
    apart: dict[str, Any] = {name: F.abs(F.col(f"batch_{name}") - F.col(f"stream_{name}")) for name in (*WHOLE, *MEANS)}
    unequal = F.lit(False)
    for name in (*WHOLE, *MEANS):
        unequal |= F.coalesce(apart[name], F.lit(0)) > F.lit(MEAN_LIMIT if name in MEANS else 0)
    kind = F.when(missing, MISSING).when(extra, EXTRA).when(unequal, DIFFERING)
    with_kind = both.withColumn("kind", kind)
    figures = with_kind.agg(
        F.count("batch_count").alias("rows"),
        *(F.count_if(F.col("kind") == name).alias(name) for name in (MISSING, EXTRA, DIFFERING)),
        *(F.max(apart[name]).cast("double").alias(f"largest_{name}") for name in apart),
    )
    (row,) = figures.collect()
    differing = with_kind.where("kind IS NOT NULL").orderBy("minute", "group", "key").limit(MOST_KEPT)
    kept = ("kind", *KEYS, *(f"{of}_{name}" for name in WHOLE for of in ("batch", "stream")))
    return {name: value or 0 for name, value in row.asDict().items()}, differing.select(*kept).toArrow()


def checks(figures: Mapping[str, Any], behind_minutes: int) -> tuple[Check, ...]:
    """The rules: nothing missing, nothing extra, whole numbers the same, means to MEAN_LIMIT.

    Args:
      figures: As `compared` gives them.
      behind_minutes: How far before the interval's end the stream's watermark is; 0 where it has passed it.
    """
    note = f"{figures['rows']} rows of the batch"
    if behind_minutes:
        note += f"; the stream's watermark is {behind_minutes} minutes before the interval's end"
    return (
        Check("missing", figures["missing"] == 0, figures["missing"], "0", note=note),
        Check("extra", figures["extra"] == 0, figures["extra"], "0", note="rows that the stream alone has"),
        *(
            Check(f"{name}, largest difference", figures[f"largest_{name}"] == 0, figures[f"largest_{name}"], "0")
            for name in WHOLE
        ),
        *(
            Check(
                f"{name}, largest difference",
                figures[f"largest_{name}"] <= MEAN_LIMIT,
                figures[f"largest_{name}"],
                f"<= {MEAN_LIMIT:g}",
            )
            for name in MEANS
        ),
    )
