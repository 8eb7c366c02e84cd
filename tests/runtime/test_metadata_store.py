"""The metadata store: made once by many, away for a while, locked, or not to be written."""

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2

from airtight.errors import TerminalError
from airtight.home import Home
from benchmarks.postgresql import PASSWORD
from runtime import attempts, launch, metadata_store
from tests.tiny_pipeline.running import Run, fault, uri

BOTH = pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("home", ["postgresql"], indirect=True)
NOBODY = 65534
LOCK = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("begin exclusive")
print("locked", flush=True)
time.sleep(600)
"""
State = metadata_store_pb2.Execution


def put_one(home: Home, started: float) -> None:
    """Opens the store at the same moment as others, and writes."""
    time.sleep(max(0.0, started - time.time()))
    with metadata_store.project_connection(home) as handle:
        kind = handle.store.put_context_type(metadata_store_pb2.ContextType(name="by_many"))
        handle.store.put_contexts([metadata_store_pb2.Context(type_id=kind, name=f"{os.getpid()}")])


@BOTH
def test_many_processes_make_the_tables_of_one_store(home):
    fork, started = multiprocessing.get_context("fork"), time.time() + 0.5
    processes = [fork.Process(target=put_one, args=(home, started)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    with metadata_store.project_connection(home) as handle:
        assert len(handle.store.get_contexts_by_type("by_many")) == 8


@BOTH
@pytest.mark.parametrize(
    "text", ["a\\b", "\\", "quoted \"so\" and 'so'", "line\nline\ttab", "C:\\n'); --", "ü…\U0001f600"]
)
def test_every_text_comes_back_as_it_was(home, text):
    with metadata_store.project_connection(home) as handle:
        kind = metadata_store_pb2.ContextType(name="texts")
        kind.properties["said"] = metadata_store_pb2.STRING
        context = metadata_store_pb2.Context(type_id=handle.store.put_context_type(kind), name=f"named {text}")
        context.properties["said"].string_value = text
        context.custom_properties["more"].string_value = text
        context.custom_properties[f"key {text}"].int_value = 3
        handle.store.put_contexts([context])
        (found,) = handle.store.get_contexts()
        assert (found.name, found.properties["said"].string_value) == (f"named {text}", text)
        assert found.custom_properties["more"].string_value == text
        assert found.custom_properties[f"key {text}"].int_value == 3
        assert handle.store.get_context_by_type_and_name("texts", f"named {text}").id == found.id


@BOTH
def test_a_value_with_a_backslash_reaches_the_node(home):
    written = Run(home, text="a\\b", repeat=1).node("write")
    assert (uri(written, "words") / "words.txt").read_text() == "a\\b"


@POSTGRESQL
def test_a_store_that_is_away_is_a_transient_fault_and_the_next_attempt_succeeds(home, postgresql, caplog, capfd):
    run = Run(home)
    assert run.node("write").state == "complete"
    postgresql.stop()
    told = fault(run.node("copy"))
    assert told["transient"]
    assert told["message"] == "The metadata store cannot be reached."
    assert f"PostgreSQL at 127.0.0.1:{postgresql.port}" in told["expected"]
    assert "refused" in told["received"]
    assert "Start it" in told["remedy"]
    printed = capfd.readouterr()
    assert PASSWORD not in f"{told}{caplog.text}{printed.out}{printed.err}"
    assert not list(home.pipeline_root("tiny").glob("copy/copied/*"))
    postgresql.start()
    assert run.node("copy").state == "complete"
    assert states(home) == ["COMPLETE", "COMPLETE"]


@POSTGRESQL
def test_a_wrong_password_is_told_without_it(home, postgresql, monkeypatch, caplog, capfd):
    address = postgresql.address().replace("p%40ss", "wrong%40secret")
    monkeypatch.setenv("AIRTIGHT_METADATA", address)
    told = fault(Run(home).node("write"))
    assert "does not let airtight in" in told["received"]
    printed = capfd.readouterr()
    assert "wrong@secret" not in f"{told}{caplog.text}{printed.out}{printed.err}"
    assert "wrong%40secret" not in f"{told}{caplog.text}{printed.out}{printed.err}"


@POSTGRESQL
def test_a_store_that_goes_away_while_a_node_runs_loses_nothing(home, postgresql, monkeypatch):
    run = Run(home)
    run.node("write")
    with monkeypatch.context() as patched:
        patched.setattr(metadata_store, "_SURE_S", 0.0)
        patched.setattr(metadata_store, "_PATIENCE_S", 0.0)
        at_the_executor(patched, postgresql.stop)
        told = fault(run.node("copy"))
    assert told["transient"]
    assert told["message"] == "The metadata store cannot be reached."
    postgresql.start()
    assert states(home) == ["COMPLETE", "RUNNING"], "nobody could write down that it failed"
    again = run.node("copy")
    assert (uri(again, "copied") / "words.txt").read_text() == "word word word"
    assert len(list(home.pipeline_root("tiny").glob("copy/copied/*"))) == 1
    assert states(home) == ["COMPLETE", "FAILED", "COMPLETE"]


@POSTGRESQL
def test_a_store_that_restarts_while_a_node_runs_does_not_fail_it(home, postgresql, monkeypatch):
    run = Run(home)
    run.node("write")
    monkeypatch.setattr(metadata_store, "_SURE_S", 0.0)

    def restart() -> None:
        postgresql.stop()
        postgresql.start()

    at_the_executor(monkeypatch, restart)
    assert run.node("copy").state == "complete"
    assert states(home) == ["COMPLETE", "COMPLETE"]


@POSTGRESQL
def test_a_store_that_goes_away_between_two_questions_is_a_transient_fault(home, postgresql, monkeypatch):
    run = Run(home)
    run.node("write")
    pin = attempts.pin_inputs

    def stop_and_pin(*arguments: object) -> object:
        postgresql.stop()
        return pin(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(attempts, "pin_inputs", stop_and_pin)
        told = fault(run.node("copy"))
    assert told["transient"]
    assert "metadata store" in told["message"]
    postgresql.start()
    assert run.node("copy").state == "complete"
    assert states(home) == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    "address", ["mysql://u:secret@h/db", "postgresql://u:sec/ret@h/db", "postgresql://u:secret@h", "secret"]
)
def test_an_address_that_is_none_is_told_without_its_password(home, monkeypatch, address):
    monkeypatch.setenv("AIRTIGHT_METADATA", address)
    with pytest.raises(TerminalError) as caught:
        metadata_store.project_connection(home)
    assert "AIRTIGHT_METADATA" in caught.value.message
    assert "sec" not in str(caught.value)


def test_a_folder_in_the_place_of_the_file_is_named(home):
    home.metadata_db.mkdir(parents=True)
    told = fault(Run(home).node("write"))
    assert not told["transient"]
    assert str(home.metadata_db) in told["expected"]
    assert told["received"] == "a folder"


def test_a_file_that_is_no_database_is_named(home):
    home.path.mkdir()
    home.metadata_db.write_text("no database at all" * 100)
    told = fault(Run(home).node("write"))
    assert not told["transient"]
    assert "not a database" in told["received"]
    assert home.metadata_db.read_text().startswith("no database"), "what somebody put there stays"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_may_not_be_written_is_named(what):
    folder = Path(tempfile.mkdtemp(prefix="airtight-stores-"))
    try:
        folder.chmod(0o755)
        if what == "file":
            sqlite3.connect(folder / "metadata.sqlite").execute("create table t (c)")
        os.seteuid(NOBODY)
        with pytest.raises(TerminalError, match="cannot be written") as caught:
            metadata_store.project_connection(Home(folder))
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)
    assert "may not be written" in caught.value.received or "may not write" in caught.value.received
    assert str(folder) in caught.value.expected


@pytest.mark.slow
def test_a_file_that_is_locked_for_a_while_is_a_transient_fault_and_nothing_is_lost(home):
    run = Run(home)
    run.node("write")
    holder = subprocess.Popen([sys.executable, "-c", LOCK, str(home.metadata_db)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"locked\n"
        told = fault(run.node("copy"))
    finally:
        holder.kill()
        holder.wait()
    assert told["transient"]
    assert told["message"] == "The metadata store cannot be opened."
    assert "another process holds" in told["received"]
    assert run.node("copy").state == "complete"
    assert states(home) == ["COMPLETE", "COMPLETE"]


def test_a_state_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(TerminalError, match="state folder cannot be written") as caught:
        metadata_store.project_connection(Home(tmp_path / "home"))
    assert str(tmp_path / "home") in caught.value.expected


def states(home: Home) -> list[str]:
    with metadata_store.project_connection(home) as handle:
        found = sorted(handle.store.get_executions(), key=lambda execution: execution.id)
        return [State.State.Name(execution.last_known_state) for execution in found]


def at_the_executor(monkeypatch: pytest.MonkeyPatch, do) -> None:
    """Has something happen when the node's own code is about to start."""
    runs = launch.launcher.Launcher._run_executor

    def after(*arguments: object) -> object:
        do()
        return runs(*arguments)

    monkeypatch.setattr(launch.launcher.Launcher, "_run_executor", after)
