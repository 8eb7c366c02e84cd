"""Toy examples of each interval, and a training that starts from the weights of the champion of then."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, standard_artifacts

from components.train import train
from runtime.parameters import interval_parameters, runtime_parameter
from runtime.resolvers import ChampionAsOf
from tests.components import toy
from tests.tiny_pipeline.champion import TOOK_OVER, Rows, ingest, push

PARAMETERS = (TOOK_OVER,)


@component
def transform(dataset: InputArtifact[Rows], examples: OutputArtifact[standard_artifacts.Examples]) -> None:
    """Writes the toy's examples."""
    examples.splits = toy.examples(Path(examples.uri)).splits
    examples.set_string_custom_property("interval_start", dataset.interval_start)
    examples.set_string_custom_property("interval_end", dataset.interval_end)


def create_pipeline() -> Pipeline:
    """Gives the pipeline."""
    start, end = interval_parameters()
    rows = ingest(interval_start=start, interval_end=end).with_id("ingest")
    transformed = transform(dataset=rows.outputs["dataset"]).with_id("transform")
    champion = Resolver(
        strategy_class=ChampionAsOf,
        dataset=rows.outputs["dataset"],
        pushed=Channel(type=standard_artifacts.PushedModel, producer_component_id="push", output_key="pushed"),
        model=Channel(type=standard_artifacts.Model, producer_component_id="train", output_key="model"),
    ).with_id("champion")
    trained = train(
        examples=transformed.outputs["examples"],
        schema="tests.components.toy:SCHEMA",
        model_fn="tests.components.toy:model",
        start_from=champion.outputs["model"],
        epochs=2,
        warm_epochs=1,
    ).with_id("train")
    pushed = push(
        model=trained.outputs["model"],
        dataset=rows.outputs["dataset"],
        push_it=1,
        took_over=runtime_parameter(TOOK_OVER),
    ).with_id("push")
    return Pipeline(pipeline_name="warm", components=[rows, transformed, champion, trained, pushed])
