"""transform: the pipeline's function turns tables into examples on Spark; here they are checked, split and written."""

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from tfx.components.util import examples_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import digest_of_tree, write_text
from airtight.import_string import load
from airtight.parameters import check_choice
from airtight.verdict import Verdict
from components.artifacts import Dataset, ValidationReport
from components.data import example_frame as frames
from components.data import shards, tfrecords
from components.data.dataset import DatasetReader
from components.data.example_frame import KEPT, columns_of, order_of
from components.data.example_survey import Survey, narrow_columns, survey
from components.data.examples import DAY, HISTORY
from components.data.feature_kinds import kind_of
from components.data.spark import session
from components.schema import ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
PREDICT = "predict"
"""The one split of examples that are to be scored: the interval's rows, without labels."""
PURPOSES = TRAINING, PREDICTION, WATCHING = "training", "prediction", "watching"
REFUSE, MISSING = "refuse", "missing"
_PAYLOADS = {
    shards.PARQUET: (example_gen_pb2.PayloadFormat.FORMAT_PARQUET, "parquet"),
    shards.TFRECORD: (example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE, "tfrecords_gzip"),
}
_SPARK_DATA_ERROR = re.compile(r"\[(USER_RAISED_EXCEPTION|CAST_INVALID_INPUT|CAST_OVERFLOW)\] ([^\n]*)")


