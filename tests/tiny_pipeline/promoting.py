"""What promotions and releases of the pipeline `champions` leave in the metadata, without a server."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline

from airtight.parameters import Parameter as RunParameter
from components.artifacts import Promotion
from runtime.parameters import interval_parameters, runtime_parameter
from tests.tiny_pipeline.champion import PROMOTES

TO = RunParameter("to_version", "int", 0, "The version that is served from now on.")
AS_OF = RunParameter("as_of", "str", "", "End of the latest interval of which a version is registered.")
TOOK_OVER = RunParameter("took_over", "int", 1, "0 where the version does not serve.")
PARAMETERS = (TO, AS_OF, TOOK_OVER)


@component
def promote(  # noqa: PLR0917 - a component's parameters
    promotion: OutputArtifact[Promotion],
    to_version: Parameter[int],
    as_of: Parameter[str],
    took_over: Parameter[int],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
) -> None:
    """Says that it promoted."""
    promotion.to_version, promotion.as_of, promotion.took_over = to_version, as_of, took_over
    promotion.interval_start, promotion.interval_end = interval_start, interval_end
    promotion.summary = f"Version {to_version} is served."
    (Path(promotion.uri) / "promotion.json").write_text("{}", encoding="utf-8")


def create_pipeline(name: str = PROMOTES[0]) -> Pipeline:
    """Gives the pipeline."""
    start, end = interval_parameters()
    values = {parameter.name: runtime_parameter(parameter) for parameter in PARAMETERS}
    promoted = promote(interval_start=start, interval_end=end, **values).with_id("promote")
    return Pipeline(pipeline_name=name, components=[promoted], enable_cache=False)


def create_release() -> Pipeline:
    """Gives the same, as releases leave it."""
    return create_pipeline(PROMOTES[1])
