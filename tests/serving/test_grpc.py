"""TensorFlow Serving's contract over gRPC, with its own generated client, against a real server."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
    session_service_pb2,
)

pytestmark = pytest.mark.slow

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def channel(contract_server):
    with grpc.insecure_channel(f"127.0.0.1:{contract_server.grpc}") as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model_stub(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(model: str | None, inputs: dict, **spec) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    if model is not None:
        request.model_spec.name = model
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    if "signature" in spec:
        request.model_spec.signature_name = spec["signature"]
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(value)
    return request


def tensor(values, dtype=tf.float32) -> object:
    return tf.make_tensor_proto(values, dtype)


def mixed() -> dict:
    return {
        "pair": tensor([[1.0, 2.0], [0.1, 0.2]]),
        "count": tensor([3, -4], tf.int32),
        "word": tensor([b"a", b"\xff\x00"], tf.string),
        "flag": tensor([True, False], tf.bool),
        "exact": tensor([0.1, np.nan], tf.float64),
    }


def refusal(call, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    ("spec", "version", "answer"),
    [
        ({}, 2, [10.0]),
        ({"version": 1}, 1, [5.0]),
        ({"version": 2}, 2, [10.0]),
        ({"label": "stable"}, 1, [5.0]),
        ({"label": "canary"}, 2, [10.0]),
        ({"signature": "serving_default"}, 2, [10.0]),
    ],
)
def test_predict_answers_with_the_version_that_it_used(stub, spec, version, answer):
    response = stub.Predict(predict_request("affine", {"x": tensor([5.0])}, **spec), timeout=30)
    assert response.model_spec.name == "affine"
    assert response.model_spec.version.value == version
    assert response.model_spec.signature_name == "serving_default"
    assert list(response.outputs["y"].float_val) == answer  # The field that TensorFlow Serving's clients read.
    assert response.outputs["y"].dtype == types_pb2.DT_FLOAT


def test_every_kind_of_tensor_goes_in_and_out(stub):
    outputs = stub.Predict(predict_request("mixed", mixed()), timeout=30).outputs
    arrays = {name: tf.make_ndarray(proto) for name, proto in outputs.items()}
    np.testing.assert_array_equal(arrays["pair"], np.array([[1, 2], [0.1, 0.2]], np.float32))
    np.testing.assert_array_equal(arrays["exact"], [0.1, np.nan])
    assert arrays["count"].tolist() == [3, -4]
    assert arrays["word"].tolist() == [b"a", b"\xff\x00"]
    assert arrays["flag"].tolist() == [True, False]
    assert arrays["flag"].dtype == bool


def test_content_and_repeated_values_are_read(stub):
    content = tf.make_tensor_proto([1.0])
    content.ClearField("float_val")
    content.tensor_content = np.array([5.0], np.float32).tobytes()
    response = stub.Predict(predict_request("affine", {"x": content}), timeout=30)
    assert list(response.outputs["y"].float_val) == [10.0]
    repeated = tf.make_tensor_proto([1.0, 5.0, 5.0, 5.0])
    del repeated.float_val[:]
    repeated.tensor_content = b""
    repeated.float_val.extend([1.0, 5.0])
    response = stub.Predict(predict_request("affine", {"x": repeated}), timeout=30)
    assert list(response.outputs["y"].float_val) == [2.0, 10.0, 10.0, 10.0]


def test_values_that_are_left_out_are_zeros(stub):
    response = stub.Predict(predict_request("affine", {"x": broken(shape=[3], values=[])}), timeout=30)
    assert list(response.outputs["y"].float_val) == [0.0, 0.0, 0.0]
    # A scalar is no [?], but multiplication takes it.
    response = stub.Predict(predict_request("affine", {"x": broken(shape=[], values=[])}), timeout=30)
    assert (list(response.outputs["y"].float_val), len(response.outputs["y"].tensor_shape.dim)) == ([0.0], 0)


def test_the_output_filter_selects(stub):
    request = predict_request("mixed", mixed())
    request.output_filter.extend(["count", "flag"])
    assert set(stub.Predict(request, timeout=30).outputs) == {"count", "flag"}


def broken(**changes) -> object:
    proto = tf.make_tensor_proto([1.0, 2.0])
    proto.ClearField("tensor_content")
    proto.float_val.extend([1.0, 2.0])
    for name, value in changes.items():
        if name == "shape":
            proto.tensor_shape.ClearField("dim")
            for size in value:
                proto.tensor_shape.dim.add(size=size)
        elif name == "values":
            proto.float_val[:] = value
        else:
            setattr(proto, name, value)
    return proto


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_request(None, {}), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (predict_request("none", {}), Code.NOT_FOUND, "Servable not found for request: Latest(none)"),
        (predict_request("affine", {}, version=9), Code.NOT_FOUND, "Specific(affine, 9)"),
        (predict_request("affine", {}, version=-1), Code.NOT_FOUND, "Specific(affine, -1)"),
        (predict_request("affine", {}, label="x"), Code.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        (predict_request("affine", {}, signature="s"), Code.FAILED_PRECONDITION, '"s" not found in signature def'),
        (predict_request("affine", {}), Code.INVALID_ARGUMENT, "Missing but required: {x}"),
        (predict_request("affine", {"x": tensor([1.0]), "z": tensor([1.0])}), Code.INVALID_ARGUMENT, "Sent extra: {z}"),
        (predict_request("affine", {"z": tensor([1.0])}), Code.INVALID_ARGUMENT, "Sent extra: {z}. Missing"),
        (predict_request("affine", {"x": tensor([1], tf.int32)}), Code.INVALID_ARGUMENT, "DT_FLOAT, but got DT_INT32"),
        (predict_request("affine", {"x": tensor([b"1"], tf.string)}), Code.INVALID_ARGUMENT, "but got DT_STRING"),
        (predict_request("affine", {"x": broken(dtype=0)}), Code.INVALID_ARGUMENT, "but got DT_INVALID"),
        (predict_request("affine", {"x": broken(dtype=99)}), Code.INVALID_ARGUMENT, "but got 99"),
        (
            predict_request("mixed", {**mixed(), "pair": tensor([1.0, 2.0])}),
            Code.INVALID_ARGUMENT,
            "(input 'pair' is declared with the shape [?,2], but got [2])",
        ),
        (predict_request("affine", {"x": broken(shape=[-1])}), Code.INVALID_ARGUMENT, "no definite shape"),
        (predict_request("affine", {"x": broken(shape=[1])}), Code.INVALID_ARGUMENT, "holds 2 values"),
        (
            predict_request("affine", {"x": broken(shape=[2**30], values=[])}),
            Code.INVALID_ARGUMENT,
            "elements; a repeated value fills at most",
        ),
        (
            predict_request("affine", {"x": broken(shape=[2**40])}),
            Code.INVALID_ARGUMENT,
            "elements; a repeated value fills at most",
        ),
        (
            predict_request("affine", {"x": broken(shape=[2**62, 4])}),
            Code.INVALID_ARGUMENT,
            "which are too large",
        ),
        (
            predict_request("affine", {"x": broken(tensor_content=b"123", values=[])}),
            Code.INVALID_ARGUMENT,
            "holds 3 bytes",
        ),
    ],
)
def test_predict_refuses_with_tensorflow_servings_code(stub, request_, code, message):
    got, details = refusal(stub.Predict, request_)
    assert got == code
    assert message in details


@pytest.mark.parametrize(("chosen", "message"), [(["nothing"], "not found"), (["y", "y"], "duplicate")])
def test_an_unknown_or_repeated_output_is_refused(stub, chosen, message):
    request = predict_request("affine", {"x": tensor([1.0])})
    request.output_filter.extend(chosen)
    code, details = refusal(stub.Predict, request)
    assert code == Code.INVALID_ARGUMENT
    assert message in details


def test_a_kernel_that_fails_is_an_error_of_the_request(stub):
    example = tf.train.Example().SerializeToString()  # Without the feature that the model requires.
    request = predict_request("half", {"inputs": tensor([example], tf.string)}, signature="regress_x_to_y")
    code, details = refusal(stub.Predict, request)
    assert code == Code.INVALID_ARGUMENT
    assert "x" in details


def test_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half"
    response = stub.GetModelMetadata(request, timeout=30)
    assert response.model_spec.version.value == 3
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].dtype == types_pb2.DT_FLOAT

    request.ClearField("metadata_field")
    assert refusal(stub.GetModelMetadata, request)[0] == Code.INVALID_ARGUMENT
    request.metadata_field.append("everything")
    assert refusal(stub.GetModelMetadata, request)[0] == Code.INVALID_ARGUMENT
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    assert refusal(stub.GetModelMetadata, request) == (Code.INVALID_ARGUMENT, "Missing ModelSpec")


def test_status(model_stub):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "affine"
    statuses = model_stub.GetModelStatus(request, timeout=30).model_version_status
    assert [(entry.version, entry.state, entry.status.error_code) for entry in statuses] == [(2, 30, 0), (1, 30, 0)]
    request.model_spec.version_label = "stable"
    assert [e.version for e in model_stub.GetModelStatus(request, timeout=30).model_version_status] == [1]
    request.model_spec.version.value = 9
    assert refusal(model_stub.GetModelStatus, request)[0] == Code.NOT_FOUND
    request.model_spec.name = "none"
    assert refusal(model_stub.GetModelStatus, request)[0] == Code.NOT_FOUND


def example(**features: float) -> tf.train.Example:
    lists = {name: tf.train.Feature(float_list=tf.train.FloatList(value=[v])) for name, v in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=lists))


def test_classify_regress_and_multi_inference(stub):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "half", "regress_x_to_y"
    request.input.example_list.examples.extend([example(x=2.0), example(x=4.0)])
    response = stub.Regress(request, timeout=30)
    assert [one.value for one in response.result.regressions] == [3.0, 4.0]
    assert response.model_spec.version.value == 3

    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "half", "classify_x"
    request.input.example_list_with_context.context.CopyFrom(example(x=2.0))
    request.input.example_list_with_context.examples.extend([example(), example(x=4.0)])
    classifications = stub.Classify(request, timeout=30).result.classifications
    assert [[(one.label, one.score) for one in entry.classes] for entry in classifications] == [
        [("low", 3.0), ("high", 30.0)],
        [("low", 4.0), ("high", 40.0)],
    ]
    request.input.ClearField("kind")
    assert refusal(stub.Classify, request) == (Code.INVALID_ARGUMENT, "Input is empty")

    request = inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.append(example(x=2.0))
    for name, method in (("regress_x_to_y", "regress"), ("classify_x", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "half", name
    results = stub.MultiInference(request, timeout=30).results
    assert results[0].regression_result.regressions[0].value == 3.0
    assert results[1].classification_result.classifications[0].classes[1].score == 30.0
    request.tasks[1].model_spec.signature_name = "regress_x_to_y"
    assert refusal(stub.MultiInference, request)[0] == Code.INVALID_ARGUMENT
    request.tasks[1].model_spec.name = "affine"
    assert "same model name" in refusal(stub.MultiInference, request)[1]
    request.tasks[1].CopyFrom(request.tasks[0])
    request.tasks[1].model_spec.signature_name, request.tasks[1].method_name = "x", "tensorflow/serving/predict"
    assert refusal(stub.MultiInference, request)[0] == Code.UNIMPLEMENTED


def test_what_is_not_there_is_unimplemented(channel):
    run = channel.unary_unary(
        "/tensorflow.serving.SessionService/SessionRun",
        request_serializer=session_service_pb2.SessionRunRequest.SerializeToString,
        response_deserializer=session_service_pb2.SessionRunResponse.FromString,
    )
    assert refusal(run, session_service_pb2.SessionRunRequest())[0] == Code.UNIMPLEMENTED


def test_a_message_over_four_megabytes_is_answered_and_one_over_the_limit_refused(contract_server):
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{contract_server.grpc}", unlimited) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        numbers = np.arange(1_500_000, dtype=np.float32)
        answer = stub.Predict(predict_request("affine", {"x": tensor(numbers)}), timeout=60)
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["y"]), 2 * numbers)
        request = predict_request("affine", {"x": tensor(np.zeros(3_000_000, np.float32))})
        assert refusal(stub.Predict, request)[0] == Code.RESOURCE_EXHAUSTED


def test_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert health.Check(request, timeout=30).status == health_pb2.HealthCheckResponse.SERVING


def test_a_config_that_cannot_be_applied_is_refused_and_changes_nothing(model_stub, stub):
    request = model_management_pb2.ReloadConfigRequest()
    assert refusal(model_stub.HandleReloadConfigRequest, request)[0] == Code.INVALID_ARGUMENT
    request.config.model_config_list.config.add(name="x")  # No base path.
    assert refusal(model_stub.HandleReloadConfigRequest, request)[0] == Code.INVALID_ARGUMENT
    response = stub.Predict(predict_request("affine", {"x": tensor([5.0])}, label="stable"), timeout=30)
    assert response.model_spec.version.value == 1
