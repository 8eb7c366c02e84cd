"""The warm launcher and the cold process: the same result, and nothing outlives its end."""

import concurrent.futures
import errno
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ml_metadata.proto.metadata_store_pb2 import Event

from airtight.errors import AirtightError
from airtight.home import ROOT, Home
from benchmarks.postgresql import PASSWORD
from runtime import client, metadata_store, prefork_server
from runtime.client import Call, call
from runtime.compiled_pipeline import CompiledPipeline
from runtime.compiled_store import path_of
from runtime.protocol import CompileRequest, NodeRequest, load_file
from tests.runtime.serving import alive, start_server
from tests.tiny_pipeline.running import JUNE, TINY, uri
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow
NODES = ("write", "copy", "count")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A state folder, its launcher, and the tiny pipeline compiled by it."""
    yield from serving(Home(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def database(postgresql):
    """A database that nobody has used."""
    return postgresql.address()


@pytest.fixture(scope="module")
def served_on_postgresql(tmp_path_factory, database):
    """The same, with its metadata in the database."""
    yield from serving(Home(tmp_path_factory.mktemp("home")), AIRTIGHT_METADATA=database)


@pytest.fixture(params=["served", "served_on_postgresql"])
def on_each(request, monkeypatch):
    if request.param == "served_on_postgresql":
        monkeypatch.setenv("AIRTIGHT_METADATA", request.getfixturevalue("database"))
    return request.getfixturevalue(request.param)


def serving(home: Home, **further: str):
    server = start_server(home, **further)
    call(CompileRequest(TINY, str(home.path)), home.launcher_socket).raise_if_failed()
    yield home
    server.terminate()
    assert server.wait(PATIENCE_S) == 0
    assert not home.launcher_socket.exists()


def request(home: Home, node: str, run: str, **values) -> NodeRequest:
    attempt = f"{node}-{time.monotonic_ns()}"
    return NodeRequest(str(path_of(TINY, home)), node, run, attempt, str(home.path), JUNE | values)


def started_sleep(home: Home, run: str, tmp_path: Path, launcher: Path | None) -> tuple[Call, list[int]]:
    """Starts a node that sleeps, and its child; gives the pids of both."""
    call(request(home, "write", run), home.launcher_socket).raise_if_failed()
    note = tmp_path / "pids"
    running = Call(request(home, "copy", run, trouble=f"sleep:{note}"), launcher)
    running.__enter__()
    until(lambda: note.exists() and len(note.read_text().split()) == 2, "the node sleeps")
    pids = [int(pid) for pid in note.read_text().split()]
    assert all(alive(pid) for pid in pids)
    return running, pids


def test_warm_and_cold_give_the_same(served):
    logged = {}
    for name, launcher in (("warm", served.launcher_socket), ("cold", None)):
        with Call(request(served, "write", name, text=name[:1]), launcher) as running:
            lines = list(running.lines())
            assert running.where == ("the warm launcher" if name == "warm" else "a new process")
            assert (uri(running.outcome, "words") / "words.txt").read_text() == " ".join(name[:1] * 3)
            logged[name] = [line for line in lines if "tests.tiny_pipeline" in line]
    assert logged["warm"] == logged["cold"] == ["INFO tests.tiny_pipeline.steps: Wrote 3 words."]


def test_faults_cross_the_process_boundary(served):
    call(request(served, "write", "fault"), served.launcher_socket).raise_if_failed()
    outcome = call(request(served, "copy", "fault", trouble="terminal"), served.launcher_socket)
    with pytest.raises(AirtightError, match="The words are wrong") as caught:
        outcome.raise_if_failed()
    assert not caught.value.transient


def test_a_killed_node_is_a_transient_fault_and_the_next_attempt_succeeds(on_each):
    call(request(on_each, "write", "killed"), on_each.launcher_socket).raise_if_failed()
    outcome = call(request(on_each, "copy", "killed", trouble="kill"), on_each.launcher_socket)
    with pytest.raises(AirtightError, match="without an outcome") as caught:
        outcome.raise_if_failed()
    assert caught.value.transient
    assert "SIGKILL" in caught.value.received
    again = call(request(on_each, "copy", "killed"), on_each.launcher_socket)
    assert not (uri(again, "copied") / "half.txt").exists()


@pytest.mark.parametrize("place", [{}, {"interpreter": sys.executable}, {"image": "an/image:1"}])
def test_a_node_that_is_killed_without_the_launcher_says_why(served, place, dying_engine):
    run = f"killed-{'-'.join(place)}"
    call(request(served, "write", run), served.launcher_socket).raise_if_failed()
    with Call(request(served, "copy", run, trouble="kill"), None, **place) as running:
        outcome = running.outcome
    with pytest.raises(AirtightError, match="without an outcome") as caught:
        outcome.raise_if_failed()
    assert caught.value.transient
    assert caught.value.received == "it was killed by SIGKILL (is memory short?)"
    assert call(request(served, "copy", run), served.launcher_socket).state == "complete"
    assert not list(served.pipeline_root("tiny").glob("copy/copied/*/half.txt"))


@pytest.fixture
def dying_engine(tmp_path, monkeypatch):
    """A container engine that ends as an init process and docker do when the node is killed."""
    path = tmp_path / "killing-engine"
    path.write_text(
        f"#!/bin/sh\n[ $1 = rm ] && exit 0\ncd {ROOT}\nfor last; do :; done\n"
        f"PYTHONPATH={ROOT} {sys.executable} -m runtime answer --socket $last\nexit $?\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("AIRTIGHT_CONTAINER_ENGINE", str(path))


@pytest.mark.parametrize("warm", [True, False])
def test_a_client_that_goes_takes_the_node_and_its_children_along(served, tmp_path, warm):
    running, pids = started_sleep(served, f"gone-{warm}", tmp_path, served.launcher_socket if warm else None)
    running.cancel()
    until(lambda: not any(alive(pid) for pid in pids), "node and child are gone")
    assert not list(served.pipeline_root("tiny").glob("copy/copied/*/half.txt"))


def test_a_node_that_is_stopped_cleans_up_and_says_so(served, tmp_path):
    running, pids = started_sleep(served, "stopped", tmp_path, served.launcher_socket)
    running.stop()
    with pytest.raises(AirtightError, match="stopped before it ended"):
        running.outcome.raise_if_failed()
    until(lambda: not any(alive(pid) for pid in pids), "node and child are gone")
    assert not list(served.pipeline_root("tiny").glob("copy/copied/*/half.txt"))


def test_what_a_node_leaves_in_its_temporary_folder_goes_with_it(served, tmp_path):
    call(request(served, "write", "litter"), served.launcher_socket).raise_if_failed()
    note = tmp_path / "litter"
    outcome = call(request(served, "copy", "litter", trouble=f"litter:{note}"), served.launcher_socket)
    with pytest.raises(AirtightError, match="without an outcome"):
        outcome.raise_if_failed()
    litter = Path(note.read_text())
    assert litter.parents[1].name.startswith("airtight-nodes-") and litter.parents[1].is_dir()
    assert not litter.parent.exists()


def test_what_nodes_of_a_killed_launcher_left_goes_when_the_next_one_starts(tmp_path):
    home = Home(tmp_path / "home")
    home.path.mkdir()
    server = start_server(home, TMPDIR=str(tmp_path))
    (folder,) = tmp_path.glob("airtight-nodes-*")
    (folder / "7").mkdir()
    until(lambda: load_file(home.launcher_socket).exists(), "the launcher has noted its load")
    server.kill()
    server.wait(PATIENCE_S)
    server = start_server(home, TMPDIR=str(tmp_path))
    until(lambda: not folder.exists(), "what was left is gone")
    server.terminate()
    assert server.wait(PATIENCE_S) == 0
    assert not list(tmp_path.glob("airtight-nodes-*"))


def test_ten_runs_at_once_lose_and_double_nothing(on_each):
    def nodes_of(number: int) -> list[str]:
        return [call(request(on_each, node, f"many-{number}"), on_each.launcher_socket).summary for node in NODES]

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        by_run = list(pool.map(nodes_of, range(10)))
    assert all("is done" in summary for summaries in by_run for summary in summaries), by_run
    executions = {summary.partition("(execution ")[2].partition(")")[0] for run in by_run for summary in run}
    assert len(executions) == 10 * len(NODES)
    with metadata_store.project_connection(on_each) as handle:
        attempts = [c for c in handle.store.get_contexts_by_type("node_attempt") if c.name.startswith("many-")]
        made = [e for context in attempts for e in handle.store.get_executions_by_context(context.id)]
        assert {str(execution.id) for execution in made} == executions
        assert len(made) == len(attempts) == len(executions)
        outputs = [e for e in handle.store.get_events_by_execution_ids([e.id for e in made]) if e.type == Event.OUTPUT]
        assert len(outputs) == len({event.artifact_id for event in outputs}) == 10 * 2


def test_a_launcher_outlives_its_metadata_store(served_on_postgresql, postgresql):
    home = served_on_postgresql
    call(request(home, "write", "away"), home.launcher_socket).raise_if_failed()
    postgresql.stop()
    try:
        with Call(request(home, "copy", "away"), home.launcher_socket) as running:
            lines = list(running.lines())
            with pytest.raises(AirtightError, match="metadata store cannot be reached") as caught:
                running.outcome.raise_if_failed()
    finally:
        postgresql.start()
    assert caught.value.transient
    assert PASSWORD not in f"{lines}{caught.value}{(home.path / 'serve.log').read_text()}"
    assert call(request(home, "copy", "away"), home.launcher_socket).state == "complete"


def test_a_launcher_that_starts_without_its_metadata_store_serves_when_it_comes(tmp_path, postgresql):
    home = Home(tmp_path / "home")
    home.path.mkdir()
    postgresql.stop()
    try:
        server = start_server(home, AIRTIGHT_METADATA=postgresql.address())
        read_log = (home.path / "serve.log").read_text
        until(lambda: "No dead attempts were looked for" in read_log(), "the launcher says what it could not do")
    finally:
        postgresql.start()
    assert "Traceback" not in read_log()
    call(CompileRequest(TINY, str(home.path)), home.launcher_socket).raise_if_failed()
    assert call(request(home, "write", "late"), home.launcher_socket).state == "complete"
    server.terminate()
    assert server.wait(PATIENCE_S) == 0


def test_only_the_owner_reaches_the_socket(served):
    assert stat.S_IMODE(served.launcher_socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.run.stat().st_mode) == 0o700


def test_nonsense_does_not_hurt_the_launcher(served):
    for sent in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", struct.pack("!I", 2) + b"{}"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(served.launcher_socket))
            connection.sendall(sent)
    assert call(request(served, "write", "after"), served.launcher_socket).state == "complete"


def test_the_child_that_waits_for_a_request_may_die_and_ends_with_the_launcher(tmp_path):
    home = Home(tmp_path / "home")
    home.path.mkdir()
    server = start_server(home)
    launcher = psutil.Process(server.pid)
    # Whoever looked for dead attempts at the start has ended, and one waits.
    until(lambda: len(launcher.children()) == 1, "a child waits")
    call(CompileRequest(TINY, str(home.path)), home.launcher_socket).raise_if_failed()
    until(lambda: len(launcher.children()) == 1, "another child waits")
    (waiting,) = launcher.children()
    waiting.kill()
    waiting.wait(PATIENCE_S)
    assert call(request(home, "write", "after"), home.launcher_socket).state == "complete"
    until(lambda: len(launcher.children()) == 1, "another child waits")
    (waiting,) = launcher.children()
    server.terminate()
    assert server.wait(PATIENCE_S) == 0
    assert not waiting.is_running()


@pytest.mark.parametrize("is_node", [True, False], ids=["a node", "a reaper, or a child that waited"])
def test_dead_attempts_are_looked_for_after_a_node_that_died_alone(tmp_path, monkeypatch, is_node):
    """A reaper that is killed for want of memory is not followed by the next one at once."""
    server = object.__new__(prefork_server.Server)
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    server._path, server._temporary, server._spare, server._started = tmp_path / "socket", tmp_path, None, 0.0
    server._children, server._ended, server._died = {child.pid: theirs if is_node else None}, 0, 0
    looks = []
    monkeypatch.setattr(server, "_reap_orphans", lambda: looks.append(child.pid), raising=False)
    with ours, theirs:
        server._reap()
    assert looks == ([child.pid] if is_node else [])
    assert not server._children


def test_without_descriptors_no_child_waits_and_the_launcher_goes_on(monkeypatch, caplog):
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    server = object.__new__(prefork_server.Server)
    server._spare, server._children = None, {}
    monkeypatch.setattr(prefork_server.socket, "socketpair", none_left)
    server._fork_spare()
    assert server._spare is None and not server._children
    assert "Too many open files" in caplog.text


def test_changed_code_is_seen_by_the_next_request(served):
    code = served.path / "code" / "changing.py"
    for doc in ("First.", "Second."):
        imports = "from tests.tiny_pipeline.pipeline import PARAMETERS, create_pipeline"
        code.write_text(f"'{doc}'\n{imports}\n")
        call(CompileRequest("changing:create_pipeline", str(served.path)), served.launcher_socket).raise_if_failed()
        assert CompiledPipeline.read(path_of("changing:create_pipeline", served)).doc == doc


def test_one_request_compiles_several_pipelines(served):
    code = served.path / "code"
    names = ("several_one", "several_two")
    for name in names:
        (code / f"{name}.py").write_text(f"'{name}'\nfrom tests.tiny_pipeline.pipeline import create_pipeline\n")
    first, second = (f"{name}:create_pipeline" for name in names)
    call(CompileRequest(first, str(served.path), others=((second, {}),)), served.launcher_socket).raise_if_failed()
    for source, name in ((first, names[0]), (second, names[1])):
        compiled = CompiledPipeline.read(path_of(source, served))
        assert compiled.doc == name
        assert not [path for path in compiled.sources for other in names if other != name and other in path]
    request = CompileRequest(first, str(served.path), others=(("no_such_pipeline", {}),))
    with pytest.raises(AirtightError, match="no_such_pipeline"):
        call(request, served.launcher_socket).raise_if_failed()


def test_when_the_launcher_dies_its_nodes_end_and_the_work_goes_on_cold(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_PATIENCE_S", 1.0)
    home = Home(tmp_path / "home")
    home.path.mkdir()
    server = start_server(home)
    call(CompileRequest(TINY, str(home.path)), home.launcher_socket).raise_if_failed()
    running, pids = started_sleep(home, "orphan", tmp_path, home.launcher_socket)
    server.send_signal(signal.SIGKILL)
    server.wait()
    with pytest.raises(AirtightError) as caught:
        running.outcome.raise_if_failed()
    assert caught.value.transient
    until(lambda: not any(alive(pid) for pid in pids), "node and child are gone")
    with Call(request(home, "copy", "orphan"), home.launcher_socket) as again:
        assert again.where == "a new process"
        assert again.outcome.state == "complete"


def test_a_node_runs_in_another_interpreter(served, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Call(request(served, "write", "elsewhere"), served.launcher_socket, interpreter=str(python)) as running:
        assert running.where == "a new process"
        assert "Wrote 3 words." in "\n".join(running.lines())
        assert running.outcome.state == "complete"
    assert (tmp_path / "asked").read_text() == "-m runtime answer\n"


ENGINE = """#!/usr/bin/env python3
# Stands for a container engine, which cannot run here: takes the command line of `run`, and does without the walls.
import os, sys, json, pathlib
asked = pathlib.Path(__file__).with_name("asked.jsonl")
with asked.open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] != "run":
    sys.exit(0)
