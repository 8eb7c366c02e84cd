"""Requests that nobody should send, from a seed: JSON, addresses, HTTP itself and protobufs, and who sends them.

The models are those of `models`: `half` (y = x / 2 + 2, also classify and regress) and `mixed` (an input of each kind).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import socket
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import grpc
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

ROW = {"pair": [1.0, 2.5], "count": 3, "word": "hé", "flag": True, "exact": 0.1}
EXAMPLES = {"examples": [{"x": 1.0}], "signature_name": "regress_x_to_y"}
SEEDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/models/mixed:predict", {"instances": [ROW, ROW]}),
    ("/v1/models/mixed:predict", {"inputs": {name: [value] for name, value in ROW.items()}}),
    ("/v1/models/half:predict", {"signature_name": "serving_default", "instances": [[1.0], [2.0]]}),
    ("/v1/models/half:regress", EXAMPLES),
    ("/v1/models/half:classify", {**EXAMPLES, "signature_name": "classify_x", "context": {"x": [1.0]}}),
)
"""Requests that are answered, and are the beginning of those that are not."""
ODD_TEXTS = ("", "\x00", "é" * 50, "\ud800", "\u202e", "NaN", "x" * 5000, "../../etc/passwd", "serving_default", "💥")
ODD_NUMBERS = (2**63, -(2**63) - 1, 2**70, 10**400, 1e308, -1e-320, 0.1, -1, 1e39, math.nan, math.inf, -math.inf)
ODD_PATHS = (
    b"/v1/models/../half:predict",
    b"/v1/models/%2e%2e%2fhalf:predict",
    b"/v1/models/%252e%252e:predict",
    b"/v1/models/half%00:predict",
    b"/v1/models/half/versions/99999999999999999999:predict",
    b"/v1/models/half/versions/-1:predict",
    b"/v1/models/half/versions/9223372036854775808:predict",
    b"/v1/models/half/labels/%ff:predict",
    b"/v1/models/half:predict:predict",
    b"/v1/models/" + b"m" * 3000 + b":predict",
    b"/v1/models/half:explode",
    b"/v1/models//:predict",
    b"//v1/models/half:predict",
    b"/v1",
    b"*",
    b"http://elsewhere/v1/models/half:predict",
    b"/v1/models/half:predict?x=%zz#y",
)


def json_case(random: Random) -> tuple[str, bytes]:
    """A path and a body."""
    path, seed = random.choice(SEEDS)
    return path, random.choice(_BODIES)(random, seed)


def _nested(random: Random, seed: Any) -> bytes:
    depth = random.choice((30, 65, 500, 3000, 30_000))
    opened, closed = random.choice((("[", "]"), ('{"instances":', "}"), ('{"b64":', "}")))
    inner = opened * depth + "1" + closed * random.choice((depth, depth - 1, 0))
    return random.choice((inner, f'{{"instances": {inner}}}')).encode()


def _numbered(random: Random, seed: Any) -> bytes:
    numbers = ("1e999999", "-0", "9" * 5000, "1e-999999", "01", "+1", "0x10", ".5", "NaN", "-Infinity", "1E400")
    return _dump(seed).replace(b"1.0", random.choice(numbers).encode())


def _in_base64(random: Random, seed: Any) -> bytes:
    junk = random.choice(("!!!", "YQ", "YQ==YQ==", "\n", "é", base64.b64encode(random.randbytes(20)).decode()))
    return _dump({"instances": [{**ROW, "word": {"b64": junk}}]})


_BODIES: tuple[Callable[[Random, Any], bytes], ...] = (
    lambda random, seed: random.randbytes(random.randrange(200)),
    lambda random, seed: _dump(seed)[: random.randrange(len(_dump(seed)))],
    lambda random, seed: _flipped(random, _dump(seed)),
    lambda random, seed: b"{" + _dump(seed)[1:-1] + b", " + _dump(seed)[1:],  # Each key twice.
    lambda random, seed: _dump(seed).decode().encode(random.choice(("utf-16", "utf-8-sig", "utf-32", "cp500"))),
    lambda random, seed: _dump(_spoiled(random, seed)),
    lambda random, seed: _dump(_spoiled(random, _spoiled(random, seed))),
    _nested,
    _numbered,
    _in_base64,
)


def grpc_case(random: Random) -> tuple[str, bytes]:
    """A method and what is sent to it."""
    method, message = random.choice(_MESSAGES)(random)
    data = message.SerializePartialToString()
    kind = random.randrange(8)
    if kind == 0:
        data = random.randbytes(random.randrange(300))
    elif kind == 1:
        data = data[: random.randrange(len(data) + 1)]
    elif kind == 2:
        data = _flipped(random, data)
    elif kind == 3:
        data += random.choice(
            (b"\xa2\x06\x03abc", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 200, b"\x0a\x03\x0a\x01\xff", data)
        )
    elif kind == 4:
        name = random.choice((b"mixed", b"half", b"pair"))
        data = data.replace(name, random.choice((b"\xff\xfe\xfa\x00\x80"[: len(name)].ljust(len(name), b"\xff"), name)))
    return method, data


def http_case(random: Random) -> bytes:
    """Bytes for a connection: HTTP that lies, or none."""
    path, seed = random.choice(SEEDS)
    return random.choice(_HTTP)(random, b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n", _dump(seed))


def _size(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def _odd_line(random: Random, head: bytes, body: bytes) -> bytes:
    verbs = (b"POST", b"GET", b"PUT", b"DELETE", b"HEAD", b"CONNECT", b"OPTIONS", b"post", b"P\x00ST", b"PRI")
    versions = (b"1.1", b"1.1", b"1.0", b"0.9", b"2.0", b"9.9", b"x")
    head = head.replace(b"POST", random.choice(verbs), 1).replace(b"1.1", random.choice(versions), 1)
    return head + _size(body) + b"\r\n" + body


def _odd_address(random: Random, head: bytes, body: bytes) -> bytes:
    odd = random.choice((*ODD_PATHS, random.randbytes(30).replace(b"\n", b"")))
    return b"POST " + odd + b" HTTP/1.1\r\nHost: x\r\n" + _size(body) + b"\r\n" + body


def _odd_header(random: Random, head: bytes, body: bytes) -> bytes:
    size, chunked = _size(body), b"Transfer-Encoding: chunked\r\n"
    odd = (
        size + size,
        size + b"Content-Length: 1\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length: 0x10\r\n",
        b"Content-Length: %d\r\n" % (len(body) - 3),
        chunked + size,
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        size + b"X: \x00\r\n",
        size + b"No colon\r\n",
        size + b" folded: 1\r\n",
        size + b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        size + b"Expect: 100-continue\r\n",
        size + b"Connection: close\r\n",
        size + b"X-Long: " + b"x" * 70_000 + b"\r\n",
        size + b"\xff\xfe: 1\r\n",
    )
    return head + random.choice(odd) + b"\r\n" + body


def _odd_chunks(random: Random, head: bytes, body: bytes) -> bytes:
    sizes = (b"%x" % len(body), b"-1", b"zz", b"ffffffffffffffff", b"%x;ext=1" % len(body), b"", b"0")
    chunk = random.choice(sizes) + b"\r\n" + body + b"\r\n0\r\n\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk


_HTTP: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    lambda random, head, body: random.randbytes(random.randrange(1, 400)) + b"\r\n\r\n",
    lambda random, head, body: (head + _size(body) + b"\r\n" + body) * random.randrange(2, 20) + random.randbytes(20),
    lambda random, head, body: _flipped(random, head + _size(body) + b"\r\n" + body),
    _odd_line,
    _odd_address,
    _odd_header,
    _odd_chunks,
)


class Rest:
    """One REST client that keeps its connection while the server does.

    Args:
      port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for attempt in (1, 2):
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
            try:
                self._socket.sendall(head + body)
                response = http.client.HTTPResponse(self._socket)
                response.begin()
                answer = response.read()
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()
                if attempt == 2:
                    raise
                continue
            if response.will_close:
                self.close()
            return response.status, answer
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def raw_answers(port: int, data: bytes, settle_s: float = 0.1) -> list[int]:
    """Sends bytes on a connection of its own, and reads until the server says no more for a moment.

    The sending side stays open: the server takes its end for the client's, and drops what it has not answered.

    Returns:
      The status of each answer.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
        client.settimeout(settle_s)
        with contextlib.suppress(OSError):
            while part := client.recv(1 << 16):
                received += part
    lines = [line for line in received.split(b"\r\n") if b"HTTP/1.1 " in line]
    return [int(line.rpartition(b"HTTP/1.1 ")[2][:3]) for line in lines]


def fuzz_rest(port: int, count: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Sends bodies; how many answers of each status, and the faults: those that are neither 200 nor 4xx."""
    random, client = Random(seed), Rest(port)
    seen: Counter[int] = Counter()
    faults: list[str] = []
    for _ in range(count):
        path, body = json_case(random)
        status, answer = client.post(path, body)
        seen[status] += 1
        told = json.loads(answer) if answer else {}
        if not ((status == 200 and "error" not in told) or (400 <= status < 500 and set(told) == {"error"})):
            faults.append(f"{path} {body[:200]!r}: {status} {answer[:300]!r}")
    client.close()
    return seen, faults


