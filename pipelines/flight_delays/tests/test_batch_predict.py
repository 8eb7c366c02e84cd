"""Predictions for a whole interval: the graph, and rows that have the features that the model was judged on."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from airtight.home import Home
from airtight.interval import Interval
from components.transform import PREDICTION
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.settings import SETTINGS
from pipelines.flight_delays.tests import small_lake
from pipelines.flight_delays.tests.conftest import flight_lake  # noqa: F401 - a fixture
from plugins.tfx_airflow import TfxDag
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline

pytestmark = pytest.mark.slow
DAY = "2013-06-13"
"""Thunderstorms: many flights never left, and have no label."""


def test_the_graph_and_the_form(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    compiled = CompiledPipeline.read(compile_pipeline("flight_delays_batch_predict", Home.current()))
    dag = TfxDag("flight_delays_batch_predict", schedule=None)
    upstream = {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}
    assert upstream == {
        "ingest": set(),
        "validate": {"ingest"},
        "transform": {"validate"},
        "batch_predict": {"transform"},
    }
    assert {parameter.name for parameter in SETTINGS.run_parameters("batch_predict")} <= set(dag.params)
    assert compiled.pipeline == "flight_delays_batch_predict"


def test_a_shorter_history_gives_the_features_that_the_model_is_judged_on(spark, flight_lake, tmp_path):  # noqa: F811
    interval = Interval.parse(DAY, clock.ZONE)
    first = date.fromisoformat(DAY) - timedelta(days=features.LOOKBACK_DAYS + 10)
    rows = small_lake.read(flight_lake, first, date.fromisoformat(DAY))
    lake = small_lake.write(tmp_path / "lake", rows)
    known = small_lake.ingested(lake, interval, tmp_path / "judged")
    judged = small_lake.transformed(known, tmp_path / "judged", validation_days=3)
    expected = {row["flight_id"]: row for row in small_lake.rows_of(judged, "test").to_pylist()}

    short = small_lake.ingested(lake, interval, tmp_path / "short", window_days=features.LOOKBACK_DAYS)
    table = small_lake.rows_of(small_lake.transformed(short, tmp_path / "short", purpose=PREDICTION), "predict")
    made = {row["flight_id"]: row for row in table.to_pylist()}
    assert len(made) == len([f for f in rows["flights"] if clock.local_day(f["scheduled_departure"]) == interval_day()])
    assert len(made) > len(expected) + 50, "flights without a label are scored, too"
    differing = {
        (flight, name)
        for flight, row in expected.items()
        for name in features.SCHEMA.names
        if str(row[name]) != str(made[flight][name])  # As text: NaN equals itself.
    }
    assert differing == set()


def interval_day() -> date:
    return date.fromisoformat(DAY)
