"""A whole pipeline of TFX's standard components, from a table to a pushed model, with a condition at its end."""

import os

import tensorflow_model_analysis as tfma
from tfx.components import CsvExampleGen, Evaluator, Pusher, SchemaGen, StatisticsGen, Trainer
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.conditionals import conditional
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import pusher_pb2, trainer_pb2
from tfx.types import Channel, standard_artifacts


@component
def decide(
    blessing: InputArtifact[standard_artifacts.ModelBlessing], verdict: OutputArtifact[standard_artifacts.Integer]
) -> None:
    """Tells whether the model is blessed."""
    verdict.value = blessing.get_int_custom_property("blessed")


def create_pipeline() -> Pipeline:
    """Gives the pipeline; the folders come from the environment when it is compiled."""
    examples = CsvExampleGen(input_base=os.environ["STANDARD_DATA"])
    statistics = StatisticsGen(examples=examples.outputs["examples"])
    schema = SchemaGen(statistics=statistics.outputs["statistics"])
    trainer = Trainer(
        module_file=os.environ["STANDARD_MODULE"],
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        train_args=trainer_pb2.TrainArgs(num_steps=20),
        eval_args=trainer_pb2.EvalArgs(num_steps=1),
    )
    baseline = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("baseline")
    evaluator = Evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=_eval_config(float(os.environ["STANDARD_THRESHOLD"])),
    )
    decided = decide(blessing=evaluator.outputs["blessing"]).with_id("decide")
    with conditional.Cond(decided.outputs["verdict"].future()[0].value == 1):
        pusher = Pusher(
            model=trainer.outputs["model"],
            model_blessing=evaluator.outputs["blessing"],
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=os.environ["STANDARD_PUSHED"])
            ),
        )
    return Pipeline(
        pipeline_name="full_standard",
        pipeline_root=os.environ.get("STANDARD_ROOT") or None,
        components=[examples, statistics, schema, trainer, baseline, evaluator, decided, pusher],
        enable_cache=True,
    )


def _eval_config(threshold: float) -> tfma.EvalConfig:
    accuracy = tfma.MetricConfig(
        class_name="BinaryAccuracy",
        threshold=tfma.MetricThreshold(
            value_threshold=tfma.GenericValueThreshold(lower_bound={"value": threshold}),
            change_threshold=tfma.GenericChangeThreshold(
                direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -0.5}
            ),
        ),
    )
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name="serving_default", label_key="large")],
        slicing_specs=[tfma.SlicingSpec()],
        metrics_specs=[tfma.MetricsSpec(metrics=[accuracy])],
    )
