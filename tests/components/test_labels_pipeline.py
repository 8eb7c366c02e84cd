"""The pipeline of labels: its nodes, and that it compiles for a pipeline that knows no flights."""

from __future__ import annotations

from airtight.home import Home
from airtight.supervised import PROMOTIONS
from components.labels_pipeline import labels_pipeline
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from tests.tiny_supervised.settings import SETTINGS


def test_its_nodes_and_what_of_all_runs_they_read():
    pipeline = labels_pipeline(SETTINGS)
    assert pipeline.pipeline_info.pipeline_name == "toy_labels"
    nodes = [node.id for node in pipeline.components]
    assert set(nodes) == {
        *("ingest", "validate", "transform", "answers", "former", "label_quality", "judge_promotion", "take_back")
    }
    assert PROMOTIONS["labels"] == "take_back", "what it takes back is a takeover for whoever asks who served"
    logged = labels_pipeline(SETTINGS, log_root="/log", label_quality_settings={"ripe_from": 0.9})
    assert {"skew", "label_quality"} <= {node.id for node in logged.components}
    assert "answers" not in {node.id for node in logged.components}


def test_the_flagships_compiles(tmp_path):
    source = "pipelines.flight_delays_labels.pipeline:create_pipeline"
    compiled = CompiledPipeline.read(compile_pipeline(source, Home(tmp_path)))
    assert compiled.pipeline == "flight_delays_labels" and compiled.zone == "America/New_York"
    assert compiled.node("label_quality").history_days == 7, "the days that it judges, however many runs came since"
