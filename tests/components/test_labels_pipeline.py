"""The pipeline of labels: its nodes, and that it compiles for a pipeline that knows no flights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.parameters import Parameter
from airtight.supervised import LABELS, PROMOTIONS
from airtight.watch.settings import Labels
from components import label_quality
from components.artifacts import Predictions
from components.labels_pipeline import labelling
from components.supervised import create_pipeline
from components.watch import prediction_rows
from pipelines.air_quality.settings import SETTINGS as AIR_QUALITY
from pipelines.flight_delays.settings import SETTINGS as FLIGHTS
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.parameters import declared
from tests.components import toy
from tests.tiny_supervised.settings import SETTINGS, WATCHED


def nodes(labels: Labels, **more):
    return {node.id: node for node in labelling(replace(WATCHED, labels=labels, **more)).components}


def test_its_nodes_and_what_of_all_runs_they_read():
    pipeline = create_pipeline(WATCHED, LABELS)
    assert pipeline.pipeline_info.pipeline_name == "watched_labels"
    assert {node.id for node in pipeline.components} == {
        *("ingest", "validate", "transform", "answers", "former", "label_quality", "judge_promotion", "take_back")
    }
    assert PROMOTIONS["labels"] == "take_back", "what it takes back is a takeover for whoever asks who served"
    with pytest.raises(TerminalError, match="labels=None"):
        labelling(SETTINGS)


def test_with_a_log_the_former_champion_is_asked_in_batch_of_the_rows_that_were_answered():
    logged = nodes(Labels(log_root="/log"))
    assert {"skew", "former"} <= set(logged) and "answers" not in logged
    assert logged["former"] in logged["label_quality"].upstream_nodes
    assert logged["label_quality"].exec_properties["log_root"] == "/log"


def test_that_a_former_champion_is_not_compared_with_a_log_for_want_of_a_time_is_a_warning(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(prediction_rows, "of_log", lambda *args: ("rows", Counter()))
    timeless, batch = replace(toy.SCHEMA, time=""), Predictions()
    batch.model = "toy"
    form = prediction_rows.Form(timeless, ("id",), "UTC")
    rows, _ = label_quality._predicted(None, [batch], "/log", "toy", ["2020-03-01"], form, tmp_path)
    assert rows == "rows" and "not compared with the log" in caplog.text


@pytest.mark.parametrize(("days", "closes"), [(7, 7), (60, 30)])
def test_a_day_is_closed_before_it_is_no_longer_looked_at(days, closes):
    assert nodes(Labels(days=days))["label_quality"].exec_properties["close_after_days"] == closes
    with pytest.raises(TerminalError, match="never get ripe"):
        nodes(Labels(days=days), node_parameters={"label_quality": {"close_after_days": days + 1}})


def test_a_run_cannot_keep_a_day_open_for_longer_than_it_is_looked_at():
    given = Parameter("close_after_days", "int", 3, minimum=1)
    settings = replace(WATCHED, labels=Labels(days=7), node_parameters={"label_quality": {"close_after_days": given}})
    (parameter,) = [p for p in declared(labelling(settings)).parameters if p.name == "close_after_days"]
    assert (parameter.minimum, parameter.maximum, parameter.default) == (1, 7, 3)
    with pytest.raises(TerminalError, match="at most 7"):
        parameter.check(8)


@pytest.mark.parametrize("settings", [FLIGHTS, AIR_QUALITY], ids=lambda settings: settings.name)
def test_those_of_the_flagships_compile(tmp_path, settings):
    source, arguments = settings.source(LABELS)
    assert (source, arguments) == (f"{settings.name}_labels", {})
    compiled = CompiledPipeline.read(compile_pipeline(source, Home(tmp_path)))
    assert compiled.pipeline == source and compiled.zone == settings.zone
    assert compiled.node("label_quality").history_days == 7, "the days that it judges, however many runs came since"
