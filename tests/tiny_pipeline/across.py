"""A node that is given what the runs of another pipeline pushed."""

import json
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from components.artifacts import Promotion
from runtime.parameters import interval_parameters
from runtime.resolvers import of_all_runs
from runtime.task_options import task
from tests.tiny_pipeline.champion import PROMOTES, Rows, ingest

HISTORY_DAYS = 0
"""Tests set it before they compile."""


@component
def choose(
    dataset: InputArtifact[Rows],
    chosen: OutputArtifact[standard_artifacts.ModelEvaluation],
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    promotions: InputArtifact[List[Promotion]] = None,  # noqa: UP006
) -> None:
    """Writes down which versions it was given."""
    versions = [artifact.get_int_custom_property("version") for artifact in pushed or []]
    (Path(chosen.uri) / "versions.json").write_text(json.dumps(versions), encoding="utf-8")


def create_pipeline() -> Pipeline:
    """Gives the pipeline."""
    start, end = interval_parameters()
    rows = ingest(interval_start=start, interval_end=end).with_id("ingest")
    pushed = of_all_runs("champions", standard_artifacts.PushedModel, "push", "pushed")
    promotions = of_all_runs(PROMOTES[0], Promotion, "promote", "promotion")
    chosen = choose(dataset=rows.outputs["dataset"], pushed=pushed, promotions=promotions).with_id("choose")
    task(chosen, history_days=HISTORY_DAYS)
    return Pipeline(pipeline_name="across", components=[rows, chosen], enable_cache=True)
