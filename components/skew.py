"""skew: what the served model was asked with, beside the same features recomputed in batch as of the cut-off."""

import json
import logging
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.import_string import load
from airtight.interval import Interval
from airtight.verdict import Check, Verdict
from components.artifacts import SkewReport
from components.data import examples as reading
from components.reports import skew as report
from components.schema import ExampleSchema
from components.watch import feature_skew
from components.watch.feature_skew import FeatureSkew

log = logging.getLogger(__name__)

RECORD, REPORT = "skew.json", "report.html"
_WORDS = {
    "mismatch": "have another value",
    "missing": "lack a value that there is recomputed",
    "extra": "have a value that there is not recomputed",
}


@component
def skew(
    examples: InputArtifact[standard_artifacts.Examples],
    skew: OutputArtifact[SkewReport],
    model_name: Parameter[str],
    schema: Parameter[str],
    log_root: Parameter[str],
    zone: Parameter[str] = "UTC",
    key: Parameter[str] = "",
    split: Parameter[str] = "predict",
    answered: Parameter[str] = "",
    around_hours: Parameter[float] = 48.0,
    sample: Parameter[int] = 10_000,
    limit: Parameter[float] = 0.01,
    tolerance: Parameter[float] = 1e-5,
) -> None:
    """Compares a sample of logged requests with the examples, feature by feature. Skew is a warning, never a fault.

    A row of the log and one of the examples are the same by a key, which clients send as `x-request-id`, with `#` and
    the row's number where a request has several. The log is read a few thousand rows at a time, and so are the
    examples; the sampled rows are in memory.

    Args:
      examples: Features as of each row's cut-off, such as transform makes them to predict.
      skew: Gets `verdict.json` with a check for each feature, `skew.json` and `report.html`.
      model_name: The model.
      schema: Names the ExampleSchema.
      log_root: Folder of the prediction log.
      zone: IANA name of the time zone of `answered`.
      key: Column of the examples by which rows are the same; empty is the schema's first key.
      split: Of the examples.
      answered: When the rows were answered, such as 2026-11-28/2026-11-30; empty is around the examples' interval.
      around_hours: So many hours before and after that interval, where `answered` is empty.
      sample: So many logged rows are compared, about, always of the same keys.
      limit: A feature is skewed when more of its compared rows differ.
      tolerance: See `feature_skew.compare`.

    Raises:
      TerminalError: The schema has no key, an interval is none, or a file cannot be read.
    """
    declared: ExampleSchema = load(schema)
    ends = reading.interval_of(examples)
    name = key or next(iter(declared.keys), "")
    if not name:
        raise TerminalError(
            "Logged requests cannot be told apart.",
            expected="a key in the schema, whose values clients send as x-request-id",
            received="a schema without keys",
            remedy="Name the column as key.",
        )
    around, interval = timedelta(hours=around_hours), Interval.of(*ends)
    when = Interval.parse(answered, zone) if answered else Interval(interval.start - around, interval.end + around)
    logged = feature_skew.sampled(Path(log_root), model_name, when, max(1, sample))
    pieces = reading.batches(Path(examples.uri), split, declared, (*declared.names, name))
    tables = list(feature_skew.matching(pieces, name, logged))
    if not tables:
        raise TerminalError(
            "There are no examples to compare with.",
            expected=f"rows in the split {split}",
            received=f"none in {examples.uri}",
            remedy="Choose another interval.",
        )
    features, unknown = feature_skew.compare(declared, logged, pa.concat_tables(tables), name, tolerance)
    compared = logged.rows.num_rows - unknown
    checks = tuple(_check(feature, limit) for feature in features)
    skewed = [check.name for check in checks if not check.passed]
    reason = _reason(logged.rows.num_rows, compared, unknown, skewed, len(features))
    verdict = Verdict("skew", "/".join(ends), checks, reason)
    folder = Path(skew.uri)
    verdict.write(folder)
    record = {
        "model": model_name,
        "answered": str(when),
        "logged": logged.seen,
        "sampled": logged.rows.num_rows,
        "compared": compared,
        "unknown": unknown,
        "tolerance": tolerance,
        "features": [feature.to_json() for feature in features],
    }
    write_text(folder / RECORD, json.dumps(record, indent=1, allow_nan=False))
    write_text(folder / REPORT, report.page(record, verdict, features, limit))
    skew.interval_start, skew.interval_end = ends
    skew.model, skew.rows, skew.unknown = model_name, compared, unknown
    skew.skewed, skew.summary = len(skewed), reason
    log.log(logging.WARNING if skewed else logging.INFO, "%s The report lies in %s.", reason, folder / REPORT)


def _check(feature: FeatureSkew, limit: float) -> Check:
    parts = [f"{count:,} {words}" for kind, words in _WORDS.items() if (count := getattr(feature, kind))]
    note = f"Of {feature.rows:,} rows {', '.join(parts)}." if parts else ""
    if feature.not_logged:
        note += f" {feature.not_logged:,} rows have no such column in the log."
    name = feature.feature.name
    return Check(name, feature.share <= limit, feature.share, f"<= {limit:g}", severity="warning", note=note.strip())


def _reason(sampled: int, compared: int, unknown: int, skewed: list[str], features: int) -> str:
    if not sampled:
        return "Not enough data: the log has no answered row of then."
    if not compared:
        return f"Not enough data: none of {sampled:,} logged rows is among the examples; do clients send the key?"
    names = f" ({', '.join(skewed[:5])}{', ...' if len(skewed) > 5 else ''})" if skewed else ""  # noqa: PLR2004
    rest = f" {unknown:,} logged rows are not among the examples." if unknown else ""
    return f"{len(skewed)} of {features} features are skewed{names} in {compared:,} logged rows.{rest}"
