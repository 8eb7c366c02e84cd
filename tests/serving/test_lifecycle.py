"""How a server begins and ends: where it listens, what it says when it cannot, and what it closes first."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading

import pytest

from airtight.errors import EXIT_TERMINAL, TransientError
from serving import server as server_module
from serving.config import Settings
from serving.inference import Runner
from serving.listening import start_grpc
from serving.manager import Manager
from serving.prediction_log.log import PredictionLog
from tests.serving import models


@pytest.mark.slow
def test_a_server_that_cannot_serve_says_why_and_ends(tmp_path):
    command = [sys.executable, "-m", "serving", f"--model_config_file={tmp_path}/nothing"]
    done = subprocess.run(command, cwd=models.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == EXIT_TERMINAL
    assert "config file cannot be read" in done.stderr


def test_a_port_that_is_taken_is_a_fault_that_may_heal():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = Settings(port=0, rest_api_port=listener.getsockname()[1])
        with pytest.raises(TransientError, match="cannot listen for REST"):
            asyncio.run(server_module.serve(taken))
        taken = Settings(port=listener.getsockname()[1], rest_api_port=0)
        with pytest.raises(TransientError, match="cannot listen for gRPC"):
            asyncio.run(server_module.serve(taken))


@pytest.mark.parametrize(("host", "address"), [("::1", "[::1]:8500"), ("127.0.0.1", "127.0.0.1:8500")])
def test_an_address_of_ipv6_stands_in_brackets_before_its_port(host, address):
    addresses = []

    class Rpc:
        def add_insecure_port(self, address: str) -> int:
            addresses.append(address)
            return 8500

        async def start(self) -> None:
            pass

    assert asyncio.run(start_grpc(Rpc(), Settings(host=host, port=8500))) == 8500
    assert addresses == [address]


def test_a_server_that_stops_closes_its_log_before_it_waits_for_models_and_calls(monkeypatch):
    closed = []

    def closing(owner: type) -> None:
        close = owner.close

        def noted(self):
            closed.append(owner)
            return close(self)

        monkeypatch.setattr(owner, "close", noted)

    for owner in (PredictionLog, Manager, Runner):
        closing(owner)

    async def run() -> None:
        stopping = asyncio.Event()
        stopping.set()
        monkeypatch.setattr(server_module, "told_to_stop", lambda settings: stopping)
        await server_module.serve(Settings(port=0, rest_api_port=0))

    asyncio.run(run())
    assert closed == [PredictionLog, Manager, Runner]


def test_a_call_that_nobody_waits_for_any_more_holds_up_no_end():
    async def run() -> None:
        runner, running, going_on, ended = Runner(1), threading.Event(), threading.Event(), []

        def work() -> None:
            running.set()
            going_on.wait(60)
            ended.append(1)

        abandoned = asyncio.ensure_future(runner.offload("m", work))
        await asyncio.to_thread(running.wait, 60)
        abandoned.cancel()
        runner.close()
        assert not ended
        going_on.set()

    asyncio.run(run())
