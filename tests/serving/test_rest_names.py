"""Names in paths, browsers of other origins, compressed bodies, and what TensorFlow Serving's flags say of REST."""

from __future__ import annotations

import gzip
import http.client
import json
import zlib

import grpc
import pytest
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from serving.errors import ServingError
from serving.paths import call, decoded, look
from tests.serving import models


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/models/m:predict", ("m", None, None, "predict")),
        ("/v1/models/my%20model/versions/007:classify", ("my model", 7, None, "classify")),
        ("/v1/models/mod%C3%A8le/labels/st%61ble:regress", ("modèle", None, "stable", "regress")),
        ("/v1/models/mod\xc3\xa8le:predict", ("modèle", None, None, "predict")),
        ("/v1/models/a+b%2Bc%3A%2f:predict", ("a+b+c:/", None, None, "predict")),
        ("/v1/models/50%:predict", ("50%", None, None, "predict")),
        ("/v1/models/%ff:predict", ("\udcff", None, None, "predict")),
        ("/v1/models/a/b:predict", None),
        ("/v1/models/m/versions/\u0663:predict", None),
    ],
)
def test_names_are_decoded_once_and_after_the_path_is_matched(path, target):
    assert call(path) == target
    if target is not None:
        state = path.rpartition(":")[0]
        assert look(state) == (*target[:3], "")
        assert look(f"{state}/metadata") == (*target[:3], "/metadata")


def test_a_version_beyond_64_bits_is_refused():
    with pytest.raises(ServingError, match="Failed to convert version"):
        call(f"/v1/models/m/versions/{2**63}:predict")
    assert decoded("%2541") == "%41"


NAMES = ("my model", "modèle", "a+b", "Model-v1.2_x")
CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("names")
    monitoring = root.with_name("monitoring.config")
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    models.save_affine(root / "1", 2.0)
    config = root / "models.config"
    entries = " ".join(
        f'config {{ name: "{name}" base_path: "{root}" version_labels {{ key: "the one" value: 1 }} }}'
        for name in NAMES
    )
    config.write_text(f"model_config_list {{ {entries} }}")
    flags = ("--rest_api_enable_cors_support", "--enable_reload_config=false", f"--monitoring_config_file={monitoring}")
    socket = f"--grpc_socket_path={root}/grpc.sock"
    with models.running(
        root.with_name("names-server"), f"--model_config_file={config}", "--max_request_bytes=2000000", socket, *flags
    ) as running:
        running.socket = f"unix:{root}/grpc.sock"
        yield running


def full(server, method: str, path: str, body: bytes | str | None = None, headers: dict | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, content
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my%20model", "mod%C3%A8le", "a%2Bb", "a+b", "Model%2Dv1.2_x"])
def test_names_and_labels_are_served_however_they_are_encoded(server, name):
    for path in (f"/v1/models/{name}", f"/v1/models/{name}/versions/1", f"/v1/models/{name}/labels/the%20one"):
        assert server.ask("POST", f"{path}:predict", {"instances": [2.0]}) == (200, {"predictions": [4.0]})
        assert server.ask("GET", path)[1]["model_version_status"][0]["state"] == "AVAILABLE"
        assert server.ask("GET", f"{path}/metadata")[0] == 200
    assert server.ask("POST", "/v1/models/%ff:predict", {})[0] == 404


@pytest.mark.slow
def test_browsers_of_other_origins_may_ask_and_read(server):
    origin = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    status, headers, content = full(server, "OPTIONS", "/v1/models/a+b:predict", headers=origin)
    assert (status, content) == (200, b"") and headers.items() >= CORS.items()
    for path, expected in (("/v1/models/a+b:predict", 200), ("/v1/models/none:predict", 404)):
        status, headers, _ = full(server, "POST", path, '{"instances": [1.0]}', origin)
        assert status == expected and headers.items() >= CORS.items()
    status, _, content = full(server, "OPTIONS", "/v1/models/a+b:predict")
    assert (status, json.loads(content)) == (400, {"error": "Origin header is missing in CORS preflight"})


@pytest.mark.slow
def test_without_the_flag_answers_have_no_such_headers(contract_server):
    origin = {"Origin": "http://localhost:3000"}
    for method in ("OPTIONS", "POST"):
        status, headers, _ = full(contract_server, method, "/v1/models/affine:predict", '{"instances": [1]}', origin)
        assert status == 200 and not headers.keys() & CORS.keys()


BODY = json.dumps({"instances": [1.0] * 1000}).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "encoding", "status", "message"),
    [
        pytest.param(lambda: gzip.compress(BODY), "gzip", 200, "", id="gzip"),
        pytest.param(lambda: gzip.compress(BODY[:700]) + gzip.compress(BODY[700:]), "GZIP", 200, "", id="two members"),
        pytest.param(
            lambda: gzip.compress(json.dumps({"instances": [1.0] * 300_000}).encode()), "x-gzip", 200, "", id="large"
        ),
        pytest.param(lambda: BODY, "identity", 200, "", id="identity"),
        pytest.param(lambda: BODY, "gzip", 400, "The body is no gzip", id="no gzip"),
        pytest.param(lambda: gzip.compress(BODY)[:-9], "gzip", 400, "The gzip body ends early", id="cut off"),
        pytest.param(lambda: b"", "gzip", 400, "ends early", id="empty"),
        pytest.param(
            lambda: zlib.compress(BODY),
            "deflate",
            400,
            "Content-Encoding 'deflate' is not supported; send gzip, or none",
            id="deflate",
        ),
        pytest.param(lambda: BODY, "gzip, br", 400, "not supported", id="two encodings"),
        pytest.param(
            lambda: gzip.compress(bytes(200 << 20), 1), "gzip", 429, "larger than 2000000 bytes", id="too large"
        ),
    ],
)
def test_compressed_bodies(server, body, encoding, status, message):
    got, _, content = full(server, "POST", "/v1/models/a+b:predict", body(), {"Content-Encoding": encoding})
    answer = json.loads(content)
    assert got == status, answer
    assert message in answer.get("error", "")
    assert status != 200 or set(answer["predictions"]) == {2.0}


@pytest.mark.slow
def test_monitoring_a_unix_socket_and_a_list_of_models_that_nobody_may_replace(server):
    assert server.raw("GET", "/metrics")[0] == 200
    assert server.raw("GET", "/monitoring/prometheus/metrics")[0] == 404
    for address in (server.socket, f"127.0.0.1:{server.grpc}"):
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=30)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
