"""JSON to tensors and back, without a server: what the fast way and the slow way must agree on."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from serving import tensors_json
from serving.errors import ServingError
from serving.signature import Signature, TensorSpec


def spec(name: str, dtype: tf.DType, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, f"{name}:0", dtype, np.dtype(dtype.as_numpy_dtype), tuple(shape))


def signature(inputs=(), outputs=()) -> Signature:
    return Signature("serving_default", "", tuple(inputs), tuple(outputs), lambda *arrays: list(arrays))


FLOATS = [tf.float32, tf.float64, tf.float16, tf.bfloat16]
INTEGERS = [tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, tf.bool], ids=lambda dtype: dtype.name)
def test_each_type_survives_the_way_there_and_back(dtype):
    values = [[True, False]] if dtype == tf.bool else [[0, 1], [2, 100]]
    ours = spec("x", dtype, None, 2)
    arrays, rows = tensors_json.decode({"instances": values}, signature([ours]))
    assert rows
    assert arrays[0].dtype == ours.numpy
    assert arrays[0].shape == (len(values), 2)
    answer = json.loads(tensors_json.encode(arrays, signature(outputs=[ours]), rows))
    assert answer == {"predictions": values}


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(tf.int8, 128), (tf.uint8, -1), (tf.uint8, 256), (tf.int32, -(2**31) - 1), (tf.int64, 2**63), (tf.uint64, -1)],
)
def test_numbers_out_of_range_are_refused_and_not_wrapped(dtype, value):
    with pytest.raises(ServingError, match=f"out of the range of {dtype.name}"):
        tensors_json.decode({"instances": [0, value]}, signature([spec("x", dtype, None)]))
    edge = value - 1 if value > 0 else value + 1
    arrays, _ = tensors_json.decode({"instances": [0, edge]}, signature([spec("x", dtype, None)]))
    assert arrays[0].tolist() == [0, edge]


def test_one_odd_element_among_many_is_found():
    numbers: list = [1.0] * 1000
    for odd in (True, None, "1", [1.0], {"a": 1}, {"b64": "YQ=="}):
        numbers[500] = odd
        with pytest.raises(ServingError):
            tensors_json.decode({"inputs": numbers}, signature([spec("x", tf.float32, None)]))


def test_a_long_string_among_numbers_costs_no_memory():
    # NumPy's own conversion would make every element as wide as the longest string: here 40 GB.
    body = {"inputs": [1] * 100_000 + ["x" * 100_000]}
    with pytest.raises(ServingError, match="not of expected type"):
        tensors_json.decode(body, signature([spec("x", tf.float32, None)]))


def test_numbers_too_large_for_a_float32_become_infinite_as_in_c():
    arrays, _ = tensors_json.decode({"inputs": [1e300, -1e300]}, signature([spec("x", tf.float32, None)]))
    assert arrays[0].tolist() == [math.inf, -math.inf]


def test_empty_lists_have_a_shape_too():
    arrays, _ = tensors_json.decode({"inputs": [[], []]}, signature([spec("x", tf.float32, None, None)]))
    assert arrays[0].shape == (2, 0)


def test_every_float32_comes_back_bit_for_bit():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    numbers = bits.view(np.float32)
    ours = spec("x", tf.float32, None)
    for part in (numbers, numbers[np.isfinite(numbers)]):  # The way with NaN, and the one without.
        raw = tensors_json.encode([part], signature(outputs=[ours]), False)
        back = np.array(json.loads(raw)["outputs"], np.float64).astype(np.float32)
        np.testing.assert_array_equal(back, part)
    assert (
        tensors_json.encode([np.array([0.1], np.float32)], signature(outputs=[ours]), True) == b'{"predictions":[0.1]}'
    )


def test_outputs_that_json_needs_help_with():
    outputs = [spec("half", tf.bfloat16, None), spec("text", tf.string, None, 1), spec("words_bytes", tf.string, None)]
    arrays = [
        np.array([1.5, math.nan], ml_dtypes.bfloat16),
        np.array([[b"a"], ["ü".encode()]], object),
        np.array([b"\xff", b""], object),
    ]
    answer = json.loads(tensors_json.encode(arrays, signature(outputs=outputs), True))["predictions"]
    assert answer[0] == {"half": 1.5, "text": ["a"], "words_bytes": {"b64": "/w=="}}
    assert math.isnan(answer[1]["half"])
    with pytest.raises(ServingError, match="no JSON form"):
        tensors_json.encode([np.array([1j])], signature(outputs=[spec("c", tf.complex128, None)]), False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"nul",
        b'"x"',
        b"{}x",
        b'{"a": NaN',
        b"[" * 5000 + b"NaN",
        b'{"a": ' + b"9" * 5000 + b", NaN",
    ],
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(ServingError) as caught:
        tensors_json.parse(body)
    assert caught.value.code.name == "INVALID_ARGUMENT"


def test_a_byte_order_mark_before_the_document_is_skipped():
    assert tensors_json.parse(b'\xef\xbb\xbf{"instances": [1]}') == {"instances": [1]}
    assert "instances" in tensors_json.parse(b'\xef\xbb\xbf\r\n{"instances": [NaN]}')
    for body in (b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf{}", b"\xff\xfe{\0}\0"):
        with pytest.raises(ServingError, match="JSON Parse error"):
            tensors_json.parse(body)


def test_no_instances_are_refused_in_tensorflow_servings_words():
    with pytest.raises(ServingError, match="No values in 'instances' array"):
        tensors_json.decode({"instances": []}, signature([spec("x", tf.float32, None)]))


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [NaN, 1.5, 2]}',
        '{"instances": [{"x": NaN}, {"x": 1}]}',
        '{"inputs": {"x": [[NaN],[NaN]]}}',
        '{"inputs": {"x": [NaN, "NaN"]}}',
        '{"inputs": {"x": [NaN, null]}}',
        '{"inputs": {"x": [NaN, [1]]}}',
        '{"inputs": {"x": NaN}}',
        '{"instances": NaN}',
        '{"inputs": {"x": [1, -Infinity, NaN]}}',
        '{"inputs": {"x": [1, 2]}, "note": "[NaN, NaN]"}',
        '{"inputs": {"x": [1, NaNN]}}',
        '{"inputs": {"x": [1, "a": NaN}',
        '{"signature_name": "a\\"b NaN", "inputs": [NaN]}',
    ],
)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16, tf.int32, tf.string], ids=lambda d: d.name)
def test_nan_is_read_as_the_standard_library_reads_it(monkeypatch, body, dtype):
    def read() -> object:
        try:
            request = tensors_json.parse(body.encode())
            arrays, rows = tensors_json.decode(request, signature([spec("x", dtype, None)]))
        except ServingError as error:
            return error.code
        return rows, arrays[0].dtype, arrays[0].shape, str(arrays[0].tolist())

    ours = read()
    monkeypatch.setattr(tensors_json, "_loads", json.loads)
    assert ours == read()


def test_nan_in_strings_stays_and_is_no_number_elsewhere():
    parsed = tensors_json.parse(b'{"inputs": {"NaN": [NaN]}, "note": "a, NaN ]", "other": "x"}')
    assert parsed == {"inputs": {"NaN": [None]}, "note": "a, NaN ]", "other": "x", tensors_json.NULL_IS_NAN: True}
