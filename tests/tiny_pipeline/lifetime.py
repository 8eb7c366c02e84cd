"""A resource that is begun, used and given back."""

import os
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.experimental.node_execution_options.utils import NodeExecutionOptions, TriggerStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts


def _trouble(node: str) -> None:
    if os.environ.get("LIFETIME_TROUBLE") == node:
        raise ValueError(node)


@component
def begin(resource: OutputArtifact[standard_artifacts.Model]) -> None:
    """Begins it."""
    _trouble("begin")
    (Path(resource.uri) / "taken").touch()


@component
def use(resource: InputArtifact[standard_artifacts.Model]) -> None:
    """Uses it."""
    _trouble("use")


@component
def end(resource: InputArtifact[standard_artifacts.Model]) -> None:
    """Gives it back."""
    (Path(resource.uri) / "taken").unlink()


def create_pipeline() -> Pipeline:
    """Gives the pipeline."""
    begun = begin().with_id("begin")
    used = use(resource=begun.outputs["resource"]).with_id("use")
    ended = end(resource=begun.outputs["resource"]).with_id("end")
    ended.add_upstream_node(used)
    ended.node_execution_options = NodeExecutionOptions(
        trigger_strategy=TriggerStrategy.LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS, lifetime_start="begin"
    )
    return Pipeline(pipeline_name="lifetime", components=[begun, used, ended])