place = sys.argv.index("an/image:1")
os.environ["PYTHONPATH"] = {root!r}
os.chdir({root!r})
os.execv({python!r}, [{python!r}, *sys.argv[place + 2:]])
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    path = tmp_path / "engine"
    path.write_text(ENGINE.replace("{root!r}", repr(str(ROOT))).replace("{python!r}", repr(sys.executable)))
    path.chmod(0o755)
    monkeypatch.setenv("AIRTIGHT_CONTAINER_ENGINE", str(path))
    return tmp_path / "asked.jsonl"


def test_a_node_runs_in_a_container(served, engine):
    with Call(request(served, "write", "boxed"), served.launcher_socket, image="an/image:1") as running:
        assert running.where == "a container of an/image:1"
        assert "Wrote 3 words." in "\n".join(running.lines())
        assert running.outcome.state == "complete"
    started, removed = (json.loads(line) for line in engine.read_text().splitlines())
    assert started[:3] == ["run", "--rm", "--init"]
    assert f"{served.path}:{served.path}" in started
    assert f"{os.getuid()}:{os.getgid()}" in started
    assert removed[:2] == ["rm", "--force"]
    assert call(request(served, "copy", "boxed"), served.launcher_socket).state == "complete"
    assert not list(served.run.glob("airtight-*.sock"))


