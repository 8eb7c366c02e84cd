"""clear_training: a training goes on only where its pipeline's watch has found no open fault of the data."""

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.audit import log as audit_log
from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.parameters import check_choice, check_override
from components.artifacts import Dataset, TrainingClearance, WatchDecision
from components.data import examples as reading
from components.data.dataset import DatasetReader
from components.rollout.anchoring import anchor_in

log = logging.getLogger(__name__)

CLEARANCE = "clearance.json"
BLOCK, ACCEPT = "block", "accept"


@component
def clear_training(
    dataset: InputArtifact[Dataset],
    clearance: OutputArtifact[TrainingClearance],
    data_faults: Parameter[str] = BLOCK,
    override_reason: Parameter[str] = "",
    decisions: InputArtifact[List[WatchDecision]] = None,  # noqa: UP006
    watched: InputArtifact[List[Dataset]] = None,  # noqa: UP006
) -> None:
    """Reads what the watch decided last within the interval, its last day included.

    A day that was mended must be read as it was mended: a data set from before has the faults still. Faults that a run
    accepts are none for the watch either, from the first day on that is watched afterwards: what they left is usual.

    Args:
      dataset: What the training is about to learn from.
      clearance: Receives `clearance.json`.
      data_faults: `block` fails where the watch wants the data mended first, `accept` goes on and says so.
      override_reason: Why it is `accept`; it must be given then.
      decisions: Of all days. Where none is of the interval, nothing is known and nothing blocks.
      watched: What the watch read of all days.

    Raises:
      TerminalError: Training is blocked, or the audit log is broken.
    """
    check_choice("data_faults", data_faults, (BLOCK, ACCEPT))
    check_override("data_faults", data_faults, override_reason)
    ends = reading.interval_of(dataset)
    start, end = map(datetime.fromisoformat, ends)
    of_interval = [known for known in decisions or [] if start <= _end(known) <= end]
    last = max(of_interval, key=lambda known: (_end(known), known.id), default=None)
    stale = _unmended(dataset, of_interval, watched or [])
    reason = ""
    if last is None:
        summary = "No day of the interval was watched."
    elif last.action == "fix_data":
        reason, summary = last.reason, f"The watch of {last.day} wants the data mended: {last.reason}."
    elif stale:
        reason = summary = f"What this run reads of {', '.join(stale)} is from before these days were mended"
    else:
        summary = f"The watch of {last.day} knows of no open fault of the data."
    blocks = bool(reason)
    if blocks and data_faults != ACCEPT:
        raise TerminalError(
            "Training is blocked: the watch has found faults in the data.",
            expected="no open fault when the interval ended",
            received=reason,
            remedy="Mend the data in the lake, clear the watch's runs from that day on, then this run from its task "
            f"ingest on, which reads the lake anew; or, where the data are right as they are, trigger training with "
            f"data_faults={ACCEPT} and an override_reason.",
        )
    log.log(logging.WARNING if blocks else logging.INFO, "%s", summary)
    clearance.interval_start, clearance.interval_end = ends
    clearance.day, clearance.accepted, clearance.summary = last.day if last else "", int(blocks), summary
    clearance.as_of = max((ends[1], *(known.interval_end for known in decisions or [])), key=datetime.fromisoformat)
    if blocks:
        anchor = audit_log.append(
            audit_log.OVERRIDDEN,
            interval=ends,
            reason=f"{override_reason.strip()} ({reason})",
            gate="clear_training",
            checks=["data faults"],
        )
        anchor_in(clearance, anchor)
    payload = {name: getattr(clearance, name) for name in ("day", "accepted", "as_of", "summary")}
    write_text(Path(clearance.uri) / CLEARANCE, json.dumps(payload, indent=1))


def _unmended(dataset: Dataset, decisions: Sequence[WatchDecision], watched: Sequence[Dataset]) -> list[str]:
    """The days on which the watch found a fault, and later none, and of which a data set reads other files."""
    days = []
    in_order = sorted(decisions, key=lambda known: known.id)
    for last in {known.day: known for known in in_order}.values():
        actions = [known.action for known in in_order if known.day == last.day]
        read = max((w for w in watched if w.interval_end == last.interval_end), key=lambda w: w.id, default=None)
        if "fix_data" not in actions or actions[-1] == "fix_data" or read is None:
            continue
        if _files_of(dataset, last.day) != _files_of(read, last.day):
            days.append(last.day)
    return sorted(days)


def _files_of(dataset: Dataset, day: str) -> set[str]:
    """The files of a day that a data set names."""
    tables = DatasetReader.open(dataset.uri).tables.values()
    return {file.path for table in tables for file in table.files if file.day == day}


def _end(decision: WatchDecision) -> datetime:
    return datetime.fromisoformat(decision.interval_end)
