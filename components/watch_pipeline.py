"""The watch of a supervised pipeline: what a day's data, losses and alarms are, and what is decided of them.

    ingest -> validate -> transform -> summarize -----------> data_alarms -> decide
       |                      |            ^                       ^            ^ ^
       |                      |            |           days_before-+------------+ |
       +-> champion ----------|------------+                                      |
                   +----------+-> challenger -------------------------------------+

Runs of several days go side by side up to summarize and challenger, and one after the other from days_before on.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.import_string import load
from airtight.supervised import WATCH, Supervised
from airtight.watch.policies import policy_of
from components.artifacts import DataAlarms, Dataset, SummarizedDay, TrainingClearance, WatchDecision
from components.supervised_nodes import Nodes, examples_nodes, of_all_promotions
from components.watch.clean_past import POOL_DAYS
from runtime.days_before import SPAN_DAYS, DaysBefore
from runtime.resolvers import ChampionAsOf, of_all_runs
from runtime.task_options import in_order, task


def watching(settings: Supervised) -> Pipeline:
    """The pipeline of the watch.

    Args:
      settings: Of the pipeline that is watched; their `watch` is set.

    Raises:
      TerminalError: It is not, or there is no such policy or source.
    """
    from components.challenger import challenger
    from components.data_alarms import data_alarms
    from components.decide import decide
    from components.summarize import summarize
    from components.transform import MISSING, WATCHING

    watch = settings.watch
    if watch is None:
        raise TerminalError(
            f"The pipeline {settings.name} has no watch.",
            expected="settings with watch=Watch(...)",
            received="watch=None",
            remedy="Add it to the settings.",
        )
    policy_of(watch.policy)
    _check_source(settings)
    nodes, name, zone = Nodes(settings, WATCH), settings.name, {"zone": settings.zone}
    window = {"lookback_days": settings.lookback_days, **nodes.given("window_days", "label_delay_hours")}
    # A broken feed is what a watch is there for: no expectation keeps it from seeing one.
    data, transformed = examples_nodes(nodes, window, {"purpose": WATCHING, "wrong_values": MISSING}, expects=False)
    dataset, examples = data.outputs["dataset"], transformed.outputs["examples"]
    schema = {"schema": settings.schema}
    models, pushes = (
        of_all_runs(name, kind, node, key)
        for kind, node, key in (
            (standard_artifacts.Model, "train", "model"),
            (standard_artifacts.PushedModel, "push", "pushed"),
        )
    )
    champion = nodes.add(
        "champion",
        Resolver,
        strategy_class=ChampionAsOf,
        dataset=dataset,
        pushed=pushes,
        model=models,
        earlier=models,
        **({"promotions": of_all_promotions(settings)} if settings.release else {}),
    )
    served = {"champion": champion.outputs["model"], "champion_pushed": champion.outputs["pushed"]}
    summarized = nodes.add("summarize", summarize, examples=examples, source=watch.source, **served, **schema, **zone)
    challenged = nodes.add(
        "challenger",
        challenger,
        examples=examples,
        **served,
        earlier_champions=champion.outputs["earlier"],
        lengths=json.dumps(list(watch.lengths)),
        **schema,
        **zone,
    )
    before = nodes.add(
        "days_before",
        Resolver,
        strategy_class=DaysBefore,
        config={"days": POOL_DAYS},
        dataset=dataset,
        days=of_all_runs(nodes.id, SummarizedDay, "summarize", "summary"),
        alarms=of_all_runs(nodes.id, DataAlarms, "data_alarms", "alarms"),
        decision=of_all_runs(nodes.id, WatchDecision, "decide", "decision"),
    )
    alarmed = nodes.add(
        "data_alarms",
        data_alarms,
        summary=summarized.outputs["summary"],
        past=before.outputs["days"],
        before=before.outputs["alarms"],
        clearances=of_all_runs(name, TrainingClearance, "clear_training", "clearance"),
        **nodes.given("alarms_a_year"),
    )
    constants = ("cost", "judge_days", "fresh_days", "days_between", "fault_days", "outcome_days", "unit")
    decided = nodes.add(
        "decide",
        decide,
        report=challenged.outputs["report"],
        alarms=alarmed.outputs["alarms"],
        before=before.outputs["decision"],
        pushed=pushes,
        datasets=of_all_runs(name, Dataset, "ingest", "dataset"),
        model_name=name,
        brakes=json.dumps(asdict(watch.brakes)),
        **zone,
        **{constant: getattr(watch, constant) for constant in constants},
        **nodes.given("policy"),
    )
    # What has become of trainings is asked anew in each run; of those as far back as the day before may be.
    task(alarmed, cache=False, history_days=SPAN_DAYS)
    task(decided, cache=False, history_days=SPAN_DAYS)
    in_order(before, alarmed, decided, until=decided.id)
    return nodes.pipeline(cache=True)


def _check_source(settings: Supervised) -> None:
    source = settings.watch.source if settings.watch else ""
    categories = load(settings.schema).of_kind("category") if source else ()
    if source and source not in categories:
        raise TerminalError(
            f"The source of {settings.name}'s watch cannot be used.",
            expected=f"a category feature of {settings.schema}: {', '.join(categories) or 'it has none'}",
            received=repr(source),
            remedy="Correct source in the pipeline's Watch, or leave it out.",
        )
