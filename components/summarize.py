"""summarize: a day's rows in counts, which every later question about its data reads."""

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.import_string import load
from airtight.interval import time_zone
from components.artifacts import SummarizedDay
from components.data import examples as reading
from components.modelling.registered import version_of
from components.modelling.saved_model import serving_folder
from components.schema import ExampleSchema
from components.watch.day_summary import FILE
from components.watch.predicted import predicted
from components.watch.summarizing import summary_of

log = logging.getLogger(__name__)


@component
def summarize(
    examples: InputArtifact[standard_artifacts.Examples],
    summary: OutputArtifact[SummarizedDay],
    schema: Parameter[str],
    zone: Parameter[str],
    split: Parameter[str] = "day",
    source: Parameter[str] = "",
    champion: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
    champion_pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
) -> None:
    """Counts the rows of an interval, with labels or without: values by bucket, categories, missing and infinite ones.

    What the served model predicts for them is counted, too. Of one that cannot answer there are no predictions; it is
    `challenger` that fails.

    Args:
      examples: The rows.
      summary: Receives `summary.json`.
      schema: Dotted name of the ExampleSchema.
      zone: IANA time zone of the days.
      split: Which rows.
      source: Category feature that says which source a row comes from, whose numbers are summed by it; "" for none.
      champion: The model that served when the interval began, or none.
      champion_pushed: Its push, which has its version.
    """
    declared: ExampleSchema = load(schema)
    start, end = reading.interval_of(examples)
    day = datetime.fromisoformat(start).astimezone(time_zone(zone)).date().isoformat()
    counts = summary_of(Path(examples.uri), split, declared, day, source=source)
    version = version_of(champion, champion_pushed)
    if version:
        try:
            model = serving_folder(champion[0].uri)
            counts = replace(counts, predicted=predicted(Path(examples.uri), split, declared, model), version=version)
        except TerminalError as error:
            log.warning("What version %d predicts is not known. %s", version, error)
    write_text(Path(summary.uri) / FILE, counts.to_json())
    summary.interval_start, summary.interval_end, summary.day = start, end, day
    summary.rows, summary.labelled = counts.rows, counts.labelled
    by_label = ", ".join(f"{count} {name}" for name, count in counts.labels.items())
    log.info("%s: %d rows, %d with all labels so far (%s).", day, counts.rows, counts.labelled, by_label)
