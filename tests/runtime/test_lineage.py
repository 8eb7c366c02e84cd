"""What the runs of a pipeline did, as ML Metadata tells it."""

import pytest

from runtime import metadata_store
from runtime.lineage import runs
from tests.tiny_pipeline.running import JUNE, Run, uri

CHAMPIONS = "tests.tiny_pipeline.champion:create_pipeline"
JULY = {"interval_start": "2013-07-01T00:00:00-04:00", "interval_end": "2013-08-01T00:00:00-04:00"}


def read(home, pipeline: str = "champions", intervals: int = 10) -> list[runs.Run]:
    with metadata_store.project_connection(home) as handle:
        return runs.latest_of_each_interval(handle.store, pipeline, intervals)


@pytest.fixture
def july(home):
    """July, as far as train, and then June to the end."""
    july = Run(home, CHAMPIONS, "july", **JULY)
    made = {node: july.node(node) for node in ("ingest", "train")}
    june = Run(home, CHAMPIONS, "june", **JUNE)
    for node in ("ingest", "train", "champion", "evaluate", "push"):
        june.node(node)
    return made


def test_each_run_tells_its_interval_its_nodes_and_what_they_made(home, july):
    of_june, of_july = read(home)
    assert (of_june.key, of_july.key) == ("june", "july"), "in the order of the intervals"
    assert of_july.interval.start.isoformat() == JULY["interval_start"]
    assert {name: step.state for name, step in of_july.steps.items()} == {"ingest": "complete", "train": "complete"}
    output = of_july.output("train", "model")
    assert (output.type.name, output.uri) == ("Model", str(uri(july["train"], "model")))
    assert of_june.output("push", "pushed").properties["pushed"] == 1
    assert of_june.output("push", "nothing") is None and of_july.output("push", "pushed") is None
    assert of_june.steps["train"].seconds >= 0


def test_of_one_interval_the_run_that_ended_last_counts(home, july):
    again = Run(home, CHAMPIONS, "june_again", **JUNE)
    again.node("ingest")
    assert [run.key for run in read(home)] == ["june_again", "july"]
    Run(home, CHAMPIONS, "june", **JUNE).node("ingest")
    assert [run.key for run in read(home)] == ["june", "july"], "its node ran once more"


def test_a_run_that_meets_an_earlier_champion_is_of_its_own_interval(home, july):
    august = Run(
        home, CHAMPIONS, "august", interval_start=JULY["interval_end"], interval_end="2013-09-01T00:00:00-04:00"
    )
    for node in ("ingest", "champion"):
        assert august.node(node).state in ("complete", "cached")
    of_august = read(home)[-1]
    assert of_august.key == "august" and of_august.output("champion", "pushed").properties["version"] == 2013070101
    del of_august.steps["ingest"]
    assert of_august.interval is None, "what a resolver hands on is of other intervals"


def test_the_intervals_that_ran_last_are_read_and_no_others(home, july):
    assert [run.key for run in read(home, intervals=1)] == ["june"]


def test_a_node_counts_with_its_latest_try(home):
    run = Run(home, "tests.tiny_pipeline.pipeline:create_pipeline", "run")
    run.node("write")
    assert run.node("copy", trouble="terminal").state == "failed"
    (recorded,) = read(home, "tiny")
    assert recorded.steps["copy"].state == "failed" and recorded.output("copy", "words") is None
    run.node("copy")
    (recorded,) = read(home, "tiny")
    assert recorded.steps["copy"].state == "complete"


def test_an_unknown_pipeline_has_no_runs(home):
    assert read(home, "nothing") == []
