"""The clean-up: old artifacts go, and nothing goes that a pushed or blessed model rests on."""

import pytest

from runtime import metadata_store, retention
from runtime.__main__ import main
from tests.tiny_pipeline.running import Run, fault, uri

CHAMPIONS = "tests.tiny_pipeline.champion:create_pipeline"
NODES = ("ingest", "train", "champion", "evaluate", "push")


def whole(home, run: str, push_it: int) -> dict:
    started = Run(home, CHAMPIONS, run, push_it=push_it)
    return {node: started.node(node) for node in NODES}


def clean(home, **told):
    with metadata_store.project_connection(home) as handle:
        return retention.clean(handle.store, home, **told)


@pytest.fixture
def later(monkeypatch):
    """Forty days later."""
    now = retention._now_ms()
    monkeypatch.setattr(retention, "_now_ms", lambda: now + 40 * 86_400_000)


@pytest.fixture
def runs(home):
    return whole(home, "pushed", 1), whole(home, "not_pushed", 0)


def test_what_a_pushed_model_rests_on_stays_and_the_rest_goes(home, runs, later):
    pushed, other = runs
    told = clean(home, days=30, dry_run=True)
    assert uri(other["train"], "model").exists(), "a dry run removes nothing"
    done = clean(home, days=30)
    assert done.removed == told.removed
    assert done.bytes > 0
    for node, key in (("ingest", "dataset"), ("train", "model"), ("push", "pushed")):
        assert uri(pushed[node], key).exists()
    for node, key in (("train", "model"), ("evaluate", "evaluation"), ("push", "pushed")):
        assert not uri(other[node], key).exists()
    assert clean(home, days=30).removed == []


def test_what_is_recent_stays(home, runs):
    assert clean(home, days=30).removed == []


def test_a_node_whose_input_was_removed_says_so(home, runs, later):
    clean(home, days=30)
    told = fault(Run(home, CHAMPIONS, "not_pushed", push_it=1).node("push"))
    assert "train is gone" in told["message"] or "ingest is gone" in told["message"]
    assert "runtime clean" in told["received"]


def test_the_command_tells_what_it_did(home, runs, capsys):
    assert main(["clean", "--days", "0", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "Would remove" in told
    assert "are what pushed or blessed models rest on" in told
