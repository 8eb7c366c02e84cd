"""Labels in Spark: no value is cast without a word, and one that is none is named with its row."""

from __future__ import annotations

from decimal import Decimal

import pytest

from airtight.errors import TerminalError
from components.data.spark import session
from components.tasks import task_of
from tests.components.tasks.schemas import BINARY, MULTICLASS, REGRESSION

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spark():
    with session("labels") as spark:
        yield spark


def labels(spark, schema, values, kind):
    from pyspark.sql import functions as F

    rows = [(f"r{place}", value) for place, value in enumerate(values)]
    frame = spark.createDataFrame(rows, f"id string, target {kind}")
    column = task_of(schema).spark_label(frame["target"], frame.schema["target"].dataType, F.col("id"))
    answer = frame.select(column.alias("target"))
    return [row["target"] for row in answer.collect()], answer.schema["target"].dataType.simpleString()


@pytest.mark.parametrize(
    ("schema", "values", "kind", "stored", "kind_stored"),
    [
        (BINARY, [0, 1, None], "int", [0, 1, None], "bigint"),
        (BINARY, [0.0, 1.0], "double", [0, 1], "bigint"),
        (BINARY, [True, False, None], "boolean", [1, 0, None], "bigint"),
        (BINARY, [Decimal("1.00")], "decimal(9,2)", [1], "bigint"),
        (MULTICLASS, ["low", None, "high"], "string", ["low", None, "high"], "string"),
        (REGRESSION, [12.7, None, -0.9], "double", [12.7, None, -0.9], "double"),
        (REGRESSION, [12], "bigint", [12.0], "double"),
    ],
)
def test_labels_are_stored_as_they_are(spark, schema, values, kind, stored, kind_stored):  # noqa: PLR0917
    assert labels(spark, schema, values, kind) == (stored, kind_stored)


@pytest.mark.parametrize(
    ("schema", "values", "kind", "message"),
    [
        (BINARY, [0.0, 12.7], "double", "target is neither 0 nor 1: 12.7 in the row r1"),
        (BINARY, [-1], "int", "neither 0 nor 1: -1 in the row r0"),
        (BINARY, [float("nan")], "double", "neither 0 nor 1: NaN"),
        (MULTICLASS, ["low", "Low"], "string", "none of the schema's classes: Low in the row r1"),
        (MULTICLASS, [""], "string", "none of the schema's classes"),
        (REGRESSION, [1.0, float("nan")], "double", "no finite number: NaN in the row r1"),
        (REGRESSION, [float("-inf")], "double", "no finite number: -Infinity"),
    ],
)
def test_a_value_that_is_no_label_is_named_with_its_row(spark, schema, values, kind, message):
    with pytest.raises(Exception, match=message):
        labels(spark, schema, values, kind)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [(BINARY, "string"), (MULTICLASS, "int"), (MULTICLASS, "double"), (REGRESSION, "string"), (REGRESSION, "boolean")],
)
def test_a_column_of_another_type_is_refused(spark, schema, kind):
    with pytest.raises(TerminalError, match="is no label of the task"):
        labels(spark, schema, [None], kind)
