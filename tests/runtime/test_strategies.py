"""A run that is cleared later resolves what it resolved at first, however much came since."""

import itertools
import logging
from dataclasses import replace

import pytest

from runtime import cross_run
from runtime.launch import launch
from tests.tiny_pipeline.running import Run, fault, uri

DAILY = "tests.tiny_pipeline.foreign:create_daily"
NODES = ("make_span", "spans", "window", "latest", "train")


def text(outcome, key: str) -> str:
    return uri(outcome, key).read_text(encoding="utf-8")


@pytest.fixture
def days(home):
    """Three days, one run each; gives the runs and their outcomes."""
    runs = [Run(home, DAILY, f"day-{span}", span=span) for span in (1, 2, 3)]
    return runs, [{node: run.node(node) for node in NODES} for run in runs]


def test_each_run_sees_what_was_there(days):
    _, outcomes = days
    assert [text(day["window"], "spans") for day in outcomes] == ["1", "1 2", "2 3"]
    assert outcomes[0]["latest"].outputs == {}
    for before, day in itertools.pairwise(outcomes):
        assert day["latest"].outputs["model"][0]["id"] == before["train"].outputs["model"][0]["id"]


def test_a_run_cleared_later_sees_what_it_saw_and_says_so(days, caplog):
    runs, outcomes = days
    for number in (0, 1):
        caplog.clear()
        assert runs[number].node("spans").outputs["examples"] == outcomes[number]["spans"].outputs["examples"]
        assert "spans resolves again in this run" in caplog.text
        assert text(runs[number].node("window"), "spans") == text(outcomes[number]["window"], "spans")
        again = runs[number].node("latest")
        assert again.outputs == outcomes[number]["latest"].outputs, "not its own model, nor a later one"
        assert runs[number].node("train").state == "complete"
    assert runs[1].node("latest").outputs == outcomes[1]["latest"].outputs, "a third attempt sees the same"


def test_what_the_run_itself_made_anew_counts_in_the_place_of_what_it_replaces(days):
    runs, _ = days
    made = runs[1].node("make_span", span=5)
    seen = runs[1].node("spans").outputs["examples"]
    assert text(runs[1].node("window"), "spans") == "5", "two spans back from 5 is 4, and 2 is replaced"
    assert [artifact["id"] for artifact in seen] == [made.outputs["examples"][0]["id"]]


def test_a_run_cleared_later_sees_what_it_saw_however_much_came_since(days, monkeypatch):
    runs, outcomes = days
    monkeypatch.setattr(cross_run, "NEWEST", 1)
    assert runs[1].node("latest").outputs == outcomes[1]["latest"].outputs != {}
    assert runs[1].node("spans").outputs["examples"], "of the newest of then"


def test_what_another_airflow_made_under_the_same_run_counts_as_another_run_s(days, home):
    """Two Airflows on one store, whose DAGs and runs have the same names."""
    runs, outcomes = days
    mine = outcomes[1]["make_span"]
    theirs = runs[1].node("make_span", span=7)
    inputs = {"make_span": mine.execution}
    (seen, *_) = launch(replace(runs[1].request("spans"), inputs=inputs)).outputs["examples"]
    assert seen["id"] == mine.outputs["examples"][0]["id"] != theirs.outputs["examples"][0]["id"]
    pending = fault(launch(replace(runs[1].request("spans"), inputs={}, pending=("make_span",))))
    assert "make_span has not ended yet" in pending["message"] and pending["transient"]


def test_the_first_attempt_is_not_limited_by_another_node_s(days, home):
    runs, _ = days
    late = Run(home, DAILY, "late", span=4)
    late.node("make_span")
    runs[0].node("make_span", span=3)
    assert len(late.node("spans").outputs["examples"]) == 3, "4, and the two of span 3"


def test_a_strategy_of_the_user_s_own_decides_for_itself(home):
    run = Run(home, "tests.tiny_pipeline.foreign:create_nothing_yet_by_own_strategy")
    assert [run.node(node).state for node in ("latest", "use", "make")] == ["complete"] * 3
    assert run.node("latest").outputs["made"], "it was not there at first"
    run = Run(home, "tests.tiny_pipeline.foreign:create_nothing_yet", "other")
    first, *others = (run.node(node) for node in ("latest", "use", "make"))
    assert [other.state for other in others] == ["complete"] * 2
    assert run.node("latest").outputs == first.outputs, "TFX's keeps to what was there at first"


def test_a_node_that_reads_the_world_as_it_is_now_says_so_when_it_runs_again(home, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    everything = Run(home, "tests.tiny_pipeline.foreign:create_for_each_of_all_runs")
    everything.node("make")
    everything.node("need")
    assert "as it is now" not in caplog.text
    everything.node("need")
    assert "need runs again in this run, and takes the input made, which all runs fill, as it is now." in caplog.text
    for day in (1, 2):
        (tmp_path / f"day{day}").mkdir()
        (tmp_path / f"day{day}" / "rows.csv").write_text("a,b\n1,x\n2,y\n3,z\n")
    monkeypatch.setenv("SPAN_DATA", str(tmp_path))
    spans = Run(home, "tests.tiny_pipeline.foreign:create_latest_span")
    caplog.clear()
    assert spans.node("CsvExampleGen").state == "complete"
    assert "as it is now" not in caplog.text
    spans.node("CsvExampleGen")
    assert "takes the latest folder that fits {SPAN}, as it is now" in caplog.text
