"""What Spark is told about rows."""

from __future__ import annotations

from pyspark.sql.connect import functions as connect
from pyspark.sql.connect.proto import Expression

from components.data.example_frame import any_of


def test_conditions_of_any_number_of_features_are_sent_to_a_spark_server():
    conditions = [connect.col(f"feature_{number}").isNull() for number in range(3000)]
    # Who receives a message refuses one that is nested a hundred deep.
    message = any_of(conditions)._expr.to_plan(None).SerializeToString()
    assert Expression.FromString(message).unresolved_function.function_name == "or"
