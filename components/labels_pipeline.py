"""The pipeline that judges a supervised pipeline's predictions as their labels come, day by day.

    ingest -> validate -> transform -> answers ------> label_quality -> judge_promotion -> take_back
                                    -> former  ------>
                                    -> skew (in the place of answers, where there is a log)

`answers` and `former` score the day's rows with the champion of then and with the one before it, so that both are
compared on the same rows; `label_quality` joins all days that are open with the labels known at the day's end. With a
prediction log the answers are those of the log, and the former champion is still asked in batch, of the same rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts
from tfx.types.channel import union

from airtight.errors import TerminalError
from airtight.parameters import Parameter
from airtight.supervised import LABELS, Supervised
from airtight.watch.settings import Labels
from components.artifacts import LabelQuality, Predictions
from components.modelling.as_of import AS_OF, FORMER
from components.supervised_nodes import Nodes, examples_nodes, of_all_promotions
from components.watch.quality_days import DaySettings
from runtime.resolvers import of_all_runs
from runtime.task_options import in_order, task


def labelling(settings: Supervised) -> Pipeline:
    """The pipeline of the late labels.

    Args:
      settings: Of the pipeline whose predictions are judged; their `labels` is set.

    Raises:
      TerminalError: It is not, or a day would never be closed.
    """
    from components.after_promotion import judge_promotion, take_back
    from components.batch_predict import batch_predict
    from components.label_quality import label_quality
    from components.skew import skew
    from components.transform import PREDICTION

    labels = settings.labels
    if labels is None:
        raise TerminalError(
            f"The labels of the pipeline {settings.name} are not watched.",
            expected="settings with labels=Labels(...)",
            received="labels=None",
            remedy="Add it to the settings.",
        )
    close_after_days = _close_after_days(settings, labels)
    settings = _bounded(settings, labels)
    nodes = Nodes(settings, LABELS)
    window = {"window_days": labels.days, "lookback_days": settings.lookback_days}
    data, transformed = examples_nodes(nodes, window, {"purpose": PREDICTION})
    examples = transformed.outputs["examples"]
    of_model = {"model_name": settings.name, "zone": settings.zone}
    served: dict[str, Any] = {
        "pushed": of_all_runs(settings.name, standard_artifacts.PushedModel, "push", "pushed"),
        "promotions": of_all_promotions(settings),
    }
    if labels.log_root:
        skewed = nodes.add(
            "skew", skew, examples=examples, log_root=labels.log_root, schema=settings.schema, **of_model
        )
        task(skewed, cache=False)
    versions = {"former": FORMER} if labels.log_root else {"answers": AS_OF, "former": FORMER}
    scored = [
        nodes.add(node, batch_predict, examples=examples, version=version, schema=settings.schema, **of_model, **served)
        for node, version in versions.items()
    ]
    earlier = [of_all_runs(nodes.id, Predictions, node.id, "predictions") for node in scored]
    judged = nodes.add(
        "label_quality",
        label_quality,
        dataset=data.outputs["dataset"],
        previous=of_all_runs(nodes.id, LabelQuality, "label_quality", "quality"),
        predictions=union([*(node.outputs["predictions"] for node in scored), *earlier]),
        log_root=labels.log_root,
        model_name=settings.name,
        labels=labels.function,
        join=labels.join,
        days=labels.days,
        close_after_days=close_after_days,
        schema=settings.schema,
    )
    outcome = nodes.add("judge_promotion", judge_promotion, quality=judged.outputs["quality"], **of_model, **served)
    back = nodes.add(
        "take_back", take_back, outcome=outcome.outputs["outcome"], pushed=served["pushed"], **nodes.given("acts")
    )
    # What came of the day before is gone on from, and what served is asked anew.
    for node in (*scored, judged, outcome, back):
        task(node, cache=False)
    task(judged, history_days=labels.days)
    in_order(judged, until=back.id)
    return nodes.pipeline(cache=True)


def _bounded(settings: Supervised, labels: Labels) -> Supervised:
    """The settings, where a run decides `close_after_days` with the days that are looked at as the most it can take."""
    nodes = settings.node_parameters
    of_node = nodes.get("label_quality", {})
    if not isinstance(given := of_node.get("close_after_days"), Parameter):
        return settings
    most = labels.days if given.maximum is None else min(given.maximum, labels.days)
    bounded = {**of_node, "close_after_days": replace(given, maximum=most)}
    return replace(settings, node_parameters={**nodes, "label_quality": bounded})


def _close_after_days(settings: Supervised, labels: Labels) -> int:
    """After how many days no label is waited for; by default as many as are looked at, 30 at most."""
    given = settings.node_parameters.get("label_quality", {}).get("close_after_days")
    value = given.default if isinstance(given, Parameter) else given
    days = min(labels.days, DaySettings.close_after_days) if value is None else int(value)
    if days > labels.days:
        raise TerminalError(
            f"A day of {settings.name} would leave those that are looked at before it is closed, and never get ripe.",
            expected=f"close_after_days of label_quality to be at most {labels.days}, the days of Labels",
            received=str(days),
            remedy="Lower close_after_days, or raise days.",
        )
    return days
