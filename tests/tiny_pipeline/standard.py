"""A pipeline of TFX's own components: a Beam executor with a driver, an importer, a resolver, a condition."""

import os

from tfx.components import CsvExampleGen
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.importer import Importer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.conditionals import conditional
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts


@component
def decide(verdict: OutputArtifact[standard_artifacts.Integer], answer: Parameter[int]) -> None:
    """Writes down the answer."""
    verdict.value = answer


@component
def use(
    examples: InputArtifact[standard_artifacts.Examples],
    model: InputArtifact[standard_artifacts.Model],
    used: OutputArtifact[standard_artifacts.ModelEvaluation],
) -> None:
    """Needs both."""


@component
def after(used: InputArtifact[standard_artifacts.ModelEvaluation]) -> None:
    """Comes after."""


def create_pipeline() -> Pipeline:
    """Gives the pipeline; the folders come from the environment when it is compiled."""
    examples = CsvExampleGen(input_base=os.environ["STANDARD_DATA"])
    imported = Importer(
        source_uri=os.environ["STANDARD_MODEL"], artifact_type=standard_artifacts.Model, reimport=False
    ).with_id("imported.model")
    latest = Resolver(strategy_class=LatestArtifactStrategy, examples=examples.outputs["examples"]).with_id("latest")
    decided = decide(answer=RuntimeParameter("answer", ptype=int)).with_id("decide")
    with conditional.Cond(decided.outputs["verdict"].future()[0].value == 1):
        used = use(examples=latest.outputs["examples"], model=imported.outputs["result"]).with_id("use")
    late = after(used=used.outputs["used"]).with_id("after")
    return Pipeline(pipeline_name="standard", components=[examples, imported, latest, decided, used, late])
