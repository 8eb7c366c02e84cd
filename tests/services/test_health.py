from __future__ import annotations

import http.server
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airtight.errors import TransientError
from airtight.home import Home
from runtime.protocol import load_file, socket_address
from services import health
from services.__main__ import status
from services.settings import Settings
from services.supervisor import Program, Supervisor


class ScriptedSupervisor(Supervisor):
    """A supervisor that tells what a test says."""

    def __init__(self, home: Home, states: Iterator[list[Program]]) -> None:
        super().__init__(home)
        self._states = states

    def programs(self) -> list[Program]:
        return next(self._states)


def service(missing: Callable[[], str] = lambda: "") -> health.Service:
    return health.Service("the server", ("server",), "127.0.0.1:1", missing)


def forever(state: str, pids: Iterator[int] | None = None) -> Iterator[list[Program]]:
    pids = pids or itertools.repeat(7)
    return ([Program("server", state, pid, 1, "")] for pid in pids)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(health, "POLL_S", 0.0)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "server.log").write_text("starting\nno such table: flights\n")
    return Home(tmp_path)


def test_it_waits_until_the_service_is_well(home: Home) -> None:
    lacks = iter(["not yet", "not yet", ""])
    lines: list[str] = []
    health.wait(ScriptedSupervisor(home, forever("RUNNING")), [service(lambda: next(lacks))], lines.append)
    assert [line.split(" (")[0] for line in lines] == ["  the server is up at 127.0.0.1:1"]
    assert list(lacks) == []


def test_well_is_not_enough_when_the_program_does_not_run(home: Home) -> None:
    states = itertools.chain(itertools.islice(forever("STARTING"), 3), forever("RUNNING"))
    health.wait(ScriptedSupervisor(home, states), [service()], lambda line: None)


@pytest.mark.parametrize("state", ["FATAL", "STOPPED"])
def test_a_program_that_gave_up_fails_with_the_end_of_its_log(home: Home, state: str) -> None:
    with pytest.raises(TransientError, match="no such table: flights"):
        health.wait(ScriptedSupervisor(home, forever(state)), [service(lambda: "not yet")], lambda line: None)


def test_a_program_that_keeps_dying_is_not_waited_for(home: Home) -> None:
    with pytest.raises(TransientError, match="keeps ending by itself"):
        health.wait(
            ScriptedSupervisor(home, forever("RUNNING", itertools.count(1))), [service(lambda: "no")], lambda line: None
        )


def test_a_program_that_an_older_supervisor_does_not_know_is_told(home: Home) -> None:
    another = health.Service("Kafka", ("kafka",), "127.0.0.1:1", lambda: "not yet")
    with pytest.raises(TransientError, match=r"older than it.*make stop"):
        health.wait(ScriptedSupervisor(home, forever("RUNNING")), [another], lambda line: None)


def test_a_slow_service_fails_with_what_is_missing(home: Home) -> None:
    with pytest.raises(TransientError, match="not well after 0 s: no socket"):
        health.wait(
            ScriptedSupervisor(home, forever("RUNNING")),
            [service(lambda: "no socket")],
            lambda line: None,
            timeout_s=0.0,
        )


@pytest.fixture
def airflow() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that answers as Airflow's health route does, with what the test puts in."""
    answer: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answer and self.path == "/api/v2/monitor/health" else 503)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", answer
        server.shutdown()


def test_airflow_is_well_when_all_its_parts_are(airflow: tuple[str, dict[str, Any]]) -> None:
    url, answer = airflow
    settings = Settings(airflow_port=int(url.rpartition(":")[2]), execution_port=1)
    assert health._airflow(settings) == "the API for tasks: it does not answer yet"
    settings = replace(settings, execution_port=settings.airflow_port)
    assert health._airflow(settings) == "the API does not answer yet"
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    answer.update({part: {"status": "healthy"} for part in parts}, scheduler={"status": None})
    assert health._airflow(settings) == "no heartbeat yet from the scheduler"
    answer["scheduler"] = {"status": "healthy"}
    assert health._airflow(settings) == ""


@pytest.mark.parametrize("folder", ["home", "a folder with a long name" * 8])
def test_the_load_of_a_launcher_that_was_killed_is_not_shown(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / folder)
    home.run.mkdir(parents=True)
    launcher, *_ = health.services(Settings(), home)
    monkeypatch.setattr(health, "services", lambda *_: [launcher])
    monkeypatch.setattr(Supervisor, "programs", lambda _: [Program("launcher", "RUNNING", 7, 1, "")])
    load_file(home.launcher_socket).write_text(json.dumps({"running": 2, "ended": 5, "died": 1}))
    with socket_address(home.launcher_socket) as address, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(address)
        unix.listen()
        assert status(home) == 0
        assert "2 run, 5 ended, 1 of them died" in capsys.readouterr().out
    # A process that is killed removes neither its socket nor its numbers.
    assert status(home) == 1
    assert "5 ended" not in capsys.readouterr().out


def test_sockets_and_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert health._unix("s") != ""
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp:
        unix.bind("s")
        unix.listen()
        tcp.bind(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        assert health._tcp(port) != ""
        tcp.listen()
        assert (health._unix("s"), health._tcp(port)) == ("", "")
    assert health._http(f"http://127.0.0.1:{port}/") != ""
