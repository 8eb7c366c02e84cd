"""What is expected of the flights and the weather of a run, and how bad it is if it is not so.

A critical expectation is about what would make the features or labels wrong; a warning is about what a person should
know of. The bounds were chosen from what can be (a clock, a map, an aircraft), and those of volume and shares wide
around the first months of 2013: even the days of a blizzard (February 8 and 9) only warn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from great_expectations.expectations.expectation import Expectation
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from airtight.interval import Interval
from components.data.dataset import DatasetReader, Part
from components.measures.expect import between, given, holds, mean_between, mostly_given, one_of, unique
from components.measures.judging import Subject
from pipelines.flight_delays import clock

ORIGINS = ["EWR", "JFK", "LGA"]


def subjects(reader: DatasetReader, spark: SparkSession) -> Iterator[Subject]:
    """The frames to judge, for the interval and for the history: flights, days of flights, weather.

    Args:
      reader: The run's data.
      spark: The session that computes.
    """
    airports = {*_column(reader, "airports", "faa"), *clock.UNLISTED_ZONES}
    carriers = _column(reader, "airlines", "carrier")
    observed = reader.spark_frame(spark, "weather")
    planes = reader.spark_frame(spark, "planes")
    parts: tuple[Part, ...] = ("interval", "history")
    for part in parts:
        flights = _with_checks(reader.spark_frame(spark, "flights", part), observed, planes)
        expected = _of_flights(sorted(airports), sorted(carriers))
        if part == "history":
            # A day without weather can be judged and served; a model that never saw weather cannot be trained.
            expected.append(
                mean_between("has_weather", 0.5, None, "At least half of the flights have weather to learn from")
            )
        yield Subject("flights", part, flights, ("flight_id",), expected)
        days = _days(reader, spark, flights, part)
        yield Subject("days", part, days, ("day",), _of_days())
        weather = reader.spark_frame(spark, "weather", part).withColumn(
            "observed_at", F.date_format("observed_at", "yyyy-MM-dd HH:mm 'UTC'")
        )
        yield Subject("observations", part, weather, ("origin", "observed_at"), _of_weather())


def _of_flights(airports: list[str], carriers: list[str]) -> list[Expectation]:
    always = ("flight_id", "scheduled_departure", "carrier", "origin", "dest")
    return [
        *(given(column, f"Every flight has its {column}") for column in always),
        unique("flight_id", sentence="No flight is there twice"),
        one_of("origin", ORIGINS, "Every origin is Newark, Kennedy or La Guardia"),
        one_of("dest", airports, "Every destination is a known airport"),
        one_of("carrier", carriers, "Every carrier is a known airline"),
        between("distance", 10, 6_000, "Every distance is between 10 and 6,000 miles"),
        between("scheduled_minutes", 20, 1_200, "Every flight is scheduled to take between 20 minutes and 20 hours"),
        between("dep_delay", -180, 2_880, "No flight leaves over 3 hours early or 2 days late"),
        between("arr_delay", -240, 2_880, "No flight arrives over 4 hours early or 2 days late"),
        holds("departure_agrees", "Every departure delay is the departure less its schedule"),
        holds("arrival_agrees", "Every arrival delay is the arrival less its schedule"),
        holds("arrives_after_departure", "No flight arrives before it departs"),
        holds("labelled_departed", "No flight has an arrival delay without having departed"),
        holds("flown_tail", "Every flight that departed names its aircraft", warns=True),
        mean_between("has_label", 0.2, None, "At least a fifth of the flights have an arrival delay"),
        mean_between("has_label", 0.9, None, "At least 90 % of the flights have an arrival delay", warns=True),
        mean_between("late", 0.05, 0.6, "Between 5 % and 60 % of the flights arrive over 15 minutes late", warns=True),
        mean_between(
            "has_weather", 0.98, None, "At least 98 % of the flights have an observation at the cut-off", warns=True
        ),
        mean_between(
            "has_plane", 0.75, None, "At least 75 % of the flights are of an aircraft that we know", warns=True
        ),
    ]


def _of_days() -> list[Expectation]:
    return [
        between("flights", 1, None, "Every day has flights"),
        between("flights", 500, 1_200, "Every day has 500 to 1,200 flights", warns=True),
        between("share_labelled", 0.7, None, "On no day do over 30 % of the flights lack an arrival delay", warns=True),
        between("share_weather", 0.5, None, "On no day do over half of the flights lack weather", warns=True),
    ]


def _of_weather() -> list[Expectation]:
    return [
        unique("origin", "observed_at", sentence="No observation is there twice"),
        one_of("origin", ORIGINS, "Every observation is from one of the three origins"),
        between("temp", -40, 130, "Every temperature is between -40 and 130 degrees Fahrenheit"),
        between("humid", 0, 100, "Every humidity is between 0 and 100 per cent"),
        between("precip", 0, 10, "Every precipitation is between 0 and 10 inches in the hour"),
        between("visib", 0, 100, "Every visibility is between 0 and 100 miles"),
        between("pressure", 870, 1_090, "Every pressure is between 870 and 1,090 millibars"),
        between("wind_speed", 0, 150, "No wind is faster than 150 miles per hour", warns=True),
        between("wind_gust", 0, 200, "No gust is faster than 200 miles per hour", warns=True),
        mostly_given("temp", 0.95, "At least 95 % of the observations have a temperature"),
        mostly_given("pressure", 0.75, "At least 75 % of the observations have a pressure"),
    ]


def _with_checks(flights: DataFrame, weather: DataFrame, planes: DataFrame) -> DataFrame:
    """The columns that are judged, and one for each thing that takes several columns or tables to tell."""
    hour = F.date_trunc("hour", F.col("scheduled_departure") - F.expr(_interval(clock.CUTOFF)))
    observed = weather.select("origin", F.col("observed_at").alias("weather_hour"), F.lit(1.0).alias("seen"))
    known = planes.select("tailnum", F.lit(1.0).alias("plane"))
    joined = (
        flights.withColumn("weather_hour", hour - F.expr(_interval(clock.WEATHER_LAG)))
        .join(F.broadcast(observed.distinct()), ["origin", "weather_hour"], "left")
        .join(F.broadcast(known.distinct()), "tailnum", "left")
    )
    return joined.select(
        *("flight_id", "scheduled_departure", "local_date", "carrier", "origin", "dest", "distance"),
        *("scheduled_minutes", "dep_delay", "arr_delay"),
        _agrees("departed_at", "scheduled_departure", "dep_delay").alias("departure_agrees"),
        _agrees("arrived_at", "scheduled_arrival", "arr_delay").alias("arrival_agrees"),
        F.coalesce(F.col("arrived_at") > F.col("departed_at"), F.lit(True)).alias("arrives_after_departure"),
        (F.col("arr_delay").isNull() | F.col("departed_at").isNotNull()).alias("labelled_departed"),
        (F.col("departed_at").isNull() | F.col("tailnum").isNotNull()).alias("flown_tail"),
        F.col("arr_delay").isNotNull().cast("double").alias("has_label"),
        (F.col("arr_delay") > 15).cast("double").alias("late"),  # noqa: PLR2004
        F.coalesce("seen", F.lit(0.0)).alias("has_weather"),
        F.coalesce("plane", F.lit(0.0)).alias("has_plane"),
    )


def _days(reader: DatasetReader, spark: SparkSession, flights: DataFrame, part: Part) -> DataFrame:
    """One row for each local day of a part, also for a whole day without flights; no flight leaves before five."""
    start, end = reader.span(part)
    days = [Interval.parse(day.isoformat(), clock.ZONE) for day in reader.days(part)]
    whole = [(day.start.date().isoformat(),) for day in days if start <= day.start and day.end <= end]
    calendar = spark.createDataFrame(whole, "day string")
    counted = flights.groupBy(F.col("local_date").cast("string").alias("day")).agg(
        F.count("*").alias("flights"),
        F.avg("has_label").alias("share_labelled"),
        F.avg("has_weather").alias("share_weather"),
    )
    return calendar.join(counted, "day", "full").fillna(0, ["flights"])


def _agrees(actual: str, scheduled: str, delay: str) -> Column:
    """Whether a delay in minutes is the difference of its two instants; a null delay agrees with anything."""
    minutes = (F.unix_micros(F.col(actual)) - F.unix_micros(F.col(scheduled))) / F.lit(60e6)
    return F.coalesce(F.abs(minutes - F.col(delay)) < F.lit(1e-3), F.col(delay).isNull())


def _interval(length: Any) -> str:
    return f"interval {length.total_seconds():.0f} seconds"


def _column(reader: DatasetReader, table: str, column: str) -> set[str]:
    return set(reader.arrow_table(table, columns=[column])[column].to_pylist())
