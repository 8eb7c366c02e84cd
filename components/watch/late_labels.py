"""Predictions joined with the labels that were known by an instant: what became of every row, on Spark."""

from __future__ import annotations

from datetime import datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from airtight.errors import TerminalError
from components.schema import LABEL_KNOWN_AT
from components.tasks import task_of
from components.watch.prediction_rows import AT, BESIDE, DAY, VERSION, Form

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

STATUS, CORRECTED, KEY = "_status", "_corrected", "_key"
LABELLED, PENDING, NEVER, CONTRADICTED, EARLY = STATUSES = ("labelled", "pending", "never", "contradicted", "early")
"""Of a prediction: its label is known; has not come; it is known that none will come; several labels that became known
at the same instant say different things; it was known before the answer, so that clocks are apart, or nothing was
predicted. Only `LABELLED` rows count in figures."""
_NEWEST, _VALUES, _DIFFERENT = "_newest", "_values", "_different"


def labels_of(made: DataFrame, form: Form, function: str, known_by: datetime) -> DataFrame:
    """The newest label of every row that was known by an instant.

    Args:
      made: What the pipeline's function made: the columns of `form.join`, the labels, LABEL_KNOWN_AT and, where the
        schema has one, the time. A label of null with an instant says that none will come; a row without one of its
        labels has none.
      form: Of the predictions.
      function: Its name.
      known_by: Labels that became known before this instant count.

    Returns:
      `form.join`, the labels as examples store them, DAY, and what is needed to tell corrections and contradictions.

    Raises:
      TerminalError: A column is missing, or cannot be the task's label.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    schema = form.schema
    time = [schema.time] if schema.time else []
    wanted = dict.fromkeys((*form.join, *schema.labels, LABEL_KNOWN_AT, *time))
    if lacking := [name for name in wanted if name not in made.columns]:
        raise TerminalError(
            f"What {function} made are no labels.",
            expected=f"the columns {', '.join(wanted)}",
            received=f"no {', '.join(lacking)}",
            remedy="Correct the function, or join by columns that it has.",
        )
    types = {field.name: field.dataType for field in made.schema.fields}
    parts = task_of(schema).parts.items()
    labels = {name: part.spark_label(F.col(name), types[name]) for name, part in parts}
    is_whole = reduce(and_, [label.isNotNull() for label in labels.values()])
    label = F.when(is_whole, F.struct(*(label.alias(name) for name, label in labels.items())))
    at = F.col(schema.time if time else LABEL_KNOWN_AT).cast("timestamp")
    rows = made.select(
        *(F.col(name).cast(_spark_type(form, name)).alias(name) for name in form.join),
        label.alias("_label"),
        F.col(LABEL_KNOWN_AT).cast("timestamp").alias(LABEL_KNOWN_AT),
        F.to_date(F.from_utc_timestamp(at, form.zone)).cast("string").alias("_label_day"),
    ).where(F.col(LABEL_KNOWN_AT) < F.lit(known_by))
    of_row = Window.partitionBy(*form.join)
    seen = rows.withColumns(
        {
            _NEWEST: F.max(LABEL_KNOWN_AT).over(of_row),
            _VALUES: F.size(F.collect_set("_label").over(of_row)),
        }
    )
    return (
        seen.where(F.col(LABEL_KNOWN_AT) == F.col(_NEWEST))
        .groupBy(*form.join)
        .agg(
            F.min("_label").alias("_label"),
            F.first(_NEWEST).alias(_NEWEST),
            F.first(_VALUES).alias(_VALUES),
            # That none will come is something else than a label, too.
            (F.count_distinct("_label") + F.max(F.col("_label").isNull().cast("int"))).alias(_DIFFERENT),
            F.min("_label_day").alias("_label_day"),
        )
    )


def joined(predictions: DataFrame, labels: DataFrame, form: Form) -> DataFrame:
    """Every prediction with what became of it.

    Args:
      predictions: `prediction_rows`.
      labels: `labels_of`.
      form: Of the predictions.

    Returns:
      The predictions' columns, the schema's labels (null where there are none), STATUS, CORRECTED (whether the label
      had another value before), and KEY, a hash of what names the row (int64).
    """
    from pyspark.sql import functions as F

    status = (
        F.when(F.col(_NEWEST).isNull(), PENDING)
        .when(F.col(_DIFFERENT) > 1, CONTRADICTED)
        .when(F.col("_label").isNull(), NEVER)
        .when(F.col(_NEWEST) < F.col(AT), EARLY)
        .otherwise(LABELLED)
    )
    rows = predictions.join(labels, list(form.join), "left").withColumn(STATUS, status)
    is_labelled = F.col(STATUS) == LABELLED
    return rows.withColumns(
        {
            **{name: F.when(is_labelled, F.col("_label")[name]) for name in form.schema.labels},
            CORRECTED: is_labelled & (F.coalesce(F.col(_VALUES), F.lit(0)) > 1),
            KEY: F.xxhash64(*form.join),
        }
    ).drop("_label", _NEWEST, _VALUES, _DIFFERENT, "_label_day")


def unpredicted(predictions: DataFrame | None, labels: DataFrame, form: Form, days: list[str]) -> dict[str, int]:
    """By local day of the label's row, how many labels are there of rows of which no prediction is known."""
    from pyspark.sql import functions as F

    labels = labels.where(F.col("_label").isNotNull() & F.col("_label_day").isin(days))
    if predictions is not None:
        names = predictions.where(~F.col(BESIDE)).select(*form.join).distinct()
        labels = labels.join(names, list(form.join), "left_anti")
    counted = labels.groupBy("_label_day").count().collect()
    return {row["_label_day"]: row["count"] for row in counted}


def digests(rows: DataFrame, form: Form) -> dict[str, tuple[int, str]]:
    """By local day how many rows there are, and a digest of predictions and labels: what changes it reopens a day.

    Sums of 64-bit hashes of the rows, so that their order does not matter, as decimals, so that they do not overflow.
    """
    from pyspark.sql import functions as F

    columns = [KEY, VERSION, BESIDE, *form.schema.labels, STATUS, CORRECTED, *form.outputs]
    hashed = F.xxhash64(*columns).cast("decimal(38,0)")
    summed = rows.groupBy(DAY).agg(F.sum(hashed).alias("digest"), F.count("*").alias("rows")).collect()
    return {row[DAY]: (row["rows"], f"{row['rows']}:{row['digest']}") for row in summed}


def _spark_type(form: Form, name: str) -> str:
    return {"timestamp[us, tz=UTC]": "timestamp", "string": "string", "float": "float"}[str(form.join_types[name])]
