"""The files of TensorFlow Serving's guide to configuring a server, and its family half_plus_two, over REST and gRPC."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving import models

pytestmark = pytest.mark.slow

MODELS = """
model_config_list {
  config {
    name: 'saved_model_half_plus_two'
    base_path: '/tmp/saved_model_half_plus_two/'
    model_platform: 'tensorflow'
  }
  config {
    name: 'my_second_model'
    base_path: '/tmp/my_second_model/'
    model_platform: 'tensorflow'
    model_version_policy {
      specific {
        versions: 42
        versions: 43
      }
    }
    version_labels {
      key: 'stable'
      value: 42
    }
    version_labels {
      key: 'canary'
      value: 43
    }
  }
}
"""
MONITORING = """
prometheus_config {
  enable: true,
  path: "/monitoring/prometheus/metrics"
}
"""
BATCHING = """
max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
"""


def save_family(folder: Path) -> None:
    """TensorFlow Serving's saved_model_half_plus_two with all of its signatures, as its script writes them."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, name="tf_example")
        features = {
            "x": tf.io.FixedLenFeature([1], tf.float32),
            "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        }
        parsed = v1.io.parse_example(serialized, features)
        x, x2 = tf.identity(parsed["x"], "x"), tf.identity(parsed["x2"], "x2")
        a, b, c = (v1.get_variable(name, initializer=value) for name, value in (("a", 0.5), ("b", 2.0), ("c", 3.0)))
        y, y2, y3 = a * x + b, a * x + c, a * x2 + c
        describe, session_run = v1.saved_model.build_tensor_info, session.run

        def signature(method: str, given: dict, answered: dict):
            sides = ({name: describe(tensor) for name, tensor in side.items()} for side in (given, answered))
            return v1.saved_model.build_signature_def(*sides, f"tensorflow/serving/{method}")

        session_run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signatures = {
            "serving_default": signature("predict", {"x": x}, {"y": y}),
            "regress_x_to_y": signature("regress", {"inputs": serialized}, {"outputs": y}),
            "regress_x_to_y2": signature("regress", {"inputs": serialized}, {"outputs": y2}),
            "regress_x2_to_y3": signature("regress", {"inputs": x2}, {"outputs": y3}),
            "classify_x_to_y": signature("classify", {"inputs": serialized}, {"scores": y}),
        }
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], signatures)
        builder.save()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configured")
    two, second = folder / "saved_model_half_plus_two", folder / "my_second_model"
    second.mkdir()
    save_family(two / "00000123")
    for number in (41, 42, 43, 44):
        models.save_affine(second / str(number), float(number))
    flags = []
    texts = {"model_config": MODELS.replace("/tmp", str(folder)), "monitoring_config": MONITORING}
    for name, text in {**texts, "batching_parameters": BATCHING}.items():
        (folder / name).write_text(text)
        flags.append(f"--{name}_file={folder / name}")
    with models.running(folder, *flags, "--enable_batching", "--model_config_file_poll_wait_seconds=0.1") as server:
        server.config = folder / "model_config"
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            yield server, channel


def named(request, model: str, signature: str = "", label: str = "", version: int = 0):
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if label:
        request.model_spec.version_label = label
    if version:
        request.model_spec.version.value = version
    return request


def examples(*values: float) -> input_pb2.Input:
    made = input_pb2.Input()
    for value in values:
        made.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    return made


HALF = "saved_model_half_plus_two"


def test_predict_classify_and_regress_over_rest(served):
    server, _ = served

    def answer(verb: str, **body: object) -> object:
        status, answered = server.ask("POST", f"/v1/models/{HALF}:{verb}", body)
        assert status == 200, answered
        return answered

    rows = [{"x": 1.0}, {"x": 2.0}]
    assert answer("predict", instances=[1.0, 2.0, 5.0]) == {"predictions": [2.5, 3.0, 4.5]}
    assert answer("predict", inputs=[[1.0]]) == {"outputs": [[2.5]]}
    assert answer("regress", signature_name="regress_x_to_y", examples=rows) == {"results": [2.5, 3.0]}
    assert answer("regress", signature_name="regress_x_to_y2", examples=rows) == {"results": [3.5, 4.0]}
    assert answer("predict", signature_name="regress_x2_to_y3", instances=[[1.0]]) == {"predictions": [[3.5]]}
    scores = {"results": [[["", 2.5]], [["", 3.0]]]}
    assert answer("classify", signature_name="classify_x_to_y", examples=rows) == scores
    context = {"context": {"x": 4.0}, "examples": [{}, {"x": 2.0}]}
    assert answer("regress", signature_name="regress_x_to_y", **context) == {"results": [4.0, 3.0]}


