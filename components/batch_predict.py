"""batch_predict: an interval's rows scored on Spark by the SavedModel that is, or was, served."""

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import digest_of_file, digest_of_tree, new_file, write_text
from airtight.home import ROOT
from airtight.import_string import load
from components.artifacts import Predictions, Promotion
from components.data.examples import files_of, interval_of
from components.data.spark import session
from components.modelling.as_of import AS_OF, Chosen, choose
from components.modelling.model_server import ModelServer
from components.modelling.saved_model import inputs_of
from components.modelling.scoring import scorer
from components.reports.predictions import page
from components.rollout.switch import served_in
from components.schema import PREDICTION, ExampleSchema

log = logging.getLogger(__name__)

FILE, SUMMARY, REPORT = "predictions.parquet", "summary.json", "report.html"
VERSION = "version"
"""Column of the model's version, int64, beside keys, time and `prediction`."""
BINS = 20
ROWS_A_TASK = 8192
MOST_TASKS = 64


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

    Each Python worker of Spark loads the SavedModel once and takes raw features, as a request has them. The same rows
    and the same model give the same bytes, however Spark cuts the rows. Nothing is seen before all is written.

    Args:
      examples: The rows, with features, keys and time; labels are not read.
      predictions: Gets a Parquet file for each local day, in the order of time and keys: the keys, the time,
        `prediction` (float32) and `version`; `summary.json`; `report.html`.
      model_name: The served model.
      schema: Dotted name of the ExampleSchema.
      zone: IANA time zone of the days.
      version: `as_of` (what had served last, of intervals that ended before this one began), `served` (what is served
        now) or a number.
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
    ends = interval_of(examples)
    served, server = served_in(serving_root), ModelServer.named(server_url)
    chosen = choose(
        version, model_name, datetime.fromisoformat(ends[0]), served, server, pushed or [], promotions or []
    )
    log.info("Version %d of %s scores %s to %s (asked for: %s).", chosen.number, model_name, *ends, version)
    source = files_of(Path(examples.uri), split)
    before = [digest_of_file(file) for file in source]
    scored = _scored(source, declared, chosen)
    if digest_of_tree(chosen.folder) != chosen.digest or [digest_of_file(file) for file in source] != before:
        raise TerminalError(
            "The model or the rows were changed while they were read.",
            expected=f"the same files in {chosen.folder} and {source[0].parent} all the while",
            received="another digest",
            remedy="Clear this task.",
        )
    rows = scored.sort_by([(name, "ascending") for name in (declared.time, *declared.keys)])
    rows = rows.append_column(VERSION, pa.array(np.full(rows.num_rows, chosen.number), pa.int64()))
    folder = Path(predictions.uri)
    days = _write(folder, rows, declared, zone)
    _describe(predictions, rows, chosen, model_name, ends)
    told = _summary(predictions, rows, days, version)
    write_text(folder / SUMMARY, json.dumps(told, indent=1))
    write_text(folder / REPORT, page(told))
    log.info(
        "%d rows of %d days; the mean prediction is %s. They lie in %s.", rows.num_rows, days, told["mean"], folder
    )


def _scored(source: list[Path], schema: ExampleSchema, chosen: Chosen) -> pa.Table:
    """Keys, time and `prediction` of each row, in no order."""
    kinds = inputs_of(chosen.folder, schema)
    keep = list(dict.fromkeys((*schema.keys, schema.time)))
    wanted = list(dict.fromkeys((*kinds, *keep)))
    for file in source:
        lacking = [name for name in wanted if name not in pq.read_schema(file).names]
        if lacking:
            raise TerminalError(
                f"The rows in {file} cannot be scored.",
                expected="every feature that the model wants, and every key and time of the schema",
                received=f"no {', '.join(lacking)}",
                remedy="Run the step that makes the examples again, with this schema.",
            )
    score = scorer(str(ROOT), str(chosen.folder), chosen.digest, kinds, keep, PREDICTION)
    count = sum(pq.read_metadata(file).num_rows for file in source)
    tasks = min(MOST_TASKS, max(1, count // ROWS_A_TASK))
    columns = ", ".join(f"`{n}` {'timestamp' if n == schema.time else 'string'}" for n in keep)
    with session("batch_predict") as spark:
        rows = spark.read.parquet(*map(str, source)).select(*wanted)
        made = rows.repartition(tasks).mapInArrow(score, f"{columns}, prediction float").toArrow()
    if made.num_rows != count:
        raise TerminalError(
            "Rows were lost or doubled while they were scored.",
            expected=f"{count} rows",
            received=f"{made.num_rows}",
            remedy="Clear this task; when it happens again, look at Spark's log.",
        )
    return made


def _write(folder: Path, rows: pa.Table, schema: ExampleSchema, zone: str) -> int:
    """One file for each local day; returns how many."""
    local = pc.strftime(rows[schema.time].cast(pa.timestamp("us", tz=zone)), format="%Y-%m-%d")
    days = pc.unique(local).to_pylist()
    for day in days:
        part = rows.filter(pc.equal(local, day)).replace_schema_metadata(None).combine_chunks()
        with new_file(folder / f"date={day}" / FILE) as temporary:
            pq.write_table(part, temporary, compression="zstd", store_schema=False)
    return len(days)


def _describe(predictions: Predictions, rows: pa.Table, chosen: Chosen, model: str, ends: tuple[str, str]) -> None:
    predictions.interval_start, predictions.interval_end = ends
    predictions.model, predictions.version, predictions.model_digest = model, chosen.number, chosen.digest
    predictions.rows = rows.num_rows
    predictions.digest = digest_of_tree(Path(predictions.uri))


def _summary(predictions: Predictions, rows: pa.Table, days: int, asked: str) -> dict[str, object]:
    """What `summary.json` and the page tell; numbers of no rows are None."""
    values = rows["prediction"].to_numpy()
    counts, edges = np.histogram(values, bins=BINS, range=(0, 1))
    numbers: list[float | None] = [None] * 4
    if len(values):
        numbers = [float(f"{v:.6g}") for v in (values.mean(), *np.percentile(values, [5, 50, 95]))]
    names = ("model", "version", "model_digest", "rows", "digest", "interval_start", "interval_end")
    return {
        **{name: getattr(predictions, name) for name in names},
        "asked": asked,
        "days": days,
        **dict(zip(("mean", "p5", "p50", "p95"), numbers, strict=True)),
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": counts.tolist(),
    }
