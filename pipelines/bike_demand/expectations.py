"""What is expected of a run's hours. A blocking expectation is about what makes features or labels wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from components.data.dataset import DatasetReader, Part
from components.measures.judging import Subject

WARN: dict[str, Any] = {"severity": "warning"}
"""Settings of an expectation that does not block."""


def subjects(reader: DatasetReader, spark: SparkSession) -> Iterator[Subject]:
    """The frames to judge, for the interval and for the history: hours, and days of hours.

    Args:
      reader: The run's data.
      spark: The session that computes.
    """
    parts: tuple[Part, ...] = ("interval", "history")
    for part in parts:
        hours = reader.spark_frame(spark, "rides", part)
        minutes = (F.unix_micros("ends_at") - F.unix_micros("starts_at")) / F.lit(60e6)
        checked = hours.select(
            "hour", "rides", "pn", minutes.alias("minutes"), (F.col("tmax") - F.col("tmin")).alias("warming")
        )
        yield Subject("hours", part, checked, ("hour",), _of_hours())
        days = hours.groupBy(F.substring("hour", 1, 10).alias("day")).agg(
            F.count("*").alias("hours"), F.sum("rides").cast("double").alias("rides")
        )
        yield Subject("days", part, days, ("day",), _of_days())


def _of_hours() -> list[Expectation]:
    return [
        gxe.ExpectColumnValuesToNotBeNull(column="hour", description="Every hour has its time"),
        gxe.ExpectColumnValuesToBeUnique(column="hour", description="No hour is there twice"),
        gxe.ExpectColumnValuesToNotBeNull(column="rides", description="Every hour has its rides"),
        _between("rides", 0, 20_000, "Every hour has between 0 and 20,000 rides"),
        _between("minutes", 30, 120, "Every hour takes an hour, where the clock is changed from half to two"),
        _between("warming", 0, 40, "No day's lowest temperature is above its highest"),
        _between("pn", 0, 400, "Every day has between 0 and 400 mm of rain and snow"),
    ]


def _of_days() -> list[Expectation]:
    return [
        # The first and the last day of a part end or begin at its midnight, half an hour into an hour.
        gxe.ExpectColumnMeanToBeBetween(
            column="hours", min_value=22, max_value=24, description="Days have 24 hours on average"
        ),
        _between("rides", 1, None, "Every day has rides", **WARN),
    ]


def _between(column: str, low: float, high: float | None, sentence: str, **settings: Any) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, description=sentence, **settings
    )
