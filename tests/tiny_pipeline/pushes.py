"""What flight_delays leaves of a month, without its work: a judged model that is pushed."""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, standard_artifacts

from airtight.files import digest_of_tree
from airtight.home import Home
from airtight.parameters import Parameter as RunParameter
from airtight.verdict import Check, Verdict
from components.modelling import judged
from components.modelling.served import Served
from components.supervised_nodes import of_all_promotions
from pipelines.flight_delays.settings import SETTINGS
from runtime.parameters import interval_parameters, runtime_parameter
from runtime.resolvers import ChampionAsOf
from tests.tiny_pipeline.champion import ingest

VERSION = RunParameter("version", "int", 201307010400001, "The version that it pushes.")
AUC = RunParameter("auc", "float", 0.7, "How good it is.")
TOOK_OVER = RunParameter("took_over", "int", 1, "0 registers the version only.")
PARAMETERS = (VERSION, AUC, TOOK_OVER)


@component
def train(model: OutputArtifact[standard_artifacts.Model], version: Parameter[int]) -> None:
    """Writes what no server would load."""
    folder = Path(model.uri) / "Format-Serving"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text(str(version), encoding="utf-8")


@component
def evaluate(
    model: InputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
    auc: Parameter[float],
) -> None:
    """Blesses the model, and records the ROC AUC of its parameter."""
    check = Check("auc against the champion", True)
    Verdict("evaluate", f"{interval_start}/{interval_end}", (check,)).write(Path(evaluation.uri))
    evaluation.set_float_custom_property("roc_auc", auc)
    judged.write(evaluation, model)
    evaluation.set_string_custom_property("interval_start", interval_start)
    evaluation.set_string_custom_property("interval_end", interval_end)


@component
def push(  # noqa: PLR0917 - a component's parameters
    model: InputArtifact[standard_artifacts.Model],
    pushed: OutputArtifact[standard_artifacts.PushedModel],
    version: Parameter[int],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
    took_over: Parameter[int],
) -> None:
    """Lays the version where a server finds it."""
    folder = Home.current().models("flight_delays") / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text(str(version), encoding="utf-8")
    Served(Home.current().models_root).enter("flight_delays")
    pushed.set_int_custom_property("pushed", 1)
    pushed.set_int_custom_property("took_over", took_over)
    pushed.set_string_custom_property("model_uri", model.uri)
    pushed.set_int_custom_property("version", version)
    pushed.set_string_custom_property("model_digest", digest_of_tree(folder))
    pushed.set_string_custom_property("interval_start", interval_start)
    pushed.set_string_custom_property("interval_end", interval_end)


def create_pipeline() -> Pipeline:
    """Gives the pipeline, under the name of the real one."""
    start, end = interval_parameters()
    version = runtime_parameter(VERSION)
    ends = {"interval_start": start, "interval_end": end}
    rows = ingest(**ends).with_id("ingest")
    champion = Resolver(
        strategy_class=ChampionAsOf,
        dataset=rows.outputs["dataset"],
        pushed=Channel(type=standard_artifacts.PushedModel, producer_component_id="push", output_key="pushed"),
        model=Channel(type=standard_artifacts.Model, producer_component_id="train", output_key="model"),
        promotions=of_all_promotions(SETTINGS),
    ).with_id("champion")
    trained = train(version=version).with_id("train")
    judge = evaluate(model=trained.outputs["model"], auc=runtime_parameter(AUC), **ends).with_id("evaluate")
    pushed = push(
        model=trained.outputs["model"], version=version, took_over=runtime_parameter(TOOK_OVER), **ends
    ).with_id("push")
    return Pipeline(pipeline_name="flight_delays", components=[rows, champion, trained, judge, pushed])
