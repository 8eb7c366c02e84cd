"""Learns side by side and judges in order: every step notes in one file that it begins."""

import os
import time
from datetime import datetime
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from airtight.parameters import Parameter as RunParameter
from runtime.parameters import interval_parameters, runtime_parameter
from runtime.task_options import in_order, task

ZONE = "America/New_York"
NOTES = RunParameter(
    "notes", "str", "", "Folder of the notes; a file fail-<month> there makes push fail, hold-<month> makes it wait."
)
PARAMETERS = (NOTES,)
LAST = 7
"""Earlier months learn longer, so that without waiting the order of the gates would be another."""


def _note(notes: str, words: str) -> None:
    with os.fdopen(os.open(Path(notes) / "order", os.O_CREAT | os.O_APPEND | os.O_WRONLY), "w") as file:
        file.write(f"{words}\n")


@component
def learn(
    model: OutputArtifact[standard_artifacts.Model],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
    notes: Parameter[str],
) -> None:
    """Takes its time."""
    month = datetime.fromisoformat(interval_start).month
    _note(notes, f"learn {month}")
    time.sleep(max(0, LAST - month))
    (Path(model.uri) / "month").write_text(str(month), encoding="utf-8")
    model.set_string_custom_property("interval_end", interval_end)


@component
def judge(
    model: InputArtifact[standard_artifacts.Model],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    notes: Parameter[str],
) -> None:
    """Blesses."""
    month = (Path(model.uri) / "month").read_text(encoding="utf-8")
    _note(notes, f"judge {month}")
    (Path(blessing.uri) / "month").write_text(month, encoding="utf-8")


@component
def push(
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    pushed: OutputArtifact[standard_artifacts.PushedModel],
    notes: Parameter[str],
) -> None:
    """Pushes nothing."""
    month = (Path(blessing.uri) / "month").read_text(encoding="utf-8")
    if (Path(notes) / f"fail-{month}").exists():
        raise ValueError(f"{month} fails")
    while (Path(notes) / f"hold-{month}").exists():
        time.sleep(0.1)
    _note(notes, f"push {month}")
    (Path(pushed.uri) / "month").write_text(month, encoding="utf-8")


def create_pipeline() -> Pipeline:
    """Gives the pipeline of three steps; the second and third wait for the third of the run before."""
    start, end = interval_parameters()
    notes = runtime_parameter(NOTES)
    learned = learn(interval_start=start, interval_end=end, notes=notes).with_id("learn")
    judged = judge(model=learned.outputs["model"], notes=notes).with_id("judge")
    pushed = push(blessing=judged.outputs["blessing"], notes=notes).with_id("push")
    in_order(judged, until="push")
    for node in (learned, judged, pushed):
        task(node, cache=False)
    return Pipeline(pipeline_name="ordered", components=[learned, judged, pushed])
