"""transform: the pipeline's function turns tables into examples on Spark; here they are checked, split and written."""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tfx.components.util import examples_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import digest_of_tree, new_file
from airtight.import_string import load
from airtight.parameters import check_choice
from airtight.verdict import Verdict
from components.artifacts import Dataset, ValidationReport
from components.data.dataset import DatasetReader
from components.data.spark import session
from components.schema import LABEL_KNOWN_AT, ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
PREDICT = "predict"
"""The one split of examples that are to be scored: the interval's rows, without labels."""
PURPOSES = TRAINING, PREDICTION = "training", "prediction"
REFUSE, MISSING = "refuse", "missing"
FILE = "examples-00000-of-00001.parquet"
ROW_GROUP = 1 << 17
"""Rows in a row group; fixed, so that the same rows are the same bytes."""


@component
def transform(
    dataset: InputArtifact[Dataset],
    report: InputArtifact[ValidationReport],
    examples: OutputArtifact[standard_artifacts.Examples],
    transform: Parameter[str],
    schema: Parameter[str],
    validation_days: Parameter[int] = 14,
    purpose: Parameter[str] = TRAINING,
    infinite: Parameter[str] = REFUSE,
) -> None:
    """Makes the examples of history and interval, as they were known then, in the order of time.

    `train` is the history before its last days, `validation` those last days, `test` the interval. A row whose label
    was not known when the history ended, or of `test` when the data set's labels had to be known (no run could have
    learned from it, or been judged on it), is left out and counted. A history that begins before the rows to train on
    feeds their features.

    For prediction there is one split, `predict`: every row of the interval, with the same features and without labels.

    Spark does the work on the tables; the finished examples are collected here, so that their order and bytes are the
    same for the same input. A year of 337,000 rows with 65 features is 200 MB. With fifty times as many, collect and
    write one split after the other, or a month at a time: the pipeline's function and the files stay as they are.

    Args:
      dataset: Names the tables.
      report: The verdict on them.
      examples: Receives one Parquet file for each split. Custom properties: interval, history_start, rows_<split>,
        rows_left_out, digest.
      transform: Names the pipeline's function `(table) -> DataFrame`: given a function from a table's name to its
        rows, it makes a Spark data frame of the schema's columns and LABEL_KNOWN_AT, missing values null.
      schema: Names the pipeline's `ExampleSchema`.
      validation_days: How many local days of the history, its last, are kept for validation.
      purpose: `training`, or `prediction`.
      infinite: `refuse` fails where a number is infinite, or beyond what a float32 holds; `missing` makes it a missing
        value and counts it (custom property `infinite_values`).

    Raises:
      TerminalError: The data did not pass validation, a file is no longer what ingest saw, the function's columns are
        not the schema's, rows are doubled, numbers are infinite, or a split would be empty.
    """
    check_choice("purpose", purpose, PURPOSES)
    check_choice("infinite", infinite, (REFUSE, MISSING))
    _check_verdict(Verdict.read(Path(report.uri)))
    reader = DatasetReader.open(dataset.uri)
    declared: ExampleSchema = load(schema)
    with session("transform") as spark, reader.unchanged():
        made = load(transform)(lambda table: reader.spark_frame(spark, table))
        frame = _typed(made, declared, transform)
        rows = (frame if purpose == TRAINING else _of_interval(frame, declared, reader)).toArrow()
    log.info("%d rows of %d features from %s.", rows.num_rows, len(declared.features), _in_words(reader))
    _check_unique(rows, declared)
    rows, infinite_values = _finite(rows, declared, transform, infinite)
    examples.set_int_custom_property("infinite_values", infinite_values)
    if purpose == PREDICTION:
        # Nothing of their labels, which are known later, if ever.
        parts, left_out = {PREDICT: _ordered(rows, declared).drop_columns([LABEL_KNOWN_AT, declared.label])}, 0
    else:
        parts = dict(_split(rows, declared, reader, validation_days))
        left_out = rows.num_rows - sum(part.num_rows for part in parts.values())
    _check_not_empty(parts, reader, validation_days)
    for name, part in parts.items():
        _write(Path(examples.uri) / f"Split-{name}" / FILE, part, declared)
        _say(name, part, declared)
    if purpose == TRAINING:
        log.info(
            "%d rows are left out: their label was not known when the history ended or the interval was judged, or "
            "they lie before the window.",
            left_out,
        )
    _describe(examples, reader, parts, left_out)
    log.info("The examples, digest %s, lie in %s.", examples.get_string_custom_property("digest")[:12], examples.uri)


