"""Pipelines whose steps do next to nothing, and hand on what they made: what remains is what running them costs."""

import time
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from airtight.parameters import Parameter as RunParameter
from runtime.parameters import runtime_parameter
from runtime.task_options import task

NUMBER = RunParameter("number", "int", 0, "Tells runs apart.")
PARAMETERS = (NUMBER,)
HALVES = ("first", "second")


@component
def begin(
    made: OutputArtifact[standard_artifacts.Model], number: Parameter[int], pause_s: Parameter[float] = 0.0
) -> None:
    """Writes a number in two halves, with a pause between them."""
    _write(Path(made.uri), str(number), pause_s)


@component
def hand_on(
    given: InputArtifact[standard_artifacts.Model],
    made: OutputArtifact[standard_artifacts.Model],
    pause_s: Parameter[float] = 0.0,
) -> None:
    """Writes what it is given, in two halves, with a pause between them."""
    halves = {half: (Path(given.uri) / half).read_text(encoding="utf-8") for half in HALVES}
    if len(set(halves.values())) != 1:
        raise ValueError(f"half-written input: {halves}")
    _write(Path(made.uri), halves["first"], pause_s)


def _write(folder: Path, text: str, pause_s: float) -> None:
    for half in HALVES:
        (folder / half).write_text(text, encoding="utf-8")
        time.sleep(pause_s)


def chain(name: str, steps: int, pause_s: float, *, cold: str = "") -> Pipeline:
    """A row of steps, each handing on what the one before made.

    Args:
      name: Of the pipeline.
      steps: Their number.
      pause_s: Seconds that each rests after each half of its output.
      cold: Id of the step that runs in a process of its own in place of the launcher's child.
    """
    nodes = [begin(number=runtime_parameter(NUMBER), pause_s=pause_s).with_id("step_0")]
    for place in range(1, steps):
        nodes.append(hand_on(given=nodes[-1].outputs["made"], pause_s=pause_s).with_id(f"step_{place}"))
    for node in nodes:
        if node.id == cold:
            task(node, cold=True)
    return Pipeline(pipeline_name=name, components=nodes, enable_cache=True)


def create_eight() -> Pipeline:
    """Eight steps that the cache answers."""
    return chain("eight", 8, 0.0)


def create_five() -> Pipeline:
    """Five steps that take a moment."""
    return chain("five", 5, 0.2)


def create_cold() -> Pipeline:
    """Three steps that take a moment, the second in a process of its own."""
    return chain("cold", 3, 0.2, cold="step_1")


def create_mapped() -> Pipeline:
    """Three steps that take a moment, for a mapped task group."""
    return chain("mapped", 3, 0.2)
