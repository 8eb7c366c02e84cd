"""A model and TFX-like pusher, with the cache on."""

import os
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from runtime.task_options import task


@component
def make_model(model: OutputArtifact[standard_artifacts.Model]) -> None:
    """Trains nothing."""
    (Path(model.uri) / "weights").touch()


@component
def push(
    model: InputArtifact[standard_artifacts.Model], pushed: OutputArtifact[standard_artifacts.PushedModel]
) -> None:
    """Pushes nothing."""


def create_pipeline() -> Pipeline:
    """Gives the pipeline; with PUSH_FROM_CACHE the pusher's result may come from the cache."""
    model = make_model()
    pushed = push(model=model.outputs["model"])
    if os.environ.get("PUSH_FROM_CACHE"):
        task(pushed, cache=True)
    return Pipeline(pipeline_name="pushing", components=[model, pushed], enable_cache=True)
