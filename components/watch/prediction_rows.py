"""Predictions of some days as a Spark frame of one form, whether they were scored in batch or logged by the server.

A row is one answer of one version. What names it are the columns by which labels are joined: of a batch the schema's
time and keys; of the log one key, the client's `x-request-id`, with `#` and the row's number where a request had
several rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.predictions import INPUT, OTHER_OUTPUTS, OUTPUT, REQUEST, ROW, SIGNATURE, TIME
from components.data import predictions as prediction_log
from components.data.example_frame import columns_of
from components.data.pieces import write_parquet
from components.schema import DAY as DAY_BLOCKS
from components.schema import ExampleSchema
from components.tasks import task_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from components.artifacts import Predictions

DAY, AT, VERSION, BESIDE = "_day", "_at", "version", "_beside"
"""Columns beside names, outputs and slices: local day (text), instant of the row, the model's version, and whether the
answer was no one's: of a version that was asked beside the one that answered."""
FILE, SUMMARY = "predictions.parquet", "summary.json"
"""Of a `Predictions` artifact."""
ANSWERS = ("as_of", "served")
"""What a batch was asked for whose predictions are answers; any other version is beside them."""
ANSWERED, CANDIDATE = "OK", "candidate"
SPAN_DAYS = 1
"""The log is read so many days longer on both sides than the local days: its own are in UTC."""


@dataclass(frozen=True)
class Form:
    """Which columns rows of predictions have.

    Args:
      schema: Of the examples.
      join: Columns that name a row, there and among the labels.
      zone: IANA name of the time zone of the days.
    """

    schema: ExampleSchema
    join: tuple[str, ...]
    zone: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """The model's outputs that the schema's task reads."""
        return task_of(self.schema).outputs

    @property
    def slices(self) -> tuple[str, ...]:
        """Columns of the schema's slices and blocks; texts."""
        blocks = [] if self.schema.blocks == DAY_BLOCKS else [self.schema.blocks]
        return tuple(dict.fromkeys((*self.schema.slices, *blocks)))

    @property
    def join_types(self) -> dict[str, pa.DataType]:
        """Types of `join`."""
        columns = columns_of(self.schema, labelled=False)
        return {name: columns.field(name).type for name in self.join}

    def select(self, frame: DataFrame, at: str, beside: Any) -> DataFrame:
        """The columns of this form of a frame that has them by their names; slices that it lacks are ""."""
        from pyspark.sql import functions as F

        there = set(frame.columns)
        slices = {
            f"slice_{name}": F.coalesce(F.col(name).cast("string"), F.lit("")) if name in there else F.lit("")
            for name in self.slices
        }
        instant = F.col(at)
        day = F.to_date(F.from_utc_timestamp(instant, self.zone)).cast("string")
        return frame.select(
            *self.join,
            instant.alias(AT),
            day.alias(DAY),
            F.col(VERSION).cast("long").alias(VERSION),
            beside.alias(BESIDE),
            *self.outputs,
            *(column.alias(name) for name, column in slices.items()),
        )


def of_batch(spark: SparkSession, batches: Sequence[Predictions], days: Sequence[str], form: Form) -> DataFrame | None:
    """Rows of batch predictions.

    A day's answers are those of the newest batch that was asked for the version of then, or the served one. Batches of
    a named version, or of the former champion, are beside them, the newest of each version.

    Args:
      spark: A session.
      batches: Artifacts of all runs.
      days: Which, ISO 8601.
      form: Of the rows.

    Returns:
      The frame, None where no batch has any of the days.

    Raises:
      TerminalError: The schema has no time, so that rows have no day.
    """
    from pyspark.sql import functions as F

    if not form.schema.time:
        raise TerminalError(
            "Predictions without a time have no day.",
            expected="a schema with a time",
            received=f"the schema of {', '.join(form.schema.labels)} without one",
            remedy="Name the column of the time in the schema, or judge the log, whose rows have the answer's.",
        )
    answers: dict[str, tuple[int, Path]] = {}
    beside: dict[tuple[str, int], Path] = {}
    for batch in sorted(batches, key=lambda batch: batch.id):
        folder = Path(batch.uri)
        is_named = str(json.loads((folder / SUMMARY).read_text())["asked"]).strip() not in ANSWERS
        for day in days:
            path = folder / f"date={day}" / FILE
            if path.is_file():
                if is_named:
                    beside[day, batch.version] = path
                else:
                    answers[day] = batch.version, path
    others = [path for (day, version), path in beside.items() if day not in answers or answers[day][0] != version]
    parts = [([path for _, path in answers.values()], False), (others, True)]
    frames = [
        form.select(
            spark.read.option("mergeSchema", "true").parquet(*map(str, sorted(paths))),
            form.schema.time,
            F.lit(is_beside),
        )
        for paths, is_beside in parts
        if paths
    ]
    if not frames:
        return None
    return frames[0] if len(frames) == 1 else frames[0].unionByName(frames[1])


