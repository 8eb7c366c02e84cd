"""A model for each interval, judged against the champion as of then, and pushed unless told otherwise."""

import json
from datetime import datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, artifact, standard_artifacts
from tfx.types.channel import union

from airtight.parameters import Parameter as RunParameter
from components.artifacts import Promotion
from runtime.parameters import interval_parameters, runtime_parameter
from runtime.resolvers import ChampionAsOf, of_all_runs

PUSHED = RunParameter("push_it", "int", 1, "1 pushes the model.", minimum=0, maximum=1)
TOOK_OVER = RunParameter("took_over", "int", 1, "0 registers the model only; -1 leaves that out, as before.")
AWAITS = RunParameter("awaits_release", "int", 0, "1 leaves it to a release.")
OVERRIDDEN = RunParameter("overridden", "str", "", "What a release had left, in whose place it serves.")
PARAMETERS = (PUSHED, TOOK_OVER, AWAITS, OVERRIDDEN)
PROMOTES = ("champions_promote", "champions_release")
"""Pipelines whose node `promote` promotes."""


class Rows(artifact.Artifact):
    """An empty data set that knows its interval."""

    TYPE_NAME = "Rows"
    PROPERTIES = {  # noqa: RUF012 - TFX reads it so
        "interval_start": artifact.Property(type=artifact.PropertyType.STRING),
        "interval_end": artifact.Property(type=artifact.PropertyType.STRING),
    }


@component
def ingest(dataset: OutputArtifact[Rows], interval_start: Parameter[str], interval_end: Parameter[str]) -> None:
    """Reads nothing."""
    dataset.interval_start, dataset.interval_end = interval_start, interval_end


@component
def train(dataset: InputArtifact[Rows], model: OutputArtifact[standard_artifacts.Model]) -> None:
    """Trains nothing."""
    (Path(model.uri) / "interval").write_text(dataset.interval_start, encoding="utf-8")


@component
def evaluate(
    model: InputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    champion: InputArtifact[standard_artifacts.Model] = None,
    earlier_champions: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
) -> None:
    """Writes down which champions it met."""
    intervals = [
        (Path(model.uri) / "interval").read_text(encoding="utf-8")
        for model in [*filter(None, [champion]), *(earlier_champions or [])]
    ]
    (Path(evaluation.uri) / "champions.json").write_text(json.dumps(intervals), encoding="utf-8")


@component
def push(  # noqa: PLR0917 - a component's parameters
    model: InputArtifact[standard_artifacts.Model],
    dataset: InputArtifact[Rows],
    pushed: OutputArtifact[standard_artifacts.PushedModel],
    push_it: Parameter[int],
    took_over: Parameter[int] = -1,
    awaits_release: Parameter[int] = 0,
    overridden: Parameter[str] = "",
) -> None:
    """Says that it pushed."""
    pushed.set_string_custom_property("overridden", overridden)
    pushed.set_int_custom_property("pushed", push_it)
    pushed.set_int_custom_property("awaits_release", awaits_release)
    if took_over >= 0:
        pushed.set_int_custom_property("took_over", took_over)
    pushed.set_string_custom_property("interval_start", dataset.interval_start)
    pushed.set_string_custom_property("interval_end", dataset.interval_end)
    pushed.set_string_custom_property("model_uri", model.uri)
    pushed.set_int_custom_property("version", int(datetime.fromisoformat(dataset.interval_end).strftime("%Y%m%d01")))


def create_pipeline() -> Pipeline:
    """Gives the pipeline."""
    start, end = interval_parameters()
    rows = ingest(interval_start=start, interval_end=end).with_id("ingest")
    trained = train(dataset=rows.outputs["dataset"]).with_id("train")
    models = Channel(type=standard_artifacts.Model, producer_component_id="train", output_key="model")
    champion = Resolver(
        strategy_class=ChampionAsOf,
        dataset=rows.outputs["dataset"],
        pushed=Channel(type=standard_artifacts.PushedModel, producer_component_id="push", output_key="pushed"),
        model=models,
        earlier=models,
        promotions=union([of_all_runs(pipeline, Promotion, "promote", "promotion") for pipeline in PROMOTES]),
    ).with_id("champion")
    judged = evaluate(
        model=trained.outputs["model"],
        champion=champion.outputs["model"],
        earlier_champions=champion.outputs["earlier"],
    ).with_id("evaluate")
    pushed = push(
        model=trained.outputs["model"],
        dataset=rows.outputs["dataset"],
        push_it=runtime_parameter(PUSHED),
        took_over=runtime_parameter(TOOK_OVER),
        awaits_release=runtime_parameter(AWAITS),
        overridden=runtime_parameter(OVERRIDDEN),
    ).with_id("push")
    return Pipeline(pipeline_name="champions", components=[rows, trained, champion, judged, pushed])
