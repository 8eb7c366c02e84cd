"""The pool of Python workers, with control planes as TaskManagers have them, each of one job."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

from streaming.engine import worker_pool
from streaming.engine.addresses import WORKERS
from streaming.engine.worker_pool import Pool
from tests.waiting import until

PATIENCE_S = 300


class Control(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """Has no work for its worker, and hangs up when it is told to."""

    def __init__(self) -> None:
        self.is_there, self.over = threading.Event(), threading.Event()
        self.server = grpc.server(ThreadPoolExecutor(4))
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Control(self, requests: Any, context: Any) -> Iterator[Any]:
        self.is_there.set()
        self.over.wait(PATIENCE_S)
        return iter(())


def test_who_asks_is_seen_by_the_port_of_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as pool, socket.create_connection(pool.getsockname()) as client:
        monkeypatch.setenv(WORKERS, f"127.0.0.1:{pool.getsockname()[1]}")
        context = SimpleNamespace(peer=lambda: f"ipv4:127.0.0.1:{client.getsockname()[1]}")
        assert worker_pool._caller(context) == os.getpid()
        monkeypatch.setenv(WORKERS, "127.0.0.1:1")
        assert worker_pool._caller(context) is None, "a connection to somebody else"


@pytest.mark.slow
def test_the_end_of_one_job_ends_no_worker_of_another_taskmanager(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, controls = Pool(), [Control(), Control(), Control()]
    contexts = [SimpleNamespace(peer=lambda port=control.port: f"ipv4:127.0.0.1:{port}") for control in controls]
    # As if each were a process of its own.
    monkeypatch.setattr(worker_pool, "_caller", lambda context: context.peer())
    try:
        for control, context in zip(controls, contexts, strict=True):
            # The counter of each JVM begins at 1.
            endpoint = endpoints_pb2.ApiServiceDescriptor(url=f"127.0.0.1:{control.port}")
            request = beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1", control_endpoint=endpoint)
            assert not pool.StartWorker(request, context).error
        for control in controls:
            assert control.is_there.wait(PATIENCE_S)
        first, second, third = (worker.process for worker in pool._workers)
        pool.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"), contexts[0])
        until(lambda: not first.is_alive(), "the worker of who asks", patience_s=PATIENCE_S)
        controls[1].over.set()
        until(lambda: not second.is_alive(), "one whose TaskManager hangs up", patience_s=PATIENCE_S)
        assert third.is_alive(), "the other one goes on"
    finally:
        for worker in pool._workers:
            worker.process.kill()
        for control in controls:
            control.over.set()
            control.server.stop(None)
