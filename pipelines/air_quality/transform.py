"""From the table `air_quality` to examples, on Spark."""

from collections.abc import Callable

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from components.schema import LABEL_KNOWN_AT
from pipelines.air_quality import source
from pipelines.air_quality.schema import SCHEMA
from pipelines.air_quality.settings import SETTINGS


def transform(table: Callable[[str], DataFrame]) -> DataFrame:
    """All rows as examples; a label is known when its hour is over.

    Args:
      table: Gives the rows of a table of the lake by name.
    """
    rows = table("air_quality")
    local = F.from_utc_timestamp("time", SETTINGS.zone)
    rows = rows.withColumn("hour", F.hour(local))
    rows = rows.withColumn("weekday", F.date_format(local, "E"))
    rows = rows.withColumn("month", F.month(local))
    rows = rows.withColumn("time_local", F.date_format(local, "yyyy-MM-dd HH:mm:ss"))
    known_at = F.col(SCHEMA.time) + F.expr(f"interval {source.AHEAD_HOURS + 1} hours")
    rows = rows.withColumn(LABEL_KNOWN_AT, F.when(F.col(SCHEMA.label).isNotNull(), known_at))
    return rows.select(*SCHEMA.columns, LABEL_KNOWN_AT)
