"""What the runs of a pipeline did, as ML Metadata tells it."""

import pytest

from runtime import lineage, metadata_store
from tests.tiny_pipeline.running import JUNE, Run, uri

CHAMPIONS = "tests.tiny_pipeline.champion:create_pipeline"
JULY = {"interval_start": "2013-07-01T00:00:00-04:00", "interval_end": "2013-08-01T00:00:00-04:00"}


def read(home, pipeline: str = "champions") -> list[lineage.Run]:
    with metadata_store.project_connection(home) as handle:
        return lineage.runs(handle.store, pipeline)


@pytest.fixture
def july(home):
    """July, then June twice: once to the end, and once its ingest alone."""
    july = Run(home, CHAMPIONS, "july", **JULY)
    made = {node: july.node(node) for node in ("ingest", "train")}
    june = Run(home, CHAMPIONS, "june", **JUNE)
    for node in ("ingest", "train", "champion", "evaluate", "push"):
        june.node(node)
    Run(home, CHAMPIONS, "june_again", **JUNE).node("ingest")
    return made


def test_each_run_tells_its_interval_its_nodes_and_what_they_made(home, july):
    found = {run.key: run for run in read(home)}
    assert list(found) == ["july", "june", "june_again"], "in the order in which they began"
    assert found["july"].interval.start.isoformat() == JULY["interval_start"]
    assert {name: step.state for name, step in found["july"].steps.items()} == {
        "ingest": "complete",
        "train": "complete",
    }
    output = found["july"].output("train", "model")
    assert (output.type, output.uri) == ("Model", str(uri(july["train"], "model")))
    assert found["june"].output("push", "pushed").properties["pushed"] == 1
    assert found["june"].output("push", "nothing") is None and found["july"].output("push", "pushed") is None
    assert found["june"].steps["train"].seconds >= 0


def test_of_one_interval_the_run_that_ended_last_counts_and_intervals_are_in_order(home, july):
    latest = lineage.latest_of_each_interval(read(home))
    assert [run.key for run in latest] == ["june_again", "july"]


def test_a_node_counts_with_its_latest_try(home):
    run = Run(home, "tests.tiny_pipeline.pipeline:create_pipeline", "run")
    run.node("write")
    assert run.node("copy", trouble="terminal").state == "failed"
    (found,) = read(home, "tiny")
    assert found.steps["copy"].state == "failed" and found.output("copy", "words") is None
    run.node("copy")
    (found,) = read(home, "tiny")
    assert found.steps["copy"].state == "complete"


def test_an_unknown_pipeline_has_no_runs(home):
    assert read(home, "nothing") == []
