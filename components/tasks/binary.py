"""A label of 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airtight.errors import TerminalError
from components.schema import PREDICTION, ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType


class Binary:
    """Stands here until the whole task is merged: what writing and reading examples needs of it."""

    def __init__(self, schema: ExampleSchema) -> None:
        self.schema = schema

    @property
    def label_type(self) -> pa.DataType:
        """int64."""
        return pa.int64()

    def spark_label(self, label: Column, kind: DataType, row: Column | None = None) -> Column:
        """The label as int64; another number than 0 or 1 raises."""
        from pyspark.sql import functions as F
        from pyspark.sql.types import BooleanType, NumericType

        if not isinstance(kind, (BooleanType, NumericType)):
            raise TerminalError(
                f"The column {self.schema.label} holds no labels of the task binary.",
                expected="boolean values, or the numbers 0 and 1",
                received=kind.simpleString(),
                remedy="Correct the pipeline's transform, or the schema's task.",
            )
        number = label.cast("double")
        words = F.lit(f"The label {self.schema.label} is neither 0 nor 1: "), label.cast("string")
        message = F.concat(*words, F.lit(" in row "), F.lit("?") if row is None else row)
        return F.when(number.isin(0.0, 1.0), number.cast("long")).when(number.isNotNull(), F.raise_error(message))

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """The probability."""
        return predictions

    def predictions(self, response: Mapping[str, Any]) -> np.ndarray:
        """Probabilities, float64 [rows]."""
        return np.asarray(response[PREDICTION], np.float64)
