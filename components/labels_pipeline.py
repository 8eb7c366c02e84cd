"""The pipeline that judges a supervised pipeline's predictions as their labels come, day by day.

    ingest -> validate -> transform -> answers ------> label_quality -> judge_promotion -> take_back
                                    -> former  ------>
                                    -> skew (where there is a log)

`answers` and `former` score the day's rows with the champion of then and with the one before it, so that both are
compared on the same rows; `label_quality` joins all days that are open with the labels known at the day's end.
"""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts
from tfx.types.channel import union

from airtight.parameters import Parameter
from airtight.supervised import LABELS, Supervised
from components.after_promotion import ACT, ONLY_REPORT, judge_promotion, take_back
from components.artifacts import LabelQuality, Predictions
from components.batch_predict import batch_predict
from components.ingest import ingest
from components.label_quality import label_quality
from components.modelling.as_of import AS_OF, FORMER
from components.skew import skew
from components.supervised_nodes import of_all_promotions
from components.transform import PREDICTION, transform
from components.validate import validate
from runtime.parameters import Declaration, declare, interval_parameters, runtime_parameter
from runtime.resolvers import of_all_runs
from runtime.task_options import in_order, task

PARAMETERS = (
    Parameter(
        "acts",
        "str",
        ACT,
        "act: a version that loses more than the former champion is taken back. report: it is only said, as a backfill "
        "of past days should.",
        choices=(ACT, ONLY_REPORT),
    ),
)


def labels_pipeline(
    settings: Supervised,
    labels: str = "",
    *,
    join: str = "",
    log_root: str = "",
    label_quality_settings: dict[str, Any] | None = None,
    promotion_settings: dict[str, Any] | None = None,
    days: int = 30,
) -> Pipeline:
    """Gives the pipeline, for a `create_pipeline` of one's own; its id is that of the settings and `_labels`.

    Args:
      settings: Of the supervised pipeline; it needs promotions (`release`).
      labels: Import string of the function that makes labels; empty is the settings' transform.
      join: Columns that name a row, separated by commas; empty is the time and the keys of the schema.
      log_root: Folder of the prediction log: then its rows are judged, and compared for skew; the router's shadow
        asks the former champion.
      label_quality_settings: Further parameters of `label_quality`.
      promotion_settings: Further parameters of `judge_promotion`.
      days: So many days are looked at, and read of the lake.
    """
    name = settings.id_of(LABELS)
    start, end = interval_parameters()
    data = ingest(
        tables=settings.tables,
        zone=settings.zone,
        interval_start=start,
        interval_end=end,
        window_days=days,
        lookback_days=settings.lookback_days,
    ).with_id("ingest")
    task(data, cache_on="components.ingest:lake_state")
    dataset = data.outputs["dataset"]
    expectations = settings.expectations or "components.measures.judging:nothing_expected"
    valid = validate(dataset=dataset, expectations=expectations, pipeline=name).with_id("validate")
    transformed = transform(
        dataset=dataset,
        report=valid.outputs["report"],
        transform=settings.transform,
        schema=settings.schema,
        purpose=PREDICTION,
    ).with_id("transform")
    served: dict[str, Any] = {
        "pushed": of_all_runs(settings.name, standard_artifacts.PushedModel, "push", "pushed"),
        **({"promotions": of_all_promotions(settings)} if settings.release else {}),
    }
    examples = transformed.outputs["examples"]
    nodes: list[BaseNode] = [data, valid, transformed]
    if log_root:
        skewed = skew(
            examples=examples, model_name=settings.name, schema=settings.schema, log_root=log_root, zone=settings.zone
        )
        nodes.append(task(skewed.with_id("skew"), cache=False))
        predictions: dict[str, Any] = {"log_root": log_root}
    else:
        scored = [
            batch_predict(
                examples=examples,
                model_name=settings.name,
                schema=settings.schema,
                zone=settings.zone,
                version=version,
                **served,
            ).with_id(node)
            for node, version in (("answers", AS_OF), ("former", FORMER))
        ]
        nodes += [task(node, cache=False) for node in scored]
        earlier = [of_all_runs(name, Predictions, node.id, "predictions") for node in scored]
        predictions = {"predictions": union([*(node.outputs["predictions"] for node in scored), *earlier])}
    judged = label_quality(
        dataset=dataset,
        previous=of_all_runs(name, LabelQuality, "label_quality", "quality"),
        model_name=settings.name,
        schema=settings.schema,
        labels=labels or settings.transform,
        join=join,
        days=days,
        **predictions,
        **(label_quality_settings or {}),
    ).with_id("label_quality")
    outcome = judge_promotion(
        quality=judged.outputs["quality"],
        model_name=settings.name,
        zone=settings.zone,
        **served,
        **(promotion_settings or {}),
    ).with_id("judge_promotion")
    (acts,) = PARAMETERS
    back = take_back(outcome=outcome.outputs["outcome"], pushed=served["pushed"], acts=runtime_parameter(acts)).with_id(
        "take_back"
    )
    # What came of the day before is gone on from, and what served is asked anew.
    nodes += [task(node, cache=False) for node in (judged, outcome, back)]
    task(judged, history_days=days)
    in_order(judged, until=back.id)
    pipeline = Pipeline(pipeline_name=name, components=nodes, enable_cache=True)
    return declare(pipeline, Declaration(PARAMETERS, settings.zone, f"# {settings.title}: labels\n\n{__doc__}"))
