"""summarize: a day's rows in counts, which every later question about its data reads."""

import logging
from datetime import datetime
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.files import write_text
from airtight.import_string import load
from airtight.interval import time_zone
from components.artifacts import SummarizedDay
from components.data import examples as reading
from components.schema import ExampleSchema
from components.watch.day_summary import FILE
from components.watch.summarizing import summary_of

log = logging.getLogger(__name__)


@component
def summarize(
    examples: InputArtifact[standard_artifacts.Examples],
    summary: OutputArtifact[SummarizedDay],
    schema: Parameter[str],
    zone: Parameter[str],
    split: Parameter[str] = "day",
) -> None:
    """Counts the rows of an interval, with labels or without: values by bucket, categories, missing and infinite ones.

    Args:
      examples: The rows.
      summary: Receives `summary.json`.
      schema: Dotted name of the ExampleSchema.
      zone: IANA time zone of the days.
      split: Which rows.
    """
    declared: ExampleSchema = load(schema)
    start, end = reading.interval_of(examples)
    day = datetime.fromisoformat(start).astimezone(time_zone(zone)).date().isoformat()
    counts = summary_of(Path(examples.uri), split, declared, day)
    write_text(Path(summary.uri) / FILE, counts.to_json())
    summary.interval_start, summary.interval_end, summary.day = start, end, day
    summary.rows, summary.labelled = counts.rows, counts.labelled
    by_label = ", ".join(f"{count} {name}" for name, count in counts.labels.items())
    log.info("%s: %d rows, %d with all labels so far (%s).", day, counts.rows, counts.labelled, by_label)
