"""A launcher that cannot take over: nobody waits for it without end or a word, and it can be stopped at any moment."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from airtight.home import ROOT
from runtime import prefork_server
from runtime.handover import ATTEMPTS, Handover
from runtime.installed import Imported
from runtime.prefork_server import Server
from runtime.protocol import receive
from tests.runtime.serving import alive
from tests.waiting import PATIENCE_S, until

PROGRAM = """
import os, signal, socket, sys, time
from pathlib import Path
from runtime import handover, logs

folder, trouble = Path(sys.argv[1]), sys.argv[2]
path, nodes = folder / "launcher.sock", folder / "nodes"
logs.speak()
handover._AGAIN_S = 0.1

def imports():
    if trouble == "imports" and (folder / "half").exists():
        raise ImportError("half of it")

left = handover.Handover.received()
if left is None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    lifeline, alive = os.pipe()
    children = []
    for name in ("one", "two"):
        connection, _ = listener.accept()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            while (folder / name).exists():
                time.sleep(0.01)
            os._exit(3)
        (nodes / str(pid)).mkdir(parents=True)
        children.append((pid, connection.detach()))
    for number in handover.STOPS:
        signal.signal(number, lambda *_: None)  # The server only notes that it is to stop.
    if trouble == "interpreter":
        sys.executable = "/no/such/python"
    if trouble == "signal":
        really = os.execve
        os.execve = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), really(*a))
    handover.Handover(listener.fileno(), lifeline, alive, str(nodes), children).leave(path)
left.complete(imports, path)
print("taken over", flush=True)
time.sleep(60)
"""


class Launcher:
    """A launcher without libraries that replaces itself, two nodes of which run, and the clients of these."""

    def __init__(self, folder: Path, trouble: str) -> None:
        self.folder, self.path = folder, folder / "launcher.sock"
        for name in ("one", "two", "half"):
            (folder / name).touch()
        (folder / "program.py").write_text(PROGRAM)
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(folder / "program.py"), str(folder), trouble],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        until(self.path.exists, "it listens")
        self.clients = [self.client(), self.client()]

    def client(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        until(lambda: connection.connect_ex(str(self.path)) == 0, "it listens")
        return connection

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def nodes(self) -> list[int]:
        return sorted(int(path.name) for path in (self.folder / "nodes").iterdir())


@pytest.fixture
def start(tmp_path):
    started = []

    def start_one(trouble: str) -> Launcher:
        started.append(Launcher(tmp_path, trouble))
        return started[-1]

    yield start_one
    for launcher in started:
        launcher.process.kill()
        launcher.process.wait()
        for name in ("one", "two"):
            (tmp_path / name).unlink(missing_ok=True)
        for client in launcher.clients:
            client.close()


@pytest.mark.parametrize("trouble", ["imports", "interpreter"])
def test_nodes_that_end_meanwhile_are_reaped_and_new_ones_do_not_wait_without_end(start, trouble):
    launcher = start(trouble)
    waiting = launcher.client()
    until(lambda: "which is tried again" in launcher.log(), "it cannot take over")
    first, second = launcher.nodes()
    (launcher.folder / "one").unlink()
    assert receive(launcher.clients[0]) == {"kind": "exit", "status": 3 << 8}
    until(lambda: not (launcher.folder / "nodes" / str(first)).exists(), "what it wrote is gone")
    assert receive(waiting) is None, "whoever waited in the backlog is turned away"
    waiting.close()
    assert not launcher.path.exists(), "new nodes run in processes of their own"
    assert "is not tried again" in launcher.log()
    assert launcher.log().count("which is tried again") == ATTEMPTS
    assert alive(second)
    assert launcher.process.poll() is None
    (launcher.folder / "two").unlink()
    assert receive(launcher.clients[1]) == {"kind": "exit", "status": 3 << 8}
    assert launcher.process.wait(PATIENCE_S) == 1
    assert not (launcher.folder / "nodes").exists() or trouble == "interpreter"


def test_it_takes_over_as_soon_as_it_can(start):
    launcher = start("imports")
    until(lambda: "which is tried again" in launcher.log(), "it cannot take over")
    (launcher.folder / "half").unlink()
    until(lambda: "taken over" in launcher.log(), "it takes over")
    assert launcher.path.exists()


@pytest.mark.parametrize("trouble", ["imports", "interpreter"])
def test_it_is_stopped_while_it_tries(start, trouble):
    launcher = start(trouble)
    until(lambda: "which is tried again" in launcher.log(), "it cannot take over")
    launcher.process.terminate()
    assert launcher.process.wait(PATIENCE_S) == 0


def test_a_signal_that_comes_at_the_last_moment_is_not_lost(start):
    launcher = start("signal")
    assert launcher.process.wait(PATIENCE_S) == 0
    assert not launcher.path.exists()
    assert not (launcher.folder / "nodes").exists()


def test_a_launcher_that_stops_does_not_start_anew(tmp_path, monkeypatch):
    upgraded = Imported({}, {"toylib": (tmp_path / "toylib-1.0.dist-info", (1, 1))}, {})
    server = Server(tmp_path / "launcher.sock", upgraded)
    monkeypatch.setattr(Handover, "leave", lambda *_: pytest.fail("it starts anew"))
    server._stop()
    server._accept()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    server._listener.close()
    prefork_server.remove_traces(tmp_path / "launcher.sock", server._temporary)