def of_log(
    spark: SparkSession, root: Path, model: str, interval: Interval, form: Form, scratch: Path
) -> tuple[DataFrame | None, Counter[str]]:
    """Rows of the prediction log, each once, whose answer lies in an interval.

    Args:
      spark: A session.
      root: Folder of the log.
      model: The model.
      interval: When it was answered.
      form: Of the rows; it joins by one column.
      scratch: An existing folder for the rows.

    Returns:
      The frame, None where there is no row; and by local day how many rows had no answer.

    Raises:
      TerminalError: A file is broken, or `form` joins by several columns.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    if len(form.join) != 1:
        raise TerminalError(
            "Rows of the prediction log are joined by one column.",
            expected="one key, whose values clients send as x-request-id",
            received=list(form.join),
            remedy="Name the key as join, such as join='order_id'.",
        )
    refused: Counter[str] = Counter()
    day = timedelta(days=SPAN_DAYS)
    wider = Interval(interval.start - day, interval.end + day)
    path, rows = scratch / "log.parquet", 0
    pieces = (_logged(piece, form, interval, refused) for piece in prediction_log.pieces(root, model, wider))
    tables = (table for table in pieces if table.num_rows)
    first = next(tables, None)
    if first is None:
        return None, refused

    def counted() -> Iterator[pa.Table]:
        nonlocal rows
        for table in (first, *tables):
            rows += table.num_rows
            yield table

    write_parquet(path, counted(), first.schema)
    assert rows == pq.read_metadata(path).num_rows
    frame = spark.read.parquet(str(path))
    # Written twice, such as where a file was closed while it was read: it is the same row.
    same = Window.partitionBy(VERSION, SIGNATURE, REQUEST, ROW).orderBy(AT)
    frame = frame.withColumn("_number", F.row_number().over(same)).where("_number = 1")
    of_row = Window.partitionBy(*form.join)
    # A canary answers alone; a shadow is asked beside the stable version.
    is_beside = (F.col("side") == CANDIDATE) & F.max(F.col("side") != CANDIDATE).over(of_row)
    return form.select(frame, AT, F.coalesce(is_beside, F.lit(False))), refused


def beside_log(rows: DataFrame, scored: DataFrame, form: Form) -> DataFrame:
    """The rows of the log, and beside those that were answered what other versions say of them in batch.

    Args:
      rows: `of_log`.
      scored: `of_batch`; what stands beside the answers counts. Where a version was asked live as well, that counts.
      form: Of both.
    """
    from pyspark.sql import functions as F

    key = form.join[0]
    answered = rows.where(~F.col(BESIDE)).groupBy(key, DAY).agg(F.min(AT).alias(AT))
    others = scored.where(BESIDE).drop(AT, DAY).withColumn(key, F.col(key).cast("string"))
    others = others.join(answered, key).join(rows.select(key, VERSION).distinct(), [key, VERSION], "left_anti")
    return rows.unionByName(others)


def key_of(rows: pa.Table) -> pa.ChunkedArray:
    """What names answered rows of the log: the request's id, with `#` and the row's number where it had several."""
    names = pc.cast(rows[REQUEST], pa.string())
    numbered = pc.binary_join_element_wise(names, pc.cast(rows[ROW], pa.string()), "#")
    return pc.if_else(pc.greater(rows["rows"], 1), numbered, names)


def _logged(piece: pa.Table, form: Form, interval: Interval, refused: Counter[str]) -> pa.Table:
    """The answered rows of a piece of the log that lie in the interval."""
    instant = pa.timestamp("us", tz="UTC")
    inside = (pc.field(TIME) >= pa.scalar(interval.start, instant)) & (
        pc.field(TIME) < pa.scalar(interval.end, instant)
    )
    piece = piece.filter(inside)
    answered = piece.filter((pc.field("code") == ANSWERED) & (pc.field("rows") > 0))
    if lacking := piece.num_rows - answered.num_rows:
        local = pc.strftime(
            piece.filter((pc.field("code") != ANSWERED) | (pc.field("rows") == 0))[TIME].cast(
                pa.timestamp("us", tz=form.zone)
            ),
            format="%Y-%m-%d",
        )
        refused.update(local.to_pylist())
        assert len(local) == lacking
    columns: dict[str, Any] = {
        form.join[0]: key_of(answered),
        AT: answered[TIME].cast(instant),
        VERSION: answered[VERSION],
        SIGNATURE: answered[SIGNATURE],
        REQUEST: answered[REQUEST].cast(pa.string()),
        ROW: answered[ROW],
        "side": answered["side"],
    }
    columns |= {name: _output(answered, name) for name in form.outputs}
    nothing = pa.nulls(answered.num_rows, pa.string())
    for name in form.slices:
        logged = INPUT + name
        columns.setdefault(name, answered[logged].cast(pa.string()) if logged in answered.column_names else nothing)
    return pa.table(columns)


def _output(rows: pa.Table, name: str) -> Any:
    """An output of one value a row, or of several from the row's JSON."""
    if OUTPUT + name in rows.column_names:
        return rows[OUTPUT + name].cast(pa.float32())
    others = rows[OTHER_OUTPUTS].to_pylist() if OTHER_OUTPUTS in rows.column_names else [None] * rows.num_rows
    values = [_of_json(text).get(name) for text in others]
    if any(value is None for value in values):
        raise TerminalError(
            f"Rows of the prediction log lack the output {name}.",
            expected=f"{OUTPUT}{name}, or {name} in {OTHER_OUTPUTS}",
            received=f"the columns {', '.join(rows.column_names)}",
            remedy="Judge the log of a model of this schema, or log its outputs.",
        )
    return pa.array(values, pa.list_(pa.float32()))


def _of_json(text: str | None) -> Mapping[str, Any]:
    return orjson.loads(text) if text else {}