def _check_verdict(verdict: Verdict) -> None:
    log.info("%s", verdict)
    if not verdict.passed:
        raise TerminalError(
            "The data did not pass validation, so nothing is made of them.",
            expected="a verdict that passed",
            received=str(verdict),
            remedy="Correct the data in the lake, or the expectations, and run validate again.",
        )


def _typed(made: "DataFrame", schema: ExampleSchema, function: str) -> "DataFrame":
    """The columns in the schema's order and in the types that every reader of examples expects."""
    from pyspark.sql import functions as F

    expected = [*schema.names, schema.label, schema.time, *schema.keys, LABEL_KNOWN_AT]
    if sorted(made.columns) != sorted(set(expected)):
        missing, extra = set(expected) - set(made.columns), set(made.columns) - set(expected)
        raise TerminalError(
            f"What {function} made are not the columns of the schema.",
            expected=f"the schema's columns and {LABEL_KNOWN_AT}, each once",
            received=[f"no {name}" for name in sorted(missing)] + [f"{name} in excess" for name in sorted(extra)]
            or "a column twice",
            remedy="Make the schema and the function agree.",
        )

    def filled(name: str, kind: str) -> "Column":
        # A value that is no number raises here (ANSI mode); nothing becomes missing by mistake.
        number = kind == "number"
        value = F.col(name).cast("float" if number else "string")
        return F.coalesce(value, F.lit(float("nan")).cast("float") if number else F.lit("")).alias(name)

    return made.select(
        *(filled(feature.name, feature.kind) for feature in schema.features),
        F.col(schema.label).cast("long"),
        F.col(schema.time).cast("timestamp"),
        *(filled(name, "category") for name in schema.keys if name not in schema.names),
        F.col(LABEL_KNOWN_AT).cast("timestamp"),
    )


def _of_interval(frame: "DataFrame", schema: ExampleSchema, reader: DatasetReader) -> "DataFrame":
    """The interval's rows alone; history is many times as much, and is not collected for nothing."""
    from pyspark.sql import functions as F

    time = F.col(schema.time)
    return frame.where((time >= F.lit(reader.interval.start)) & (time < F.lit(reader.interval.end)))


def _check_unique(rows: pa.Table, schema: ExampleSchema) -> None:
    counted = rows.group_by([schema.time, *schema.keys]).aggregate([([], "count_all")])
    if counted.num_rows == rows.num_rows:
        return
    doubled = counted.filter(pc.greater(counted["count_all"], 1)).sort_by([(schema.time, "ascending")])
    raise TerminalError(
        f"{rows.num_rows - counted.num_rows} examples are there more than once.",
        expected=f"one row for each {', '.join(schema.keys)}",
        received=[str(tuple(row[key] for key in schema.keys)) for row in doubled.slice(0, 5).to_pylist()],
        remedy="Find the table whose key repeats: a join with it doubles rows. validate can expect that it is unique.",
    )


def _finite(rows: pa.Table, schema: ExampleSchema, function: str, infinite: str) -> tuple[pa.Table, int]:
    """The rows with finite or missing numbers alone, and how many infinite ones were made missing."""
    counts: dict[str, int] = {}
    for name in schema.of_kind("number"):
        wrong = pc.is_inf(rows[name])
        if count := pc.sum(wrong).as_py() or 0:
            counts[name] = count
            missing = pc.if_else(wrong, pa.scalar(float("nan"), rows[name].type), rows[name])
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), missing)
    words = [f"{name} in {count:,} of {rows.num_rows:,} rows" for name, count in counts.items()]
    if counts and infinite == REFUSE:
        raise TerminalError(
            f"{function} made numbers that are infinite, or beyond what a float32 holds.",
            expected="finite numbers, and null where one is missing",
            received=words,
            remedy="Correct the function, such as a division by zero or a number of another unit, or have transform "
            "take them as missing: infinite='missing'.",
        )
    for described in words:
        log.warning("Infinite numbers count as missing: %s.", described)
    return rows, sum(counts.values())


