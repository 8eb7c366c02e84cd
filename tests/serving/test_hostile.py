"""Random and malformed requests get an answer or a refusal, and nothing else; benchmarks.hostile sends more."""

from __future__ import annotations

from urllib.parse import quote

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving import tensors_proto
from serving.errors import MAX_MESSAGE, ServingError, invalid
from serving.signature import TensorSpec
from tests.serving import hostile, hostile_http

REST, HTTP, GRPC = 600, 60, 1000


def answers_still(server) -> None:
    path, body = hostile_http.SEEDS[0]
    status, answer = server.ask("POST", path, body)
    assert status == 200 and len(answer["predictions"]) == 2


def test_bodies(contract_server):
    seen, faults = hostile.fuzz_rest(contract_server.rest, REST, seed=1)
    assert faults == []
    assert seen[200] and seen[400] and seen.total() == REST
    answers_still(contract_server)


def test_broken_http(contract_server):
    seen, faults = hostile.fuzz_http(contract_server.rest, HTTP, seed=1)
    assert faults == []
    assert seen[200] and seen[400]
    answers_still(contract_server)


def test_protobufs(contract_server):
    seen, faults = hostile.fuzz_grpc(contract_server.grpc, GRPC, seed=1)
    assert faults == []
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"} <= set(seen)
    assert seen.total() == GRPC
    answers_still(contract_server)


def spec(dtype: np.dtype, rank: int) -> TensorSpec:
    return TensorSpec("x", "x:0", tf.dtypes.as_dtype(dtype), np.dtype(dtype), (None,) * rank)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([tensors_proto.MAX_FILLED + 1], "fills at most"),
        ([2**40, 2**40], "too large"),
        ([0, 2**62], "too large"),
        ([0, 2**40, 2**40], "too large"),
        ([-1], "no definite shape"),
        ([1] * 65, "no definite shape"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_a_few_bytes_cannot_ask_for_gigabytes(sizes, message, dtype):
    wanted = spec(dtype, len(sizes))
    proto = tensor_pb2.TensorProto(dtype=wanted.enum, float_val=[1.0], half_val=[1], int64_val=[1])
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(ServingError, match=message):
        tensors_proto.decode(proto, wanted)


def test_an_empty_tensor_and_a_filled_one_are_read():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT)
    for size in (0, 3):
        proto.tensor_shape.dim.add(size=size)
    assert tensors_proto.decode(proto, spec(np.float32, 2)).shape == (0, 3)
    proto.tensor_shape.dim[0].size = 2
    proto.float_val.append(1.5)
    assert tensors_proto.decode(proto, spec(np.float32, 2)).tolist() == [[1.5] * 3] * 2


def test_a_half_that_is_none_is_refused():
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_HALF, half_val=[70000])
    proto.tensor_shape.dim.add(size=1)
    with pytest.raises(ServingError, match="70000"):
        tensors_proto.decode(proto, spec(np.float16, 1))


@pytest.mark.parametrize("letter", ["x", "ä", "€", "𝄞"])
def test_a_message_fits_into_a_header_whatever_its_letters(letter):
    message = invalid(letter * 5000).message
    assert message.endswith(f"{letter}...") and len(quote(message)) <= MAX_MESSAGE + 3
    assert invalid(letter * 100).message == letter * 100
    assert invalid("\ud800" * 5000).message.endswith("...")
