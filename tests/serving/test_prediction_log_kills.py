"""The prediction log of servers that are killed, whose disk fails, or whose shipper dies."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from airtight.interval import Interval
from airtight.predictions import JOURNAL
from components.data import predictions
from serving.large_json import APART_BYTES
from serving.prediction_log import shipper_process
from serving.prediction_log.journals import Journals
from serving.prediction_log.log import LOSS_S
from serving.prediction_log.shipper import Job
from serving.prediction_log.shipper_process import ShipperProcess
from tests.serving import models
from tests.serving.notes import AROUND, answered, note, visible, write

CLIENTS = 4
OK, UNAVAILABLE = 200, 503


def await_that(condition) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def server_with_log(folder: Path, *flags: str):
    """A server with a model that multiplies by 2."""
    (folder / "affine").mkdir()
    models.save_affine(folder / "affine" / "1", 2.0)
    with models.running(folder, "--model_name=m", f"--model_base_path={folder}/affine", *flags) as server:
        yield server


def journals_in(root: Path) -> list[Path]:
    return list(root.rglob(f"*{JOURNAL}"))


def rows_in(root: Path) -> list[dict]:
    now = datetime.now(UTC)
    return predictions.read(root, "m", Interval(now - timedelta(minutes=10), now + timedelta(minutes=1))).to_pylist()


class Client(threading.Thread):
    """Sends numbered requests until the server is gone.

    Args:
      port: The server's REST port.
      name: Before the numbers.
    """

    def __init__(self, port: int, name: str) -> None:
        super().__init__(daemon=True)
        self._port, self._name = port, name
        self.answered: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        for number in range(10**6):
            request_id = f"{self._name}-{number}"
            try:
                connection.request("POST", "/v1/models/m:predict", '{"instances": [1.0]}', {"x-request-id": request_id})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                return
            assert response.status == OK
            self.answered.append(request_id)


def kill_under_load(server: models.Server, root: Path) -> tuple[set[str], set[str]]:
    """Kills a server that answers: whom it answered, and of those whom it had logged before."""
    clients = [Client(server.rest, f"client{number}") for number in range(CLIENTS)]
    for client in clients:
        client.start()
    await_that(lambda: all(len(client.answered) > 20 for client in clients))
    early = {name for client in clients for name in list(client.answered)}
    await_that(lambda: early <= ids_in(root))
    await_that(lambda: sum(len(client.answered) for client in clients) > len(early))  # It goes on answering.
    server.process.kill()
    server.process.wait()
    for client in clients:
        client.join(60)
    return {name for client in clients for name in client.answered}, early


def ids_in(root: Path) -> set[str]:
    return {row["request_id"] for row in rows_in(root)}


@pytest.mark.slow
def test_what_is_logged_before_a_kill_outlives_it_and_becomes_files(tmp_path):
    root = tmp_path / "log"
    with server_with_log(tmp_path, f"--prediction_log={root}") as server:
        everything, early = kill_under_load(server, root)
    await_that(lambda: visible(root) and not journals_in(root))  # The shipper outlives the server, and ends its work.
    logged = ids_in(root)
    assert early and early <= logged and everything > early


@pytest.mark.slow
def test_a_durable_server_answers_nothing_that_its_disk_does_not_keep_and_a_kill_loses_no_answer(tmp_path):
    root = tmp_path / "log"
    with server_with_log(tmp_path, f"--prediction_log={root}", "--prediction_log_durable") as server:

        def ask_rest(values: list[float]) -> int:
            return server.ask("POST", "/v1/models/m:predict", {"instances": values})[0]

        def ask_grpc(stub) -> grpc.StatusCode:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "m"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto([5.0]))
            try:
                stub.Predict(request, timeout=60)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        large = [0.5] * (APART_BYTES // 4)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert (ask_rest([1.0]), ask_rest(large), ask_grpc(stub)) == (OK, OK, grpc.StatusCode.OK)
            assert len(rows_in(root)) == 2 + len(large), "an answer's rows are there when it is"
            shutil.rmtree(root)
            root.write_text("in the way")
            assert (ask_rest([1.0]), ask_rest(large)) == (UNAVAILABLE, UNAVAILABLE)
            assert ask_grpc(stub) is grpc.StatusCode.UNAVAILABLE
            status, answer = server.ask("POST", "/v1/models/m:predict", {"instances": [1.0]})
            assert status == UNAVAILABLE and "cannot be written to the prediction log: " in answer["error"]
            assert server.ask("POST", "/v1/models/m:predict", {"instances": ["no number"]})[0] == 400
            root.unlink()
            assert ask_rest([1.0]) == OK
        exposition = server.raw("GET", "/monitoring/prometheus/metrics")[1].decode()
        assert 'airtight_serving_prediction_log_dropped_total{model_name="m",reason="not_written"}' in exposition
        assert 'request_count{model_name="m",status="UNAVAILABLE"} 4' in exposition
        assert [row["code"] for row in rows_in(root)].count("OK") == 1
        everything, _ = kill_under_load(server, root)
    assert everything and everything <= ids_in(root)


@pytest.mark.slow
def test_rows_for_a_kafka_that_is_away_survive_a_kill_and_go_to_the_fallback_when_the_next_server_stops(tmp_path):
    fallback = tmp_path / "fallback"
    with socket.socket() as taken:  # Nobody listens there.
        taken.bind(("127.0.0.1", 0))
        kafka = f"kafka://127.0.0.1:{taken.getsockname()[1]}/answers"
        flags = (f"--prediction_log={kafka}", f"--prediction_log_fallback={fallback}", "--prediction_log_durable")
        with server_with_log(tmp_path, *flags) as server:
            assert server.ask("POST", "/v1/models/m:predict", {"instances": [1.0, 2.0]})[0] == OK
            # Both are killed, as by a machine that stops.
            (shipper,) = psutil.Process(server.process.pid).children()
            server.process.send_signal(signal.SIGSTOP)
            shipper.kill()
            server.process.kill()
        assert journals_in(fallback / ".spool") and not visible(fallback)
        base = f"--model_base_path={tmp_path}/affine"
        with models.running(tmp_path, "--model_name=m", base, *flags) as server:
            assert server.ask("POST", "/v1/models/m:predict", {"instances": [3.0]})[0] == OK
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
    # On a busy machine the shipper outlives the server, and ends its work.
    await_that(lambda: sorted(row["input_x"] for row in rows_in(fallback)) == [1.0, 2.0, 3.0])
    await_that(lambda: not journals_in(fallback))


def test_a_shipper_that_dies_is_started_again_and_does_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(shipper_process, "RESTART_S", 0.0)
    journals, shipper = Journals(tmp_path, 3600), ShipperProcess()
    shipper.look(Job(str(tmp_path), journals.owner))
    first = shipper.pid
    os.kill(first, signal.SIGKILL)
    write(journals, note(answered(3)))
    journals.roll(everything=True)

    def shipped() -> bool:
        shipper.reports()
        return bool(visible(tmp_path))

    await_that(shipped)
    assert shipper.pid != first and predictions.read(tmp_path, "m", AROUND).num_rows == 3
    shipper.close(60)
    assert not journals_in(tmp_path)


@pytest.mark.parametrize("again", [False, True], ids=["at first", "again"])
def test_a_shipper_that_cannot_be_started_for_want_of_memory_is_started_later(tmp_path, monkeypatch, caplog, again):
    monkeypatch.setattr(shipper_process, "RESTART_S", 0.0)
    journals, shipper = Journals(tmp_path, 3600), ShipperProcess()
    job = Job(str(tmp_path), journals.owner)
    if again:
        shipper.look(job)
        shipper._process.kill()
        shipper._process.wait()

    def no_memory(*unused, **options):
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", no_memory)
        shipper.look(job)  # Does not fail: the rows are in a journal, and no answer waits for its shipper.
        shipper.reports()
    assert "cannot be started now" in caplog.text
    write(journals, note(answered(3)))
    journals.roll(everything=True)
    shipper.reports()
    shipper.close(60)
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3 and not journals_in(tmp_path)


def test_a_shipper_with_more_reports_than_a_pipe_holds_ends_in_time(monkeypatch):
    code = """for _ in range(5000):
        print('{"model": "m", "written": 1, "too_large": 0}')"""
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: start([sys.executable, "-c", code], **options))
    shipper = ShipperProcess()
    shipper.look(Job("anywhere", "nobody"))
    assert len(shipper.close(60)) == 5000


def test_the_shipper_does_without_tensorflow():
    code = "import sys, serving.prediction_log.shipper; print(json.dumps('tensorflow' in sys.modules))"
    output = os.popen(f'cd {models.ROOT} && {shipper_process.sys.executable} -c "import json; {code}"').read()
    assert json.loads(output) is False


def test_the_documentation_states_the_bound():
    text = (models.ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert f"within {LOSS_S:g} s before the kill" in text
