"""Models whose requests or loads take long, or never end: other models, and the end of the server, do not wait."""

from __future__ import annotations

import os
import signal
import threading
import time

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving import models

pytestmark = pytest.mark.slow

ENDLESS = -1
REQUESTS = 50


def predict(stub, model: str, values: list, dtype: tf.DType, timeout: float | None = 60.0) -> list:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values, dtype))
    return tf.make_ndarray(stub.Predict(request, timeout=timeout).outputs["y"]).tolist()


@pytest.mark.parametrize("flags", [(), ("--enable_batching",)])
def test_a_request_whose_cost_depends_on_its_value_holds_up_no_other_model_and_keeps_its_deadline(tmp_path, flags):
    root = tmp_path / "models"
    for name in ("spin", "m"):
        (root / name).mkdir(parents=True)
    models.save_spinning(root / "spin" / "1")
    models.save_affine(root / "m" / "1", 2.0)
    limits = ("--rest_api_timeout_in_ms=3000", "--grpc_api_timeout_in_ms=3000")
    with models.running(tmp_path, f"--models_root={root}", *limits, *flags) as server:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for _ in range(REQUESTS):  # Cheap ones: they are what the server has learned.
                assert server.ask("POST", "/v1/models/spin:predict", {"instances": [3]}) == (200, {"predictions": [3]})
                assert predict(stub, "spin", [3], tf.int64) == [3]
            ended: list = []

            def rest() -> None:
                ended.append(server.ask("POST", "/v1/models/spin:predict", {"instances": [ENDLESS]})[0])

            def call() -> None:
                try:
                    predict(stub, "spin", [ENDLESS], tf.int64, timeout=None)
                except grpc.RpcError as error:
                    ended.append(error.code())

            threads = [threading.Thread(target=target) for target in (rest, call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(REQUESTS):
                assert server.ask("POST", "/v1/models/m:predict", {"instances": [1]}) == (200, {"predictions": [2.0]})
                assert predict(stub, "m", [1.0], tf.float32) == [2.0]
            for thread in threads:
                thread.join()
            assert sorted(map(str, ended)) == ["504"] * 4 + ["StatusCode.DEADLINE_EXCEEDED"] * 4
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_a_load_that_never_ends_holds_up_no_other_and_not_the_end(tmp_path):
    root = tmp_path / "models"
    for name in ("spin", "m"):
        (root / name).mkdir(parents=True)
    models.save_spinning(root / "spin" / "1.copy")
    models.write_warm_up(root / "spin" / "1.copy", models.predict_record("spin", [ENDLESS], tf.int64))
    (root / "spin" / "1.copy").rename(root / "spin" / "1")
    models.save_affine(root / "m" / "1", 1.0)
    flags = ("--file_system_poll_wait_seconds=0.05", "--initial_load_wait_seconds=1")
    with models.running(tmp_path, f"--models_root={root}", *flags) as server:
        server.await_states("m", v1="AVAILABLE")
        server.await_states("spin", v1="LOADING")
        models.save_affine(root / "m" / "2", 2.0)
        server.await_states("m", v2="AVAILABLE")
        models.save_spinning(root / "spin" / "2")
        server.await_states("spin", v2="AVAILABLE")
        assert server.ask("POST", "/v1/models/spin:predict", {"instances": [5]}) == (200, {"predictions": [5]})
        time.sleep(0.1)
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_sigterm_ends_a_server_that_has_not_finished_its_first_loads(tmp_path):
    base = tmp_path / "spin"
    base.mkdir()
    models.save_spinning(base / "1.copy")
    models.write_warm_up(base / "1.copy", models.predict_record("spin", [ENDLESS], tf.int64))
    (base / "1.copy").rename(base / "1")
    with models.running(
        tmp_path, "--model_name=spin", f"--model_base_path={base}", "--initial_load_wait_seconds=1"
    ) as server:
        assert server.states("spin") == {1: "LOADING"}
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0