@component
def transform(
    dataset: InputArtifact[Dataset],
    report: InputArtifact[ValidationReport],
    examples: OutputArtifact[standard_artifacts.Examples],
    transform: Parameter[str],
    schema: Parameter[str],
    validation_days: Parameter[int] = 14,
    purpose: Parameter[str] = TRAINING,
    wrong_values: Parameter[str] = REFUSE,
    format: Parameter[str] = shards.PARQUET,
    shard_rows: Parameter[int] = shards.SHARD_ROWS,
) -> None:
    """Makes the examples of history and interval, as they were known then, in the order of time.

    `train` is the history before its last days, `validation` those last days, `test` the interval. A row whose label
    was not known when the history ended, or of `test` when the data set's labels had to be known (no run could have
    learned from it, or been judged on it), is left out and counted. A history that begins before the rows to train on
    feeds their features. Without a column of the time, rows are split by a hash of their keys: 80 % of the keys are
    `train`, 10 % `validation`, 10 % `test`.

    For prediction there is one split, `predict`: every row of the interval, with the same features and without labels.
    For watching there are `train`, the labelled rows of the history, and `day`, every row of the interval, whose label
    is null where it was not known when the data set's labels had to be.

    Spark works out, checks and sorts the rows, and writes them sorted on disk; this process reads them a few thousand
    at a time, counts, and writes shards of `shard_rows` rows. The same rows give the same files, whatever Spark's
    cores and settings.

    Args:
      dataset: Names the tables.
      report: The verdict on them.
      examples: Receives the shards of each split, and `schema.pbtxt` (TensorFlow Metadata). Spark writes below its
        folder meanwhile. Custom properties: interval, history_start, rows_<split>, rows_left_out, wrong_values,
        digest.
      transform: Names the pipeline's function `(table) -> DataFrame`: given a function from a table's name to its
        rows, it makes a Spark data frame of the schema's columns and LABEL_KNOWN_AT, missing values null.
      schema: Names the pipeline's `ExampleSchema`.
      validation_days: How many local days of the history, its last, are kept for validation.
      purpose: `training`, `prediction` or `watching`.
      wrong_values: `refuse` fails where a number is infinite, or beyond what a float32 holds, a vector of another
        length, or an image none; `missing` makes it a missing value and counts it (custom property `wrong_values`).
      format: `parquet`, or `tfrecord`: gzipped TFRecords of tf.Example.
      shard_rows: Rows of each file but a split's last.

    Raises:
      TerminalError: The data did not pass validation, a file is no longer what ingest saw, the function's columns are
        not the schema's, rows are doubled, labels, weights or values are none, or a split would be empty.
    """
    check_choice("purpose", purpose, PURPOSES)
    check_choice("wrong_values", wrong_values, (REFUSE, MISSING))
    check_choice("format", format, shards.FORMATS)
    _check_verdict(Verdict.read(Path(report.uri)))
    reader = DatasetReader.open(dataset.uri)
    declared: ExampleSchema = load(schema)
    if purpose == WATCHING and not declared.time:
        raise TerminalError(
            "Rows without a time cannot be watched day by day.",
            expected="a schema with the column of the time",
            received=f"the schema of {declared.label}, which names none",
            remedy="Name the column in the schema, or leave the watch out of the pipeline's settings.",
        )
    training, labelled = purpose == TRAINING, purpose != PREDICTION
    splits = {TRAINING: SPLITS, PREDICTION: (PREDICT,), WATCHING: (HISTORY, DAY)}[purpose]
    with _scratch(Path(examples.uri)) as scratch:
        with session("transform") as spark, reader.unchanged():
            made = load(transform)(lambda table: reader.spark_frame(spark, table))
            rows = frames.typed(made, declared, transform, labelled=labelled)
            rows = _in_splits(rows, declared, reader, purpose, validation_days)
            with _named_errors(transform):
                parts = shards.sorted_parts(rows, order_of(declared), scratch / "sorted")
        seen = survey(shards.read_parts(parts, narrow_columns(declared)), declared)
        log.info("%d rows of %d features from %s.", seen.total, len(declared.features), _summary(reader))
        _check_unique(seen, declared)
        _check_values(seen, declared, transform, wrong_values)
        counts = {name: seen.kept[number] for number, name in enumerate(splits)}
        _check_not_empty(counts, reader, validation_days, purpose)
        columns = columns_of(declared, labelled=labelled)
        stream = shards.RowStream(shards.read_parts(parts))
        for number in sorted(seen.rows):
            taken = stream.take(seen.rows[number])
            if 0 <= number < len(splits):
                name = splits[number]
                kept = (table.filter(pc.field(KEPT)) for table in taken)
                _write(Path(examples.uri), name, kept, counts[name], columns, format, shard_rows)
            for _ in taken:  # Rows of no split, and the last ones of a split where they are left out.
                pass
        for name in splits:
            if not counts[name]:
                _write(Path(examples.uri), name, iter(()), 0, columns, format, shard_rows)
    for number, name in enumerate(splits):
        times = f", {seen.first[number]} to {seen.last[number]} UTC" if number in seen.first else ""
        log.info("%s: %d rows%s.", name, counts[name], times)
    if training:
        log.info(
            "%d rows are left out: their label was not known when the history ended or the interval was judged, or "
            "they lie before the window.",
            seen.total - sum(counts.values()),
        )
    if format == shards.TFRECORD and (doubles := [field.name for field in columns if field.type == pa.float64()]):
        log.warning("A tf.Example has float32 alone: %s are rounded to 7 digits.", ", ".join(doubles))
    write_text(Path(examples.uri) / tfrecords.SCHEMA_FILE, tfrecords.schema_text(declared, columns))
    _describe(examples, reader, counts, seen, format)
    log.info("The examples, digest %s, lie in %s.", examples.get_string_custom_property("digest")[:12], examples.uri)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for Spark's parts beside the splits: it goes with the attempt's output where this process is killed."""
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_verdict(verdict: Verdict) -> None:
    log.info("%s", verdict)
    if not verdict.passed:
        raise TerminalError(
            "The data did not pass validation, so nothing is made of them.",
            expected="a verdict that passed",
            received=str(verdict),
            remedy="Correct the data in the lake, or the expectations, and run validate again.",
        )


def _in_splits(
    rows: "DataFrame", schema: ExampleSchema, reader: DatasetReader, purpose: str, validation_days: int
) -> "DataFrame":
    """The rows with the number of their split."""
    start, end = reader.interval.start, reader.interval.end
    if purpose == PREDICTION:
        return frames.in_one_span(rows, schema, start, end)
    if purpose == WATCHING:
        watched = ((reader.training_start, start, start), (start, end, reader.labels_known_by))
        return frames.in_watched_spans(rows, schema, watched)
    if not schema.time:
        return frames.in_hashed_spans(rows, schema)
    # Midnights of the pipeline's zone: a day of daylight saving has 23 or 25 hours.
    validation = start.astimezone(ZoneInfo(reader.zone)) - timedelta(days=validation_days)
    spans = (
        (reader.training_start, validation, start),
        (validation, start, start),
        (start, end, reader.labels_known_by),
    )
    return frames.in_spans(rows, schema, spans)


@contextlib.contextmanager
def _named_errors(function: str) -> Iterator[None]:
    """Puts Spark's errors about single values in words; it raises them, wrapped, out of the middle of a task."""
    try:
        yield
    except Exception as error:
        if not (match := _SPARK_DATA_ERROR.search(str(error))):
            raise
        raise TerminalError(
            f"A value that {function} made, or that it reads, is none of its kind.",
            expected="labels of the schema's task, numbers where the schema has numbers",
            received=match[2][:300],
            remedy="Correct the function, or the row in the lake; null is a missing value.",
        ) from error


