"""Versions come and go under load: no request fails, and the version answered goes back by rollback alone."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving import models
from tests.waiting import until

POLL = "--file_system_poll_wait_seconds=0.05"


class Load:
    """Closed-loop clients over REST and gRPC that keep every answer."""

    def __init__(self, server: models.Server, model: str, path: str = "") -> None:
        self.server, self.model, self.path = server, model, path or f"/v1/models/{model}:predict"
        self.rest: list[float] = []
        self.grpc: list[tuple[int, float]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._rest), threading.Thread(target=self._grpc)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.settle()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """Waits until each client has had some more answers."""
        rest, grpc_ = len(self.rest), len(self.grpc)
        deadline = time.monotonic() + 60
        while (len(self.rest) < rest + 20 or len(self.grpc) < grpc_ + 20) and not self.failures:
            assert time.monotonic() < deadline, "no answers"
            time.sleep(0.01)

    def _rest(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.rest, timeout=60)
        while not self._stop.is_set():
            try:
                connection.request("POST", self.path, '{"instances": [1.0]}')
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    self.failures.append(f"REST {response.status}: {answer}")
                else:
                    self.rest.append(answer["predictions"][0])
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"REST: {error!r}")

    def _grpc(self) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._stop.is_set():
                try:
                    answer = stub.Predict(request, timeout=60)
                    self.grpc.append((answer.model_spec.version.value, answer.outputs["y"].float_val[0]))
                except grpc.RpcError as error:
                    self.failures.append(f"gRPC: {error!r}")


@contextlib.contextmanager
def serving(base: Path, *flags: str):
    with models.running(
        base.parent.parent, f"--model_name={base.name}", f"--model_base_path={base}", POLL, *flags
    ) as s:
        yield s


@pytest.mark.slow
def test_swaps_a_broken_version_and_rollback_under_load_lose_no_request(base):
    models.save_affine(base / "1", 1.0)
    with serving(base) as server, Load(server, "m") as load:
        for number in range(2, 5):
            models.save_affine(base / f"{number}", float(number))
            server.await_states("m", **{f"v{number}": "AVAILABLE"})
            load.settle()
        assert [number for number, state in server.states("m").items() if state == "AVAILABLE"] == [4]

        broken = base / "5.tmp"
        shutil.copytree(base / "4", broken)
        (broken / "variables" / "variables.index").write_bytes(b"nonsense")
        broken.rename(base / "5")
        server.await_states("m", v5="END", v4="AVAILABLE")
        _, payload = server.ask("GET", "/v1/models/m/versions/5")
        assert payload["model_version_status"][0]["status"]["error_code"] != "OK"
        assert payload["model_version_status"][0]["status"]["error_message"]
        load.settle()

        models.save_affine(base / "6", 6.0)
        server.await_states("m", v6="AVAILABLE")
        load.settle()
        forward = len(load.rest), len(load.grpc)
        shutil.rmtree(base / "6")
        server.await_states("m", v4="AVAILABLE")
        deadline = time.monotonic() + 60
        while 6 in server.states("m") and time.monotonic() < deadline:
            time.sleep(0.02)
        load.settle()
    assert load.failures == []
    assert load.rest[: forward[0]] == sorted(load.rest[: forward[0]])
    assert {1.0, 2.0, 3.0, 4.0, 6.0} <= set(load.rest[: forward[0]])
    assert load.rest[-1] == 4.0
    assert load.grpc[: forward[1]] == sorted(load.grpc[: forward[1]])
    assert load.grpc[-1] == (4, 4.0)
    assert all(version == answer for version, answer in load.grpc)


@pytest.mark.slow
def test_a_server_starts_empty_and_finds_models_later(tmp_path):
    root = tmp_path / "models"
    (root / "none yet").mkdir(parents=True)
    with models.running(tmp_path, f"--models_root={root}", POLL) as server:
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]})[0] == 404
        (root / "m").mkdir()
        models.save_affine(root / "m" / "7", 3.0)
        server.await_states("m", v7="AVAILABLE")
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]}) == (200, {"predictions": [3.0]})
        shutil.rmtree(root / "m")
        deadline = time.monotonic() + 60
        while server.states("m"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.slow
def test_a_version_that_is_repaired_or_replaced_under_its_number_is_served(base):
    models.save_affine(base / "1", 1.0)
    shutil.copytree(base / "1", base / "2")
    graph = (base / "2" / "saved_model.pb").read_bytes()
    (base / "2" / "saved_model.pb").write_bytes(graph[: len(graph) // 2])
    with serving(base) as server:
        server.await_states("m", v1="AVAILABLE", v2="END")  # The newest that loads, also at start.
        (base / "2" / "saved_model.pb").write_bytes(graph)
        server.await_states("m", v2="AVAILABLE")
        models.save_affine(base / "replacement", 5.0)
        with Load(server, "m") as load:
            (base / "2").rename(base / "old")
            (base / "replacement").rename(base / "2")
            deadline = time.monotonic() + 60
            while load.rest[-1] != 5.0:
                assert time.monotonic() < deadline, server.states("m")
                time.sleep(0.02)
            load.settle()
        assert load.failures == []


@pytest.mark.slow
def test_a_link_out_of_the_base_path_is_refused_and_the_old_version_serves(base, tmp_path):
    models.save_affine(base / "1", 1.0)
    outside = tmp_path / "outside"
    models.save_affine(outside, 9.0)
    with serving(base) as server:
        (base / "2").symlink_to(outside)
        server.await_states("m", v2="END", v1="AVAILABLE")
        _, payload = server.ask("GET", "/v1/models/m/versions/2")
        assert payload["model_version_status"][0]["status"]["error_code"] == "PERMISSION_DENIED"
        shutil.copytree(base / "1", base / "3.tmp")
        (base / "3.tmp" / "saved_model.pb").unlink()
        (base / "3.tmp" / "saved_model.pb").symlink_to(outside / "saved_model.pb")
        (base / "3.tmp").rename(base / "3")
        server.await_states("m", v3="END", v1="AVAILABLE")
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]}) == (200, {"predictions": [1.0]})


def warmup_record(number: float) -> bytes:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = "m"
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(number))
    return log.SerializeToString()


@pytest.mark.slow
def test_warm_up_requests_are_replayed_before_a_version_is_available(base):
    models.save_affine(base / "1", 1.0)
    for number, record in ((2, warmup_record([1.0])), (3, warmup_record("no number"))):
        models.save_affine(base / f"{number}.copy", float(number))
        (base / f"{number}.copy" / "assets.extra").mkdir()
        with tf.io.TFRecordWriter(str(base / f"{number}.copy/assets.extra/tf_serving_warmup_requests")) as writer:
            writer.write(record)
    with serving(base) as server:
        (base / "2.copy").rename(base / "2")
        server.await_states("m", v2="AVAILABLE")
        assert "Replayed 1 warm-up requests" in (base.parent.parent / "serving.log").read_text()
        (base / "3.copy").rename(base / "3")
        server.await_states("m", v3="END", v2="AVAILABLE")


def reload(server: models.Server, text: str) -> str:
    """Sends HandleReloadConfig; the status' name, "OK" when it was applied."""
    from google.protobuf import text_format

    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        try:
            model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=60)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


