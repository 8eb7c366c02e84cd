"""Nodes that end before their code runs: in a resolver, in a driver, or for a property that cannot be had."""

from pathlib import Path

import ml_metadata as mlmd
from tfx import types
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base import base_component, base_driver, base_executor, executor_spec
from tfx.dsl.components.common.resolver import Resolver, ResolverStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import component_spec, standard_artifacts
from tfx.types.channel import Channel

from airtight.errors import TerminalError, TransientError

FAULTS = {"terminal": TerminalError, "transient": TransientError, "type": TypeError}


class Raise(ResolverStrategy):
    """Raises the fault of a family."""

    def __init__(self, family: str) -> None:
        self._family = family

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Raises it."""
        raise FAULTS[self._family]("The champion is gone.")


class Driver(base_driver.BaseDriver):
    """Raises in a driver."""

    def run(self, execution_info: object) -> driver_output_pb2.DriverOutput:
        """Raises it."""
        raise TerminalError("The driver has no room for doubt.")


class _DrivenSpec(component_spec.ComponentSpec):
    PARAMETERS = {}  # noqa: RUF012 - TFX reads it so
    INPUTS = {}  # noqa: RUF012
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}  # noqa: RUF012


class Driven(base_component.BaseComponent):
    """A component with a driver of its own."""

    SPEC_CLASS = _DrivenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(base_executor.EmptyExecutor)
    DRIVER_CLASS = Driver


@component
def make(text: OutputArtifact[standard_artifacts.Model]) -> None:
    """Makes what has no value."""
    Path(text.uri, "text").write_text("text")


@component
def use(model: OutputArtifact[standard_artifacts.Model], text: Parameter[str]) -> None:
    """Takes a value."""


def create_pipeline() -> Pipeline:
    """Gives one node for each way to end early."""
    made = make().with_id("make")
    resolvers = [
        Resolver(strategy_class=Raise, config={"family": family}, model=Channel(type=standard_artifacts.Model)).with_id(
            f"resolve_{family}"
        )
        for family in FAULTS
    ]
    driven = Driven(_DrivenSpec(model=Channel(type=standard_artifacts.Model))).with_id("drive")
    used = use(text=made.outputs["text"].future()[0].property("no_such")).with_id("use")
    return Pipeline(pipeline_name="unresolvable", components=[made, *resolvers, driven, used])