def test_a_state_folder_whose_path_is_long_has_a_launcher_and_nodes_see_the_same_environment_anywhere(
    tmp_path, monkeypatch
):
    home = Home(tmp_path / ("x" * 60) / ("y" * 60) / "home")
    home.path.mkdir(parents=True)
    server = start_server(home, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql://secret", SUPERVISOR_ENABLED="1")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "words")
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", "s3://secret")
    monkeypatch.setenv("AIRTIGHT_AIRFLOW_DATABASE", "postgresql://secret")
    call(CompileRequest(TINY, str(home.path)), home.launcher_socket).raise_if_failed()
    seen = {}
    for name, launcher in (("the warm launcher", home.launcher_socket), ("a new process", None)):
        call(request(home, "write", "long"), home.launcher_socket).raise_if_failed()
        note = tmp_path / "environment.json"
        with Call(request(home, "copy", "long", trouble=f"environment:{note}"), launcher) as running:
            assert running.outcome.state == "complete"
            assert running.where == name
        seen[name] = json.loads(note.read_text())
        for variable in ("TMPDIR", "PYTHONPATH", "PYTEST_CURRENT_TEST"):
            seen[name].pop(variable, None)
        assert "secret" not in str(seen[name])
        assert seen[name]["AIRTIGHT_HOME"] == str(home.path)
    assert seen["the warm launcher"] == seen["a new process"]
    server.terminate()
    assert server.wait(PATIENCE_S) == 0
