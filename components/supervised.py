"""The TFX pipelines of a supervised pipeline, made of its settings (`airtight.supervised.Supervised`).

    training         ingest -> validate -> transform -> train -> evaluate -> try_serving -> push -> monitor
                                                                    ^
                                                                 champion
    watch            see components.watch_pipeline
    labels           see components.labels_pipeline
    promotion        propose -> promote
    release          start -> judge -> finish
    alarms           act_on_alarm
    batch_prediction ingest -> validate -> transform -> batch_predict

Each is an ordinary TFX pipeline, and any node can be replaced (`Supervised.components`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.node_execution_options.utils import NodeExecutionOptions, TriggerStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, standard_artifacts

from airtight.errors import TerminalError
from airtight.supervised import ALARMS, BATCH_PREDICT, LABELS, PROMOTE, RELEASE, TRAIN, WATCH, Supervised
from components.artifacts import Dataset, WatchDecision
from components.supervised_nodes import Nodes, examples_nodes, of_all_promotions
from runtime.resolvers import ChampionAsOf, of_all_runs
from runtime.task_options import in_order, task


def supervised_pipeline(name: str, *, tables: str, schema: str, transform: str, **settings: Any) -> Pipeline:
    """Gives the training pipeline, for a `create_pipeline` of one's own; other parts are made of a `Supervised`.

    Args:
      name: Id of the pipeline and of the served model.
      tables: Import string of the lake's tables.
      schema: Import string of the ExampleSchema.
      transform: Import string of the function that makes the examples.
      **settings: Further fields of `airtight.supervised.Supervised`, such as `model` and `zone`.

    Raises:
      TerminalError: Settings that cannot be used.
    """
    return training(Supervised(name=name, tables=tables, schema=schema, transform=transform, **settings))


def create_pipeline(settings: Supervised, part: str = TRAIN) -> Pipeline:
    """Gives the pipeline of one part.

    Raises:
      TerminalError: The settings have no such part.
    """
    if part not in settings.parts:
        raise TerminalError(
            f"The pipeline {settings.name} has no part {part!r}.",
            expected=f"one of {', '.join(settings.parts)}",
            received=repr(part),
            remedy="Correct the part, or the settings that leave it out.",
        )
    makers: dict[str, Callable[[Supervised], Pipeline]] = {
        TRAIN: training,
        PROMOTE: promotion,
        RELEASE: release,
        ALARMS: alarms,
        BATCH_PREDICT: batch_prediction,
        WATCH: watch,
        LABELS: labels,
    }
    return makers[part](settings)


def training(settings: Supervised) -> Pipeline:
    """From an interval of the lake to a served model: learned, judged beside the champion, tried, pushed, watched."""
    from components.evaluate import evaluate
    from components.monitor import monitor
    from components.push import push
    from components.train import train
    from components.try_serving import try_serving

    nodes = Nodes(settings, TRAIN)
    window = {"lookback_days": settings.lookback_days, **nodes.given("window_days", "label_delay_hours")}
    data, transformed = examples_nodes(nodes, window, nodes.given("validation_days"))
    if settings.watch:
        from components.clear_training import clear_training

        cleared = nodes.add(
            "clear_training",
            clear_training,
            dataset=data.outputs["dataset"],
            decisions=of_all_runs(settings.id_of(WATCH), WatchDecision, "decide", "decision"),
            watched=of_all_runs(settings.id_of(WATCH), Dataset, "ingest", "dataset"),
            **nodes.given("data_faults", "override_reason"),
        )
        # What the watch says now is asked anew in each run.
        transformed.add_upstream_node(task(cleared, cache=False))
    dataset, examples = data.outputs["dataset"], transformed.outputs["examples"]
    models = Channel(type=standard_artifacts.Model, producer_component_id="train", output_key="model")
    champion = nodes.add(
        "champion",
        Resolver,
        strategy_class=ChampionAsOf,
        dataset=dataset,
        pushed=Channel(type=standard_artifacts.PushedModel, producer_component_id="push", output_key="pushed"),
        model=models,
        earlier=models,
        **({"promotions": of_all_promotions(settings)} if settings.release else {}),
    )
    trained = nodes.add(
        "train",
        train,
        examples=examples,
        schema=settings.schema,
        model_fn=settings.model,
        start_from=champion.outputs["model"] if settings.warm_start else None,
        **nodes.given("epochs", "seed", "strategy", "refit"),
    )
    model = trained.outputs["model"]
    judged = nodes.add(
        "evaluate",
        evaluate,
        examples=examples,
        model=model,
        champion=champion.outputs["model"],
        earlier_champions=champion.outputs["earlier"],
        champion_pushed=champion.outputs["pushed"],
        schema=settings.schema,
        zone=settings.zone,
        **nodes.given("margins", "baseline_gains", "champion_incomparable", "override_reason"),
    )
    blessing = judged.outputs["blessing"]
    tried = nodes.add(
        "try_serving",
        try_serving,
        examples=examples,
        model=model,
        blessing=blessing,
        schema=settings.schema,
        **nodes.given("p99_limit_ms", "memory_limit_mb"),
    )
    pushed = nodes.add(
        "push",
        push,
        model=model,
        blessing=blessing,
        infra_blessing=tried.outputs["infra_blessing"],
        dataset=dataset,
        model_name=settings.name,
        zone=settings.zone,
        **(nodes.given("release") if settings.release else {"release": "at_once"}),
    )
    # Whether a model answers in time, and whether it is served, is asked anew in each run.
    task(tried, cache=False)
    task(pushed, cache=False)
    # In a backfill, intervals are learned side by side, and judged one after the other; what starts from the champion
    # can be learned only when that is known.
    in_order(champion, *([trained] if settings.warm_start else []), judged, until=pushed.id)
    monitored = nodes.add("monitor", monitor, examples=examples, model=model, schema=settings.schema)
    # Nothing waits for it but the report: after the push it takes no time from training, gates and trial.
    monitored.add_upstream_node(pushed)
    return nodes.pipeline(cache=True)


def promotion(settings: Supervised) -> Pipeline:
    """The served model rolled back and forward; in Airflow a person approves between the two nodes."""
    from components.promote import promote, propose

    nodes = Nodes(settings, PROMOTE)
    proposed = nodes.add(
        "propose",
        propose,
        promotions=of_all_promotions(settings),
        **_of_all_training_runs(settings),
        **nodes.given("version", "reason"),
    )
    nodes.add("promote", promote, proposal=proposed.outputs["proposal"], **nodes.given("approval"))
    return nodes.pipeline(cache=False)


def release(settings: Supervised) -> Pipeline:
    """A version that answers its share of the live requests first, and takes over if it is good enough.

    In Airflow the task `watch` waits between start and judge, and without it judge waits itself. finish ends what start
    began, whatever became of judge.
    """
    from components.release import finish_release, judge_release, start_release

    nodes = Nodes(settings, RELEASE)
    of_judge = ("when_unsure", "watched")
    started = nodes.add(
        "start",
        start_release,
        **_of_all_training_runs(settings),
        **nodes.others(*of_judge),
    )
    begun = started.outputs["release"]
    judged = nodes.add("judge", judge_release, release=begun, **nodes.given(*of_judge))
    finished = nodes.add("finish", finish_release, release=begun, decision=judged.outputs["decision"])
    # What was begun is ended: with the decision, or without one, when judging failed or was stopped.
    finished.node_execution_options = NodeExecutionOptions(
        trigger_strategy=TriggerStrategy.LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS, lifetime_start=started.id
    )
    return nodes.pipeline(cache=False)


def alarms(settings: Supervised) -> Pipeline:
    """What a person does about alarms: one is acknowledged, or they are silenced for a while."""
    from components.act_on_alarm import act_on_alarm

    nodes = Nodes(settings, ALARMS)
    nodes.add("act_on_alarm", act_on_alarm, model_name=settings.name, **nodes.others())
    return nodes.pipeline(cache=False)


def batch_prediction(settings: Supervised) -> Pipeline:
    """What the model says of every row of an interval, labelled or not, from the lake to Parquet files."""
    from components.batch_predict import batch_predict
    from components.transform import PREDICTION

    nodes = Nodes(settings, BATCH_PREDICT)
    _, transformed = examples_nodes(nodes, {"window_days": settings.lookback_days}, {"purpose": PREDICTION})
    scored = nodes.add(
        "batch_predict",
        batch_predict,
        examples=transformed.outputs["examples"],
        pushed=of_all_runs(settings.name, standard_artifacts.PushedModel, "push", "pushed"),
        **({"promotions": of_all_promotions(settings)} if settings.release else {}),
        model_name=settings.name,
        schema=settings.schema,
        zone=settings.zone,
        **nodes.given("version"),
    )
    # Which version is served, or was pushed by then, is asked anew in each run.
    task(scored, cache=False)
    return nodes.pipeline(cache=True)


def watch(settings: Supervised) -> Pipeline:
    """What a day's data, losses and alarms are, and what is decided of them."""
    from components.watch_pipeline import watching

    return watching(settings)


def labels(settings: Supervised) -> Pipeline:
    """How good the predictions were as labels come, and what a promotion was worth."""
    from components.labels_pipeline import labelling

    return labelling(settings)


def _of_all_training_runs(settings: Supervised) -> dict[str, Any]:
    """The model, and what was pushed of it and how that was judged in all runs."""
    of_push, of_evaluate = standard_artifacts.PushedModel, standard_artifacts.ModelEvaluation
    return {
        "model_name": settings.name,
        "pushed": of_all_runs(settings.name, of_push, "push", "pushed"),
        "evaluations": of_all_runs(settings.name, of_evaluate, "evaluate", "evaluation"),
    }
