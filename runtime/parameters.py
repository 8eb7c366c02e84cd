"""From `airtight.parameters.Parameter` to TFX's runtime parameters, and back from a compiled pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf import message
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto.orchestration import pipeline_pb2

from airtight.parameters import Parameter, Scalar

INTERVAL = ("interval_start", "interval_end")
"""The parameters that are filled from the run's data interval."""
RESERVED = ("pipeline-root", "pipeline-run-id")
"""The parameters that TFX itself puts into every pipeline."""

# TFX has no bool: a component takes 0 or 1.
_PYTHON = {"str": str, "int": int, "float": float, "bool": int}
_NAMES: dict[int, Literal["str", "int", "float"]] = {
    pipeline_pb2.RuntimeParameter.STRING: "str",
    pipeline_pb2.RuntimeParameter.INT: "int",
    pipeline_pb2.RuntimeParameter.DOUBLE: "float",
}

_DECLARATION = "_airtight_declaration"


@dataclass(frozen=True)
class Declaration:
    """What a pipeline says of itself beside its graph.

    Args:
      parameters: The run parameters as people see them; None for those that its nodes wait for.
      zone: IANA time zone in which bare dates are meant.
      doc: Documentation, Markdown.
    """

    parameters: tuple[Parameter, ...] | None
    zone: str = "UTC"
    doc: str = ""


def declare(pipeline: tfx_pipeline.Pipeline, declaration: Declaration) -> tfx_pipeline.Pipeline:
    """Notes a declaration on a pipeline, which counts in place of its module's PARAMETERS, ZONE and docstring.

    Returns:
      The pipeline itself.
    """
    setattr(pipeline, _DECLARATION, declaration)
    return pipeline


def declared(pipeline: tfx_pipeline.Pipeline) -> Declaration | None:
    """What `declare` noted on a pipeline."""
    return getattr(pipeline, _DECLARATION, None)


def runtime_parameter(parameter: Parameter) -> RuntimeParameter:
    """Gives what a TFX component takes where the run decides.

    Args:
      parameter: The parameter as people see it; it belongs into the pipeline's PARAMETERS, too.
    """
    python = _PYTHON[parameter.type]
    return RuntimeParameter(parameter.name, ptype=python, default=python(parameter.default))


def as_tfx(values: Mapping[str, Scalar]) -> dict[str, str | int | float]:
    """The values of a run as TFX's runtime parameters take them."""
    return {name: int(value) if isinstance(value, bool) else value for name, value in values.items()}


def interval_parameters() -> tuple[RuntimeParameter, RuntimeParameter]:
    """Gives `interval_start` and `interval_end`, ISO 8601 with offset, filled from the run's data interval."""
    start, end = (RuntimeParameter(name, ptype=str) for name in INTERVAL)
    return start, end


def awaited_parameters(ir: pipeline_pb2.Pipeline) -> dict[str, tuple[Parameter, bool]]:
    """Lists the runtime parameters that a compiled pipeline waits for, without the reserved ones.

    Returns:
      For each name the parameter and whether a value must be given (it has no default).
    """
    awaited: dict[str, tuple[Parameter, bool]] = {}
    for proto in _walk(ir):
        if proto.name in RESERVED or proto.name in awaited:
            continue
        kind = _NAMES[proto.type]
        has_default = proto.HasField("default_value")
        default: Any = _PYTHON[kind]()
        if has_default:
            default = getattr(proto.default_value, proto.default_value.WhichOneof("value"))
        awaited[proto.name] = Parameter(proto.name, kind, _PYTHON[kind](default)), not has_default
    return awaited


def _walk(proto: message.Message) -> Iterator[pipeline_pb2.RuntimeParameter]:
    if isinstance(proto, pipeline_pb2.RuntimeParameter):
        yield proto
        return
    for field, value in proto.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            children = [v for v in value.values() if isinstance(v, message.Message)]
        else:
            children = list(value) if field.label == field.LABEL_REPEATED else [value]
        for child in children:
            yield from _walk(child)
