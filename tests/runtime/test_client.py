"""How a request is started, broken off before it is, and what a container gets."""

import concurrent.futures
import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from airtight.errors import AirtightError, TransientError
from airtight.home import Home
from runtime import child_process, client, containers
from runtime.client import Call
from runtime.protocol import CompileRequest
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def request_(tmp_path):
    home = Home(tmp_path / "home")
    home.run.mkdir(parents=True)
    return CompileRequest("words", str(home.path))


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Writes a container engine that notes what it is asked for and does as the test says."""

    def write(run: str) -> Path:
        path, notes = tmp_path / "engine", tmp_path / "asked"
        path.write_text(f'#!/bin/sh\necho "$@" >>{notes}\n[ $1 = rm ] || {{ {run}; }}\n')
        path.chmod(0o755)
        monkeypatch.setenv("AIRTIGHT_CONTAINER_ENGINE", str(path))
        return notes

    return write


def descriptors() -> set[str]:
    return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()}


def test_what_is_stopped_before_it_begins_does_not_begin(request_, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/began\n")
    python.chmod(0o755)
    stopped = Call(request_, None, interpreter=str(python))
    stopped.stop()
    with pytest.raises(TransientError, match="stopped before it began"), stopped:
        pass
    assert not (tmp_path / "began").exists()


def test_a_launcher_that_does_not_come_back_is_not_waited_for_once_the_call_is_stopped(request_, tmp_path):
    path = tmp_path / "launcher.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    waiting = Call(request_, path)

    def enter() -> None:
        with waiting:
            pass

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        entered = pool.submit(enter)
        waiting.stop()
        with pytest.raises(TransientError, match="stopped before it began"):
            entered.result()


def test_a_container_that_still_starts_is_stopped_and_removed(request_, engine, monkeypatch):
    monkeypatch.setattr(child_process, "STOP_S", 0.1)
    notes = engine("exec sleep 60")
    starting = Call(request_, None, image="an/image:1")

    def enter() -> None:
        with starting:
            pass

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        entered = pool.submit(enter)
        until(lambda: notes.exists() and notes.read_text(), "the engine starts a container")
        starting.stop()
        with pytest.raises(TransientError, match="stopped before it began"):
            entered.result()
    started, *removed = notes.read_text().splitlines()
    name = started.split()[started.split().index("--name") + 1]
    assert set(removed) == {f"rm --force {name}"}


@pytest.mark.parametrize(
    ("trouble", "words"), [("echo 'no such image' >&2; exit 125", "no such image"), ("exec sleep 60", "nothing on its")]
)
def test_a_container_that_does_not_come_up_is_named_and_removed(request_, engine, monkeypatch, trouble, words):
    if "sleep" in trouble:
        monkeypatch.setattr(client, "_CONTAINER_S", 1.0)
    monkeypatch.setattr(child_process, "STOP_S", 0.1)
    notes = engine(trouble)
    with pytest.raises(AirtightError, match=rf"No container of an/image:1 came up\..*{words}") as caught:
        Call(request_, None, image="an/image:1").__enter__()
    assert caught.value.transient
    started, *removed = notes.read_text().splitlines()
    assert {line.rpartition(" ")[0] for line in removed} == {"rm --force"}
    assert removed[0].split()[-1] in started.split()


def test_an_engine_that_is_not_there_is_named(request_, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_CONTAINER_ENGINE", "no-such-engine")
    with pytest.raises(AirtightError, match="no-such-engine"):
        Call(request_, None, image="an/image:1").__enter__()


def test_a_request_that_cannot_be_sent_leaves_nothing_open(request_, monkeypatch):
    def fail(_request: object) -> bytes:
        raise BrokenPipeError("it is gone")

    monkeypatch.setattr(client, "encode_request", fail)
    before = descriptors()
    with pytest.raises(TransientError, match="it is gone"):
        Call(request_, None, interpreter=sys.executable).__enter__()
    assert descriptors() == before


def test_a_call_may_be_ended_twice(request_, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nhead -c 1 >/dev/null\nexit 1\n")
    python.chmod(0o755)
    with Call(request_, None, interpreter=str(python)) as running:
        with pytest.raises(TransientError, match="exit status 1"):
            running.outcome.raise_if_failed()
        running.cancel()


def test_a_launcher_that_was_killed_is_waited_for(tmp_path):
    """What it left behind refuses; the next one takes the place."""
    path = tmp_path / "launcher.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    def start_again() -> None:
        time.sleep(0.5)
        path.unlink()
        again.bind(str(path))
        again.listen()

    with socket.socket(socket.AF_UNIX) as again, concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(start_again)
        connection = client._connect(path, lambda: None)
        assert connection is not None
        connection.close()


def test_a_launcher_with_a_full_backlog_is_waited_for(tmp_path):
    """It starts anew, or many ask at once: whoever connects beyond its backlog is turned away at once."""
    path = tmp_path / "launcher.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            turned_away = threading.Event()
            connected = pool.submit(client._connect, path, turned_away.set)
            assert turned_away.wait(PATIENCE_S)
            listener.accept()[0].close()
            connection = connected.result()
        assert connection is not None
        connection.close()


def test_a_process_of_its_own_never_had_what_no_node_sees(request_, tmp_path, monkeypatch):
    """What a process is started with stays readable in /proc, whatever it removes."""
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", "s3://secret")
    monkeypatch.setenv("AIRTIGHT_AIRFLOW_DATABASE", "postgresql://secret")
    monkeypatch.setenv("MINE", "seen")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntr '\\0' '\\n' </proc/self/environ >{tmp_path}/environment\nhead -c 1 >/dev/null\n")
    python.chmod(0o755)
    with Call(request_, None, interpreter=str(python)) as running:
        assert running.outcome.state == "failed"
    environment = (tmp_path / "environment").read_text()
    assert "MINE=seen" in environment
    assert "secret" not in environment


def test_a_container_gets_what_a_node_reads_and_what_the_setting_names(tmp_path, monkeypatch):
    for name in ("AIRTIGHT_KAFKA", "AIRTIGHT_PREDICTION_LOG", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, "value")
    for name in ("AIRTIGHT_AIRFLOW_DATABASE", "AIRFLOW_CONN_LAKE", "AIRTIGHT_PYTHON", "MLFLOW_TRACKING_URI", "MINE"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("AIRTIGHT_CONTAINER_ENV", "MLFLOW_*, MINE")
    home = Home(tmp_path)
    command = containers.command("name", "an/image:1", home, home.run / "a.sock")
    assert "secret" not in " ".join(command), "the engine reads the values itself"
    given = {value for option, value in itertools.pairwise(command) if option == "--env"}
    assert {"AIRTIGHT_KAFKA", "AIRTIGHT_PREDICTION_LOG", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"} <= given
    assert {"MLFLOW_TRACKING_URI", "MINE", f"AIRTIGHT_HOME={tmp_path}"} <= given
    assert not {"AIRTIGHT_HOME", "AIRTIGHT_AIRFLOW_DATABASE", "AIRFLOW_CONN_LAKE", "AIRTIGHT_PYTHON"} & given
