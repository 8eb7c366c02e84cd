"""challenger: cheap models refitted on what is known, scored on the day's rows beside the served model."""

import json
import logging
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.files import write_text
from airtight.import_string import load
from airtight.interval import time_zone
from airtight.watch.history import ALL
from components.artifacts import ChallengerReport
from components.data import examples as reading
from components.modelling.registered import version_of
from components.modelling.saved_model import serving_folder
from components.watch.challengers import FILE, Losses, compare

log = logging.getLogger(__name__)


@component
def challenger(
    examples: InputArtifact[standard_artifacts.Examples],
    report: OutputArtifact[ChallengerReport],
    schema: Parameter[str],
    zone: Parameter[str],
    lengths: Parameter[str] = "[0]",
    champion: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
    champion_pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    earlier_champions: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
) -> None:
    """Says what the served model, the one before it and challengers lose on the same rows.

    The challengers are trees alone, of everything whose label was known when the day began, and of its last days; the
    same rows give the same figures. Rows whose label is not known do not count.

    Args:
      examples: Splits `train` and `day`, as `transform` makes them for watching.
      report: Receives `losses.json`.
      schema: Dotted name of the ExampleSchema.
      zone: IANA time zone of the days.
      lengths: Histories that challengers learn from, a JSON list of days; 0 is all of it.
      champion: The model that served when the day began, or none.
      champion_pushed: Its push, which has its version.
      earlier_champions: Those that served before.

    Raises:
      TerminalError: The served model cannot be loaded, wants other features, or answers what is no prediction.
    """
    start, end = reading.interval_of(examples)
    begun = datetime.fromisoformat(start)
    version = version_of(champion, champion_pushed)
    # The latest of those before: TFX hands them on in the order of their ids.
    earlier = sorted(earlier_champions or [], key=lambda model: datetime.fromisoformat(reading.interval_of(model)[1]))
    losses = compare(
        Path(examples.uri),
        load(schema),
        begun,
        json.loads(lengths),
        serving_folder(champion[0].uri) if version else None,
        serving_folder(earlier[-1].uri) if earlier else None,
    )
    day = begun.astimezone(time_zone(zone)).date().isoformat()
    report.interval_start, report.interval_end = start, end
    report.day, report.version, report.rows, report.unit = day, version, losses.rows, losses.unit
    report.summary = _in_words(losses, version)
    write_text(Path(report.uri) / FILE, json.dumps({"day": day, "version": version, **asdict(losses)}, indent=1))
    log.info("%s", report.summary)


def _in_words(losses: Losses, version: int) -> str:
    if not version:
        return "No version is served: nothing is compared."
    if not losses.rows:
        return "No label is known: nothing is compared."
    words = [f"version {version} loses {losses.served:.4g}"]
    for length, loss in losses.challengers.items():
        words.append(f"a challenger of {'all history' if length == ALL else f'the last {length} days'} {loss:.4g}")
    if losses.former is not None:
        words.append(f"the version before {losses.former:.4g}")
    return f"{losses.unit} of {losses.rows} rows: {', '.join(words)}."
