"""From the lake's tables to examples, on Spark: every feature of `features.py` as it was known at the cut-off.

What happened recently is counted with running totals. An event enters a total when it becomes known and leaves it when
it is too old; the running sum of these signed steps at the cut-off is the number of events in the window. One sort for
each group of keys serves all its windows, in time linear in the events, however long the windows are, and the totals
are whole numbers, so that adding and subtracting is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window as Rows

from components.schema import LABEL_KNOWN_AT
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.features import Overdue, Window

_MICROS_OF_MINUTE = 60_000_000
_MICROS_OF_DAY = 24 * 60 * _MICROS_OF_MINUTE
_CUTOFF = int(clock.CUTOFF.total_seconds() * 1_000_000)
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
    for by in dict.fromkeys(declared.by for declared in (*features.WINDOWS, *features.OVERDUE)):
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
    windows = [window for window in features.WINDOWS if window.by == by]
    overdue = [late for late in features.OVERDUE if late.by == by]
    totals = _at_cutoff(flights, by, [*map(_window_life, windows), *map(_overdue_life, overdue)])
    measured = [
        *(m for w in windows for m in _window_features(w)),
        *(m for late in overdue for m in _overdue_features(late)),
    ]
    return totals.select("flight_id", *measured)


@dataclass(frozen=True)
class _Life:
    """An event's life in a total: it counts at every instant t with enter < t <= leave, for a day at most.

    Args:
      enter: Microseconds since 1970; null when it never enters.
      leave: Microseconds since 1970.
      adds: What it adds to which totals, whole numbers.
    """

    enter: Column
    leave: Column
    adds: dict[str, Column]


def _window_life(window: Window) -> _Life:
    delay = F.col(window.stream.delay)
    known = F.when(delay.isNotNull(), F.unix_micros(window.stream.known_at))
    adds = {
        _total(window, "count"): F.lit(1),
        _total(window, "late"): (delay > features.LATE_MINUTES).cast("long"),
        _total(window, "minutes"): delay.cast("long"),
    }
    return _Life(known, known + F.lit(window.hours * 60 * _MICROS_OF_MINUTE), adds)


def _window_features(window: Window) -> list[Column]:
    count = F.col(_total(window, "count"))
    measures = {
        "count": count,
        "late_share": F.try_divide(_total(window, "late"), count),
        "mean_delay": F.try_divide(_total(window, "minutes"), count),
    }
    return [measures[measure].alias(window.feature(measure)) for measure in window.measures]


def _overdue_life(overdue: Overdue) -> _Life:
    scheduled = F.unix_micros("scheduled_departure")
    enter = scheduled + F.lit(overdue.AFTER_MINUTES * _MICROS_OF_MINUTE)
    # least ignores nulls: a flight that never leaves is overdue to the end.
    leave = F.least(F.unix_micros("departed_at"), scheduled + F.lit(overdue.UNTIL_MINUTES * _MICROS_OF_MINUTE))
    adds = {overdue.count: F.lit(1), overdue.mean: F.floor(scheduled / _MICROS_OF_MINUTE)}
    return _Life(F.when(enter < leave, enter), leave, adds)


def _overdue_features(overdue: Overdue) -> list[Column]:
    count = F.col(overdue.count)
    minutes = F.floor(F.col("cutoff") / _MICROS_OF_MINUTE) * count - F.col(overdue.mean)
    return [count, F.try_divide(minutes, count).alias(overdue.mean)]


def _total(window: Window, what: str) -> str:
    return f"{window.stream.name}_{window.hours}h_{what}"


def _at_cutoff(flights: DataFrame, by: tuple[str, ...], lives: list[_Life]) -> DataFrame:
    """The totals of all lives at each flight's cut-off.

    Rows are cut by key and day, so that a busy airport is many small sorts and not one large one; a life that reaches
    into the next day enters there again.

    Args:
      flights: The table with `cutoff`.
      by: Keys that event and flight share.
      lives: What is counted.

    Returns:
      flight_id, cutoff and one column (long) for each total, 0 when nothing is alive.
    """
    names = [name for life in lives for name in life.adds]
    steps = flights.select(*by, F.explode(F.concat(*(_steps(life, names) for life in lives))).alias("step"))
    steps = steps.select(*by, "step.*").where("at IS NOT NULL").withColumn("flight_id", F.lit(None).cast("string"))
    asked = flights.select(*by, F.col("cutoff").alias("at"), F.col("cutoff").alias("day_of"), "flight_id")
    rows = asked.unionByName(steps, allowMissingColumns=True).withColumn(
        "day", F.floor(F.col("day_of") / _MICROS_OF_DAY)
    )
    # A flight comes before the events of its own instant: only what was known earlier counts.
    before = Rows.partitionBy(*by, "day").orderBy("at", F.col("flight_id").isNull())
    sums = [F.coalesce(F.sum(name).over(before), F.lit(0)).alias(name) for name in names]
    return rows.select("flight_id", F.col("at").alias("cutoff"), *sums).where("flight_id IS NOT NULL")


def _steps(life: _Life, names: list[str]) -> Column:
    """Enter, leave, and enter again on the day on which it leaves, if that is another one."""

    def step(at: Column, day_of: Column, sign: int) -> Column:
        adds = [(life.adds[name] * sign if name in life.adds else F.lit(0)).cast("long").alias(name) for name in names]
        return F.struct(at.alias("at"), day_of.alias("day_of"), *adds)

    day = F.lit(_MICROS_OF_DAY)
    next_day = F.floor(life.enter / day) < F.floor(life.leave / day)
    return F.array(
        step(life.enter, life.enter, 1),
        step(F.when(life.enter.isNotNull(), life.leave), life.leave, -1),
        step(F.when(next_day, life.enter), life.leave, 1),
    )


def _tail(flights: DataFrame) -> DataFrame:
    """The aircraft's last departure and arrival known at the cut-off; flights without a tail number are left out."""
    flights = flights.where("tailnum IS NOT NULL")
    no_flight = F.lit(None).cast("string").alias("flight_id")
    asked = flights.select("tailnum", F.col("cutoff").alias("at"), "flight_id")
    rows = asked
    for stream in features.STREAMS:
        known = F.unix_micros(stream.known_at).alias("at")
        event = F.struct(known, F.col(stream.delay).alias("delay")).alias(stream.name)
        events = flights.where(F.col(stream.delay).isNotNull()).select("tailnum", known, no_flight, event)
        rows = rows.unionByName(events, allowMissingColumns=True)
    # The events themselves break ties, so that the answer is one: 126 times in 2013 an aircraft is in two places.
    before = Rows.partitionBy("tailnum").orderBy("at", F.col("flight_id").isNull(), *(s.name for s in features.STREAMS))
    last = {stream.name: F.last(stream.name, ignorenulls=True).over(before) for stream in features.STREAMS}
    rows = rows.withColumns(last).where("flight_id IS NOT NULL")
    told = []
    for stream, name in ((features.DEPARTURES, "tail_departure"), (features.ARRIVALS, "tail_arrival")):
        age = (F.col("at") - F.col(f"{stream.name}.at")) / _MICROS_OF_MINUTE
        fresh = age <= features.TAIL_MEMORY_HOURS * 60
        told += [
            F.when(fresh, F.col(f"{stream.name}.delay")).alias(f"{name}_delay"),
            F.when(fresh, age).alias(f"{name}_age"),
        ]
    return rows.select("flight_id", *told)