def _split(
    rows: pa.Table, schema: ExampleSchema, reader: DatasetReader, validation_days: int
) -> Iterator[tuple[str, pa.Table]]:
    """Cuts rows by time, and leaves out those whose label was not known when history or interval ended."""
    start, end = reader.interval.start, reader.interval.end
    # Midnights of the pipeline's zone: a day of daylight saving has 23 or 25 hours.
    validation = start.astimezone(ZoneInfo(reader.zone)) - timedelta(days=validation_days)
    ordered = _ordered(rows, schema)
    spans = (
        (reader.training_start, validation, start),
        (validation, start, start),
        (start, end, reader.labels_known_by),
    )
    for name, (first, last, known_by) in zip(SPLITS, spans, strict=True):
        time, known = pc.field(schema.time), pc.field(LABEL_KNOWN_AT)
        inside = (time >= _instant(first)) & (time < _instant(last)) & (known < _instant(known_by))
        yield name, ordered.filter(inside & pc.field(schema.label).is_valid()).drop_columns(LABEL_KNOWN_AT)


def _ordered(rows: pa.Table, schema: ExampleSchema) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in (schema.time, *schema.keys)])


def _instant(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, pa.timestamp("us", tz="UTC"))


def _check_not_empty(parts: dict[str, pa.Table], reader: DatasetReader, validation_days: int) -> None:
    may_be_empty = () if validation_days else ("validation",)
    empty = [name for name, part in parts.items() if not part.num_rows and name not in may_be_empty]
    if empty == [PREDICT]:
        raise TerminalError(
            "There is nothing to predict.",
            expected="rows in the interval",
            received=f"none in {reader.interval}",
            remedy="Choose another interval, or see that the lake has its days.",
        )
    if empty:
        raise TerminalError(
            f"There are no examples for {' and '.join(empty)}.",
            expected=f"labelled rows before, within and after the last {validation_days} days of the history",
            received=f"rows to train on from {reader.training_start.isoformat()} and the interval {reader.interval}",
            remedy="Choose a longer history, a later interval or fewer validation days.",
        )


def _write(path: Path, part: pa.Table, schema: ExampleSchema) -> None:
    columns = dict.fromkeys((*schema.names, schema.label, schema.time, *schema.keys))
    plain = (
        part.select([name for name in columns if name in part.column_names])
        .replace_schema_metadata(None)
        .combine_chunks()
    )
    with new_file(path) as temporary:
        pq.write_table(plain, temporary, compression="zstd", row_group_size=ROW_GROUP, store_schema=False)


def _say(name: str, part: pa.Table, schema: ExampleSchema) -> None:
    if not part.num_rows:
        log.info("%s: no rows.", name)
        return
    span = pc.min_max(part[schema.time]).as_py()
    labelled = schema.label in part.column_names
    told = f"{100 * pc.mean(part[schema.label]).as_py():.1f} % positive" if labelled else "without labels"
    log.info("%s: %d rows, %s to %s UTC, %s.", name, part.num_rows, span["min"], span["max"], told)


def _describe(
    examples: standard_artifacts.Examples, reader: DatasetReader, parts: dict[str, pa.Table], left_out: int
) -> None:
    examples.splits = list(parts)
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_PARQUET)
    examples_utils.set_file_format(examples, "parquet")
    examples.set_string_custom_property("interval_start", reader.interval.start.isoformat())
    examples.set_string_custom_property("interval_end", reader.interval.end.isoformat())
    examples.set_string_custom_property("history_start", reader.history_start.isoformat())
    examples.set_string_custom_property("digest", digest_of_tree(Path(examples.uri)))
    examples.set_int_custom_property("rows_left_out", left_out)
    for name, part in parts.items():
        examples.set_int_custom_property(f"rows_{name}", part.num_rows)


def _in_words(reader: DatasetReader) -> str:
    timed = ", ".join(f"{table.rows} {name}" for name, table in reader.tables.items())
    return f"{timed} since {reader.history_start.date().isoformat()}"
