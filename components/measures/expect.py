"""Short names for what is often expected of a table; each is an expectation of Great Expectations.

One that `warns` is reported, and the run goes on; any other blocks it. `sentence` says for people what is expected;
empty for the usual words.
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


def given(column: str, sentence: str = "", *, warns: bool = False) -> Expectation:
    """No row lacks this column."""
    sentence = sentence or f"{column} is never missing"
    return gxe.ExpectColumnValuesToNotBeNull(column=column, description=sentence, **_severity(warns))


def unique(*columns: str, sentence: str = "", warns: bool = False) -> Expectation:
    """No two rows have the same values of these columns."""
    sentence = sentence or f"No two rows have the same {' and '.join(columns)}"
    if len(columns) == 1:
        return gxe.ExpectColumnValuesToBeUnique(column=columns[0], description=sentence, **_severity(warns))
    return gxe.ExpectCompoundColumnsToBeUnique(column_list=list(columns), description=sentence, **_severity(warns))


def between(
    column: str, low: float | None, high: float | None, sentence: str = "", *, warns: bool = False
) -> Expectation:
    """All numbers that are there lie between two others, these included."""
    sentence = sentence or f"{column} is {_range(low, high)}"
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, description=sentence, **_severity(warns)
    )


def one_of(column: str, values: Sequence[Any], sentence: str = "", *, warns: bool = False) -> Expectation:
    """All values that are there are among these."""
    sentence = sentence or f"{column} is one of {len(values)} known values"
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=list(values), description=sentence, **_severity(warns)
    )


def mostly_given(column: str, share: float, sentence: str = "", *, warns: bool = True) -> Expectation:
    """At least this share of the rows has the column."""
    sentence = sentence or f"{column} is there in at least {share:.0%} of the rows"
    return gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
        column=column, min_value=share, description=sentence, **_severity(warns)
    )


def mean_between(
    column: str, low: float | None, high: float | None, sentence: str = "", *, warns: bool = False
) -> Expectation:
    """The mean of a number, or the share of rows of a column of 0 and 1, lies between two others, these included."""
    sentence = sentence or f"The mean of {column} is {_range(low, high)}"
    return gxe.ExpectColumnMeanToBeBetween(
        column=column, min_value=low, max_value=high, description=sentence, **_severity(warns)
    )


def holds(column: str, sentence: str = "", *, warns: bool = False) -> Expectation:
    """A column that says of each row whether something holds is true wherever it is there."""
    return one_of(column, [True], sentence or f"{column} holds in every row", warns=warns)


def _range(low: float | None, high: float | None) -> str:
    sides = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
    return " and ".join(side for side in sides if side)


def _severity(warns: bool) -> dict[str, Any]:
    return {"severity": "warning"} if warns else {}