@pytest.mark.slow
def test_reload_moves_labels_under_load_and_replaces_the_list(base):
    for number in (1, 2):
        models.save_affine(base / f"{number}", float(number))

    def config(label: int, others: str = "") -> str:
        return f"""model_config_list {{ {others} config {{ name: "m" base_path: "{base}"
          model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: {label} }} }} }}"""

    with serving(base) as server:
        assert reload(server, config(2)) == "OK"
        server.await_states("m", v1="AVAILABLE", v2="AVAILABLE")
        with Load(server, "m", "/v1/models/m/labels/stable:predict") as load:
            for label in (1, 2, 1):
                assert reload(server, config(label)) == "OK"
                load.settle()
            assert reload(server, config(9)) == "FAILED_PRECONDITION"
            load.settle()
        assert load.failures == []
        changes = [after for before, after in zip([None, *load.rest], load.rest, strict=False) if before != after]
        assert changes == [2.0, 1.0, 2.0, 1.0]
        bad = f'config {{ name: "bad" base_path: "{base.parent}/nothing" }}'
        assert reload(server, config(2, bad)) == "UNKNOWN"
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]})[0] == 200
        assert reload(server, f'model_config_list {{ config {{ name: "n" base_path: "{base}" }} }}') == "OK"
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]})[0] == 404
        assert server.ask("POST", "/v1/models/n:predict", {"instances": [1]}) == (200, {"predictions": [2.0]})


@pytest.mark.slow
def test_sigterm_lets_running_requests_finish(base):
    models.save_affine(base / "1", 1.0)
    with serving(base) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.rest, timeout=60)
        body = b'{"instances": [1.0]}'
        connection.putrequest("POST", "/v1/models/m:predict")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        # So says the server when it has read the headers, and waits for the body.
        goes_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.sock.recv(len(goes_on), socket.MSG_WAITALL) == goes_on
        connection.send(body[:5])
        os.kill(server.process.pid, signal.SIGTERM)
        log = base.parent.parent / "serving.log"
        until(lambda: "no new requests are taken" in log.read_text(), "the server is stopping")
        connection.send(body[5:])
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (200, {"predictions": [1.0]})
        assert server.process.wait(60) == 0
        assert "Version 1 of m is unloaded" in log.read_text()
