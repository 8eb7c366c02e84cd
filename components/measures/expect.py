"""Short names for what is often expected of a table; each is an expectation of Great Expectations.

One that `warns` is reported, and the run goes on; any other blocks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from components.measures.judging import Subject

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from components.data.dataset import DatasetReader, Part
    from components.data.lake import Table


def subjects_of(
    reader: DatasetReader, spark: SparkSession, table: Table, expectations: Sequence[Expectation]
) -> Iterator[Subject]:
    """The rows of a table, of the interval and of the history before it; those of a static table once.

    Args:
      reader: The run's data.
      spark: The session that computes.
      table: The table.
      expectations: What is expected of its rows.
    """
    parts: tuple[Part, ...] = ("interval", "history") if table.time else ("interval",)
    for part in parts:
        rows = reader.spark_frame(spark, table.name, part)
        yield Subject(f"rows of {table.name}", part, rows, table.key, expectations)


def given(column: str, *, warns: bool = False) -> Expectation:
    """No row lacks this column."""
    sentence = f"{column} is never missing"
    return gxe.ExpectColumnValuesToNotBeNull(column=column, description=sentence, **_severity(warns))


def unique(*columns: str, warns: bool = False) -> Expectation:
    """No two rows have the same values of these columns."""
    sentence = f"No two rows have the same {' and '.join(columns)}"
    if len(columns) == 1:
        return gxe.ExpectColumnValuesToBeUnique(column=columns[0], description=sentence, **_severity(warns))
    return gxe.ExpectCompoundColumnsToBeUnique(column_list=list(columns), description=sentence, **_severity(warns))


def between(column: str, low: float | None, high: float | None, *, warns: bool = False) -> Expectation:
    """All numbers that are there lie between two others, these included."""
    sides = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
    sentence = f"{column} is {' and '.join(side for side in sides if side)}"
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, description=sentence, **_severity(warns)
    )


def one_of(column: str, values: Sequence[Any], *, warns: bool = False) -> Expectation:
    """All values that are there are among these."""
    sentence = f"{column} is one of {len(values)} known values"
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=list(values), description=sentence, **_severity(warns)
    )


def mostly_given(column: str, share: float, *, warns: bool = True) -> Expectation:
    """At least this share of the rows has the column."""
    sentence = f"{column} is there in at least {share:.0%} of the rows"
    return gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
        column=column, min_value=share, description=sentence, **_severity(warns)
    )


def _severity(warns: bool) -> dict[str, Any]:
    return {"severity": "warning"} if warns else {}
