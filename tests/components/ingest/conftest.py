"""A lake with the tables, and ingest as the launcher calls it."""

from __future__ import annotations

import sys
import types
from datetime import timedelta

import pyarrow as pa
import pytest

from airtight.interval import Interval
from components.artifacts import Dataset
from components.data.lake import Lake
from components.ingest import ingest
from tests.components.ingest.tables import FIRST, LAST, TABLES, ZONE, events


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    days = [FIRST + timedelta(days=i) for i in range((LAST - FIRST).days + 1)]
    lake.write("events", {day: events(day) for day in days})
    lake.write("tides", {day: events(day).select(["at"]) for day in days[:-1]})
    lake.write("names", {None: pa.table({"id": ["a", "b"]})})
    return lake


@pytest.fixture
def run(lake, tmp_path, monkeypatch):
    """Runs ingest on the lake, with the given interval and settings."""
    declaration = types.ModuleType("toy_tables")
    declaration.TABLES = TABLES
    monkeypatch.setitem(sys.modules, "toy_tables", declaration)

    def run(interval: str, **settings) -> Dataset:
        span = Interval.parse(interval, ZONE)
        artifact = Dataset()
        artifact.uri = str(tmp_path / "dataset")
        (tmp_path / "dataset").mkdir(exist_ok=True)
        defaults = {"window_days": 0, "lake_version": "now", "lake": str(lake.path), "zone": ZONE}
        ingest.EXECUTOR_SPEC.executor_class._FUNCTION(
            dataset=artifact,
            tables="toy_tables:TABLES",
            interval_start=span.start.isoformat(),
            interval_end=span.end.isoformat(),
            **{**defaults, **settings},
        )
        return artifact

    return run
