"""Inputs across runs: what the newest executions made, and what was known when the interval began."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable.mlmd import event_lib
from tfx.proto.orchestration import pipeline_pb2

from runtime import cross_run, known_artifacts, metadata_store
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from tests.runtime.past_runs import PastRuns, month, version
from tests.tiny_pipeline import across
from tests.tiny_pipeline.running import Run, uri

CHAMPIONS = "tests.tiny_pipeline.champion:create_pipeline"
PROMOTIONS = "tests.tiny_pipeline.promoting:create_pipeline"
WATCHES, TRAININGS = (f"tests.tiny_pipeline.watching:create_{name}" for name in ("watch", "training"))
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
    assert given(home, 3) == versions(1, 2, 3, 10, 11), "what served when it began and before, and of its interval"
    assert given(home, 0) == versions(0, 10, 11), "nothing was known yet"


def test_what_was_made_of_the_days_before_is_given_as_far_back_as_the_node_wants(home, past, monkeypatch):
    past.write(range(6))
    past.pushed = False
    past.write([6])  # What was refused is known, too.
    past.pushed = True
    past.write(range(7, 12))
    monkeypatch.setattr(across, "HISTORY_DAYS", 100)
    assert given(home, 8) == versions(4, 5, 6, 7, 8, 10, 11)


def test_the_latest_of_then_is_found_however_long_ago_it_was(home, past):
    past.write([0, 1, 700, 701])
    assert given(home, 690) == versions(0, 1, 700, 701)


def test_more_pushes_than_a_page_holds_hide_none(home, past, monkeypatch):
    monkeypatch.setattr(known_artifacts, "_PAGE", 3)
    past.write([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 99, 98])
    assert given(home, 40) == versions(9, 8, 99, 98)


@pytest.mark.parametrize("minutes", [1, 10, 60])
@pytest.mark.parametrize("newest_first", [False, True])
def test_many_intervals_within_a_day_hide_none(past, monkeypatch, minutes, newest_first):
    """A page may hold nothing but what ended after the instant, in a query that goes a day too far."""
    monkeypatch.setattr(known_artifacts, "_PAGE", 3)
    store, instant = past.store, datetime(2013, 6, 1, tzinfo=UTC)
    type_id = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Sample"))
    kind = store.put_execution_type(metadata_store_pb2.ExecutionType(name="sampler"))
    context = metadata_store_pb2.Context(
        type_id=store.put_context_type(metadata_store_pb2.ContextType(name="node")), name="minutes.sample"
    )
    context.id = store.put_contexts([context])[0]
    ends = [instant + timedelta(minutes=minutes * number) for number in range(-8, 9)]
    made = {}
    for end in sorted(ends, reverse=newest_first):
        artifact = metadata_store_pb2.Artifact(type_id=type_id, uri="/nowhere", state=metadata_store_pb2.Artifact.LIVE)
        artifact.custom_properties["interval_end"].string_value = end.isoformat()
        event = event_lib.generate_event(metadata_store_pb2.Event.OUTPUT, "sample", 0)
        execution = metadata_store_pb2.Execution(type_id=kind, last_known_state=metadata_store_pb2.Execution.COMPLETE)
        _, (made[end],), _ = store.put_execution(execution, [(artifact, event)], [context])
    channel = pipeline_pb2.InputSpec.Channel(output_key="sample")
    channel.artifact_query.type.name = "Sample"
    for moment in (instant, instant - timedelta(seconds=30)):
        (latest,) = known_artifacts.known_at(store, context.id, channel, moment)
        assert latest.proto.id == made[max(end for end in ends if end <= moment)]
    assert known_artifacts.known_at(store, context.id, channel, ends[0] - timedelta(seconds=1)) == []


def test_executions_that_made_nothing_do_not_count_towards_the_newest(home, past):
    executions = past.write(range(12))
    pushes = {e.id for e in past.store.get_executions_by_type("tests.tiny_pipeline.champion.push")}
    state = metadata_store_pb2.Execution
    of_push = past.store.get_executions_by_id(sorted(pushes.intersection(executions))[-5:])
    states = (state.CACHED, state.FAILED, state.RUNNING, state.CANCELED, state.COMPLETE)
    for execution, now in zip(of_push, states, strict=True):
        execution.last_known_state = now
    past.store.put_executions(of_push)
    assert given(home, 0) == versions(0, 7, 11)


def test_every_push_of_the_same_interval_is_given_and_none_that_did_not_push(home, past):
    past.write([2, 3])
    past.pushed = False
    past.write([4])
    past.pushed = True
    past.write([90, 91])
    assert given(home, 5) == versions(2, 3, 90, 91)


def test_of_a_version_that_was_pushed_again_the_first_push_is_given_too(home, past):
    past.write([2, 3, 50, 51, 3])
    assert given(home, 0) == versions(3, 51, 3)
    newest = cross_run.newest_outputs(past.store, "champions", "push", "pushed", limit=1)
    assert [artifact.get_int_custom_property("version") for artifact in newest] == versions(3, 3)


def test_the_push_of_a_version_that_was_promoted_by_then_is_given_too(home, past):
    past.write(range(12))
    PastRuns(past.store, home, CompiledPipeline.read(compile_pipeline(PROMOTIONS, home))).write([1])
    assert given(home, 5) == versions(1, 3, 4, 5, 10, 11)
    assert given(home, 0) == versions(0, 10, 11), "it was promoted later"


def test_the_version_before_one_that_was_promoted_at_the_intervals_end_is_given_too(home, past):
    past.write(range(12))
    # March is served again from the end of June on.
    promotions = PastRuns(past.store, home, CompiledPipeline.read(compile_pipeline(PROMOTIONS, home)))
    promotions.write([2])
    (promotion,) = past.store.get_artifacts_by_type("Promotion")
    promotion.properties["as_of"].string_value = month(5)[1]
    past.store.put_artifacts([promotion])
    assert given(home, 5) == versions(1, 2, 3, 4, 5, 10, 11)


def test_what_is_recorded_as_input_is_what_was_given(home, past):
    past.write(range(12))
    ends = dict(zip(("interval_start", "interval_end"), month(3), strict=True))
    run = Run(home, ACROSS, "run", **ends)
    run.node("ingest")
    execution = run.node("choose").execution
    events = past.store.get_events_by_execution_ids([execution])
    pushed = [e.artifact_id for e in events if e.type == e.INPUT and e.path.steps[0].key == "pushed"]
    recorded = [a.custom_properties["version"].int_value for a in past.store.get_artifacts_by_id(sorted(pushed))]
    assert recorded == versions(1, 2, 3, 10, 11)


def test_a_fault_blocks_a_training_however_many_days_were_watched_since(home, monkeypatch):
    monkeypatch.setattr(cross_run, "NEWEST", 2)
    compiled = CompiledPipeline.read(compile_pipeline(WATCHES, home))
    with metadata_store.project_connection(home) as handle:
        PastRuns(handle.store, home, compiled).write(range(12))
        start, end = month(5)
        decisions = handle.store.get_artifacts_by_type("WatchDecision")
        (of_month,) = (a for a in decisions if a.properties["interval_end"].string_value == end)
        of_month.properties["action"].string_value = "fix_data"
        handle.store.put_artifacts([of_month])
    training = Run(home, TRAININGS, "backfilled", interval_start=start, interval_end=end)
    assert training.node("ingest").state == "complete"
    outcome = training.node("clear_training")
    assert outcome.state == "failed" and "faults in the data" in outcome.error


def test_a_command_is_given_the_newest_too(home, past):
    past.write(range(5))
    newest = cross_run.newest_outputs(past.store, "champions", "push", "pushed", limit=2)
    assert [artifact.get_int_custom_property("version") for artifact in newest] == versions(3, 4)
    assert cross_run.newest_outputs(past.store, "nobody", "push", "pushed") == []
