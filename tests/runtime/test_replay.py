"""A past run, replayed: what is equal, what differs and why, and what is left alone."""

import hashlib
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from runtime import __main__ as command
from runtime import cache, local, metadata_store, replay
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.compiled_store import path_of, publish
from runtime.lineage import recorded_run
from runtime.protocol import run_key
from tests.runtime.numbers_pipeline import HELPING, NODES, PIPELINE, STEPS, Numbers

PAST = run_key("local", "numbers", "past")


@pytest.fixture
def numbers(home, tmp_path, monkeypatch, request):
    monkeypatch.syspath_prepend(str(tmp_path))
    return Numbers(home, tmp_path, f"numbers_{abs(hash(request.node.name))}", monkeypatch)


def told_of_store(home: Home) -> dict[str, int]:
    """How much there is of everything in the metadata store."""
    with metadata_store.project_connection(home) as handle:
        store = handle.store
        executions = store.get_executions()
        return {
            "executions": len(executions),
            "artifacts": len(store.get_artifacts()),
            "contexts": len(store.get_contexts()),
            "events": len(store.get_events_by_execution_ids([e.id for e in executions])),
            "types": len(store.get_artifact_types()) + len(store.get_execution_types()),
        }


def tree(folder: Path) -> dict[str, str]:
    """Every file but the SQLite store's, with the digest of its bytes and its time."""
    return {
        str(file): f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.stat().st_mtime_ns}"
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("metadata.sqlite")
    }


def rows(home: Home) -> list[str]:
    with sqlite3.connect(home.metadata_db) as store:
        return list(store.iterdump())


@pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
def test_a_run_that_is_repeatable_is_equal_and_leaves_nothing_behind(numbers, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
    numbers.run("past", start=4)
    before, files = told_of_store(numbers.home), tree(tmp_path)
    done = numbers.replay("past")
    assert {name: result.state for name, result in done.items()} == dict.fromkeys(
        NODES, "not replayed"
    ) | dict.fromkeys(["make", "double", "ask", "tell"], "equal")
    assert numbers.lines[0] == (
        f"The run past of numbers ({PAST}): 4 of 8 nodes to replay. Its code and its packages are as they were."
    )
    assert numbers.line("push") == "push not replayed it acts on the world: it pushes models"
    assert "its cache is off" in numbers.line("measure")
    assert "TFX finds what is there" in numbers.line("latest")
    assert (numbers.folder / "pushed").read_text() == "x"
    assert told_of_store(numbers.home) == before
    assert tree(tmp_path) == files
    assert not list(Path(tempfile.gettempdir()).glob("airtight-replay-*"))


def test_the_store_is_not_written(numbers):
    numbers.run("past")
    before = rows(numbers.home)
    numbers.replay("past")
    assert rows(numbers.home) == before


def test_what_is_pushed_is_never_replayed_even_when_asked_for(numbers):
    numbers.run("past")
    assert "Nothing of the run past" in numbers.refused("past", nodes=["push"])
    assert (numbers.folder / "pushed").read_text() == "x"
    # Nor in a pipeline that lets it be cached, as the node above, or that does not.
    assert numbers.replay("past", nodes=["push", "ask"])["push"].state == "not replayed"


def test_a_node_that_is_not_repeatable_is_the_first_and_the_others_go_on(numbers):
    numbers.write("helping", HELPING.replace('b"not at all"', "os.urandom(8)"))
    numbers.run("past")
    message = numbers.refused("past")
    assert message.startswith(f"The run past of numbers ({PAST}) is not repeated: tell differs, the first of 1.")
    assert "told/a: other bytes from" in message
    assert "With the same code, versions, parameters and inputs it must not: seed what is random in tell" in message
    states = {line.split()[0]: line.split()[1] for line in numbers.lines[1:]}
    assert states == dict.fromkeys(NODES, "not") | dict.fromkeys(["make", "double", "ask"], "equal") | {
        "tell": "differs"
    }
    assert numbers.line("tell").endswith("- same code, versions, parameters and inputs")


def test_code_that_changed_explains_a_difference_and_is_told_first(numbers):
    numbers.run("past")
    numbers.write("helping", HELPING.replace("str(number)", "'7'"))
    message = numbers.refused("past")
    helping = numbers.folder / "helping.py"
    assert f"It was made with other code than now: code changed: {helping}." in numbers.lines[0]
    assert "make differs, the first of 1" in message
    assert "Received: number/number: other bytes from 0 on (2 bytes then, 2 now)." in message
    assert f"See whether this explains it: code changed: {helping}." in message
    # The others are given what they were given then, not what the replay made.
    assert numbers.line("double").split()[1] == "equal"


def test_another_version_explains_a_difference(numbers, monkeypatch):
    numbers.run("past")
    known = cache.fingerprint.versions
    # The launcher asks for TFX's alone, which must be the one that compiled the pipeline.
    monkeypatch.setattr(
        cache.fingerprint,
        "versions",
        lambda names: known(names) | ({"tfx": "9.9"} if "tfx" in names and names != ("tfx",) else {}),
    )
    assert {result.state for result in numbers.replay("past").values()} == {"equal", "not replayed"}
    assert "It was made with other code than now: version tfx was" in numbers.lines[0]
    assert "; version tfx was" in numbers.line("make")


def test_a_run_is_replayed_with_its_own_parameters_and_a_new_one_is_told(numbers):
    numbers.run("past", start=4)
    numbers.run("later", start=5)
    assert numbers.replay("past", nodes=["make"])["make"].state == "equal"
    numbers.write("steps", STEPS.replace("times", "factor"))
    numbers.write("pipeline", PIPELINE.replace("times=2", "factor=3"))
    message = numbers.refused("past", nodes=["double"])
    assert "Received: doubled/told.json: value was 80, is 120." in message
    assert "parameter factor was not there, is 3" in message
    assert "parameter times was 2, is not there" in message


def test_an_input_that_changed_on_disk_explains_a_difference(numbers):
    outcomes = numbers.run("past")
    (made,) = outcomes["make"].outputs["number"]
    Path(made["uri"], "number").write_text("77")
    message = numbers.refused("past", nodes=["double"])
    assert "doubled/told.json: value was 20, is 154" in message
    assert "input number changed on disk since" in message
    message = numbers.refused("past", nodes=["make"])
    assert "number/number: other bytes from 0 on (2 bytes then, 2 now)" in message
    assert "See whether this explains it: output number changed on disk since." in message


def test_the_lake_is_read_and_not_written_and_told_as_it_was_and_as_it_is(numbers):
    numbers.options = f'task(made, cache_on="{numbers.name}.steps:outside")'
    lake = numbers.home.lake
    version = lake / "table" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("version 1")
    numbers.run("past")
    (lake / "_note").unlink()
    assert numbers.replay("past", nodes=["make"])["make"].why == ""
    version.write_text("version 2")
    (numbers.data / "more").write_text("3")
    message = numbers.refused("past", nodes=["make"])
    assert (
        f"steps:outside told '{lake}: version 1', tells '{lake}: version 2'; input data changed on disk since"
        in message
    )
    assert [file.name for file in lake.iterdir()] == ["table"]


def test_a_run_that_took_its_results_from_the_cache_is_replayed_like_any_other(numbers):
    numbers.run("past")
    assert numbers.run("later")["double"].state == "cached"
    assert numbers.replay("later", nodes=["double"])["double"].state == "equal"
    assert numbers.line("double").endswith("from the cache then")


def test_what_is_gone_is_told_and_the_others_go_on(numbers):
    outcomes = numbers.run("past")
    (made,) = outcomes["double"].outputs["doubled"]
    Path(made["uri"], "told.json").unlink()
    Path(made["uri"]).rmdir()
    message = numbers.refused("past")
    assert "cannot be replayed: of double something is gone" in message
    assert f"its recorded output doubled is gone from {made['uri']}" in message
    assert numbers.line("tell") == f"tell lost its input doubled is gone from {made['uri']}"
    assert numbers.line("ask").split()[1] == "equal"


def test_a_node_that_fails_now_differs(numbers):
    numbers.run("past")
    numbers.write("helping", HELPING.replace("    pass", "    raise ValueError('no more')"))
    message = numbers.refused("past")
    assert "tell differs" in message
    assert "it fails: ValueError: no more (an exception at " in message
    assert "Correct what it says (code changed: " in message


def test_a_node_that_writes_into_its_input_is_found_out(numbers):
    numbers.run("past")
    numbers.write("helping", HELPING.replace("    pass", "    open(place + '/new', 'w').close()"))
    assert "it wrote into its input number" in numbers.refused("past", nodes=["tell"])


def test_a_run_that_is_not_there_names_those_that_are(numbers):
    numbers.run("past")
    message = numbers.refused("other")
    assert message.startswith("There is no run other.")
    assert f"the newest are: past of numbers ({PAST})" in message
    assert "There is no run past of the pipeline else" in numbers.refused("past", pipeline="else")
    assert "has no node 'nothing'" in numbers.refused("past", nodes=["nothing"])


def test_a_run_of_several_pipelines_must_be_chosen(numbers, tmp_path):
    numbers.run("it's_100%")
    numbers.run("past")
    numbers.write("pipeline", PIPELINE.replace('"numbers"', '"digits"'))
    source = f"{numbers.name}.pipeline:create_pipeline"
    path = compile_pipeline(source, numbers.home)
    local.run(path, numbers.home, "past", {})
    digits = run_key("local", "digits", "past")
    assert f"Received: past of digits ({digits}), past of numbers ({PAST})" in numbers.refused("past")
    assert numbers.replay("past", pipeline="digits", nodes=["ask"])["ask"].state == "equal"
    assert numbers.replay(digits, nodes=["ask"])["ask"].state == "equal"
    assert numbers.replay("past", pipeline=source, nodes=["ask"])["ask"].state == "equal"
    with metadata_store.project_connection(numbers.home) as handle:
        assert recorded_run.find(handle.store, "it's_100%").id == "it's_100%"
        with pytest.raises(TerminalError):
            recorded_run.find(handle.store, "itXs_100%")


def test_a_compiled_pipeline_that_is_gone_is_compiled_again_and_of_several_one_is_chosen(numbers):
    numbers.run("past")
    source = f"{numbers.name}.pipeline:create_pipeline"
    path = path_of(source, numbers.home)
    again = publish(replace(CompiledPipeline.read(path), source=f"other.{source}"), numbers.home)
    assert "Several compiled pipelines are of the pipeline numbers" in numbers.refused("past", nodes=["ask"])
    for file in (path, again):
        file.unlink()
    assert "The run's pipeline numbers is not known here." in numbers.refused("past", nodes=["ask"])
    assert not list(numbers.home.compiled.glob("*/*.json"))
    assert numbers.replay("past", pipeline=source, nodes=["ask"])["ask"].state == "equal"
    assert not list(numbers.home.compiled.glob("*/*.json"))


def test_what_the_replay_makes_can_be_kept(numbers, tmp_path):
    numbers.run("past")
    kept = tmp_path / "kept"
    numbers.replay("past", nodes=["make"], keep=kept)
    (made,) = kept.glob("artifacts/numbers/make/number/*/number")
    assert made.read_text() == "10"
    assert "a folder that does not exist yet" in numbers.refused("past", keep=kept)


def test_the_command_says_it_by_its_exit_status(numbers, monkeypatch, capsys):
    numbers.run("past")
    known = replay.replay
    monkeypatch.setattr(replay, "replay", lambda *a, **k: known(*a, **k, do=numbers.here))
    assert command.main(["replay", "past"]) == 0
    assert capsys.readouterr().out.endswith("The run is repeatable: 4 nodes are equal, 4 were not replayed.\n")
    numbers.write("helping", HELPING.replace("str(number)", "'7'"))
    assert command.main(["replay", "past", "--node", "make"]) == 64
    assert capsys.readouterr().err.startswith("terminal fault: The run past of numbers")


@pytest.mark.slow
def test_nodes_run_in_processes_of_their_own(numbers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(numbers.folder.parent))
    numbers.run("past")
    done = replay.replay("past", numbers.home, nodes=["make"], say=numbers.lines.append)
    assert [result.state for result in done] == ["equal"]
    assert f"{numbers.name}.steps" not in CompiledPipeline.read(next(numbers.home.compiled.glob("*/*.json"))).stale()
