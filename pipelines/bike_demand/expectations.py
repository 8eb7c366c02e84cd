"""What is expected of a run's hours: what warns is reported, all else stops a run."""

from collections.abc import Iterator

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from components.data.dataset import DatasetReader, Part
from components.measures import expect
from components.measures.judging import Subject
from pipelines.bike_demand.settings import SETTINGS

HOURS = (
    *(expect.given(name) for name in ("hour", "rides")),
    expect.unique("hour"),
    expect.between("rides", 0, 20_000),
    expect.between("minutes", 30, 120),  # Half an hour or two where the clock is changed.
)
DAYS = (
    # The source begins at noon.
    expect.mean_between("hours", 22, 24, "A day has 24 hours on average"),
    expect.between("rides", 1, None, warns=True),
)


def subjects(reader: DatasetReader, spark: SparkSession) -> Iterator[Subject]:
    """The frames to judge, of the interval and of the history: hours, and days of hours."""
    parts: tuple[Part, ...] = ("interval", "history")
    for part in parts:
        rows = reader.spark_frame(spark, "rides", part)
        minutes = (F.unix_micros("ends_at") - F.unix_micros("starts_at")) / F.lit(60e6)
        yield Subject("hours", part, rows.withColumn("minutes", minutes), ("hour",), HOURS)
        day = F.to_date(F.from_utc_timestamp("starts_at", SETTINGS.zone))
        totals = F.count("*").alias("hours"), F.sum("rides").alias("rides")
        days = rows.groupBy(day.alias("day")).agg(*totals)
        yield Subject("days", part, days, ("day",), DAYS)
