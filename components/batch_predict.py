"""batch_predict: an interval's rows scored on Spark by the SavedModel that is, or was, served."""

import contextlib
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import digest_of_file, digest_of_tree, write_text
from airtight.home import ROOT
from airtight.import_string import load
from components.artifacts import Predictions, Promotion
from components.data import examples as reading
from components.data import shards
from components.data.example_frame import columns_of
from components.data.pieces import write_parquet
from components.data.spark import session
from components.measures.predictions import PredictionFigures
from components.modelling.as_of import AS_OF, Chosen, FormerChampionGone, NoFormerChampion, choose
from components.modelling.model_server import ModelServer
from components.modelling.saved_model import inputs_of
from components.modelling.scoring import UNSCORED, outputs_of, scorer
from components.reports import predictions as report
from components.rollout.switch import served_in
from components.schema import DAY as DAY_BLOCKS
from components.schema import ExampleSchema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

FILE, SUMMARY, REPORT = "predictions.parquet", "summary.json", "report.html"
VERSION = "version"
"""Column of the model's version, int64, beside keys, time and the model's outputs."""
DAY = "_day"
"""Column of the local day, beside them until rows are in their files."""
ROWS_A_TASK = 8192
FEW_FILES = 8
"""Files that Spark's tasks do not share out well: their rows are dealt out anew."""


@component
def batch_predict(
    examples: InputArtifact[standard_artifacts.Examples],
    predictions: OutputArtifact[Predictions],
    model_name: Parameter[str],
    schema: Parameter[str],
    zone: Parameter[str],
    version: Parameter[str] = AS_OF,
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    promotions: InputArtifact[List[Promotion]] = None,  # noqa: UP006
    split: Parameter[str] = "predict",
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
) -> None:
    """Scores the rows on Spark, and writes what the model says of each: the same as the server would.

    Each Python worker of Spark loads the SavedModel once and takes raw features, as a request has them. Spark writes
    and sorts the answers on disk, and this process writes them by day, a few thousand rows at a time. The same rows
    and the same model give the same bytes, however Spark cuts the rows.

    Args:
      examples: The rows, with features, keys and time; labels are not read.
      predictions: Gets a Parquet file for each local day, in the order of time and keys: the keys, the time,
        the columns of slices and blocks, the model's outputs by name (such as `probability`; several values of a row
        are a list) and `version`; `summary.json`; `report.html`. Where the schema has no time there is one file.
      model_name: The served model.
      schema: Dotted name of the ExampleSchema.
      zone: IANA time zone of the days.
      version: `as_of` (what had served last, of intervals that ended before this one began), `former` (the champion
        before that one; where there is none, or it is gone, nothing is scored), `served` (what is served now) or a
        number.
      pushed: What was pushed in all runs.
      promotions: What persons and releases had served since, in all runs.
      split: Which split is scored.
      serving_root: Folder of all served models; empty is the state folder's `models/`.
      server_url: The server's REST address; empty is what $AIRTIGHT_MODEL_SERVER names, and there is none to ask
        when that is empty too.

    Raises:
      TerminalError: There is no such version, its files were changed, or the rows lack what it wants.
      TransientError: The server cannot be reached.
    """
    declared: ExampleSchema = load(schema)
    ends = reading.interval_of(examples)
    served, server = served_in(serving_root), ModelServer.named(server_url)
    folder, start = Path(predictions.uri), datetime.fromisoformat(ends[0])
    try:
        chosen = choose(version, model_name, start, served, server, pushed or [], promotions or [])
    except NoFormerChampion as error:
        if isinstance(error, FormerChampionGone):
            log.warning("Nothing is scored. %s", error)
        else:
            log.info("Nothing is scored: %s", error.message)
        _describe(predictions, ends, Chosen(0, folder, ""), model_name, version, PredictionFigures(declared, []), 0)
        return
    log.info("Version %d of %s scores %s to %s (asked for: %s).", chosen.number, model_name, *ends, version)
    source = reading.files_of(Path(examples.uri), split)
    before = [digest_of_file(file) for file in source]
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True)
    try:
        outputs = outputs_of(chosen.folder)
        parts = _scored(Path(examples.uri), split, declared, chosen, pa.schema(outputs), zone, scratch)
        if digest_of_tree(chosen.folder) != chosen.digest or [digest_of_file(file) for file in source] != before:
            raise TerminalError(
                "The model or the rows were changed while they were read.",
                expected=f"the same files in {chosen.folder} and {source[0].parent} all the while",
                received="another digest",
                remedy="Clear this task.",
            )
        columns = pa.schema({**_kept(declared), **outputs, VERSION: pa.int64()})
        figures = PredictionFigures(declared, list(outputs))
        days = _write(folder, parts, columns, chosen.number, figures)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _describe(predictions, ends, chosen, model_name, version, figures, days)


def _describe(
    predictions: Predictions,
    ends: tuple[str, str],
    chosen: Chosen,
    model: str,
    version: str,
    figures: PredictionFigures,
    days: int,
) -> None:
    """Writes down of what the predictions are, and how they are spread; see batch_predict."""
    folder = Path(predictions.uri)
    predictions.interval_start, predictions.interval_end = ends
    predictions.model, predictions.version, predictions.model_digest = model, chosen.number, chosen.digest
    predictions.rows = figures.rows
    predictions.digest = digest_of_tree(folder)
    names = ("model", "version", "model_digest", "rows", "digest", "interval_start", "interval_end")
    summary = {name: getattr(predictions, name) for name in names} | {"asked": version, "days": days}
    summary |= figures.summary()
    write_text(folder / SUMMARY, report.as_json(summary))
    write_text(folder / REPORT, report.page(summary))
    log.info("%d rows of %d days; the mean is %s. They lie in %s.", figures.rows, days, summary["mean"], folder)


