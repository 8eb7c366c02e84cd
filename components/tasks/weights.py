"""The weights of examples: 0 or more, checked wherever they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airtight.errors import TerminalError
from components.schema import ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import Column


def spark_weight(schema: ExampleSchema, weight: Column) -> Column:
    """A column of weights as examples store it, float32; a value that is none raises when Spark computes it.

    Args:
      schema: Names the column.
      weight: Of any numeric type.
    """
    from pyspark.sql import functions as F

    value = weight.cast("double")
    words = F.concat(F.lit(f"The weight {schema.weight} is no number of 0 or more: "), _text(weight))
    right = value.isNotNull() & ~F.isnan(value) & (value >= 0) & (value < float("inf"))
    return F.when(right, value.cast("float")).otherwise(F.raise_error(words))


def weights_of(table: pa.Table, schema: ExampleSchema) -> np.ndarray | None:
    """Weights of some examples, float64 [rows]; None where the schema names none.

    Raises:
      TerminalError: A weight is missing, not finite or below 0.
    """
    if not schema.weight:
        return None
    weights = table[schema.weight].cast(pa.float64()).fill_null(float("nan")).to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise TerminalError(
            f"The weight {schema.weight} has values that are no weight.",
            expected="a finite number of 0 or more in every row",
            received=[f"{weights[row]:g} in row {row}" for row in wrong[:5].tolist()],
            remedy="Correct the step that makes the examples.",
        )
    return weights


def _text(column: Column) -> Column:
    from pyspark.sql import functions as F

    return F.coalesce(column.cast("string"), F.lit("missing"))
