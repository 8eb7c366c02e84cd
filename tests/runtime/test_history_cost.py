"""What a node, the report and the clean-up ask of the metadata store does not grow with history."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airtight.home import Home
from runtime import known_artifacts, metadata_store, retention
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.lineage import runs
from tests.runtime.past_runs import PastRuns, month
from tests.runtime.store_calls import Calls, counted
from tests.tiny_pipeline.running import Run

PROMOTIONS = "tests.tiny_pipeline.promoting:create_pipeline"
CHAMPIONS = "tests.tiny_pipeline.champion:create_pipeline"
NODES = ("ingest", "train", "champion", "evaluate", "push")
STORES = pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
pytestmark = pytest.mark.slow


@pytest.fixture
def past(home: Home) -> Iterator[PastRuns]:
    compiled = CompiledPipeline.read(compile_pipeline(CHAMPIONS, home))
    with metadata_store.project_connection(home) as handle:
        yield PastRuns(handle.store, home, compiled)


def cost(action: Callable[[], object]) -> Calls:
    with counted() as calls:
        action()
    return calls


def whole(home: Home, past: PastRuns, number: int) -> dict[str, Calls]:
    """What each node of a run asks, in a month after past runs, of which the last was champion."""
    places = [past.uri(node, key, f"run-{number - 1:05}") for node, key in (("train", "model"), ("push", "pushed"))]
    places.append(str(home.pipeline_root("champions_promote") / "promote" / "promotion" / f"run-{number - 1:05}"))
    for folder in map(Path, places):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "interval").write_text("past")
    ends = dict(zip(("interval_start", "interval_end"), month(number), strict=True))
    run = Run(home, CHAMPIONS, f"now-{number}", **ends)
    calls = {}
    for node in NODES:
        with counted() as calls[node]:
            outcome = run.node(node)
        assert outcome.state == "complete", outcome
    assert outcome.outputs["pushed"][0]["properties"]["pushed"] == 1
    return calls


@STORES
def test_a_node_asks_and_is_answered_the_same_after_few_runs_and_after_many(home, past):
    past.write(range(25))
    whole(home, past, 25)  # registers types
    past.write(range(26, 31))
    few = whole(home, past, 31)
    past.write(range(32, 120))
    assert whole(home, past, 120) == few


@STORES
def test_of_promotions_the_newest_are_read(home, past, monkeypatch):
    monkeypatch.setattr(known_artifacts, "_PAGE", 20)
    promotions = PastRuns(past.store, home, CompiledPipeline.read(compile_pipeline(PROMOTIONS, home)))
    past.write(range(29))
    promotions.write(range(29))
    whole(home, past, 29)  # registers types
    past.write(range(30, 35))
    promotions.write(range(30, 35))
    few = whole(home, past, 35)["champion"]
    past.write(range(36, 80))
    promotions.write(range(36, 80))
    assert whole(home, past, 80)["champion"] == few


@STORES
def test_the_report_reads_the_runs_that_it_shows(home, past):
    past.write(range(6))
    few = cost(lambda: runs.latest_of_each_interval(past.store, "champions", 5))
    past.write(range(6, 120))
    many = cost(lambda: runs.latest_of_each_interval(past.store, "champions", 5))
    assert many == few


@STORES
@pytest.mark.parametrize("pushed", [True, False])
def test_the_clean_up_looks_at_what_became_old_since(home, past, monkeypatch, pushed):
    monkeypatch.setattr(retention, "_OVERLAP_MS", 0)

    def clean() -> retention.Cleaned:
        time.sleep(0.01)  # What was written in this very millisecond is not older than it.
        return retention.clean(past.store, home, days=0, grace_s=0)

    past.pushed = pushed
    past.write(range(3))
    clean()
    past.write(range(3, 5))
    few = cost(clean)
    past.write(range(5, 60))
    clean()
    past.write(range(60, 62))
    assert cost(clean) == few
    assert cost(clean).items["GetArtifactsByID"] == 0, "nothing is new"
