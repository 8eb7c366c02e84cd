"""From rides by the hour to examples, on Spark: the features of `schema.py` as they are known when an hour starts.

Windows count hours on the source's clock, which has 24 in every day: 24 h back is the same hour yesterday, also where
the clock was changed. An hour starts when the one before it has ended (`lake.py`), so all hours before a row are known.
"""

from collections.abc import Callable

from pandas.tseries.holiday import USFederalHolidayCalendar
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from components.schema import LABEL_KNOWN_AT
from pipelines.bike_demand import schema

HOLIDAYS = [day.date() for day in USFederalHolidayCalendar().holidays("2010-01-01", "2040-12-31")]
"""Known years ahead."""
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SEASONS = ("winter", "spring", "summer", "autumn")
_DAY_PARTS = ("night", "morning", "afternoon", "evening")


def transform(table: Callable[[str], DataFrame]) -> DataFrame:
    """All hours of history and interval as examples.

    Args:
      table: Gives the rows of a table of the lake by name.

    Returns:
      The columns of `schema.SCHEMA`, missing values null, and LABEL_KNOWN_AT (timestamp); in no order.
    """
    hours = _with_calendar(table("rides"))
    # Each row is dealt out to its own span of time and the next one: so the rows of a span have all that they look back
    # on beside them, and any number of years is many pieces of work.
    span = F.floor(F.col("at") / schema.LOOKBACK_H)
    dealt = hours.withColumn("span", F.explode(F.array(span, span + 1)))
    alike = Window.partitionBy("span", "hour_of_day", F.col("day_off") == "working day").orderBy("at")
    typical = dealt.withColumn("typical", F.avg("rides").over(alike.rangeBetween(-schema.ALIKE_H, -1)))
    known = typical.withColumns(
        {
            **{f"rides_{hours}h": F.max("rides").over(_last(hours, until=hours)) for hours in schema.LAGS_H},
            **{f"mean_{hours}h": F.avg("rides").over(_last(hours)) for hours in schema.MEANS_H},
            **{f"pace_{hours}h": _pace(hours) for hours in schema.PACES_H},
        }
    ).where(F.col("span") == span)
    expected = F.col("typical") * F.sqrt(F.col("pace_1h") * F.col("pace_3h"))
    made = known.withColumns({"expected": expected, LABEL_KNOWN_AT: F.col("ends_at")})
    return made.select(*schema.SCHEMA.columns, LABEL_KNOWN_AT)


def _with_calendar(hours: DataFrame) -> DataFrame:
    """What the clock says, and `at`, hours since 1970 on it."""
    clock = F.to_timestamp("hour", "yyyy-MM-dd HH:mm")
    weekday = F.weekday(clock)
    off = F.when(F.to_date(clock).isin(HOLIDAYS), "holiday").when(weekday >= F.lit(5), "weekend")
    return hours.withColumns(
        {
            "at": F.unix_timestamp(clock) / F.lit(3600),
            "hour_of_day": F.hour(clock),
            "weekday": F.get(F.array(*map(F.lit, _WEEKDAYS)), weekday),
            "month": F.month(clock),
            "day_off": off.otherwise("working day"),
            "season": F.get(F.array(*map(F.lit, _SEASONS)), F.floor(F.month(clock) % 12 / 3)),
            "day_part": F.get(F.array(*map(F.lit, _DAY_PARTS)), F.floor(F.hour(clock) / 6)),
        }
    ).withColumn("at", F.col("at").cast("long"))


def _last(hours: int, until: int = 1) -> Window:
    """The hours before a row, from `hours` back to `until` back."""
    return Window.partitionBy("span").orderBy("at").rangeBetween(-hours, -until)


def _pace(hours: int) -> Column:
    """One ride more above and below: nights with none have a pace, too."""
    rides, typical = F.sum("rides").over(_last(hours)), F.sum("typical").over(_last(hours))
    return (rides + 1) / (typical + 1)
