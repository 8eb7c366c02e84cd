"""A component in the place of `train`."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts


@component
def _grow(
    examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    depth: Parameter[int],
    seed: Parameter[int],
) -> None:
    Path(model.uri, "depth").write_text(f"{depth} {seed}")


def grow(*, examples, seed, depth, **_):
    return _grow(examples=examples, seed=seed, depth=depth)
