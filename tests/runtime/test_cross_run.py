"""Inputs across runs: what the newest executions made, and what was known when the interval began."""

import json

import pytest

from runtime import cross_run, metadata_store
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from tests.runtime.past_runs import PastRuns, month, version
from tests.tiny_pipeline.running import Run, uri

CHAMPIONS = "tests.tiny_pipeline.champion:create_pipeline"
ACROSS = "tests.tiny_pipeline.across:create_pipeline"


@pytest.fixture
def past(home, monkeypatch):
    monkeypatch.setattr(cross_run, "NEWEST", 2)
    compiled = CompiledPipeline.read(compile_pipeline(CHAMPIONS, home))
    with metadata_store.project_connection(home) as handle:
        yield PastRuns(handle.store, home, compiled)


def given(home, number: int, run: str = "") -> list[int]:
    """The versions that a node of a month's run is given."""
    ends = dict(zip(("interval_start", "interval_end"), month(number), strict=True))
    started = Run(home, ACROSS, run or f"month-{number}", **ends)
    assert started.node("ingest").state in ("complete", "cached")
    outcome = started.node("choose")
    assert outcome.state in ("complete", "cached"), outcome
    return json.loads((uri(outcome, "chosen") / "versions.json").read_text())


def versions(*numbers: int) -> list[int]:
    return [version(number) for number in numbers]


def test_a_node_is_given_the_newest_and_the_latest_of_then(home, past):
    assert given(home, 3, "before") == []
    past.write(range(12))
    assert given(home, 12) == versions(10, 11)
    assert given(home, 3) == versions(2, 10, 11), "February was known when March began"
    assert given(home, 0) == versions(10, 11), "nothing was known yet"


def test_the_latest_of_then_is_found_however_long_ago_it_was(home, past):
    past.write([0, 1, 700, 701])
    assert given(home, 690) == versions(1, 700, 701)


def test_more_pushes_than_a_page_holds_hide_none(home, past, monkeypatch):
    monkeypatch.setattr(cross_run, "_PAGE", 3)
    past.write([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 99, 98])
    assert given(home, 40) == [*versions(9), *versions(99, 98)]


def test_every_push_of_the_same_interval_is_given_and_none_that_did_not_push(home, past):
    past.write([2, 3])
    past.pushed = False
    past.write([4])
    past.pushed = True
    past.write([90, 91])
    assert given(home, 5) == versions(3, 90, 91)


def test_what_is_recorded_as_input_is_what_was_given(home, past):
    past.write(range(12))
    ends = dict(zip(("interval_start", "interval_end"), month(3), strict=True))
    run = Run(home, ACROSS, "run", **ends)
    run.node("ingest")
    execution = run.node("choose").execution
    events = past.store.get_events_by_execution_ids([execution])
    pushed = [e.artifact_id for e in events if e.type == e.INPUT and e.path.steps[0].key == "pushed"]
    recorded = [a.custom_properties["version"].int_value for a in past.store.get_artifacts_by_id(sorted(pushed))]
    assert recorded == versions(2, 10, 11)


def test_a_command_is_given_the_newest_too(home, past):
    past.write(range(5))
    newest = cross_run.newest_outputs(past.store, "champions", "push", "pushed", limit=2)
    assert [artifact.get_int_custom_property("version") for artifact in newest] == versions(3, 4)
    assert cross_run.newest_outputs(past.store, "nobody", "push", "pushed") == []
