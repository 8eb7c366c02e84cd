"""What tasks have in common when they check a label's column, in Arrow and in Spark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airtight.errors import TerminalError
from components.schema import ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import Column


def labels_refused(schema: ExampleSchema, expected: str, received: Sequence[str]) -> TerminalError:
    """The error of labels in examples that are none."""
    return TerminalError(
        f"The label {schema.label} has values that are no label.",
        expected=expected,
        received=list(received),
        remedy="Correct the step that makes the examples: rows without a known label are left out there.",
    )


def type_refused(schema: ExampleSchema, expected: str, received: str) -> TerminalError:
    """The error of a column of another type than the labels of the task have."""
    return TerminalError(
        f"The label {schema.label} is no label of the task {schema.task}.",
        expected=expected,
        received=f"a column of type {received}",
        remedy="Correct the pipeline's transform, or name the task that fits in the schema.",
    )


def checked(right: Column, value: Column, label: Column, words: str, row: Column | None) -> Column:
    """In Spark: `value` where it is right, null where the label is, and elsewhere an error that names the label.

    Args:
      right: Whether the label is one.
      value: The label as examples store it.
      label: What the pipeline's transform made.
      words: The error's text, before the label.
      row: Text that names the row.
    """
    from pyspark.sql import functions as F

    parts = [F.lit(f"{words}: "), label.cast("string")]
    parts += [F.lit(" in the row "), row] if row is not None else []
    return F.when(label.isNull(), F.lit(None)).when(right, value).otherwise(F.raise_error(F.concat(*parts)))


def examples_of(column: pa.ChunkedArray, wrong: np.ndarray) -> list[str]:
    """The first five wrong values of a column with their rows, for messages."""
    rows = np.flatnonzero(wrong)[:5].tolist()
    values = [(row, column[row].as_py()) for row in rows]
    return [f"{'missing' if value is None else repr(value)} in row {row}" for row, value in values]
