"""TensorFlow Serving's contract over REST, line by line, against a real server."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import socket
from random import Random

import pytest

pytestmark = pytest.mark.slow

PREDICT = "/v1/models/half:predict"
MIXED = "/v1/models/mixed:predict"
ROW = {"pair": [1.0, 2.0], "count": 3, "word": "a", "flag": True, "exact": 0.1}


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def column(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        # One input: bare values and named objects, row and column.
        (PREDICT, {"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        (PREDICT, {"instances": [{"x": [1.0]}, {"x": [2]}]}, {"predictions": [[2.5], [3.0]]}),
        (PREDICT, {"inputs": [[1.0]]}, {"outputs": [[2.5]]}),
        (PREDICT, {"inputs": {"x": [[1]]}}, {"outputs": [[2.5]]}),
        (PREDICT, {"inputs": {"x": [[1]], "unknown": 5}}, {"outputs": [[2.5]]}),
        (PREDICT, {"signature_name": "serving_default", "instances": [[1]]}, {"predictions": [[2.5]]}),
        (PREDICT, {"signature_name": "", "instances": [[1]]}, {"predictions": [[2.5]]}),
        (PREDICT, {"instances": [[1]], "unknown": "ignored"}, {"predictions": [[2.5]]}),
        ("/v1/models/half/versions/3:predict", {"instances": [[1.0]]}, {"predictions": [[2.5]]}),
        # Versions and labels.
        ("/v1/models/affine:predict", {"instances": [5]}, {"predictions": [10.0]}),
        ("/v1/models/affine/versions/1:predict", {"instances": [5]}, {"predictions": [5.0]}),
        ("/v1/models/affine/labels/stable:predict", {"instances": [5]}, {"predictions": [5.0]}),
        ("/v1/models/affine/labels/canary:predict", {"instances": [5]}, {"predictions": [10.0]}),
        # What the model's operations take is answered, whatever shape its signature declares.
        (PREDICT, {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        (PREDICT, {"instances": [[1.0, 2.0]]}, {"predictions": [[2.5, 3.0]]}),
        (PREDICT, {"inputs": 1.0}, {"outputs": 2.5}),
        ("/v1/models/affine:predict", {"signature_name": "scalar", "instances": [4]}, {"predictions": [8.0]}),
        # Outputs without a common batch: fine in column format.
        ("/v1/models/affine:predict", {"signature_name": "scalar", "inputs": 4}, {"outputs": 8.0}),
        (
            "/v1/models/affine:predict",
            {"signature_name": "uneven", "inputs": [1]},
            {"outputs": {"long": [1.0, 1.0], "short": [1.0]}},
        ),
        # An empty column request is an empty answer.
        ("/v1/models/affine:predict", {"inputs": []}, {"outputs": []}),
        # Several inputs of all kinds.
        (
            MIXED,
            {"instances": [ROW]},
            {"predictions": [{**ROW, "sum": 6.0, "word_bytes": b64(b"a")}]},
        ),
        (
            MIXED,
            {"inputs": column([ROW, {**ROW, "word": "Zürich ☃", "count": -(2**31)}])},
            {
                "outputs": {
                    **column([ROW, {**ROW, "word": "Zürich ☃", "count": -(2**31)}]),
                    "sum": [6.0, -2147483600.0],  # The shortest digits that name this float32.
                    "word_bytes": [b64(b"a"), b64("Zürich ☃".encode())],
                }
            },
        ),
        (
            MIXED,
            {"instances": [{**ROW, "word": b64(b"\x00ab")}]},
            {"predictions": [{**ROW, "sum": 6.0, "word": "\x00ab", "word_bytes": b64(b"\x00ab")}]},
        ),
        # Bytes that are no text are answered as base64, whatever the output's name.
        (
            MIXED,
            {"instances": [{**ROW, "word": b64(b"\xff")}]},
            {"predictions": [{**ROW, "sum": 6.0, "word": b64(b"\xff"), "word_bytes": b64(b"\xff")}]},
        ),
    ],
)
def test_predict_answers(contract_server, path, body, answer):
    assert contract_server.ask("POST", path, body) == (200, answer)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (PREDICT, "", 400, "JSON Parse error: The document is empty"),
        (PREDICT, "{", 400, "JSON Parse error"),
        (PREDICT, b"\xff\xfe", 400, "JSON Parse error"),
        (PREDICT, '{"instances": [[NaN]]', 400, "JSON Parse error"),
        (PREDICT, "[1, 2]", 400, "is not object"),
        (PREDICT, "[" * 100_000, 400, "JSON Parse error"),
        (PREDICT, '{"instances": ' + "[" * 900 + "1" + "]" * 900 + "}", 400, "x"),
        (PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, {"inputs": [[1]], "instances": [[1]]}, 400, "only one"),
        (PREDICT, {"instances": {"x": [1]}}, 400, "Expecting 'instances' value to be an array/list"),
        (PREDICT, {"instances": 1}, 400, "Expecting 'instances' value to be an array/list"),
        (PREDICT, {"instances": []}, 400, "No values in 'instances' array"),
        (PREDICT, {"signature_name": 5, "instances": [[1]]}, 400, "'signature_name' key must be a string"),
        (PREDICT, {"signature_name": "s", "instances": [[1]]}, 400, '"s" not found in signature def'),
        (PREDICT, {"instances": [["a"]]}, 400, "not of expected type: float"),
        (PREDICT, {"instances": [[None]]}, 400, "Type: Null is not of expected type: float"),
        (PREDICT, {"instances": [[True]]}, 400, "Type: Bool is not of expected type: float"),
        (PREDICT, {"instances": [[1], [True]]}, 400, "Type: Bool is not of expected type: float"),
        (PREDICT, {"instances": [[1], [1, 2]]}, 400, "Expecting tensor shape [1] but got [2]"),
        (PREDICT, {"instances": [[1], 2]}, 400, "Encountered list at unexpected level"),
        (PREDICT, {"instances": [{"x": [1]}, [1]]}, 400, "element: 1 of 'instances'"),
        (PREDICT, {"instances": [[1], {"x": [1]}]}, 400, "element: 1 of 'instances'"),
        (PREDICT, {"instances": [{"x": [1], "z": 1}]}, 400, "keys must be equal to: x"),
        (PREDICT, {"instances": [{"z": [1]}]}, 400, "keys must be equal to: x"),
        (PREDICT, {"inputs": {"z": [1]}}, 400, "Missing named input: x"),
        (MIXED, {"instances": [1]}, 400, "multiple input tensors required"),
        (MIXED, {"inputs": [1]}, 400, "multiple input tensors required"),
        (MIXED, {"instances": [ROW, {k: v for k, v in ROW.items() if k != "flag"}]}, 400, "element: 1"),
        (MIXED, {"instances": [{**ROW, "count": 1.0}]}, 400, "not of expected type: int32"),
        (MIXED, {"instances": [{**ROW, "count": 2**31}]}, 400, "out of the range of int32"),
        (MIXED, {"instances": [{**ROW, "flag": 1}]}, 400, "not of expected type: bool"),
        (MIXED, {"instances": [{**ROW, "word": 1}]}, 400, "not of expected type: string"),
        (MIXED, {"instances": [{**ROW, "word": {"b64": "?"}}]}, 400, "base64"),
        (MIXED, {"instances": [{**ROW, "exact": "1.0"}]}, 400, "not of expected type: float64"),
        (
            MIXED,
            '{"inputs": {"word": ["\\ud800"], "exact": [NaN], "count": [1], "flag": [true], "pair": [[1, 2]]}}',
            400,
            "",
        ),
        # Shapes that the model's operations do not take.
        (
            MIXED,
            {"instances": [{**ROW, "pair": 1.0}]},
            400,
            "Invalid reduction dimension (1 for input with 1 dimension(s)",
        ),
        (MIXED, {"instances": [{**ROW, "pair": 1.0}]}, 400, "'pair' is declared with the shape [?,2], but got [1])"),
        (MIXED, {"inputs": {**column([ROW, ROW, ROW]), "count": [1, 2]}}, 400, "Incompatible shapes: "),
        ("/v1/models/affine:predict", {"signature_name": "uneven", "instances": [1]}, 400, "inconsistent batch size"),
        ("/v1/models/none:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(none)"),
        (
            "/v1/models/half/versions/9:predict",
            {"instances": [1]},
            404,
            "Servable not found for request: Specific(half, 9)",
        ),
        ("/v1/models/half/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        # The order of checks: JSON, signature_name's type, model, signature, content.
        ("/v1/models/none:predict", "{", 400, "JSON Parse error"),
        ("/v1/models/none:predict", {"signature_name": 1}, 400, "'signature_name'"),
        ("/v1/models/none:predict", {"signature_name": "s"}, 404, "Servable not found"),
        (PREDICT, {"signature_name": "s", "instances": 1}, 400, "signature def"),
    ],
)
def test_predict_refuses_saying_what_and_where(contract_server, path, body, status, message):
    got, answer = contract_server.ask("POST", path, body)
    assert (got, list(answer)) == (status, ["error"])
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("verb", "path", "status", "message"),
    [
        ("GET", "/v1/models/half:predict", 400, "Malformed request: GET /v1/models/half:predict"),
        ("PUT", "/v1/models/half:predict", 400, "Malformed request: PUT"),
        ("DELETE", "/v1/models/half", 400, "Malformed request"),
        ("POST", "/v1/models/half", 400, "Malformed request: POST /v1/models/half"),
        ("POST", "/v1/models/half:unknown", 400, "Malformed request"),
        ("POST", "/v1/models/half/versions/x:predict", 400, "Malformed request"),
        ("POST", "/v1/models/half/versions/-1:predict", 400, "Malformed request"),
        ("POST", "/v1/models/half/versions/99999999999999999999:predict", 400, "Malformed request"),
        ("POST", "/v1/models/..%2fhalf:predict", 404, "Servable not found"),
        ("GET", "/v1/models/../half", 400, "Malformed request"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1", 400, "Malformed request"),
        ("GET", "/v1/models/half/", 400, "Malformed request"),
        ("GET", "/", 404, ""),
        ("POST", "/v2/models/half:predict", 404, ""),
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/half/versions/9", 404, "Could not find version 9 of model half"),
        ("GET", "/v1/models/none/metadata", 404, "Servable not found"),
    ],
)
def test_what_is_no_request_of_the_contract_is_told_so(contract_server, verb, path, status, message):
    got, answer = contract_server.ask(verb, path, "{}" if verb == "POST" else None)
    assert got == status
    assert message in answer["error"]


@pytest.mark.parametrize("path", ["/v1/models/half", "/v1/models/half/versions/3"])
def test_status(contract_server, path):
    version_status = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert contract_server.ask("GET", path) == (200, {"model_version_status": [version_status]})


def test_status_of_several_versions_and_of_a_label(contract_server):
    _, answer = contract_server.ask("GET", "/v1/models/affine")
    assert [entry["version"] for entry in answer["model_version_status"]] == ["2", "1"]
    _, answer = contract_server.ask("GET", "/v1/models/affine/labels/stable")
    assert [entry["version"] for entry in answer["model_version_status"]] == ["1"]


def test_metadata_nests_the_signatures_twice(contract_server):
    status, answer = contract_server.ask("GET", "/v1/models/half/versions/3/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "half", "signature_name": "", "version": "3"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= {"serving_default", "regress_x_to_y", "classify_x"}
    signature = signatures["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False},
        "name": "x:0",
    }


def test_numbers_that_json_does_not_have_come_and_go(contract_server):
    status, raw = contract_server.raw("POST", PREDICT, '{"instances": [[NaN], [Infinity], [-Infinity], [0.2]]}')
    assert (status, raw) == (200, b'{"predictions":[[NaN],[Infinity],[-Infinity],[2.1]]}')
    body = json.dumps({"inputs": column([{**ROW, "exact": math.nan, "pair": [math.inf, 0.1]}])})
    _, raw = contract_server.raw("POST", MIXED, body)
    outputs = json.loads(raw)["outputs"]
    assert math.isnan(outputs["exact"][0])
    assert outputs["pair"] == [[math.inf, 0.1]]
    assert outputs["count"] == [3]


def test_floats_have_their_shortest_form_and_look_like_floats(contract_server):
    _, raw = contract_server.raw(
        "POST", "/v1/models/affine/versions/1:predict", '{"instances": [0.1, 3, 1e-7, 16777216]}'
    )
    assert raw == b'{"predictions":[0.1,3.0,1e-7,16777216.0]}'
    body = {"instances": [{**ROW, "exact": 0.1 + 0.2}]}
    _, answer = contract_server.ask("POST", MIXED, body)
    assert answer["predictions"][0]["exact"] == 0.1 + 0.2


def test_a_large_batch_is_answered_whole(contract_server):
    numbers = [float(number) for number in range(100_000)]
    status, answer = contract_server.ask("POST", "/v1/models/affine:predict", {"instances": numbers})
    assert status == 200
    assert answer["predictions"] == [2 * number for number in numbers]


def test_a_request_over_the_limit_is_refused_and_the_server_goes_on(contract_server):
    body = b'{"instances": [' + b"1," * (4 << 20) + b"1]}"
    status, answer = contract_server.ask("POST", PREDICT, body)
    assert status == 429
    assert "larger than 8388608 bytes" in answer["error"]
    assert contract_server.ask("POST", PREDICT, {"instances": [[1.0]]})[0] == 200


def test_regress(contract_server):
    path = "/v1/models/half:regress"
    ask = {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}, {"x": [4.0]}]}
    assert contract_server.ask("POST", path, ask) == (200, {"results": [3.0, 4.0]})
    ask = {"signature_name": "regress_x_to_y", "context": {"x": 8.0}, "examples": [{}, {"x": 2.0}]}
    assert contract_server.ask("POST", path, ask) == (200, {"results": [6.0, 3.0]})


def test_classify(contract_server):
    ask = {"signature_name": "classify_x", "examples": [{"x": 2.0}, {"x": 0.2}]}
    answer = {"results": [[["low", 3.0], ["high", 30.0]], [["low", 2.1], ["high", 21.0]]]}
    assert contract_server.ask("POST", "/v1/models/half:classify", ask) == (200, answer)


@pytest.mark.parametrize(
    ("verb", "body", "message"),
    [
        ("regress", {"examples": [{"x": 1.0}]}, "Expected regression signature method_name"),
        (
            "classify",
            {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}]},
            "Expected classification signature",
        ),
        ("regress", {"signature_name": "regress_x_to_y"}, "key 'examples' is expected"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": {}}, "array/list"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": []}, "empty"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": [1]}, "'examples' element 0 is not an object"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": [1.0, "a"]}]}, "feature 'x'"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": [{"x": None}]}, "feature 'x'"),
        ("regress", {"signature_name": "regress_x_to_y", "examples": [{}]}, "x"),
    ],
)
def test_classify_and_regress_refuse(contract_server, verb, body, message):
    status, answer = contract_server.ask("POST", f"/v1/models/half:{verb}", body)
    assert status == 400
    assert message in answer["error"]


def test_metrics_have_tensorflow_servings_names(contract_server):
    contract_server.ask("POST", PREDICT, {"instances": [[1.0]]})
    contract_server.ask("POST", "/v1/models/made-up-name:predict", {"instances": [[1.0]]})
    status, raw = contract_server.raw("GET", "/monitoring/prometheus/metrics")
    lines = raw.decode().splitlines()
    assert status == 200
    counted = [
        line for line in lines if line.startswith(':tensorflow:serving:request_count{model_name="half",status="OK"}')
    ]
    assert int(counted[0].rsplit(" ", 1)[1]) >= 1
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    assert any(line.startswith(':tensorflow:serving:runtime_latency_bucket{model_name="half"') for line in lines)
    assert "made-up-name" not in raw.decode()


def odd_value(random: Random, depth: int = 0) -> object:
    if depth < 3 and random.random() < 0.5:
        if random.random() < 0.5:
            return [odd_value(random, depth + 1) for _ in range(random.randrange(4))]
        return {random.choice([*ROW, "b64"]): odd_value(random, depth + 1) for _ in range(random.randrange(4))}
    return random.choice([None, True, 1, 1.5, "x", 2**70, -1, b64(b"a"), math.nan, [], {}, ""])


def odd_body(random: Random) -> bytes:
    kind = random.randrange(4)
    if kind == 0:
        return random.randbytes(random.randrange(60))
    body = json.dumps({"instances": [ROW]}).encode()
    if kind == 1:
        where = random.randrange(len(body))
        return body[:where] + random.randbytes(1) + body[where + 1 :]
    if kind == 2:
        return json.dumps({"instances": [{**ROW, random.choice(list(ROW)): odd_value(random)}]}).encode()
    return json.dumps({random.choice(["instances", "inputs", "signature_name"]): odd_value(random)}).encode()


def test_random_bodies_get_answers_or_refusals_and_nothing_else(contract_server):
    random = Random(0)
    connection = http.client.HTTPConnection("127.0.0.1", contract_server.rest, timeout=60)
    seen = set()
    for _ in range(1000):
        body = odd_body(random)
        connection.request("POST", MIXED, body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status in (200, 400), (body, answer)
        assert set(answer) <= {"predictions", "outputs", "error"}
        seen.add(response.status)
    assert seen == {200, 400}


def test_slow_and_broken_clients_hurt_nobody_else(contract_server):
    here = ("127.0.0.1", contract_server.rest)
    with contextlib.ExitStack() as held:
        for _ in range(200):
            slow = held.enter_context(socket.create_connection(here, timeout=30))
            slow.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        with socket.create_connection(here, timeout=30) as broken:
            broken.sendall(b"\x00\x01nonsense\r\n\r\n")
            assert broken.recv(100).startswith(b"HTTP/1.1 400")
        assert contract_server.ask("POST", PREDICT, {"instances": [[1.0]]})[0] == 200
