"""Tensors in protobuf: columns are read as TensorFlow reads them, whichever field they come in."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving import tensors_proto
from serving.errors import ServingError
from serving.signature import Signature, TensorSpec

TYPES = (tf.float32, tf.float64, tf.int64, tf.int32, tf.int8, tf.uint8, tf.bool, tf.float16, tf.string)


def column(dtype: tf.DType) -> TensorSpec:
    return TensorSpec("x", "x:0", dtype, np.dtype(dtype.as_numpy_dtype), (None,))


def in_its_field(values: np.ndarray, dtype: tf.DType) -> tensor_pb2.TensorProto:
    """As values of their type, and not as bytes."""
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    proto.tensor_shape.dim.add(size=len(values))
    if dtype == tf.float16:
        proto.half_val.extend(values.astype(np.float16).view(np.uint16).tolist())
    else:
        getattr(proto, tensors_proto._FIELDS[dtype.as_datatype_enum]).extend(values.tolist())
    return proto


@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.name)
def test_a_column_is_read_as_tensorflow_reads_it(dtype, rows):
    numbers = np.random.default_rng(0).integers(0, 100, rows)
    values = np.array([b"%d" % n for n in numbers], object) if dtype == tf.string else numbers
    for proto in (tf.make_tensor_proto(values, dtype), in_its_field(values, dtype)):
        got, expected = tensors_proto.decode(proto, column(dtype)), tf.make_ndarray(proto)
        assert got.dtype == np.dtype(dtype.as_numpy_dtype)
        assert got.shape == expected.shape == (rows,)
        assert got.tolist() == expected.tolist()


def test_a_named_size_is_read_too():
    proto = tf.make_tensor_proto([1.0, 2.0])
    proto.tensor_shape.dim[0].name = "rows"
    assert tensors_proto.decode(proto, column(tf.float32)).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("dtype", "change", "message"),
    [
        (tf.int8, {"int_val": [300]}, "out of the range of int8"),
        (tf.float32, {"float_val": [1, 2]}, "holds 2 values, but its shape needs 1"),
        (tf.float32, {"float_val": [], "tensor_content": b"12345"}, "holds 5 bytes, its shape needs 4"),
        (tf.float32, {"float_val": [], "tensor_content": b"12345678"}, "holds 8 bytes, its shape needs 4"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(dtype, change, message):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, **change)
    proto.tensor_shape.dim.add(size=1)
    with pytest.raises(ServingError, match=message):
        tensors_proto.decode(proto, column(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.name)
def test_without_values_a_tensor_holds_zeros(dtype, shape):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    array = tensors_proto.decode(proto, column(dtype))
    assert (array.dtype, array.shape) == (np.dtype(dtype.as_numpy_dtype), shape)
    assert set(array.ravel().tolist()) == {b"" if dtype == tf.string else 0}


def test_an_input_with_a_default_may_be_left_out():
    specs = [TensorSpec(name, f"{name}:0", tf.float32, np.dtype(np.float32), (None,)) for name in "abc"]
    defaults = {"b": tf.make_tensor_proto([7.0]), "c": tf.make_tensor_proto([8.0])}
    signature = Signature("s", "", tuple(specs), (), lambda *arrays: list(arrays), defaults=defaults)

    def read(*names: str) -> list[float]:
        given = {name: tf.make_tensor_proto([float(number)]) for number, name in enumerate(names)}
        return [array.tolist()[0] for array in tensors_proto.decode_inputs(given, signature)]

    assert read("a") == [0.0, 7.0, 8.0]
    assert read("a", "c") == [0.0, 7.0, 1.0]
    assert read("a", "b", "c") == [0.0, 1.0, 2.0]
    for names, message in ((("b",), "required: {a}"), (("a", "z"), "extra: {z}"), (("b", "c", "z"), "required: {a}")):
        with pytest.raises(ServingError, match=message):
            read(*names)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (33,), (20000,), (3, 50), (2, 0)], ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.name)
def test_what_is_written_is_what_tensorflow_reads(dtype, shape):
    """Lengths of one, two and three bytes, an order in memory that is not C's, and the field of the type."""
    numbers = np.asarray(np.random.default_rng(0).integers(0, 100, shape))
    array = np.frompyfunc(lambda n: b"%d" % n, 1, 1)(numbers) if dtype == tf.string else numbers
    array = np.asarray(array, np.dtype(dtype.as_numpy_dtype), order="F")
    proto = tensors_proto.encode(array, column(dtype))
    read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(proto.SerializeToString()))
    assert (read.dtype, read.shape, read.tolist()) == (array.dtype, array.shape, array.tolist())
    assert dtype == tf.float16 or not proto.tensor_content
