"""clear_training: a training goes on only where its pipeline's watch has found no open fault of the data."""

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.audit import log as audit_log
from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.parameters import check_choice
from components.artifacts import Dataset, TrainingClearance, WatchDecision
from components.data import examples as reading
from components.rollout.anchoring import anchor_in

log = logging.getLogger(__name__)

CLEARANCE = "clearance.json"
BLOCK, ACCEPT = "block", "accept"


@component
def clear_training(
    dataset: InputArtifact[Dataset],
    clearance: OutputArtifact[TrainingClearance],
    data_faults: Parameter[str] = BLOCK,
    decisions: InputArtifact[List[WatchDecision]] = None,  # noqa: UP006
) -> None:
    """Reads what the watch decided last within the interval, its last day included.

    Args:
      dataset: What the training is about to learn from.
      clearance: Receives `clearance.json`.
      data_faults: `block` fails where the watch wants the data mended first, `accept` goes on and says so.
      decisions: Of all days. Where none is of the interval, nothing is known and nothing blocks.

    Raises:
      TerminalError: Training is blocked, or the audit log is broken.
    """
    check_choice("data_faults", data_faults, (BLOCK, ACCEPT))
    ends = reading.interval_of(dataset)
    start, end = map(datetime.fromisoformat, ends)
    of_interval = [known for known in decisions or [] if start <= _end(known) <= end]
    last = max(of_interval, key=lambda known: (_end(known), known.id), default=None)
    blocks = last is not None and last.action == "fix_data"
    if last is None:
        summary = "No day of the interval was watched."
    elif blocks:
        summary = f"The watch of {last.day} wants the data mended: {last.reason}."
    else:
        summary = f"The watch of {last.day} knows of no open fault of the data."
    if blocks and data_faults != ACCEPT:
        assert last is not None
        raise TerminalError(
            "Training is blocked: the watch has found faults in the data.",
            expected="no open fault when the interval ended",
            received=last.reason,
            remedy="Mend the data in the lake, clear the watch's runs from that day on, then this task; or "
            f"trigger training with data_faults={ACCEPT}.",
        )
    log.log(logging.WARNING if blocks else logging.INFO, "%s", summary)
    clearance.interval_start, clearance.interval_end = ends
    clearance.day, clearance.accepted, clearance.summary = last.day if last else "", int(blocks), summary
    if blocks:
        assert last is not None
        anchor = audit_log.append(
            audit_log.OVERRIDDEN, interval=ends, reason=last.reason, gate="clear_training", checks=["data faults"]
        )
        anchor_in(clearance, anchor)
    payload = {name: getattr(clearance, name) for name in ("day", "accepted", "summary")}
    write_text(Path(clearance.uri) / CLEARANCE, json.dumps(payload, indent=1))


def _end(decision: WatchDecision) -> datetime:
    return datetime.fromisoformat(decision.interval_end)
