"""validate: judges the data of a run by the pipeline's expectations, and stops it when a blocking one is not met."""

import logging
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.import_string import load
from airtight.interval import Interval
from components.artifacts import Dataset, ValidationReport
from components.data.dataset import DatasetReader
from components.data.spark import session
from components.measures.judging import in_words, judge
from components.reports.validation import REPORT_HTML, ValidationSummary

log = logging.getLogger(__name__)


@component
def validate(
    dataset: InputArtifact[Dataset],
    report: OutputArtifact[ValidationReport],
    expectations: Parameter[str],
    pipeline: Parameter[str],
) -> None:
    """Judges interval and history by Great Expectations on Spark, and writes verdict and report.

    Args:
      dataset: What ingest wrote.
      report: Receives `verdict.json`, `report.json` and `report.html`; properties interval and passed, and as custom
        properties how many expectations there were and how many warn.
      expectations: Dotted name of the pipeline's function (DatasetReader, SparkSession) -> subjects
        (`components.measures.judging.Subject`).
      pipeline: Name of the pipeline, under which the report of a failed run is kept.

    Raises:
      TerminalError: A file is no longer what ingest saw, or a blocking expectation is not met. A failed node keeps no
        artifact, so the report then lies in the home, under `reports/<pipeline>/<interval>/validate/`.
      TransientError: The Spark server does not answer, or the disk is full.
    """
    reader = DatasetReader.open(dataset.uri)
    declared = load(expectations)
    with session(f"{pipeline} validate") as spark, reader.unchanged():
        summary = ValidationSummary(pipeline, reader, list(judge(declared(reader, spark))))
    verdict, warnings = summary.verdict, summary.unmet("warning")
    for finding in warnings:
        log.warning("%s", finding.to_check())
    if not verdict.passed:
        kept = reports_folder(pipeline, reader.interval)
        summary.write(kept)
        raise _refusal(summary, kept)
    summary.write(Path(report.uri))
    report.interval_start, report.interval_end = dataset.interval_start, dataset.interval_end
    report.passed = 1
    report.set_int_custom_property("expectations", len(summary.findings))
    report.set_int_custom_property("warnings", len(warnings))
    log.info("%s. The report lies in %s.", verdict, Path(report.uri) / REPORT_HTML)


def reports_folder(pipeline: str, interval: Interval) -> Path:
    """Where the report of a run that validate stopped is kept; the next attempt for the same interval replaces it."""
    return Home.current().failed_report(pipeline, interval, "validate")


def _refusal(summary: ValidationSummary, kept: Path) -> TerminalError:
    failed = summary.unmet("blocking")
    for finding in failed:
        log.error("%s", finding.to_check())
    worst = max(failed, key=lambda finding: finding.unexpected or 0)
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    examples = f", such as {'; '.join(map(in_words, worst.examples))}" if worst.examples else ""
    return TerminalError(
        f"The data of the {worst.part} do not meet a blocking expectation{others}: {worst.sentence}.",
        expected=f"{worst.part} {worst.subject}: {worst.sentence}"
        + (f" ({worst.bound})" if worst.unexpected is None else ""),
        received=f"{worst.measured}{examples}",
        remedy=f"Read {kept / REPORT_HTML}, correct these days in the lake and run again from ingest.",
    )
