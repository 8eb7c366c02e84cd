"""A pipeline of eight steps that do nothing: what remains is what running a node costs."""

from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline

STEPS = 8


@component
def nothing() -> None:
    """Does nothing."""


def create_pipeline() -> Pipeline:
    """Gives the eight steps in a row."""
    steps = []
    for number in range(STEPS):
        step = nothing().with_id(f"step_{number}")
        if steps:
            step.add_upstream_node(steps[-1])
        steps.append(step)
    return Pipeline(pipeline_name="noop", components=steps)
