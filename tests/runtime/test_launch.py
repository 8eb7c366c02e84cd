"""One node, once: what TFX's launcher does silently or not at all."""

import dataclasses
import logging
import sys
from pathlib import Path

import pytest

from runtime import attempts, input_checks, local, metadata_store
from runtime.compiled_pipeline import CompiledPipeline
from tests.tiny_pipeline.running import Run, fault, states, uri

pytestmark = pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)


def words(folder: Path) -> str:
    return (folder / "words.txt").read_text(encoding="utf-8")


def test_nodes_pass_artifacts_on_and_tell_where_they_lie(home, caplog):
    caplog.set_level(logging.INFO)
    run = Run(home, text="hop", repeat=2)
    written = run.node("write")
    assert words(uri(written, "words")) == "hop hop"
    assert written.outputs["words"][0]["properties"]["count"] == 2
    assert words(uri(run.node("copy"), "copied")) == "hop hop"
    assert run.node("count").state == "complete"
    assert "Counted 2 words." in caplog.text
    assert str(uri(written, "words")) in caplog.text
    assert uri(written, "words").is_relative_to(home.pipeline_root("tiny"))


def test_a_cleared_node_runs_again_and_the_others_see_its_new_output(home):
    run = Run(home, text="old")
    first = run.node("write")
    run.node("copy")
    again = run.node("write", text="new")
    assert again.execution != first.execution
    assert words(uri(first, "words")) == "old old old", "lineage keeps the attempt before"
    assert words(uri(run.node("copy"), "copied")) == "new new new"
    assert states(run) == ["COMPLETE"] * 4


def test_a_node_cleared_alone_sees_the_unchanged_output_of_the_others(home):
    run = Run(home)
    for node in ("write", "copy", "count"):
        run.node(node)
    assert words(uri(run.node("copy"), "copied")) == "word word word"
    assert run.node("count").state == "complete"


def test_two_runs_do_not_see_each_other(home):
    Run(home, run="a", text="a").node("write")
    other = Run(home, run="b", text="b", repeat=1)
    other.node("write")
    assert words(uri(other.node("copy"), "copied")) == "b"
    missing = fault(Run(home, run="c").node("copy"))
    assert "write has no output in this run" in missing["message"]
    assert not missing["transient"]


def test_a_terminal_fault_keeps_its_words_and_leaves_nothing_half_written(home):
    run = Run(home, trouble="terminal")
    run.node("write")
    told = fault(run.node("copy"))
    assert told == {
        "transient": False,
        "message": "The words are wrong.",
        "expected": "good words",
        "received": "a, b",
        "remedy": "Write others.",
        "step": "copy",
    }
    assert not list(home.pipeline_root("tiny").glob("copy/copied/*"))
    assert states(run) == ["COMPLETE", "FAILED"]


@pytest.mark.parametrize(("trouble", "words_of"), [("transient", "not there yet"), ("exception", "no error of ours")])
def test_what_may_heal_is_transient(home, trouble, words_of):
    run = Run(home, trouble=trouble)
    run.node("write")
    told = fault(run.node("copy"))
    assert told["transient"]
    assert words_of in told["message"]
    healed = run.node("copy", trouble="none")
    assert words(uri(healed, "copied")) == "word word word"
    assert len(list(home.pipeline_root("tiny").glob("copy/copied/*"))) == 1


def test_a_failure_that_tfx_swallows_is_raised(home, monkeypatch):
    run = Run(home)
    run.node("write")
    monkeypatch.setattr(input_checks, "check", lambda *_: None)
    monkeypatch.setattr(attempts, "latest", lambda *_: None)
    told = fault(run.node("copy"))
    assert told["message"] == "TFX ended the node before its code ran."
    assert "FailedPreconditionError" in told["received"] or "min_count" in told["received"]
    assert not told["transient"]


def test_an_output_removed_by_hand_is_named(home):
    run = Run(home)
    folder = uri(run.node("write"), "words")
    (folder / "words.txt").unlink()
    folder.rmdir()
    told = fault(run.node("copy"))
    assert "The output words of write is gone" in told["message"]
    assert told["expected"] == str(folder)


def test_an_input_that_a_clean_up_has_marked_may_stay_and_is_waited_for(home):
    run = Run(home)
    written = run.node("write")
    with metadata_store.project_connection(home) as handle:
        (artifact,) = handle.store.get_artifacts_by_uri(str(uri(written, "words")))
        for state, is_transient, message in (
            (artifact.MARKED_FOR_DELETION, True, "The output words of write is about to be removed."),
            (artifact.DELETED, False, "The output words of write is gone."),
        ):
            artifact.state = state
            handle.store.put_artifacts([artifact], field_mask_paths=["state"])
            failure = fault(run.node("copy"))
            assert (failure["transient"], failure["message"]) == (is_transient, message)
    assert failure["remedy"] == "Clear write, which makes it again."


def test_a_pipeline_root_that_cannot_be_written_is_named(home):
    run = Run(home)
    root = home.pipeline_root("tiny")
    root.parent.parent.mkdir(exist_ok=True)
    root.parent.write_text("a file where the artifacts should lie")
    told = fault(run.node("write"))
    assert not told["transient"]
    assert told["message"] == "The pipeline root cannot be written."
    assert str(root) in told["expected"]
    assert told["received"] == f"a file at {root.parent}"
    assert states(run) == [], "nothing was begun"
    root.parent.unlink()
    assert run.node("write").state == "complete"


def test_a_file_in_the_place_of_a_node_s_folder_is_named(home):
    run = Run(home)
    run.node("write")
    (home.pipeline_root("tiny") / "copy").write_text("a file")
    told = fault(run.node("copy"))
    assert not told["transient"]
    assert told["message"] == "The folder of copy cannot be written."


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"repeat": "3"}, "type int"),
        ({"repeat": 101}, "at most 100"),
        ({"no_such": 1}, "unknown: no_such"),
        ({"interval_start": None}, "missing: interval_start"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(home, values, expected):
    run = Run(home, **values)
    told = fault(run.node("write"))
    assert expected in told["expected"] + told["received"]
    assert not told["transient"]
    assert not home.pipeline_root("tiny").exists()


def test_a_compiled_pipeline_of_another_tfx_is_refused(home):
    run = Run(home)
    compiled = CompiledPipeline.read(run.compiled)
    dataclasses.replace(compiled, tfx="1.0.0").write(run.compiled)
    told = fault(run.node("write"))
    assert told["received"] == "TFX 1.0.0"
    assert "runtime compile" in told["remedy"]


def test_the_flags_of_this_process_do_not_reach_executors(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--not_a_flag_of_beam=1"])
    assert Run(home).node("write").state == "complete"
    assert sys.argv[1:] == ["--not_a_flag_of_beam=1"]


def test_the_compiled_pipeline_holds_no_path_of_the_state(home):
    assert str(home.path) not in Run(home).compiled.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        ("", {"begin": "complete", "use": "complete", "end": "complete"}),
        ("use", {"begin": "complete", "use": "failed", "end": "complete"}),
        ("begin", {"begin": "failed"}),
    ],
)
def test_a_resource_is_given_back_whatever_became_of_those_that_used_it(home, monkeypatch, trouble, expected):
    monkeypatch.setenv("LIFETIME_TROUBLE", trouble)
    run = Run(home, "tests.tiny_pipeline.lifetime:create_pipeline")
    outcomes = local.run(run.compiled, home, "here", {})
    assert {node: outcome.state for node, outcome in outcomes.items()} == expected
    assert not list(home.pipeline_root("lifetime").glob("**/taken"))
