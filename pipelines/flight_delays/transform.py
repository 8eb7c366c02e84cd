"""From the lake's tables to examples, on Spark: every feature of `features.py` as it was known at the cut-off."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window as Rows

from components.features.interval_sums import MICROS_OF_MINUTE, EventInterval, sums_at
from components.schema import LABEL_KNOWN_AT
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.features import Overdue, Window

_CUTOFF = int(clock.CUTOFF.total_seconds() * 1_000_000)
_RECENT: tuple[Window | Overdue, ...] = (*features.WINDOWS, *features.OVERDUE)
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def transform(table: Callable[[str], DataFrame]) -> DataFrame:
    """All flights of history and interval as examples; labels that never come are null.

    Args:
      table: Gives the rows of a table of the lake by name.

    Returns:
      The columns of `features.SCHEMA`, missing values null, and LABEL_KNOWN_AT (timestamp); in no order.
    """
    flights = table("flights").withColumn("cutoff", F.unix_micros("scheduled_departure") - F.lit(_CUTOFF))
    examples = _with_weather(_with_plane(_with_schedule(flights), table("planes")), table("weather"))
    for by in dict.fromkeys(declared.by for declared in _RECENT):
        examples = examples.join(_recent(flights, by), "flight_id", "left")
    examples = examples.join(_tail(flights), "flight_id", "left")
    label = (F.col("arr_delay") > features.LATE_MINUTES).cast("long")
    return examples.select(
        *features.SCHEMA.names,
        label.alias(features.SCHEMA.label),
        features.SCHEMA.time,
        *features.SCHEMA.keys,
        F.when(label.isNotNull(), F.col("arrived_at")).alias(LABEL_KNOWN_AT),
    )


def _with_schedule(flights: DataFrame) -> DataFrame:
    """What the plan of the flight says."""
    same_hour = Rows.partitionBy("origin", F.date_trunc("hour", "scheduled_departure"))
    days = F.array(*map(F.lit, _WEEKDAYS))
    return flights.withColumns(
        {
            "weekday": F.get(days, F.weekday("local_date")),
            "month": F.date_format("local_date", "yyyy-MM"),
            "local_date": F.date_format("local_date", "yyyy-MM-dd"),
            "scheduled_departures_origin": F.count("*").over(same_hour),
        }
    )


def _with_plane(examples: DataFrame, planes: DataFrame) -> DataFrame:
    """What is known of the aircraft; null where the tail number is missing or not in the register."""
    planes = planes.select(
        "tailnum",
        F.col("year").alias("plane_year"),
        F.col("manufacturer").alias("plane_manufacturer"),
        F.col("model").alias("plane_model"),
        F.col("seats").alias("plane_seats"),
        F.col("engines").alias("plane_engines"),
    )
    age = F.year(F.to_date("local_date")) - F.col("plane_year")
    return examples.join(F.broadcast(planes), "tailnum", "left").withColumn("plane_age", age)


def _with_weather(examples: DataFrame, weather: DataFrame) -> DataFrame:
    """The observation of the last full hour before the cut-off, null where the station has none."""
    possible = {
        name: F.when(F.col(name) <= features.WIND_SPEED_LIMIT_MPH, F.col(name)) for name in ("wind_speed", "wind_gust")
    }
    weather = weather.select("origin", "observed_at", *features.WEATHER).withColumns(possible)
    observed = F.date_trunc("hour", F.timestamp_micros("cutoff")) - F.expr("INTERVAL 1 HOUR")
    return examples.withColumn("observed_at", observed).join(F.broadcast(weather), ["origin", "observed_at"], "left")


def _recent(flights: DataFrame, by: tuple[str, ...]) -> DataFrame:
    """Windows and overdue flights of one group of keys, one row for each flight."""
    declared = [of for of in _RECENT if of.by == by]
    sums = sums_at(flights, by, [_interval(of) for of in declared], "flight_id", "cutoff")
    measured: dict[str, Column] = {}
    for number, of in enumerate(declared):
        measured |= _measured(of, {name: F.col(f"{name}_{number}") for name in ("count", "late", "minutes")})
    return sums.select("flight_id", *(column.alias(name) for name, column in measured.items()))


def _interval(declared: Window | Overdue) -> EventInterval:
    if isinstance(declared, Window):
        delay, minutes = F.col(declared.stream.value), declared.hours * 60
        known = F.when(delay.isNotNull(), F.unix_micros(declared.stream.known_at))
        adds = {"late": (delay > features.LATE_MINUTES).cast("int"), "minutes": delay.cast("long")}
        return EventInterval(known, known + F.lit(minutes * MICROS_OF_MINUTE), minutes, adds)
    scheduled = F.unix_micros("scheduled_departure")
    enter = scheduled + F.lit(declared.AFTER_MINUTES * MICROS_OF_MINUTE)
    # least ignores nulls: a flight that never leaves is overdue to the end.
    leave = F.least(F.unix_micros("departed_at"), scheduled + F.lit(declared.UNTIL_MINUTES * MICROS_OF_MINUTE))
    return EventInterval(F.when(enter < leave, enter), leave, declared.UNTIL_MINUTES, {"minutes": _minute(scheduled)})


def _measured(declared: Window | Overdue, sums: Mapping[str, Column]) -> dict[str, Column]:
    """The features of one declaration, from its sums at the cut-off."""
    count, minutes = sums["count"], sums["minutes"]
    if isinstance(declared, Window):
        measures = {
            "count": count,
            "late_share": F.try_divide(sums["late"], count),
            "mean_delay": F.try_divide(minutes, count),
        }
        return {declared.feature(measure): measures[measure] for measure in declared.measures}
    past = _minute(F.col("cutoff")) * count - minutes
    return {declared.count: count, declared.mean: F.try_divide(past, count)}


def _minute(micros: Column) -> Column:
    return F.floor(micros / MICROS_OF_MINUTE)


def _tail(flights: DataFrame) -> DataFrame:
    """What the aircraft did, as known at the cut-off; flights without a tail number are left out."""
    flights = flights.where("tailnum IS NOT NULL")
    known = _last_known(flights)
    plan = Rows.partitionBy("tailnum").orderBy("scheduled_departure", "flight_id")
    columns = ("scheduled_departure", "scheduled_arrival", "departed_at", "arrived_at")
    previous = {f"previous_{name}": F.lag(F.unix_micros(name)).over(plan) for name in columns}
    block = F.lag("scheduled_minutes").over(plan)
    flights = flights.withColumns({**previous, "previous_minutes": block})
    cutoff, scheduled = F.col("cutoff"), F.col("previous_scheduled_departure")
    delay = (
        F.when(
            cutoff - scheduled <= features.TAIL_MEMORY_HOURS * 60 * MICROS_OF_MINUTE,
            F.when(
                F.col("previous_arrived_at") < cutoff,
                F.col("previous_arrived_at") - F.col("previous_scheduled_arrival"),
            )
            .when(F.col("previous_departed_at") < cutoff, F.col("previous_departed_at") - scheduled)
            .otherwise(F.greatest(cutoff - scheduled, F.lit(0))),
        )
        / MICROS_OF_MINUTE
    )
    since = (F.unix_micros("scheduled_departure") - F.col("previous_scheduled_arrival")) / MICROS_OF_MINUTE
    slack = since - delay - F.col("previous_minutes")
    rotation = flights.select("flight_id", delay.alias("tail_previous_delay"), slack.alias("tail_slack"))
    return rotation.join(known, "flight_id")


def _last_known(flights: DataFrame) -> DataFrame:
    """The aircraft's last departure and arrival before the cut-off."""
    rows = flights.select("tailnum", F.col("cutoff").alias("at"), "flight_id")
    for stream in features.STREAMS:
        known = F.unix_micros(stream.known_at).alias("at")
        event = F.struct(known, F.col(stream.delay).alias("delay")).alias(stream.name)
        events = flights.where(F.col(stream.delay).isNotNull()).select("tailnum", known, event)
        rows = rows.unionByName(events, allowMissingColumns=True)
    # The events themselves break ties, so that the answer is one: 126 times in 2013 an aircraft is in two places.
    before = Rows.partitionBy("tailnum").orderBy("at", F.col("flight_id").isNull(), *(s.name for s in features.STREAMS))
    last = {stream.name: F.last(stream.name, ignorenulls=True).over(before) for stream in features.STREAMS}
    rows = rows.withColumns(last).where("flight_id IS NOT NULL")
    columns = []
    for stream, name in ((features.DEPARTURES, "tail_departure"), (features.ARRIVALS, "tail_arrival")):
        age = (F.col("at") - F.col(f"{stream.name}.at")) / MICROS_OF_MINUTE
        fresh = age <= features.TAIL_MEMORY_HOURS * 60
        delay = F.when(fresh, F.col(f"{stream.name}.delay"))
        columns += [delay.alias(f"{name}_delay"), F.when(fresh, age).alias(f"{name}_age")]
    return rows.select("flight_id", *columns)
