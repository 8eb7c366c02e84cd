"""data_alarms: judges a day's data by each feature's own past, under one budget of alarms a year."""

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.files import new_file, write_text
from airtight.watch.alarm_acts import summary_of
from components.artifacts import DataAlarms, SummarizedDay, TrainingClearance
from components.data import examples as reading
from components.watch.clean_past import POOL_DAYS
from components.watch.data_alarms import JUDGEMENT, STATE, Judgement, State, after
from components.watch.day_summary import FILE, DaySummary
from components.watch.fault_rules import is_fault

log = logging.getLogger(__name__)


@component
def data_alarms(
    summary: InputArtifact[SummarizedDay],
    alarms: OutputArtifact[DataAlarms],
    alarms_a_year: Parameter[float] = 4.0,
    past: InputArtifact[List[SummarizedDay]] = None,  # noqa: UP006
    before: InputArtifact[List[DataAlarms]] = None,  # noqa: UP006
    clearances: InputArtifact[List[TrainingClearance]] = None,  # noqa: UP006
) -> None:
    """Says what is wrong with a day, from its summary, those of the days before, and the state of the day before.

    An alarm is a decision, not a fault: the node succeeds. A hard rule's finding, and an alarm about missing, infinite
    or new values or a code that was rare, is a fault of the data, and blocks training.

    Args:
      summary: The day's.
      alarms: Receives `judgement.json` and `state.npz`.
      alarms_a_year: So many usual days may alarm by chance, over all features together.
      past: Summaries of the days before, in any order.
      before: What was said of the day before; none on the first day.
      clearances: Of trainings. An open fault that one accepted before this day began is none any more, and the
        feature is compared with how it is since.

    Raises:
      TerminalError: The day does not come after the day before.
    """
    state = State.from_bytes((Path(before[0].uri) / STATE).read_bytes()) if before else State()
    newest = sorted(past or [], key=lambda known: known.day)[-POOL_DAYS:]
    days = [_read(known) for known in newest]
    accepted = _accepted(clearances or [], reading.interval_of(summary)[0])
    state, judgement = after(state, _read(summary), days, alarms_a_year, accepted)
    faults = [finding for finding in judgement.findings if is_fault(finding)]
    since = [state.clean.since.get(finding.feature, judgement.day) for finding in faults]
    folder = Path(alarms.uri)
    with new_file(folder / STATE) as unfinished:
        unfinished.write_bytes(state.to_bytes())
    payload = {**_finite(asdict(judgement)), "faults": [finding.words for finding in faults], "faults_since": since}
    payload |= {"faults_of": [finding.feature for finding in faults], "faults_accepted_by": accepted}
    write_text(folder / JUDGEMENT, json.dumps(payload, indent=1, sort_keys=True, allow_nan=False))
    alarms.interval_start, alarms.interval_end = reading.interval_of(summary)
    alarms.day, alarms.alarm, alarms.blocking = judgement.day, int(bool(judgement.findings)), int(bool(faults))
    alarms.summary = _in_words(judgement)
    log.log(logging.WARNING if judgement.findings else logging.INFO, "%s", alarms.summary)
    if judgement.accepted:
        names = ", ".join(name or "rows" for name in judgement.accepted)
        log.info("A training accepted how they are, which is usual from now on: %s.", names)


def _read(summary: SummarizedDay) -> DaySummary:
    return DaySummary.from_json((Path(summary.uri) / FILE).read_text(encoding="utf-8"))


def _accepted(clearances: Iterable[TrainingClearance], start: str) -> str:
    """The last day whose open faults were accepted before a day began, ISO 8601; "" for none.

    Args:
      clearances: Of trainings.
      start: The day's first instant.
    """
    begun = datetime.fromisoformat(start)
    # Older clearances do not say when they were known, and their faults have been compared with since.
    known = ((clearance, getattr(clearance, "as_of", "")) for clearance in clearances if clearance.accepted)
    return max((str(c.day) for c, as_of in known if as_of and datetime.fromisoformat(as_of) <= begun), default="")


def _in_words(judgement: Judgement) -> str:
    if judgement.findings:
        return summary_of(judgement.day, (finding.words for finding in judgement.findings))
    if judgement.enough:
        return f"{judgement.day}: {judgement.enough}."
    return f"{judgement.day}: nothing is unusual (score {judgement.score:.2g} of {judgement.threshold:.2g})."


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: such a figure is null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