def _check_unique(seen: Survey, schema: ExampleSchema) -> None:
    if seen.doubled:
        raise TerminalError(
            f"{seen.doubled} examples are there more than once.",
            expected=f"one row for each {', '.join(schema.keys)}",
            received=seen.doubled_rows,
            remedy="Find the table whose key repeats: a join with it doubles rows. validate can expect that it is "
            "unique.",
        )


def _check_values(seen: Survey, schema: ExampleSchema, function: str, wrong_values: str) -> None:
    words = {
        name: f"{name} in {count:,} of {seen.total:,} rows, such as {', '.join(seen.wrong_rows[name])}"
        for name, count in sorted(seen.wrong.items())
    }
    if schema.weight in words:
        raise TerminalError(
            f"{function} made weights that are none.",
            expected="finite numbers of 0 or more",
            received=words[schema.weight],
            remedy="Correct the function, or name another column as the schema's weight.",
        )
    flaws = {feature.name: kind_of(feature).wrong for feature in schema.features if feature.name in words}
    if words and wrong_values == REFUSE:
        raise TerminalError(
            f"{function} made values that are {'; '.join(dict.fromkeys(flaws.values()))}.",
            expected="values of the schema's kinds, and null where one is missing",
            received=list(words.values()),
            remedy="Correct the function, such as a division by zero or a number of another unit, or have transform "
            "take them as missing: wrong_values='missing'.",
        )
    for name, flaw in flaws.items():
        log.warning("Values that are %s count as missing: %s.", flaw, words[name])


def _check_not_empty(counts: Mapping[str, int], reader: DatasetReader, validation_days: int, purpose: str) -> None:
    if purpose == WATCHING:
        return  # A day without rows is what a watch is there for, and the first one has no history.
    may_be_empty = () if validation_days else ("validation",)
    empty = [name for name, rows in counts.items() if not rows and name not in may_be_empty]
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


def _write(
    folder: Path, split: str, tables: Iterator[pa.Table], rows: int, columns: pa.Schema, format_: str, shard_rows: int
) -> None:
    count = shards.write_shards(folder / f"Split-{split}", tables, rows, columns, format_, shard_rows)
    log.info("%s: %d files of up to %d rows.", split, count, shard_rows)


def _describe(
    examples: standard_artifacts.Examples, reader: DatasetReader, counts: Mapping[str, int], seen: Survey, format_: str
) -> None:
    payload, file_format = _PAYLOADS[format_]
    examples.splits = list(counts)
    examples_utils.set_payload_format(examples, payload)
    examples_utils.set_file_format(examples, file_format)
    examples.set_string_custom_property("interval_start", reader.interval.start.isoformat())
    examples.set_string_custom_property("interval_end", reader.interval.end.isoformat())
    examples.set_string_custom_property("history_start", reader.history_start.isoformat())
    examples.set_string_custom_property("digest", digest_of_tree(Path(examples.uri)))
    examples.set_int_custom_property("rows_left_out", seen.total - sum(counts.values()))
    examples.set_int_custom_property("wrong_values", sum(seen.wrong.values()))
    for name, rows in counts.items():
        examples.set_int_custom_property(f"rows_{name}", rows)


def _summary(reader: DatasetReader) -> str:
    timed = ", ".join(f"{table.rows} {name}" for name, table in reader.tables.items())
    return f"{timed} since {reader.history_start.date().isoformat()}"