def test_predict_classify_and_regress_over_grpc(served):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(served[1])
    predict = named(predict_pb2.PredictRequest(), HALF)
    predict.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0], [2.0]]))
    response = stub.Predict(predict, timeout=30)
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [[2.5], [3.0]]
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (123, "serving_default")
    regress = named(regression_pb2.RegressionRequest(input=examples(1.0, 2.0)), HALF, "regress_x_to_y")
    assert [one.value for one in stub.Regress(regress, timeout=30).result.regressions] == [2.5, 3.0]
    classify = named(classification_pb2.ClassificationRequest(input=examples(1.0)), HALF, "classify_x_to_y")
    [entry] = stub.Classify(classify, timeout=30).result.classifications
    assert [(one.label, one.score) for one in entry.classes] == [("", 2.5)]
    both = inference_pb2.MultiInferenceRequest(input=examples(1.0))
    for signature in ("regress_x_to_y", "regress_x_to_y2"):
        named(both.tasks.add(method_name="tensorflow/serving/regress"), HALF, signature)
    results = stub.MultiInference(both, timeout=30).results
    assert [one.regression_result.regressions[0].value for one in results] == [2.5, 3.5]


def test_status_and_metadata(served):
    server, channel = served
    status = named(get_model_status_pb2.GetModelStatusRequest(), HALF)
    [version] = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=30).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (version.version, version.state, version.status.error_code) == (123, available, 0)
    assert server.states("my_second_model") == {42: "AVAILABLE", 43: "AVAILABLE"}
    request = named(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]), HALF)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    described = get_model_metadata_pb2.SignatureDefMap()
    assert stub.GetModelMetadata(request, timeout=30).metadata["signature_def"].Unpack(described)
    body = server.ask("GET", f"/v1/models/{HALF}/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert set(described.signature_def) == set(body) > {"regress_x2_to_y3", "classify_x_to_y", "serving_default"}
    assert described.signature_def["serving_default"].method_name == "tensorflow/serving/predict"


def test_versions_and_labels_of_a_config_file(served):
    server, channel = served
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def by_rest(path: str) -> float:
        status, body = server.ask("POST", f"/v1/models/my_second_model{path}:predict", {"instances": [1.0]})
        assert status == 200, body
        return body["predictions"][0]

    def answers(path: str, **chosen: object) -> float:
        request = named(predict_pb2.PredictRequest(), "my_second_model", **chosen)
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        answer = by_rest(path)
        assert tf.make_ndarray(stub.Predict(request, timeout=30).outputs["y"]).tolist() == [answer]
        return answer

    assert answers("") == answers("/versions/43", version=43) == answers("/labels/canary", label="canary") == 43.0
    assert answers("/versions/42", version=42) == answers("/labels/stable", label="stable") == 42.0
    assert server.ask("POST", "/v1/models/my_second_model/versions/41:predict", {"instances": [1.0]})[0] == 404
    # "Assigning string labels": the canary is promoted, by the file and by the call.
    text = server.config.read_text()
    promoted = text.replace("value: 42\n    }", "value: 43\n    }")
    assert promoted != text
    server.config.write_text(promoted)
    deadline = time.monotonic() + 60
    while by_rest("/labels/stable") != 43.0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answers("/labels/stable", label="stable") == 43.0
    server.config.write_text(text)
    while by_rest("/labels/stable") != 42.0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=60)
    assert answers("/labels/stable", label="stable") == 42.0


def test_monitoring_and_batching(served):
    server, _ = served
    assert server.ask("POST", "/v1/models/my_second_model:predict", {"instances": [1.0]})[0] == 200
    status, body = server.raw("GET", "/monitoring/prometheus/metrics")
    assert status == 200 and b":tensorflow:serving:request_count" in body
    assert b'airtight_serving_batches_total{model_name="my_second_model"}' in body