def fuzz_http(port: int, count: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Sends broken HTTP; the same. No answer at all is none: some of it is no request."""
    random = Random(seed)
    seen: Counter[int] = Counter()
    faults: list[str] = []
    for _ in range(count):
        data = http_case(random)
        statuses = raw_answers(port, data)
        seen.update(statuses or [0])
        faults += [f"{data[:200]!r}: {status}" for status in statuses if not (status < 500)]
    return seen, faults


REFUSALS = frozenset(
    {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
)


def fuzz_grpc(port: int, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Sends protobufs; how many answers of each code, and the faults: those that are neither OK nor a refusal."""
    random = Random(seed)
    seen: Counter[str] = Counter()
    faults: list[str] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for _ in range(count):
            method, data = grpc_case(random)
            try:
                channel.unary_unary(method)(data, timeout=120)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name
                if code not in REFUSALS:
                    faults.append(f"{method} {data[:300]!r}: {code} {error.details()}")
            seen[code] += 1
    return seen, faults


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _flipped(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randrange(1, 6)):
        if changed:
            changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _odd_value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(8 if depth < 3 else 4)
    if kind == 0:
        return random.choice((None, True, False, [], {}, [[]], [None]))
    if kind == 1:
        return random.choice(ODD_NUMBERS)
    if kind == 2:
        return random.choice(ODD_TEXTS)
    if kind == 3:
        return {"b64": random.choice((*ODD_TEXTS, 1, None, ["YQ=="]))}
    if kind < 6:
        return [_odd_value(random, depth + 1) for _ in range(random.randrange(4))]
    return {
        random.choice((*ROW, "b64", "x", *ODD_TEXTS)): _odd_value(random, depth + 1) for _ in range(random.randrange(4))
    }


def _spoiled(random: Random, value: Any) -> Any:
    """The same value with something odd in one place."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        name = random.choice(list(value))
        spoiled = {**value, name: _spoiled(random, value[name])}
        if random.random() < 0.2:
            spoiled[random.choice((*ODD_TEXTS, "extra"))] = spoiled.pop(name)
        return spoiled
    if isinstance(value, list) and value and random.random() < 0.8:
        index = random.randrange(len(value))
        return [*value[:index], _spoiled(random, value[index]), *value[index + 1 :]]
    return _odd_value(random)


def _spec(random: Random, message: Any) -> None:
    spec = message.model_spec
    spec.name = random.choice(("mixed", "mixed", "half", "half", "nobody", "", "..", "é"))
    spec.signature_name = random.choice(("", "", "serving_default", "regress_x_to_y", "classify_x", "nothing"))
    choice = random.randrange(6)
    if choice == 0:
        spec.version.value = random.choice((1, 3, 0, -1, 2**63 - 1, -(2**63)))
    elif choice == 1:
        spec.version_label = random.choice(("", "stable", "x" * 5000))


def _tensor(random: Random, good: tensor_pb2.TensorProto) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto()
    tensor.CopyFrom(good)
    kind = random.randrange(8)
    if kind == 0:  # A dtype of another kind, or of none: references, resources, variants, and numbers that are no name.
        tensor.dtype = random.choice((*types_pb2.DataType.values(), 99, -1, 2**31 - 1))
    elif kind == 1:
        del tensor.tensor_shape.dim[:]
        sizes = (0, 1, 2, -1, -(2**63), 2**31, 2**40, 2**62, 2**63 - 1)
        for _ in range(random.choice((0, 1, 2, 3, 5, 70, 300))):
            tensor.tensor_shape.dim.add(size=random.choice(sizes))
    elif kind == 2:
        tensor.tensor_content = random.randbytes(random.choice((1, 3, 4, 8, 16, 1000)))
    elif kind == 3:
        tensor.tensor_shape.unknown_rank = True
    elif kind == 4:
        tensor.string_val.append(random.randbytes(20))
        tensor.float_val.append(math.nan)
        tensor.int64_val.append(2**62)
        tensor.half_val.append(70_000)
        tensor.scomplex_val.append(1.0)
    elif kind == 5:
        tensor.variant_val.add(type_name="tensorflow::Tensor", metadata=b"\xff" * 20)
        tensor.resource_handle_val.add(device="/cpu:0", name="x" * 100)
        tensor.dtype = random.choice((types_pb2.DT_VARIANT, types_pb2.DT_RESOURCE))
    return tensor


_GOOD = {
    "mixed": {
        "pair": tf.make_tensor_proto([[1.0, 2.0]], tf.float32),
        "count": tf.make_tensor_proto([3], tf.int32),
        "word": tf.make_tensor_proto(["w"]),
        "flag": tf.make_tensor_proto([True]),
        "exact": tf.make_tensor_proto([0.5], tf.float64),
    },
    "half": {"x": tf.make_tensor_proto([[1.0]], tf.float32)},
}


def _predict(random: Random) -> tuple[str, Any]:
    request = predict_pb2.PredictRequest()
    _spec(random, request)
    for name, good in _GOOD[random.choice(("mixed", "mixed", "half"))].items():
        if random.random() < 0.97:
            request.inputs[name].CopyFrom(_tensor(random, good) if random.random() < 0.3 else good)
    if random.random() < 0.1:
        request.output_filter.extend(random.choices(("sum", "y", "nothing", ""), k=random.randrange(4)))
    return "/tensorflow.serving.PredictionService/Predict", request


def _examples(random: Random, told: Any) -> None:
    listed = told.example_list if random.random() < 0.7 else told.example_list_with_context
    for _ in range(random.randrange(4)):
        feature = listed.examples.add().features.feature[random.choice(("x", "x", "x", "y", ""))]
        kind = random.randrange(4)
        if kind == 0:
            feature.bytes_list.value.append(random.randbytes(5))
        elif kind == 1:
            feature.int64_list.value.append(2**62)
        else:
            feature.float_list.value.extend(
                [random.choice((1.0, math.nan, 1e38))] * random.choice((1, 1, 1, 0, 2, 500))
            )


def _classify(random: Random) -> tuple[str, Any]:
    request = classification_pb2.ClassificationRequest()
    _spec(random, request)
    _examples(random, request.input)
    return "/tensorflow.serving.PredictionService/Classify", request


def _regress(random: Random) -> tuple[str, Any]:
    request = regression_pb2.RegressionRequest()
    _spec(random, request)
    _examples(random, request.input)
    return "/tensorflow.serving.PredictionService/Regress", request


def _several(random: Random) -> tuple[str, Any]:
    request = inference_pb2.MultiInferenceRequest()
    for _ in range(random.randrange(4)):
        task = request.tasks.add(
            method_name=random.choice(("tensorflow/serving/regress", "tensorflow/serving/classify", ""))
        )
        _spec(random, task)
    _examples(random, request.input)
    return "/tensorflow.serving.PredictionService/MultiInference", request


def _metadata(random: Random) -> tuple[str, Any]:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    _spec(random, request)
    request.metadata_field.extend(random.choices(("signature_def", "x"), k=random.randrange(3)))
    return "/tensorflow.serving.PredictionService/GetModelMetadata", request


def _status(random: Random) -> tuple[str, Any]:
    request = get_model_status_pb2.GetModelStatusRequest()
    _spec(random, request)
    return f"/tensorflow.serving.ModelService/{random.choice(('GetModelStatus', 'GetModelStatus', 'Nothing'))}", request


_MESSAGES: tuple[Callable[[Random], tuple[str, Any]], ...] = (
    _predict,
    _predict,
    _predict,
    _classify,
    _regress,
    _several,
    _metadata,
    _status,
)
