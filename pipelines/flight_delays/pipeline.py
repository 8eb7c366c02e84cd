"""Flight delays: from a month of the lake to a served model, every step a TFX component.

ingest -> validate -> transform -> train -> evaluate -> try_serving -> push
                          |                    ^
                          +-> monitor       champion

With a warm start the champion is also what train starts from.
"""

from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, standard_artifacts

from components.evaluate import evaluate
from components.ingest import ingest
from components.monitor import monitor
from components.push import push
from components.train import train
from components.transform import transform
from components.try_serving import try_serving
from components.validate import validate
from pipelines.flight_delays import clock, features, settings
from pipelines.flight_delays.promotions import of_all_promotions
from runtime.parameters import interval_parameters, runtime_parameter
from runtime.resolvers import ChampionAsOf
from runtime.task_options import in_order, task

NAME = "flight_delays"
ZONE = clock.ZONE
PARAMETERS = settings.PARAMETERS

_HERE = "pipelines.flight_delays"
_SCHEMA = f"{_HERE}.features:SCHEMA"


def create_pipeline(name: str = NAME, warm_start: bool = settings.WARM_START, released: bool = True) -> Pipeline:
    """Wires the nine nodes; what they need of flights they get by name.

    Args:
      name: Of the pipeline and of the served model.
      warm_start: Whether train starts from the champion's weights. Then it waits for the run before, as the gates do.
      released: Whether a run may leave its version to a release.
    """
    start, end = interval_parameters()
    # An earlier result of ingest holds as long as the lake has the same versions of its tables.
    data = ingest(
        tables=f"{_HERE}.lake:TABLES",
        zone=ZONE,
        interval_start=start,
        interval_end=end,
        window_days=runtime_parameter(settings.WINDOW_DAYS),
        lookback_days=features.LOOKBACK_DAYS,
        label_delay_hours=runtime_parameter(settings.LABEL_DELAY_HOURS),
        lake_version=runtime_parameter(settings.LAKE_VERSION),
    ).with_id("ingest")
    task(data, cache_on="components.ingest:lake_state")
    dataset = data.outputs["dataset"]
    valid = validate(dataset=dataset, expectations=f"{_HERE}.expectations:subjects", pipeline=name).with_id("validate")
    transformed = transform(
        dataset=dataset,
        report=valid.outputs["report"],
        transform=f"{_HERE}.transform:transform",
        schema=_SCHEMA,
        validation_days=runtime_parameter(settings.VALIDATION_DAYS),
    ).with_id("transform")
    examples = transformed.outputs["examples"]
    models = Channel(type=standard_artifacts.Model, producer_component_id="train", output_key="model")
    champion = Resolver(
        strategy_class=ChampionAsOf,
        dataset=dataset,
        pushed=Channel(type=standard_artifacts.PushedModel, producer_component_id="push", output_key="pushed"),
        model=models,
        earlier=models,
        # Promotions and releases are of the model that bears this pipeline's own name.
        **({"promotions": of_all_promotions()} if name == NAME else {}),
    ).with_id("champion")
    trained = train(
        examples=examples,
        schema=_SCHEMA,
        model_fn=f"{_HERE}.model:build",
        start_from=champion.outputs["model"] if warm_start else None,
        epochs=runtime_parameter(settings.EPOCHS),
        warm_epochs=settings.WARM_EPOCHS,
        seed=runtime_parameter(settings.SEED),
        strategy=runtime_parameter(settings.STRATEGY),
        refit=runtime_parameter(settings.REFIT),
    ).with_id("train")
    model = trained.outputs["model"]
    judged = evaluate(
        examples=examples,
        model=model,
        champion=champion.outputs["model"],
        earlier_champions=champion.outputs["earlier"],
        champion_pushed=champion.outputs["pushed"],
        schema=_SCHEMA,
        zone=ZONE,
        margins=runtime_parameter(settings.MARGINS),
        margin_rows=settings.MARGIN_ROWS,
        baseline_gains=runtime_parameter(settings.BASELINE_GAINS),
        champion_incomparable=runtime_parameter(settings.CHAMPION_INCOMPARABLE),
    ).with_id("evaluate")
    tried = try_serving(
        examples=examples,
        model=model,
        blessing=judged.outputs["blessing"],
        schema=_SCHEMA,
        p99_limit_ms=runtime_parameter(settings.P99_LIMIT_MS),
        memory_limit_mb=runtime_parameter(settings.MEMORY_LIMIT_MB),
    ).with_id("try_serving")
    pushed = push(
        model=model,
        blessing=judged.outputs["blessing"],
        infra_blessing=tried.outputs["infra_blessing"],
        dataset=dataset,
        model_name=name,
        zone=ZONE,
        release=runtime_parameter(settings.RELEASE) if released else settings.RELEASE.default,
    ).with_id("push")
    # Whether a model answers in time, and whether it is served, is asked anew in each run.
    task(tried, cache=False)
    task(pushed, cache=False)
    # In a backfill, months are learned side by side, and judged one after the other; what starts from the champion can
    # be learned only when that is known.
    in_order(champion, *([trained] if warm_start else []), judged, until=pushed.id)
    watched = monitor(examples=examples, schema=_SCHEMA).with_id("monitor")
    nodes = [data, valid, transformed, trained, champion, judged, tried, pushed, watched]
    return Pipeline(pipeline_name=name, components=nodes, enable_cache=True)