def _kept(schema: ExampleSchema) -> dict[str, pa.DataType]:
    """Columns that name a row, or by which quality is told apart, and their types."""
    columns = columns_of(schema, labelled=False)
    blocks = [] if schema.blocks == DAY_BLOCKS else [schema.blocks]
    names = dict.fromkeys((*schema.keys, *([schema.time] if schema.time else []), *schema.slices, *blocks))
    return {name: columns.field(name).type for name in names}


def _scored(
    folder: Path, split: str, schema: ExampleSchema, chosen: Chosen, outputs: pa.Schema, zone: str, scratch: Path
) -> list[Path]:
    """Parts of keys, time, outputs and DAY, in the order of the days, time and keys."""
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_schema

    kinds, kept = inputs_of(chosen.folder, schema), _kept(schema)
    if twice := set(outputs.names) & {*kept, VERSION}:
        raise TerminalError(
            "The model answers under names that columns of the rows have.",
            expected="outputs that are called neither as a key or the time of the schema nor version",
            received=sorted(twice),
            remedy="Give the model's outputs other names.",
        )
    files = _parquet_files(folder, split, schema, list(dict.fromkeys((*kinds, *kept))), scratch)
    score = scorer(str(ROOT), str(chosen.folder), chosen.digest, kinds, list(kept), outputs)
    result = from_arrow_schema(pa.schema([*pa.schema(kept), *outputs]))
    count = sum(pq.read_metadata(file).num_rows for file in files)
    with session("batch_predict") as spark:
        rows = spark.read.parquet(*map(str, files)).select(*dict.fromkeys((*kinds, *kept)))
        rows = _dealt_out(rows, len(files), count)
        # Written before they are sorted: Spark looks at rows twice to sort them, and would score them twice.
        with _naming_rows(chosen.folder):
            rows.mapInArrow(score, result).write.parquet(str(scratch / "scored"))
        scored = spark.read.schema(result).parquet(str(scratch / "scored"))
        day = F.to_date(F.from_utc_timestamp(schema.time, zone)).cast("string") if schema.time else F.lit("")
        # By day first: where a clock is set back over midnight, days do not follow the time.
        order = [DAY, *([schema.time] if schema.time else []), *schema.keys]
        parts = shards.sorted_parts(scored.withColumn(DAY, day), order, scratch / "sorted")
    written = sum(pq.read_metadata(part).num_rows for part in parts)
    if written != count:
        raise TerminalError(
            "Rows were lost or doubled while they were scored.",
            expected=f"{count} rows",
            received=f"{written}",
            remedy="Clear this task; when it happens again, look at Spark's log.",
        )
    return parts


@contextlib.contextmanager
def _naming_rows(model: Path) -> Iterator[None]:
    """Takes what a worker says of the model's fault, and the row that it names, out of Spark's account of it."""
    try:
        yield
    except Exception as error:
        if not (match := re.search(re.escape(UNSCORED) + "(.*)", str(error))):
            raise
        raise TerminalError(
            f"The model in {model} cannot answer for these examples.",
            expected="values of the schema's kinds",
            received=match[1][:300],
            remedy="Correct the row in the lake, or the step that makes the examples.",
        ) from error


def _parquet_files(folder: Path, split: str, schema: ExampleSchema, columns: list[str], scratch: Path) -> list[Path]:
    """The split's files where they are Parquet with these columns; of TFRecords, one of the columns."""
    files = reading.files_of(folder, split)
    if files[0].suffix != reading.PARQUET_SUFFIX:
        every = columns_of(schema, labelled=False)
        rows = reading.batches(folder, split, schema, columns)
        path = scratch / "rows.parquet"
        write_parquet(path, rows, pa.schema([every.field(name) for name in columns]))
        return [path]
    for file in files:
        there = pq.read_schema(file).names
        if lacking := [name for name in columns if name not in there]:
            raise TerminalError(
                f"The rows in {file} cannot be scored.",
                expected="every feature that the model wants, and every key and time of the schema",
                received=f"no {', '.join(lacking)}",
                remedy="Run the step that makes the examples again, with this schema.",
            )
    return files


def _dealt_out(rows: "DataFrame", files: int, count: int) -> "DataFrame":
    """The rows in enough pieces for the cores: a file of one row group is one piece for Spark."""
    return rows if files > FEW_FILES else rows.repartition(max(1, min(FEW_FILES * FEW_FILES, count // ROWS_A_TASK)))


def _write(folder: Path, parts: list[Path], columns: pa.Schema, version: int, figures: PredictionFigures) -> int:
    """One file for each local day; returns how many."""
    counts: Counter[str] = Counter()
    for table in shards.read_parts(parts, [DAY]):
        counts.update({row["values"]: row["counts"] for row in pc.value_counts(table[DAY]).to_pylist()})
    stream = shards.RowStream(shards.read_parts(parts))
    for day in sorted(counts):
        path = folder / f"date={day}" / FILE if day else folder / FILE
        write_parquet(path, _versioned(stream.take(counts[day]), columns, version, figures), columns)
    return len(counts)


def _versioned(
    tables: Iterable[pa.Table], columns: pa.Schema, version: int, figures: PredictionFigures
) -> Iterator[pa.Table]:
    for table in tables:
        figures.add(table)
        rows = table.append_column(VERSION, pa.repeat(pa.scalar(version, pa.int64()), table.num_rows))
        yield rows.select(columns.names).replace_schema_metadata(None).cast(columns)
