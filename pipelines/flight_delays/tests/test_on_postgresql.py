"""The flagship's own pipeline, from ingest to push, with its metadata on PostgreSQL."""

from __future__ import annotations

from datetime import date, timedelta

import ml_metadata as mlmd
import pytest

from airtight.home import Home
from airtight.interval import Interval
from pipelines.flight_delays import clock
from pipelines.flight_delays.tests import small_lake
from runtime import cache, local, metadata_connection
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.lineage.runs import latest_of_each_interval
from tests.runtime.conftest import postgresql  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow
FIRST, DAY = date(2013, 5, 20), date(2013, 6, 13)
VALUES = {
    **{"validation_days": 3, "epochs": 1, "strategy": "one_device", "baseline_gains": "auc=0"},
    **{"p99_limit_ms": 10_000.0, "memory_limit_mb": 1 << 20},
}


@pytest.fixture
def home(flight_lake, monkeypatch, postgresql) -> Home:  # noqa: F811
    monkeypatch.delenv("AIRTIGHT_MODEL_SERVER", raising=False)
    monkeypatch.setenv("AIRTIGHT_METADATA", postgresql.address())
    home = Home.current()
    small_lake.write(home.lake, small_lake.read(flight_lake, FIRST, DAY + timedelta(days=1)))
    return home


def run(home: Home, run_id: str) -> dict[str, str]:
    compiled = compile_pipeline("flight_delays", home)
    interval = Interval.parse(DAY.isoformat(), clock.ZONE)
    ends = {"interval_start": interval.start.isoformat(), "interval_end": interval.end.isoformat()}
    outcomes = local.run(compiled, home, run_id, VALUES | ends)
    assert set(outcomes) == {node.id for node in CompiledPipeline.read(compiled).nodes}, outcomes
    return {node: outcome.state if outcome.state != "failed" else outcome.error for node, outcome in outcomes.items()}


def test_a_day_is_learned_judged_and_pushed_and_the_cache_knows_it_again(spark, home):
    first = run(home, "first")
    assert set(first.values()) == {"complete"}, first
    store = metadata_connection.project_store(home)
    (known,) = latest_of_each_interval(store, "flight_delays", 2)
    pushed = known.output("push", "pushed")
    # What the gates make of one day is theirs to say; that it is recorded, with its reason, is asked for here.
    assert pushed and pushed.properties["reason"] and pushed.properties["pushed"] in (0, 1), pushed
    assert longest_text(store, known.steps["train"].execution) > 2_704, "more than PostgreSQL's index takes"
    again = run(home, "again")
    cached = {node for node, state in again.items() if state == "cached"}
    assert {"ingest", "validate", "transform", "train", "monitor"} <= cached, again
    assert set(again.values()) <= {"cached", "complete"}, again
    assert not home.metadata_db.exists()


def longest_text(store: mlmd.MetadataStore, execution: int) -> int:
    """The longest text that the store keeps of an execution."""
    assert cache.parts_of(store, execution)
    contexts = store.get_contexts_by_execution(execution)
    return max(len(value.string_value.encode()) for c in contexts for value in c.custom_properties.values())
