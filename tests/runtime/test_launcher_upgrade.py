"""A launcher under which a library is upgraded: what runs goes on, the next node runs with what is installed then."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from airtight.errors import AirtightError
from airtight.home import ROOT, Home
from runtime import cache, metadata_store
from runtime.client import Call, call
from runtime.compiled_store import path_of
from runtime.protocol import CompileRequest, NodeRequest, Outcome
from services.health import launcher_load
from tests.runtime.serving import alive, start_server
from tests.runtime.toy_distribution import install
from tests.tiny_pipeline.running import JUNE, TINY, uri
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow
PIPELINE = '''
"""Writes the version of the toy library that it runs with."""
import os
import time
from pathlib import Path
import toylib
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts
from airtight.parameters import Parameter as RunParameter
from runtime.parameters import runtime_parameter

WAIT = RunParameter("wait", "str", "", "A file whose end the node waits for.")
PARAMETERS = (WAIT,)


@component
def note(made: OutputArtifact[standard_artifacts.Model], wait: Parameter[str]) -> None:
    if wait:
        Path(wait).write_text(str(os.getpid()))
    while wait and Path(wait).exists():
        time.sleep(0.05)
    (Path(made.uri) / "version").write_text(toylib.VERSION)


def create_pipeline() -> Pipeline:
    return Pipeline(pipeline_name="noted", components=[note(wait=runtime_parameter(WAIT)).with_id("note")],
                    enable_cache=True)
'''
SOURCE = "noted:create_pipeline"


class Launcher:
    """A launcher that has imported the toy library, and a pipeline whose only node needs it."""

    def __init__(self, folder, monkeypatch) -> None:
        self.home = Home(folder / "home")
        self.site = folder / "site"
        self.site.mkdir()
        (self.home.path / "code").mkdir(parents=True)
        (self.home.path / "code" / "noted.py").write_text(PIPELINE)
        monkeypatch.setenv("TMPDIR", str(folder))
        install(self.site, "toylib", "1.0")
        path = os.pathsep.join(map(str, (ROOT, self.home.path / "code", self.site)))
        self.process = start_server(self.home, AIRTIGHT_PRELOAD="toylib", PYTHONPATH=path)
        call(CompileRequest(SOURCE, str(self.home.path)), self.home.launcher_socket).raise_if_failed()

    def request(self, run: str, wait: object = "") -> NodeRequest:
        attempt, home = f"note-{time.monotonic_ns()}", str(self.home.path)
        return NodeRequest(str(path_of(SOURCE, self.home)), "note", run, attempt, home, {"wait": str(wait)})

    def node(self, run: str) -> Outcome:
        return call(self.request(run), self.home.launcher_socket)

    def log(self) -> str:
        return (self.home.path / "serve.log").read_text()

    def until_load(self, load: str) -> None:
        """Waits for this load: a node has its outcome a moment before the launcher reaps its process."""
        until(lambda: launcher_load(self.home) == load, load)

    def versions(self, outcome: Outcome) -> tuple[str, str]:
        """The version that the node ran with, and the version that its cache key holds."""
        with metadata_store.project_connection(self.home) as handle:
            parts = cache.parts_of(handle.store, outcome.execution)
        return (uri(outcome, "made") / "version").read_text(), parts["version"]["toylib"]


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    started = Launcher(tmp_path, monkeypatch)
    yield started
    started.process.terminate()
    assert started.process.wait(PATIENCE_S) == 0
    assert not list(started.home.run.iterdir())
    assert not list(tmp_path.glob("airtight-nodes-*"))


def test_an_upgrade_replaces_the_launcher_and_no_node_that_runs(launcher, tmp_path):
    assert launcher.versions(launcher.node("before")) == ("1.0", "1.0")
    waits = [tmp_path / "slow", tmp_path / "killed"]
    with (
        Call(launcher.request("slow", waits[0]), launcher.home.launcher_socket) as slow,
        Call(launcher.request("killed", waits[1]), launcher.home.launcher_socket) as killed,
    ):
        pids = [int(until(lambda w=w: w.exists() and w.read_text(), "the node waits")) for w in waits]
        install(launcher.site, "toylib", "2.0")
        launcher.until_load("2 run, 2 ended, 0 of them died")
        outcome = launcher.node("after")
        assert launcher.versions(outcome) == ("2.0", "2.0")
        assert outcome.state == "complete"
        assert "toylib-1.0.dist-info was imported, toylib-2.0.dist-info is installed" in launcher.log()
        assert launcher.process.poll() is None
        assert all(alive(pid) for pid in pids)
        (temporary,) = tmp_path.glob(f"airtight-nodes-*/{pids[1]}")
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(AirtightError, match="SIGKILL"):
            killed.outcome.raise_if_failed()
        until(lambda: not temporary.exists(), "what the killed node left is gone")
        launcher.until_load("1 run, 4 ended, 1 of them died")
        waits[0].unlink()
        assert slow.outcome.state == "complete"
        assert launcher.versions(slow.outcome) == ("1.0", "1.0")
    until(lambda: not any(map(alive, pids)), "both have ended")
    assert launcher.log().count("The launcher is ready") == 2


def test_an_upgrade_that_is_half_done_is_waited_for_while_nodes_run(launcher, tmp_path):
    wait = tmp_path / "slow"
    with Call(launcher.request("slow", wait), launcher.home.launcher_socket) as slow:
        until(lambda: wait.exists() and wait.read_text(), "the node waits")
        install(launcher.site, "toylib", "2.0", code="import half_of_it")
        with Call(launcher.request("after"), launcher.home.launcher_socket) as after:
            until(lambda: "which is tried again" in launcher.log(), "the launcher cannot import it")
            install(launcher.site, "toylib", "2.1")
            assert launcher.versions(after.outcome) == ("2.1", "2.1")
        wait.unlink()
        assert launcher.versions(slow.outcome) == ("1.0", "1.0")


def test_a_launcher_that_is_stopped_while_it_starts_anew_takes_its_nodes_along(launcher, tmp_path):
    wait = tmp_path / "slow"
    with Call(launcher.request("slow", wait), launcher.home.launcher_socket) as slow:
        pid = int(until(lambda: wait.exists() and wait.read_text(), "the node waits"))
        install(launcher.site, "toylib", "2.0", code="import half_of_it")
        with Call(launcher.request("after"), launcher.home.launcher_socket) as after:
            until(lambda: "which is tried again" in launcher.log(), "the launcher cannot import it")
            launcher.process.terminate()
            for call_ in (slow, after):
                with pytest.raises(AirtightError, match=r"stopped before it ended|the launcher went away"):
                    call_.outcome.raise_if_failed()
        until(lambda: not alive(pid), "the node has ended")


def test_the_projects_own_code_is_that_of_the_moment_too(tmp_path):
    checkout, home = tmp_path / "checkout", Home(tmp_path / "home")
    for package in ("airtight", "runtime", "tests/tiny_pipeline"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"AIRTIGHT_HOME": str(home.path), "PYTHONPATH": str(checkout)}
    server = subprocess.Popen([sys.executable, "-m", "runtime", "serve"], cwd=checkout, env=environment)
    until(home.launcher_socket.exists, "the launcher serves")
    worker = checkout / "runtime" / "worker.py"
    worker.write_text(worker.read_text().replace('f"Compiled {request', 'f"Newly compiled {request'))
    request = CompileRequest(TINY, str(home.path))
    try:
        assert call(request, home.launcher_socket).summary.startswith("Newly compiled")
        node = NodeRequest(str(path_of(TINY, home)), "write", "run", "attempt", str(home.path), JUNE)
        assert uri(call(node, home.launcher_socket), "words").is_relative_to(home.path)
    finally:
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
