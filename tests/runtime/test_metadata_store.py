"""The metadata store: made once by many, away for a while, locked, or not to be written."""

import multiprocessing
import os
import random
import shutil
import sqlite3
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_metadata as mlmd
import psycopg
import pytest
from ml_metadata import errors as mlmd_errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable import launcher

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.home import Home
from benchmarks.postgresql import PASSWORD
from runtime import attempts, cache, metadata_connection, metadata_postgresql, metadata_store
from runtime.protocol import Outcome
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
MANY_MODULES = """
from pathlib import Path
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts
from airtight.parameters import Parameter as Declared
from runtime.parameters import runtime_parameter
{imports}

TEXT = Declared("text", "str", "")
PARAMETERS = (TEXT,)


@component
def write(words: OutputArtifact[standard_artifacts.Model], text: Parameter[str]) -> None:
    if text == "fail":
        raise ValueError("no " + "x" * 20_000)
    Path(words.uri, "text").write_text(text)


def create_pipeline() -> Pipeline:
    written = write(text=runtime_parameter(TEXT)).with_id("write")
    return Pipeline(pipeline_name="many_modules", components=[written], enable_cache=True)
"""
LONG_TEXT = "".join(random.Random(1).choices(string.ascii_letters + "'\"{}%\n\\", k=20_000))
LONG_NAME = "".join(random.Random(2).choices(string.ascii_letters, k=1_000))
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
        (stored,) = handle.store.get_contexts_by_type("texts")
        assert (stored.name, stored.properties["said"].string_value) == (f"named {text}", text)
        assert stored.custom_properties["more"].string_value == text
        assert stored.custom_properties[f"key {text}"].int_value == 3
        assert handle.store.get_context_by_type_and_name("texts", f"named {text}").id == stored.id


@BOTH
def test_long_texts_long_names_and_large_ints_come_back_as_they_were(home):
    with metadata_store.project_connection(home) as handle:
        put_long_ones(handle.store)
        check_long_ones(handle.store)


@POSTGRESQL
def test_a_store_that_ml_metadata_itself_has_made_is_widened_when_it_is_opened_here(home):
    plain = mlmd.MetadataStore(metadata_connection.project_config(home))
    with pytest.raises(mlmd_errors.StatusError):
        put_long_ones(plain)
    store = metadata_connection.project_store(home)
    put_long_ones(store)
    check_long_ones(metadata_connection.project_store(home))


