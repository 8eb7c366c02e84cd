"""Examples as a Spark frame: columns typed, wrong values marked, each row dealt to a split."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

import pyarrow as pa

from airtight.errors import TerminalError
from components.data.feature_kinds import kind_of
from components.schema import LABEL_KNOWN_AT, ExampleSchema
from components.tasks import task_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SPAN, KEPT, WRONG = "_span", "_kept", "_wrong"
"""Columns beside the examples' own: number of the split (negative, or as many as there are: none), whether the row is
an example, and the names of the columns whose value was wrong."""
HASH_SHARES = (80, 10, 10)
"""Percent of the keys that are for training, validation and test where the schema has no time."""

Span = tuple[datetime, datetime, datetime]
"""First instant, first instant after it, and when labels have to be known."""


def columns_of(schema: ExampleSchema, *, labelled: bool) -> pa.Schema:
    """Names and types of the columns of examples, in order: features, labels and weight, time, keys."""
    fields: dict[str, pa.DataType] = {f.name: kind_of(f).arrow_type(f) for f in schema.features}
    if labelled:
        fields |= {name: part.label_type for name, part in task_of(schema).parts.items()}
        if schema.weight:
            fields.setdefault(schema.weight, pa.float32())
    if schema.time:
        fields[schema.time] = pa.timestamp("us", tz="UTC")
    return pa.schema(fields | {key: pa.string() for key in schema.keys if key not in fields})


def order_of(schema: ExampleSchema) -> list[str]:
    """Columns by which examples are in order, and of which no two rows have the same values."""
    return [*([schema.time] if schema.time else [SPAN]), *schema.keys]


def typed(made: DataFrame, schema: ExampleSchema, function: str, *, labelled: bool) -> DataFrame:
    """The columns of examples in their order and types, LABEL_KNOWN_AT (where there is a time), and WRONG.

    Args:
      made: What the pipeline's function made.
      schema: Of the examples.
      function: The function's name.
      labelled: Whether labels and weight are wanted; of rows to predict they are not looked at.

    Raises:
      TerminalError: Columns are not the schema's, or of a type that cannot be theirs. Values that cannot be raise when
        Spark computes them.
    """
    from pyspark.sql import functions as F

    _check_names(made, schema, function)
    types = {field.name: field.dataType for field in made.schema.fields}
    columns: dict[str, Column] = {}
    flaws: dict[str, Column] = {}
    for feature in schema.features:
        kind = kind_of(feature)
        if not kind.takes(types[feature.name]):
            raise TerminalError(
                f"The column {feature.name} of what {function} made is of another type.",
                expected=f"what becomes {kind.stored} (kind {feature.kind!r})",
                received=types[feature.name].simpleString(),
                remedy="Correct the function, or the kind in the schema.",
            )
        value, missing = kind.spark_cast(F.col(feature.name)), kind.spark_missing(feature)
        flaw = kind.spark_wrong(feature, F.col(feature.name), value)
        if flaw is not None:
            flaws[feature.name] = flaw
            value = F.when(~flaw, value)
        columns[feature.name] = F.coalesce(value, missing)
    if labelled:
        row = F.concat_ws(", ", *(F.col(key).cast("string") for key in schema.keys))
        for name, part in task_of(schema).parts.items():
            columns[name] = part.spark_label(F.col(name), types[name], row)
        if schema.weight:
            weight = F.col(schema.weight).cast("float")
            right = (weight >= 0) & (weight < float("inf"))
            flaws[schema.weight] = ~F.coalesce(right, F.lit(False))
            columns.setdefault(schema.weight, weight)
    if schema.time:
        columns |= {name: F.col(name).cast("timestamp") for name in (schema.time, LABEL_KNOWN_AT)}
    columns |= {key: F.coalesce(F.col(key).cast("string"), F.lit("")) for key in schema.keys if key not in columns}
    nothing = F.array().cast("array<string>")
    names = [F.when(flaw, F.lit(name)) for name, flaw in flaws.items()]
    # Asked first whether there is any: rows without are nearly all.
    columns[WRONG] = nothing
    if flaws:
        columns[WRONG] = F.when(any_of([*flaws.values()]), F.array_compact(F.array(*names))).otherwise(nothing)
    return made.select(*(column.alias(name) for name, column in columns.items()))


def any_of(conditions: Sequence[Column]) -> Column:
    """Whether one of the conditions, at least one, holds.

    They are joined two by two: Spark Connect sends no expression that is nested a hundred deep.
    """
    half = len(conditions) // 2
    return any_of(conditions[:half]) | any_of(conditions[half:]) if half else conditions[0]


def in_spans(frame: DataFrame, schema: ExampleSchema, spans: Sequence[Span]) -> DataFrame:
    """The rows with SPAN and KEPT: by their time, and kept where their label was known in time."""
    from pyspark.sql import functions as F

    time = F.col(schema.time)
    span = F.lit(-1)
    known = F.lit(False)
    for number, (first, end, known_by) in enumerate(spans):
        inside = (time >= F.lit(first)) & (time < F.lit(end))
        span = F.when(inside, F.lit(number)).otherwise(span)
        known = F.when(inside, F.col(LABEL_KNOWN_AT) < F.lit(known_by)).otherwise(known)
    span = F.when(time >= F.lit(spans[-1][1]), F.lit(len(spans))).otherwise(span)
    kept = _labelled(schema) & F.coalesce(known, F.lit(False))
    return frame.withColumns({SPAN: span, KEPT: kept}).drop(LABEL_KNOWN_AT)


def in_watched_spans(frame: DataFrame, schema: ExampleSchema, spans: Sequence[Span]) -> DataFrame:
    """As `in_spans`, but all rows of the last span are kept, without a label where it was not known in time."""
    from pyspark.sql import functions as F

    dealt = in_spans(frame, schema, spans)
    watched = F.col(SPAN) == len(spans) - 1
    known = ~watched | F.col(KEPT)
    labels = {name: F.when(known, F.col(name)) for name in schema.labels}
    return dealt.withColumns({**labels, KEPT: F.col(KEPT) | watched})


def in_hashed_spans(frame: DataFrame, schema: ExampleSchema) -> DataFrame:
    """The rows with SPAN and KEPT: by a hash of their keys (xxhash64 of their texts), the same in every run."""
    from pyspark.sql import functions as F

    percent = F.pmod(F.xxhash64(*(F.col(key).cast("string") for key in schema.keys)), F.lit(100))
    train, validation, _ = HASH_SHARES
    span = F.when(percent < train, 0).when(percent < train + validation, 1).otherwise(2)
    return frame.withColumns({SPAN: span, KEPT: _labelled(schema)})


def _labelled(schema: ExampleSchema) -> Column:
    """Whether every label of a row is known."""
    from pyspark.sql import functions as F

    return reduce(and_, [F.col(name).isNotNull() for name in schema.labels])


def in_one_span(frame: DataFrame, schema: ExampleSchema, start: datetime, end: datetime) -> DataFrame:
    """The rows to predict: those from `start` to before `end`, or all where the schema has no time."""
    from pyspark.sql import functions as F

    if schema.time:
        time = F.col(schema.time)
        frame = frame.where((time >= F.lit(start)) & (time < F.lit(end))).drop(LABEL_KNOWN_AT)
    return frame.withColumns({SPAN: F.lit(0), KEPT: F.lit(True)})


def _check_names(made: DataFrame, schema: ExampleSchema, function: str) -> None:
    expected = [*schema.names, *schema.labels, *schema.keys, *([schema.weight] if schema.weight else [])]
    if schema.time:
        expected += [schema.time, LABEL_KNOWN_AT]
    elif not schema.keys:
        raise TerminalError(
            "The schema says neither when a row is nor which one it is.",
            expected="a column of the time, or keys by whose hash rows are split",
            received="neither",
            remedy="Name the columns that tell a row from all others in the schema's keys.",
        )
    missing, extra = set(expected) - set(made.columns), set(made.columns) - set(expected)
    if missing or extra or len(made.columns) > len(set(made.columns)):
        known_at = f" and {LABEL_KNOWN_AT}" if schema.time else ""
        raise TerminalError(
            f"What {function} made are not the columns of the schema.",
            expected=f"the schema's columns{known_at}, each once",
            received=[f"no {name}" for name in sorted(missing)] + [f"{name} in excess" for name in sorted(extra)]
            or "a column twice",
            remedy="Make the schema and the function agree.",
        )
