"""Really starts services: those that need no database of Airflow, on ports of their own."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from components.data.spark import session
from services import health, processes
from services.__main__ import main, up
from services.environment import environment
from services.settings import Settings
from services.supervisor import Supervisor
from tests.waiting import until

NAMES = ("model-server", "router", "spark")
NAMED = ("model", "server")


def pids(home: Home) -> dict[str, int]:
    return {program.name: program.pid for program in Supervisor(home).programs() if program.pid}


def answers(port: int) -> bool:
    return not health._tcp(port)


@pytest.mark.slow
def test_services_start_heal_and_leave_nothing_behind(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    settings = up(home, NAMES)
    output = capsys.readouterr().out
    assert "Spark is up at" in output and "model server is up at" in output and "router is up at" in output
    assert httpx.get(f"{settings.model_url}/v1/models/none").status_code == 404
    assert oct((home.run / "supervisor.sock").stat().st_mode & 0o777) == "0o600"
    listening = (settings.spark_port, *(getattr(settings, f"{a}_{b}_port") for a in NAMED for b in ("rest", "grpc")))

    first = pids(home)
    assert set(first) == set(NAMES)
    up(home, NAMES)
    assert pids(home) == first, "what runs is left alone"
    assert "up already" in capsys.readouterr().out

    os.kill(first["model-server"], signal.SIGKILL)
    until(lambda: pids(home).get("model-server", 0) not in (0, first["model-server"]), "another model server runs")
    until(lambda: answers(settings.server_rest_port), "it answers")
    # The router, too, finds it again.
    until(lambda: httpx.get(f"{settings.model_url}/v1/models/none").status_code == 404, "the router passes requests on")

    assert main(["status"]) == 1, "Airflow does not run"
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda _: main(["down"]), range(3))) == [0, 0, 0], "three may stop it at once"
    assert processes.alive(home) == []
    assert [port for port in listening if answers(port)] == []
    assert main(["down"]) == 0
    assert "Nothing runs" in capsys.readouterr().out


@pytest.mark.slow
def test_spark_answers_its_owner_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment(up(home, ("spark",)), home)
    for name in ("SPARK_REMOTE", "SPARK_TOKEN_FILE"):
        monkeypatch.setenv(name, variables[name])
    with session("owner") as spark:
        assert spark.range(3).count() == 3
    token = (home.run / "spark_token").read_text()
    assert token.encode() not in Path(f"/proc/{pids(home)['spark']}/cmdline").read_bytes()
    # Not with Spark's own client: it would try for minutes to take leave of a server that is gone by then.
    with grpc.insecure_channel(variables["SPARK_REMOTE"].removeprefix("sc://")) as channel:
        ask = channel.unary_unary("/spark.connect.SparkConnectService/AnalyzePlan")
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"", timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.slow
def test_one_program_is_ended_and_started_again_while_the_others_run(home: Home, capsys: pytest.CaptureFixture) -> None:
    up(home, ("router", "model-server"))
    before = pids(home)
    assert main(["down", "router"]) == 0 and "Stopped: router." in capsys.readouterr().out
    assert pids(home) == {"model-server": before["model-server"]}
    assert Supervisor(home).end(["router"]) == [], "it is ended already"
    up(home, ("router",))
    assert pids(home)["model-server"] == before["model-server"]
    assert pids(home)["router"] != before["router"]


@pytest.mark.slow
def test_what_a_killed_supervisor_left_is_ended(home: Home) -> None:
    settings = up(home, ("spark",))
    daemon = int((home.run / "supervisord.pid").read_text())
    os.kill(daemon, signal.SIGKILL)
    until(lambda: not Supervisor(home).running(), "the supervisor is gone")
    assert answers(settings.spark_port), "its child lives on"
    assert Supervisor(home).stop() >= 1
    assert processes.alive(home) == []
    assert not answers(settings.spark_port)


@pytest.mark.slow
def test_a_start_waits_for_the_stop_before_it(home: Home) -> None:
    up(home, ("spark",))
    with ThreadPoolExecutor() as pool:
        stopping = pool.submit(Supervisor(home).stop)
        until(lambda: Supervisor(home).programs() == [], "its programs are gone")
        up(home, ("spark",))
        assert stopping.result() >= 1
    assert set(pids(home)) == {"spark"}


def test_a_port_of_a_stranger_is_told_before_anything_starts(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(TerminalError, match=f"Port {port} .* is taken") as refused:
            Supervisor(home).start(replace(Settings.from_environment(), model_rest_port=port), NAMES)
        assert "AIRTIGHT_MODEL_REST_PORT" in refused.value.remedy
    assert processes.alive(home) == []


def test_a_state_folder_whose_path_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="too long for a unix socket"):
        Supervisor(Home(tmp_path / ("x" * 80))).start(Settings(), NAMES)


def test_an_unknown_service_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", "launcher", "webserver"])
    assert "there is no webserver" in capsys.readouterr().err


def test_the_exit_status_tells_the_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AIRTIGHT_SPARK_PORT", "x")
    assert main(["up"]) == 64
    assert "AIRTIGHT_SPARK_PORT" in capsys.readouterr().err
