"""Flight delays: the model's word on every flight of an interval, late or not, from the lake to Parquet files.

ingest -> validate -> transform -> batch_predict

The first three are those of `flight_delays`; `transform` makes the interval's rows alone, and needs no labels.
"""

from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from components.batch_predict import batch_predict
from components.ingest import ingest
from components.transform import PREDICTION, transform
from components.validate import validate
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.promotions import of_all_promotions
from pipelines.flight_delays_batch_predict import settings
from runtime.parameters import interval_parameters, runtime_parameter
from runtime.resolvers import of_all_runs
from runtime.task_options import task

NAME = "flight_delays_batch_predict"
ZONE = clock.ZONE
PARAMETERS = settings.PARAMETERS

_FLIGHTS = "pipelines.flight_delays"
_SCHEMA = f"{_FLIGHTS}.features:SCHEMA"
_MODEL = "flight_delays"
"""Name of the served model, and of the pipeline that pushes it."""


def create_pipeline() -> Pipeline:
    """Wires the four nodes; what was pushed comes from all runs of the pipeline that trains."""
    start, end = interval_parameters()
    data = ingest(
        tables=f"{_FLIGHTS}.lake:TABLES",
        zone=ZONE,
        interval_start=start,
        interval_end=end,
        window_days=features.LOOKBACK_DAYS,
        lake_version=runtime_parameter(settings.LAKE_VERSION),
    ).with_id("ingest")
    task(data, cache_on="components.ingest:lake_state")
    dataset = data.outputs["dataset"]
    valid = validate(dataset=dataset, expectations=f"{_FLIGHTS}.expectations:subjects", pipeline=NAME).with_id(
        "validate"
    )
    transformed = transform(
        dataset=dataset,
        report=valid.outputs["report"],
        transform=f"{_FLIGHTS}.transform:transform",
        schema=_SCHEMA,
        purpose=PREDICTION,
    ).with_id("transform")
    scored = batch_predict(
        examples=transformed.outputs["examples"],
        pushed=of_all_runs(_MODEL, standard_artifacts.PushedModel, "push", "pushed"),
        promotions=of_all_promotions(),
        model_name=_MODEL,
        schema=_SCHEMA,
        zone=ZONE,
        version=runtime_parameter(settings.VERSION),
    ).with_id("batch_predict")
    # Which version is served, or was pushed by then, is asked anew in each run.
    task(scored, cache=False)
    return Pipeline(pipeline_name=NAME, components=[data, valid, transformed, scored], enable_cache=True)
