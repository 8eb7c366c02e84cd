"""A watch without Spark and TensorFlow, and a training beside it: the real steps over days that are made up."""

import json
from datetime import datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

import numpy as np
import pyarrow as pa
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from airtight.interval import Interval
from airtight.parameters import Parameter as RunParameter
from components.artifacts import (
    ChallengerReport,
    DataAlarms,
    Dataset,
    SummarizedDay,
    TrainingClearance,
    WatchDecision,
)
from components.clear_training import clear_training
from components.data.dataset import DatasetReader, TableFiles
from components.data.lake import File
from components.data_alarms import data_alarms
from components.decide import decide
from components.schema import Feature
from components.watch.day_summary import FILE, DaySummary
from runtime.days_before import SPAN_DAYS, DaysBefore
from runtime.parameters import Declaration, declare, interval_parameters, runtime_parameter
from runtime.resolvers import of_all_runs
from runtime.task_options import in_order, task

TRAINING, WATCH = "watched", "watched_watch"
ROWS = 200
BROKEN = RunParameter("broken", "int", 0, "1 has a column without values.", minimum=0, maximum=1)
REGRET = RunParameter("regret", "float", 0.0, "What the served model loses more.")
POLICY = RunParameter("policy", "str", "airtight.watch.policies:every?n=3")
PUSHES = RunParameter("pushes", "int", 1, "0 has the gates refuse; 1 pushes; -1 has training fail.")
FAULTS = RunParameter("data_faults", "str", "block")
REASON = RunParameter("override_reason", "str", "")


@component
def ingest(
    dataset: OutputArtifact[Dataset],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
    broken: Parameter[int] = 0,
) -> None:
    """Names a file for each day, another one where the day is broken."""
    dataset.interval_start, dataset.interval_end = interval_start, interval_end
    interval = Interval.of(interval_start, interval_end)
    files = tuple(File(f"{day}-{broken}", str(day), ROWS, 1, "") for day in interval.days("UTC"))
    start = interval.start
    tables = {"rows": TableFiles("rows", 1, None, None, (), {}, (), files)}
    DatasetReader(Path("lake"), "UTC", interval, start, start, interval.end, "now", tables).write(dataset.uri)


@component
def summarize(
    dataset: InputArtifact[Dataset], summary: OutputArtifact[SummarizedDay], broken: Parameter[int] = 0
) -> None:
    """Two features of which the days differ by chance alone, or one is broken."""
    day = dataset.interval_start[:10]
    rng = np.random.default_rng(int(day.replace("-", "")))
    size = rng.normal(50, 10, ROWS)
    size[: ROWS * broken] = np.nan
    table = pa.table({"size": size, "colour": rng.choice(["red", "green", "blue"], ROWS)})
    features = (Feature("size", "number", ""), Feature("colour", "category", ""))
    counts = DaySummary.of(day, features, [table])
    (Path(summary.uri) / FILE).write_text(counts.to_json(), encoding="utf-8")
    summary.interval_start, summary.interval_end, summary.day = dataset.interval_start, dataset.interval_end, day
    summary.rows, summary.labelled = counts.rows, counts.rows


@component
def challenger(
    dataset: InputArtifact[Dataset],
    report: OutputArtifact[ChallengerReport],
    regret: Parameter[float] = 0.0,
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
) -> None:
    """Losses as they are given; what serves is the last version that was pushed of an interval before, or 1."""
    start = datetime.fromisoformat(dataset.interval_start)
    known = [
        (push.get_string_custom_property("interval_end"), push.get_int_custom_property("version"))
        for push in pushed or []
        if push.get_int_custom_property("pushed")
    ]
    version = max((pair for pair in known if datetime.fromisoformat(pair[0]) <= start), default=("", 1))[1]
    day = dataset.interval_start[:10]
    losses = {"rows": ROWS, "served": 0.4 + regret, "challengers": {"0": 0.4}, "former": 0.5 if version > 1 else None}
    (Path(report.uri) / "losses.json").write_text(json.dumps({"day": day, **losses}), encoding="utf-8")
    report.interval_start, report.interval_end, report.day = dataset.interval_start, dataset.interval_end, day
    report.version, report.rows, report.unit, report.summary = version, ROWS, "log loss", "made up"