def test_what_the_launcher_warms_up_leaves_nothing_that_a_fork_would_share():
    metadata_store.warm_up()
    before = os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")
    metadata_store.warm_up()
    assert (os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")) == before


@POSTGRESQL
def test_a_table_that_an_open_transaction_holds_is_not_waited_for_without_end(home, postgresql, monkeypatch, caplog):
    """All others would wait behind the statement that waits."""
    monkeypatch.setattr(metadata_postgresql, "_LOCK_WAIT", "200ms")
    mlmd.MetadataStore(metadata_connection.project_config(home))
    with psycopg.connect(os.environ["AIRTIGHT_METADATA"]) as other:
        other.execute("SELECT * FROM artifact")
        with pytest.raises(TransientError, match="open transaction") as caught:
            metadata_connection.project_store(home)
        assert "lock timeout" in caught.value.received
    metadata_connection.project_store(home)
    assert "ALTER TABLE" in caplog.text and "DROP INDEX" in caplog.text, "what alters a database is logged"


@POSTGRESQL
def test_tables_of_another_role_are_a_fault_that_holds_the_statements_for_it(home, postgresql, monkeypatch):
    config = metadata_connection.project_config(home)
    mlmd.MetadataStore(config)
    with psycopg.connect(os.environ["AIRTIGHT_METADATA"]) as owner:
        owner.execute(f"DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
        owner.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO guest")
    address = os.environ["AIRTIGHT_METADATA"]
    monkeypatch.setenv("AIRTIGHT_METADATA", address.replace("//airtight:", "//guest:"))
    with pytest.raises(TerminalError) as caught:
        metadata_connection.project_store(home)
    statements = str(caught.value.remedy).removeprefix("Have their owner execute: ")
    with psycopg.connect(address) as owner:
        owner.execute(statements)
    store = metadata_connection.project_store(home)
    put_long_ones(store)
    check_long_ones(store)
    with psycopg.connect(address) as owner:
        owner.execute("DROP OWNED BY guest; DROP ROLE guest")


def put_long_ones(store: mlmd.MetadataStore) -> None:
    """Random, because PostgreSQL compresses what repeats."""
    kind = metadata_store_pb2.ExecutionType(name="long_ones")
    kind.properties["text"] = metadata_store_pb2.STRING
    kind.properties["number"] = metadata_store_pb2.INT
    execution = metadata_store_pb2.Execution(type_id=store.put_execution_type(kind), name=LONG_NAME)
    execution.properties["text"].string_value = LONG_TEXT
    execution.properties["number"].int_value = 2**40
    execution.custom_properties["k" * 300].string_value = LONG_TEXT
    store.put_executions([execution])


def check_long_ones(store: mlmd.MetadataStore) -> None:
    stored = store.get_execution_by_type_and_name("long_ones", LONG_NAME)
    assert stored.properties["text"].string_value == LONG_TEXT
    assert stored.properties["number"].int_value == 2**40
    assert stored.custom_properties["k" * 300].string_value == LONG_TEXT
    wanted = f"properties.number.int_value = {2**40} AND name = '{LONG_NAME}'"
    assert [e.id for e in store.get_executions(mlmd.ListOptions(filter_query=wanted))] == [stored.id]


@pytest.mark.slow
@BOTH
def test_a_component_with_many_modules_a_long_parameter_and_a_long_failure(home, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    package = f"many_modules_{tmp_path.name}"
    folder = tmp_path / package
    folder.mkdir()
    names = [f"module_with_a_rather_long_name_{number}" for number in range(60)]
    for name in names:
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\n")
    (folder / "__init__.py").write_text("")
    imports = "\n".join(f"from {package} import {name}" for name in names)
    (folder / "pipeline.py").write_text(MANY_MODULES.replace("{imports}", imports))
    monkeypatch.syspath_prepend(str(tmp_path))

    def run_node(run: str, text: str) -> Outcome:
        started = Run(home, f"{package}.pipeline:create_pipeline", run)
        started.values = {"text": text}
        return started.node("write")

    written = run_node("a", LONG_TEXT)
    assert (uri(written, "words") / "text").read_text() == LONG_TEXT
    with metadata_store.project_connection(home) as handle:
        parts = cache.parts_of(handle.store, written.execution)
    assert len(parts["code"]) > len(names)
    assert run_node("b", LONG_TEXT).state == "cached"
    (folder / f"{names[0]}.py").write_text("NAME = 'other'\n")
    assert run_node("c", LONG_TEXT).state == "complete"
    assert f"{names[0]}.py changed; versions, parameters equal" in caplog.text
    failure = fault(run_node("d", "fail"))
    assert failure["message"].startswith("ValueError: no xxx")
    assert states(home)[-1] == "FAILED", "its traceback of 20 kB is kept"


@BOTH
def test_a_value_with_a_backslash_reaches_the_node(home):
    written = Run(home, text="a\\b", repeat=1).node("write")
    assert (uri(written, "words") / "words.txt").read_text() == "a\\b"


@POSTGRESQL
def test_a_store_that_is_away_is_a_transient_fault_and_the_next_attempt_succeeds(home, postgresql, caplog, capfd):
    run = Run(home)
    assert run.node("write").state == "complete"
    postgresql.stop()
    error = fault(run.node("copy"))
    assert error["transient"]
    assert error["message"] == "The metadata store cannot be reached."
    assert f"PostgreSQL at 127.0.0.1:{postgresql.port}" in error["expected"]
    assert "refused" in error["received"]
    assert "Start it" in error["remedy"]
    printed = capfd.readouterr()
    assert PASSWORD not in f"{error}{caplog.text}{printed.out}{printed.err}"
    assert not list(home.pipeline_root("tiny").glob("copy/copied/*"))
    postgresql.start()
    assert run.node("copy").state == "complete"
    assert states(home) == ["COMPLETE", "COMPLETE"]


@POSTGRESQL
def test_a_wrong_password_is_told_without_it(home, postgresql, monkeypatch, caplog, capfd):
    address = postgresql.address().replace("p%40ss", "wrong%40secret")
    monkeypatch.setenv("AIRTIGHT_METADATA", address)
    error = fault(Run(home).node("write"))
    assert "does not let airtight in" in error["received"]
    printed = capfd.readouterr()
    assert "wrong@secret" not in f"{error}{caplog.text}{printed.out}{printed.err}"
    assert "wrong%40secret" not in f"{error}{caplog.text}{printed.out}{printed.err}"


@POSTGRESQL
def test_a_store_that_goes_away_while_a_node_runs_loses_nothing(home, postgresql, monkeypatch):
    run = Run(home)
    run.node("write")
    with monkeypatch.context() as patched:
        patched.setattr(metadata_store, "_SURE_S", 0.0)
        patched.setattr(metadata_store, "_PATIENCE_S", 0.0)
        at_the_executor(patched, postgresql.stop)
        error = fault(run.node("copy"))
    assert error["transient"]
    assert error["message"] == "The metadata store cannot be reached."
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
        error = fault(run.node("copy"))
    assert error["transient"]
    assert "metadata store" in error["message"]
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


@POSTGRESQL
def test_a_file_may_hold_the_address_so_that_no_environment_does(home, postgresql, monkeypatch, tmp_path):
    file = tmp_path / "an address"
    file.write_text(f"{postgresql.address()}\n")
    monkeypatch.setenv("AIRTIGHT_METADATA", f"file:{file}")
    assert Run(home).node("write").state == "complete"
    assert metadata_connection.project_config(home).postgresql.password == PASSWORD
    assert not home.metadata_db.exists()


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"u:secret@h/db"])
def test_a_file_without_an_address_is_named_without_what_it_holds(home, monkeypatch, tmp_path, content):
    file = tmp_path / "address"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("AIRTIGHT_METADATA", f"file:{file}")
    with pytest.raises(TerminalError) as caught:
        metadata_store.project_connection(home)
    assert "AIRTIGHT_METADATA" in caught.value.message
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "received"),
    [
        ("sslmode=require", "sslmode=require"),
        ("sslmode=verify-full&sslrootcert=/ca.pem", "sslmode=verify-full"),
        ("sslrootcert=/ca.pem", "sslrootcert"),
        ("sslmode=prefer&connect_timeout=3", "connect_timeout"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused_by_name(home, monkeypatch, option, received):
    monkeypatch.setenv("AIRTIGHT_METADATA", f"postgresql://u:secret@h/db?{option}")
    with pytest.raises(TerminalError) as caught:
        metadata_store.project_connection(home)
    assert caught.value.received == received
    assert "secret" not in str(caught.value)


@POSTGRESQL
@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_mode_that_needs_no_tls_reaches_the_client(home, postgresql, monkeypatch, mode):
    monkeypatch.setenv("AIRTIGHT_METADATA", f"{postgresql.address()}?sslmode={mode}")
    assert metadata_connection.project_config(home).postgresql.ssloption.sslmode == mode
    assert metadata_connection.project_store(home).get_executions() == []


@POSTGRESQL
def test_the_client_still_has_no_tls(home, postgresql, monkeypatch, capfd):
    """Why TLS is refused; where this fails, ML Metadata has learnt it and the options can be handed on."""
    monkeypatch.setenv("AIRTIGHT_METADATA", postgresql.address())
    config = metadata_connection.project_config(home)
    config.postgresql.ssloption.sslmode = "require"
    with pytest.raises(AirtightError):
        metadata_connection.connected(config)
    assert "SSL support is not compiled in" in capfd.readouterr().err


def run_all(home: Home, run: str, text: str) -> list[Path]:
    """Runs the tiny pipeline's first two nodes without the cache."""
    started = Run(home, run=run, text=text, repeat=1)
    return [uri(started.node("write"), "words"), uri(started.node("copy"), "copied")]


def texts(folders: list[Path]) -> set[str]:
    return {(folder / "words.txt").read_text() for folder in folders}


def break_off(home: Home, node: str) -> None:
    """Leaves the latest execution of a node as a process that died in its middle would."""
    with metadata_store.project_connection(home) as handle:
        execution = max(handle.store.get_executions(), key=lambda e: e.id)
        execution.last_known_state = State.RUNNING
        handle.store.put_executions([execution])
        (context,) = [
            c for c in handle.store.get_contexts_by_execution(execution.id) if c.type == attempts.CONTEXT_TYPE
        ]
        assert f"/{node}/" in context.name


def test_a_new_store_over_an_old_state_folder_leaves_what_the_old_one_holds(home):
    before = run_all(home, "run", "old")
    home.metadata_db.rename(home.path / "moved.sqlite")
    after = run_all(home, "run", "new")
    assert not set(before) & set(after)
    assert (texts(before), texts(after)) == ({"old"}, {"new"})
    break_off(home, "copy")
    run_all(home, "run", "newer")
    assert not after[1].exists(), "the half-written output of this store is removed"
    assert texts(before) == {"old"}, "and not what lies under the same ids in the other"
    home.metadata_db.unlink()
    (home.path / "moved.sqlite").rename(home.metadata_db)
    back = run_all(home, "again", "back")
    assert {folder.parents[2] for folder in (*before, *back)} == {home.pipeline_root("tiny")}


@pytest.mark.parametrize("was_made_before_stores_had_ids", [False, True])
def test_a_switch_to_postgresql_and_back_keeps_the_outputs_of_both(
    home, postgresql, monkeypatch, was_made_before_stores_had_ids
):
    before = run_all(home, "run", "sqlite")
    if was_made_before_stores_had_ids:
        (home.pipeline_root("tiny") / ".metadata_store").unlink()
    with monkeypatch.context() as patched:
        postgresql.start()
        patched.setenv("AIRTIGHT_METADATA", postgresql.address())
        other = run_all(home, "run", "postgresql")
        patched.setenv("AIRTIGHT_METADATA", postgresql.address())
        third = run_all(home, "run", "a fresh volume")
    after = run_all(home, "later", "sqlite")
    assert len({*before, *other, *third, *after}) == 8
    assert [texts(folders) for folders in (before, other, third, after)] == [
        {"sqlite"},
        {"postgresql"},
        {"a fresh volume"},
        {"sqlite"},
    ]
    assert before[0].parents[2] == after[0].parents[2] == home.pipeline_root("tiny")


def test_two_first_nodes_of_a_store_that_meet_an_old_folder_choose_the_same(home, monkeypatch):
    run_all(home, "run", "old")
    home.metadata_db.unlink()
    (home.pipeline_root("tiny") / ".metadata_store").unlink()
    other, knows = [], metadata_store._knows

    def after_the_other(*arguments: object) -> bool:
        if not other:
            other.append(home)
            other.extend(run_all(home, "other", "new"))
        return knows(*arguments)

    monkeypatch.setattr(metadata_store, "_knows", after_the_other)
    mine = run_all(home, "run", "new")
    assert {folder.parents[2] for folder in mine} == {folder.parents[2] for folder in other[1:]}
    assert mine[0].parents[2] != home.pipeline_root("tiny"), "what it holds is nobody's here"


def test_a_folder_in_the_place_of_the_file_is_named(home):
    home.metadata_db.mkdir(parents=True)
    error = fault(Run(home).node("write"))
    assert not error["transient"]
    assert str(home.metadata_db) in error["expected"]
    assert error["received"] == "a folder"


def test_a_file_that_is_no_database_is_named(home):
    home.path.mkdir()
    home.metadata_db.write_text("no database at all" * 100)
    error = fault(Run(home).node("write"))
    assert not error["transient"]
    assert "not a database" in error["received"]
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
        error = fault(run.node("copy"))
    finally:
        holder.kill()
        holder.wait()
    assert error["transient"]
    assert error["message"] == "The metadata store cannot be opened."
    assert "another process holds" in error["received"]
    assert run.node("copy").state == "complete"
    assert states(home) == ["COMPLETE", "COMPLETE"]


def test_a_state_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(TerminalError, match="state folder cannot be written") as caught:
        metadata_store.project_connection(Home(tmp_path / "home"))
    assert str(tmp_path / "home") in caught.value.expected


def states(home: Home) -> list[str]:
    with metadata_store.project_connection(home) as handle:
        executions = sorted(handle.store.get_executions(), key=lambda execution: execution.id)
        return [State.State.Name(execution.last_known_state) for execution in executions]


def at_the_executor(monkeypatch: pytest.MonkeyPatch, do) -> None:
    """Has something happen when the node's own code is about to start."""
    runs = launcher.Launcher._run_executor

    def after(*arguments: object) -> object:
        do()
        return runs(*arguments)

    monkeypatch.setattr(launcher.Launcher, "_run_executor", after)
