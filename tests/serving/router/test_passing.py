"""What passes through the router comes out as the server said it, and what a client does stops no other client."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import re
import signal
import socket
import threading
from random import Random

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
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
)

from tests.serving.router import routers, stubs
from tests.waiting import until

pytestmark = pytest.mark.slow

AFFINE = "/v1/models/affine:predict"
ROW = {"pair": [1.0, 2.0], "count": 3, "word": "Zürich ☃", "flag": True, "exact": 0.1}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", AFFINE, {"instances": [1.0, 2.5]}),
        ("POST", AFFINE, '{"instances": [NaN, Infinity]}'),
        ("POST", "/v1/models/affine/versions/1:predict", {"instances": [1.0]}),
        ("POST", "/v1/models/affine/labels/stable:predict", {"instances": [1.0]}),
        ("POST", "/v1/models/affine/labels/none:predict", {"instances": [1.0]}),
        ("POST", "/v1/models/affine/versions/9:predict", {"instances": [1.0]}),
        ("POST", "/v1/models/none:predict", {"instances": [1.0]}),
        ("POST", "/v1/models/mixed:predict", {"instances": [ROW]}),
        ("POST", "/v1/models/mixed:predict", {"instances": [{**ROW, "word": 5}]}),
        ("POST", "/v1/models/half:regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}),
        ("POST", "/v1/models/half:classify", {"signature_name": "classify_x", "examples": [{"x": 2.0}]}),
        ("POST", AFFINE, ""),
        ("POST", AFFINE, "{"),
        ("POST", AFFINE, b"\xff\x00"),
        ("POST", AFFINE, {"signature_name": "none", "instances": [1.0]}),
        ("POST", AFFINE, b" " * 9_000_000),
        ("GET", "/v1/models/affine", None),
        ("GET", "/v1/models/affine/versions/2/metadata", None),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/none", None),
        ("GET", "/v1/models/a%2F..%2Fb/versions/1", None),
        ("GET", "/v1/../v1/models/affine", None),
        ("GET", "/v1/models/affine?a=b&c", None),
        ("GET", "/elsewhere", None),
        ("PUT", AFFINE, {"instances": [1.0]}),
        ("DELETE", "/v1/models/affine", None),
        ("HEAD", "/v1/models/affine", None),
        ("OPTIONS", AFFINE, None),
    ],
)
def test_rest_answers_are_the_servers(servers, plain, method, path, body):
    answers = []
    for port in (servers[0].rest, plain.rest):
        plain.rest, kept = port, plain.rest
        status, headers, content = plain.full(method, path, body)
        plain.rest = kept
        if path.endswith("/metadata"):
            content = json.loads(content)  # The order of the signatures is each process's own.
        answers.append((status, content, headers["content-type"], headers["content-length"]))
    assert answers[0] == answers[1]


def test_random_paths_and_bodies_are_answered_as_by_the_server(servers, plain):
    randomly = Random(11)
    parts = [
        "/v1",
        "/models",
        "/affine",
        ":predict",
        "/versions",
        "/1",
        "%00",
        "%ff",
        "..",
        "/labels",
        "?",
        ";",
        '"',
        "|",
    ]
    for _ in range(150):
        path = "/" + "".join(randomly.choice(parts) for _ in range(randomly.randrange(7)))
        body = randomly.randbytes(randomly.randrange(60))
        method = randomly.choice(["GET", "POST"])
        if path.partition("?")[0] == "/":  # The router's own page.
            continue
        assert servers[0].raw(method, path, body) == plain.raw(method, path, body), (method, path, body)


def test_many_requests_over_one_connection(plain):
    ask = routers.rest_client(plain.rest, AFFINE, {"instances": [4.0]})()
    assert all(ask() == (200, {"predictions": [8.0]}) for _ in range(200))


def tensors(**arrays) -> dict:
    return {name: tf.make_tensor_proto(np.asarray(array)) for name, array in arrays.items()}


def example_input(request):
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(3.0)
    return request


def grpc_calls():
    spec = {"name": "affine"}
    predict = predict_pb2.PredictRequest(model_spec=spec, inputs=tensors(x=np.float32([1, 2])))
    yield "Predict", predict
    yield "Predict", predict_pb2.PredictRequest(model_spec={"name": "none"})
    yield "Predict", predict_pb2.PredictRequest()
    yield "Predict", predict_pb2.PredictRequest(model_spec={**spec, "signature_name": "none"})
    yield "Predict", predict_pb2.PredictRequest(model_spec={**spec, "version_label": "none"})
    yield "Predict", predict_pb2.PredictRequest(model_spec=spec, inputs=tensors(other=[1.0]))
    yield "Predict", predict_pb2.PredictRequest(model_spec=spec, inputs=tensors(x=np.zeros(1 << 20, np.float32)))
    yield "Predict", predict_pb2.PredictRequest(model_spec=spec, inputs=tensors(x=np.zeros(3 << 20, np.float32)))
    half = {"name": "half"}
    yield (
        "Classify",
        example_input(classification_pb2.ClassificationRequest(model_spec={**half, "signature_name": "classify_x"})),
    )
    yield (
        "Regress",
        example_input(regression_pb2.RegressionRequest(model_spec={**half, "signature_name": "regress_x_to_y"})),
    )
    several = inference_pb2.MultiInferenceRequest()
    for verb, signature in (("classify", "classify_x"), ("regress", "regress_x_to_y")):
        task = several.tasks.add(method_name=f"tensorflow/serving/{verb}")
        task.model_spec.name, task.model_spec.signature_name = "half", signature
    yield "MultiInference", example_input(several)
    yield "MultiInference", inference_pb2.MultiInferenceRequest()
    yield (
        "GetModelMetadata",
        get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"]),
    )
    yield "GetModelMetadata", get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec)
    yield "GetModelStatus", get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    yield "GetModelStatus", get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "none"})


CALLS = list(grpc_calls())


def called(port: int, method: str, request) -> tuple:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stubs_of = (prediction_service_pb2_grpc.PredictionServiceStub, model_service_pb2_grpc.ModelServiceStub)
        stub = next(stub for kind in stubs_of if hasattr(stub := kind(channel), method))
        try:
            return (getattr(stub, method)(request, timeout=30),)
        except grpc.RpcError as error:
            return error.code(), error.details()


@pytest.mark.parametrize(("method", "request_"), CALLS, ids=[f"{i}-{method}" for i, (method, _) in enumerate(CALLS)])
def test_grpc_answers_are_the_servers(servers, plain, method, request_):
    assert called(plain.grpc, method, request_) == called(servers[0].grpc, method, request_)


def test_models_are_replaced_on_the_administrations_port_alone(servers, plain):
    request = model_management_pb2.ReloadConfigRequest()
    code, details = called(plain.grpc, "HandleReloadConfigRequest", request)
    assert code is grpc.StatusCode.PERMISSION_DENIED and "administration" in details
    refusal = called(servers[0].grpc, "HandleReloadConfigRequest", request)
    assert refusal[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert called(plain.admin.grpc, "HandleReloadConfigRequest", request) == refusal


def test_an_unknown_grpc_method_is_unimplemented(plain):
    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc}") as channel:
        for path in ("/tensorflow.serving.SessionService/SessionRun", "/other.Service/Call"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message_are_refused_as_by_the_server(servers, plain):
    randomly = Random(5)
    with contextlib.ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}")) for port in (servers[0].grpc, plain.grpc)
        ]
        for _ in range(60):
            method = randomly.choice(["Predict", "Classify", "MultiInference", "GetModelMetadata"])
            content, answers = randomly.randbytes(randomly.randrange(1, 60)), []
            for channel in channels:
                try:
                    answers.append(
                        channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")(content, timeout=10)
                    )
                except grpc.RpcError as error:
                    answers.append(error.code())
            assert answers[0] == answers[1]


def test_metadata_and_deadlines_pass_on(plain):
    with (
        stubs.standing() as stub,
        routers.routing(plain.root.parent / "deadline", plain.root, [(stub.rest, stub.grpc)]) as own,
    ):
        with grpc.insecure_channel(f"127.0.0.1:{own.grpc}") as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            _, state = call.with_call(b"", timeout=20, metadata=(("x-caller-id", "me"), ("x-airtight-side", "mine")))
            trailing = dict(state.trailing_metadata())
            assert trailing["x-told"] == "yes" and len(trailing["x-request-id"]) == 32
            seen = stub.metadata[-1]
            assert seen["x-caller-id"] == "me" and seen["x-request-id"] == trailing["x-request-id"]
            # gRPC rounds a deadline up, by as much as 1 % on each of the two ways.
            assert "x-airtight-side" not in seen and 0 < float(seen["time-remaining"]) <= 20 * 1.01**2
            _, state = call.with_call(b"", timeout=20, metadata=(("x-request-id", "known"),))
            assert dict(state.trailing_metadata())["x-request-id"] == "known" == stub.metadata[-1]["x-request-id"]


def test_ids_pass_on_and_a_missing_one_is_made(plain):
    with (
        stubs.standing() as stub,
        routers.routing(plain.root.parent / "ids", plain.root, [(stub.rest, stub.grpc)]) as own,
    ):
        sent = {"x-caller-id": "me", "x-airtight-side": "mine", "X-Other": "1", "connection": "close"}
        _, headers, content = own.full("POST", AFFINE, "{}", sent)
        seen = json.loads(content)
        assert (seen["x-caller-id"], seen["x-other"]) == ("me", "1")
        assert "x-airtight-side" not in seen and len(headers["x-request-id"]) == 32
        assert seen["x-request-id"] == headers["x-request-id"]
        _, headers, content = own.full("POST", AFFINE, "{}", {"x-request-id": "known"})
        assert json.loads(content)["x-request-id"] == "known" == headers["x-request-id"]
        _, headers, _ = own.full("POST", AFFINE, "{}", {"x-request-id": "a" * 1000})
        assert len(headers["x-request-id"]) == 32


def test_headers_of_the_connection_are_not_passed_on(plain):
    def answer(handler, body):
        received = json.dumps({name.lower(): value for name, value in handler.headers.items()}).encode()
        handler.send_response(200)
        for name, value in (("connection", "keep-alive, X-Theirs"), ("x-theirs", "1"), ("x-kept", "1")):
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(received)))
        handler.end_headers()
        handler.wfile.write(received)

    with (
        stubs.standing(answer) as stub,
        routers.routing(plain.root.parent / "hop", plain.root, [(stub.rest, stub.grpc)]) as own,
    ):
        sent = {"connection": "close, X-Mine", "X-Mine": "1", "x-kept": "1"}
        _, headers, content = own.full("POST", AFFINE, "{}", sent)
        seen = json.loads(content)
        assert ("x-mine" in seen, "x-kept" in seen) == (False, True)
        assert ("x-theirs" in headers, "x-kept" in headers) == (False, True)


def test_slow_sockets_stop_nobody(models_root, addresses, tmp_path):
    flags = ("--rest_header_timeout_in_ms=1000", "--rest_body_timeout_in_ms=1000", "--max_connections=400")
    with (
        routers.routing(tmp_path / "router", models_root, addresses, *flags) as router,
        contextlib.ExitStack() as stack,
    ):
        ask = routers.rest_client(router.rest, AFFINE, {"instances": [4.0]})()
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", router.rest), 30)) for _ in range(200)]
        for number, client in enumerate(slow):
            head = b"POST %s HTTP/1.1\r\nhost: h\r\n" % AFFINE.encode()
            client.sendall(head if number % 2 else head + b"content-length: 100\r\n\r\n{")
        assert all(ask() == (200, {"predictions": [8.0]}) for _ in range(20))
        # Each of them is told so and loses its connection.
        for client in slow:
            reply = b""
            while part := client.recv(4096):
                reply += part
            assert reply.startswith(b"HTTP/1.1 408 ")
        assert ask() == (200, {"predictions": [8.0]})


def test_a_large_body_is_passed_or_refused(servers, models_root, addresses, tmp_path):
    body = b'{"instances": [1.0], "padding": "' + b"x" * (50 << 20) + b'"}'
    with routers.routing(tmp_path / "wide", models_root, addresses) as router:
        assert router.raw("POST", AFFINE, body) == servers[0].raw("POST", AFFINE, body)
        small = b'{"instances": [1.0], "padding": "' + b"x" * (7 << 20) + b'"}'
        assert router.raw("POST", AFFINE, small) == (200, servers[0].raw("POST", AFFINE, small)[1])
    with routers.routing(tmp_path / "narrow", models_root, addresses, "--max_request_bytes=1000000") as router:
        status, answer = router.ask("POST", AFFINE, body)
        assert (status, answer) == (429, {"error": "The request is larger than 1000000 bytes"})
        assert router.ask("POST", AFFINE, {"instances": [1.0]})[0] == 200
        large = predict_pb2.PredictRequest(
            model_spec={"name": "affine"}, inputs=tensors(x=np.zeros(1 << 20, np.float32))
        )
        assert called(router.grpc, "Predict", large)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_routers_own_addresses(plain):
    assert plain.admin.raw("GET", "/")[0] == 200
    _, headers, page = plain.admin.full("GET", "/")
    assert (
        headers["content-type"] == "text/html; charset=utf-8"
        and "default-src 'none'" in headers["content-security-policy"]
    )
    assert not re.search(rb"(src|href)=|@import|url\(|https?://", page)  # Nothing comes from elsewhere.
    assert plain.admin.ask("GET", "/router/none")[0] == 404
    assert plain.admin.ask("POST", AFFINE, {"instances": [4.0]}) == (
        200,
        {"predictions": [8.0]},
    )  # For the page's form.
    for path in ("/router/status", "/router/models", "/router/metrics", "/router/none"):
        status, body = plain.ask("GET", path)
        assert status == 404 and "administration port" in body["error"]
    assert plain.ask("GET", "/")[0] == 404
    body = plain.admin.ask("GET", "/router/models")[1]
    assert body["error"] == ""
    models = {model["name"]: model for model in body["models"]}
    assert sorted(models) == ["affine", "half", "mixed"]
    assert models["affine"]["labels"] == {"stable": 1, "canary": 2}
    assert models["affine"]["versions"][0] == {"version": 2, "state": "AVAILABLE", "error": "", "servers": 2}
    status = plain.status()
    assert [server["healthy"] for server in status["servers"]] == [True, True]
    assert (status["releases"], status["error"]) == ({}, "")


def test_metrics(router):
    for _ in range(3):
        router.ask("POST", AFFINE, {"instances": [1.0]})
    router.ask("POST", "/v1/models/made-up:predict", {"instances": [1.0]})
    exported = router.admin.raw("GET", "/router/metrics")[1].decode()
    assert 'airtight_router_requests_total{model="affine",api="REST",side="",code="200"} 3' in exported
    assert 'airtight_router_requests_total{model="",api="REST",side="",code="404"} 1' in exported
    assert "made-up" not in exported and exported.count("airtight_router_server_healthy{") == 2
    assert b":tensorflow:serving:request_count" in router.raw("GET", "/monitoring/prometheus/metrics")[1]
    assert router.status()["models"]["affine"]["requests"] == 3


def test_load_is_spread(router):
    ask = routers.rest_client(router.rest, AFFINE, {"instances": [4.0]})()

    def counts() -> list[int]:
        return [server["requests"] for server in router.status()["servers"]]

    def spread() -> bool:
        before = counts()
        for _ in range(40):
            ask()
        return min(after - then for after, then in zip(counts(), before, strict=True)) >= 15

    # On a busy machine one server may be slow for a while, and is asked less until that is forgotten.
    until(spread, "both servers answer", 60)


def test_running_requests_end_before_the_router_does(models_root, tmp_path):
    inside, go = threading.Event(), threading.Event()

    def answer(handler, body):
        inside.set()
        go.wait(60)
        handler.reply({"done": True})

    with (
        stubs.standing(answer) as stub,
        routers.routing(tmp_path / "r", models_root, [(stub.rest, stub.grpc)]) as router,
    ):
        answers = []
        thread = threading.Thread(target=lambda: answers.append(router.ask("POST", AFFINE, "{}")))
        thread.start()
        assert inside.wait(30)
        with grpc.insecure_channel(f"127.0.0.1:{router.grpc}") as channel:
            watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
            os.kill(router.process.pid, signal.SIGTERM)
            assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watched.cancel()

        def closed() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", router.rest), 5).close()
                return False
            return True

        until(closed, "no new connections are taken")
        assert router.process.poll() is None and not answers
        go.set()
        thread.join()
        assert answers == [(200, {"done": True})]
        assert router.process.wait(30) == 0


def test_a_request_without_any_server(models_root, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
        with routers.routing(tmp_path / "r", models_root, [(nobody, nobody)]) as router:
            status, payload = router.ask("POST", AFFINE, {"instances": [1.0]})
            assert status == 503 and payload["error"].startswith("No model server answers: http://127.0.0.1:")
            assert called(router.grpc, *CALLS[0])[0] is grpc.StatusCode.UNAVAILABLE
            assert router.status()["servers"][0]["healthy"] is False
            with grpc.insecure_channel(f"127.0.0.1:{router.grpc}") as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            connection = http.client.HTTPConnection("127.0.0.1", router.admin_port)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()


def test_a_taken_port_is_told(plain, models_root, tmp_path, addresses):
    with pytest.raises(AssertionError, match="The router cannot listen for REST"):
        with routers.routing(tmp_path / "r", models_root, addresses, f"--rest_api_port={plain.rest}"):
            pass


def test_cors_and_names_that_are_encoded(servers, models_root, addresses, tmp_path):
    origin = {"Origin": "https://example.com"}
    with routers.routing(tmp_path / "r", models_root, addresses, "--rest_api_enable_cors_support") as router:
        for method, body in (("OPTIONS", None), ("POST", {"instances": [4.0]})):
            status, headers, _ = router.full(method, "/v1/models/%61ffine:predict", body, origin)
            assert status == 200 and headers["access-control-allow-origin"] == "*"
        exported = router.admin.raw("GET", "/router/metrics")[1].decode()
        assert 'airtight_router_requests_total{model="affine",api="REST",side="",code="200"} 1' in exported
        packed = gzip.compress(json.dumps({"instances": [4.0]}).encode())
        status, _, content = router.full("POST", AFFINE, packed, {"Content-Encoding": "gzip"})
        assert (status, json.loads(content)) == (200, {"predictions": [8.0]})