@component
def push(
    dataset: InputArtifact[Dataset],
    clearance: InputArtifact[TrainingClearance],
    pushed: OutputArtifact[standard_artifacts.PushedModel],
    pushes: Parameter[int] = 1,
) -> None:
    """Says that it pushed, or did not."""
    if pushes < 0:
        raise ValueError("training fails")
    version = int(dataset.interval_end[:10].replace("-", "")) if pushes else 0
    for name, value in {"pushed": pushes, "version": version, "took_over": pushes}.items():
        pushed.set_int_custom_property(name, value)
    pushed.set_string_custom_property("reason", "it is better" if pushes else "evaluate did not bless the model")
    pushed.set_string_custom_property("interval_start", dataset.interval_start)
    pushed.set_string_custom_property("interval_end", dataset.interval_end)
    (Path(pushed.uri) / "push.json").write_text("{}", encoding="utf-8")


def create_watch() -> Pipeline:
    """Gives the watch."""
    start, end = interval_parameters()
    pushes = of_all_runs(TRAINING, standard_artifacts.PushedModel, "push", "pushed")
    data = ingest(interval_start=start, interval_end=end, broken=runtime_parameter(BROKEN)).with_id("ingest")
    dataset = data.outputs["dataset"]
    summarized = summarize(dataset=dataset, broken=runtime_parameter(BROKEN)).with_id("summarize")
    challenged = challenger(dataset=dataset, pushed=pushes, regret=runtime_parameter(REGRET)).with_id("challenger")
    before = Resolver(
        strategy_class=DaysBefore,
        config={"days": 28},
        dataset=dataset,
        days=of_all_runs(WATCH, SummarizedDay, "summarize", "summary"),
        alarms=of_all_runs(WATCH, DataAlarms, "data_alarms", "alarms"),
        decision=of_all_runs(WATCH, WatchDecision, "decide", "decision"),
    ).with_id("days_before")
    alarmed = data_alarms(
        summary=summarized.outputs["summary"],
        past=before.outputs["days"],
        before=before.outputs["alarms"],
        clearances=of_all_runs(TRAINING, TrainingClearance, "clear_training", "clearance"),
    ).with_id("data_alarms")
    decided = decide(
        report=challenged.outputs["report"],
        alarms=alarmed.outputs["alarms"],
        before=before.outputs["decision"],
        pushed=pushes,
        datasets=of_all_runs(TRAINING, Dataset, "ingest", "dataset"),
        model_name=TRAINING,
        zone="UTC",
        judge_days=1,
        policy=runtime_parameter(POLICY),
    ).with_id("decide")
    for node in (alarmed, decided):
        task(node, history_days=SPAN_DAYS)
    in_order(before, alarmed, decided, until="decide")
    nodes = [data, summarized, challenged, before, alarmed, decided]
    pipeline = Pipeline(pipeline_name=WATCH, components=[task(node, cache=False) for node in nodes])
    return declare(pipeline, Declaration((BROKEN, REGRET, POLICY), "UTC", ""))


def create_training() -> Pipeline:
    """Gives the training."""
    start, end = interval_parameters()
    data = ingest(interval_start=start, interval_end=end, broken=runtime_parameter(BROKEN)).with_id("ingest")
    dataset = data.outputs["dataset"]
    cleared = clear_training(
        dataset=dataset,
        decisions=of_all_runs(WATCH, WatchDecision, "decide", "decision"),
        watched=of_all_runs(WATCH, Dataset, "ingest", "dataset"),
        data_faults=runtime_parameter(FAULTS),
        override_reason=runtime_parameter(REASON),
    ).with_id("clear_training")
    pushed = push(dataset=dataset, clearance=cleared.outputs["clearance"], pushes=runtime_parameter(PUSHES)).with_id(
        "push"
    )
    pipeline = Pipeline(pipeline_name=TRAINING, components=[data, cleared, pushed])
    return declare(pipeline, Declaration((BROKEN, PUSHES, FAULTS, REASON), "UTC", ""))
