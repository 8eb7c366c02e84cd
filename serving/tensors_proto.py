"""Tensors in protobuf, to NumPy and back; common types do without TensorFlow's general and slower helpers."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

from serving.errors import ServingError, invalid
from serving.signature import Signature, TensorSpec

MAX_FILLED = 1 << 22
"""A tensor may repeat its last value to fill its shape; this bounds what a few bytes of request can ask for."""
MAX_EXTENT = 1 << 48
"""The product of all sizes but zeros: an empty tensor has sizes too, and nothing can count beyond that."""
MAX_RANK = 64
"""NumPy's limit of dimensions."""

_FIELDS: dict[int, str] = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
    **dict.fromkeys(
        (types_pb2.DT_INT32, types_pb2.DT_INT16, types_pb2.DT_INT8, types_pb2.DT_UINT16, types_pb2.DT_UINT8), "int_val"
    ),
}

_PACKED: dict[int, int] = {
    dtype: tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name[_FIELDS[dtype]].number << 3 | 2
    for dtype in (types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE)
}
"""The fields whose bytes are the numbers', little-endian: their tag, as one that is told with its length."""


def decode(proto: tensor_pb2.TensorProto, spec: TensorSpec) -> np.ndarray:
    """Reads one input.

    Args:
      proto: `tensor_content`, or the field of its type; a last value is repeated to fill the shape, or zeros fill it.
      spec: The input it is for.

    Raises:
      ServingError: INVALID_ARGUMENT, another type, or sizes that do not fit.
    """
    array = _column(proto, spec) if spec.column and proto.dtype == spec.enum else None
    if array is not None:
        return array
    if proto.dtype != spec.enum:
        known = proto.dtype in types_pb2.DataType.values()
        received = types_pb2.DataType.Name(proto.dtype) if known else proto.dtype
        expected = types_pb2.DataType.Name(spec.enum)
        raise invalid(f"input {spec.name!r} must be of type {expected}, but got {received}")
    shape = _shape(proto.tensor_shape, spec)
    count = shape[0] if len(shape) == 1 else math.prod(shape)
    content = proto.tensor_content
    if content and not spec.text:
        needed = count * spec.numpy.itemsize
        if len(content) != needed:
            raise invalid(f"input {spec.name!r}: tensor_content holds {len(content)} bytes, its shape needs {needed}")
        array = np.frombuffer(content, spec.numpy)
    else:
        array = _from_values(proto, spec, count)
    return array if len(shape) == 1 else array.reshape(shape)


def decode_inputs(given: Mapping[str, tensor_pb2.TensorProto], signature: Signature) -> list[np.ndarray]:
    """Reads all inputs of a request, in the order of `signature.inputs`; what is left out has its default.

    Raises:
      ServingError: INVALID_ARGUMENT, an input is missing, unknown, or of another type or shape.
    """
    wanted, defaults = signature.inputs, signature.defaults
    if defaults and len(given) < len(wanted):
        given = {**{spec.name: defaults[spec.name] for spec in wanted if spec.name in defaults}, **given}
    # A look by index would add what is missing.
    protos = [proto for spec in wanted if (proto := given.get(spec.name)) is not None]
    if not len(given) == len(wanted) == len(protos):
        names = {spec.name for spec in wanted}
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({{{','.join(sorted(given))}}}) != "
            f"len({{{','.join(sorted(names))}}}). Sent extra: {{{','.join(sorted(given.keys() - names))}}}. "
            f"Missing but required: {{{','.join(sorted(names - given.keys()))}}}."
        )
    return list(map(decode, protos, wanted))


def encode(array: np.ndarray, spec: TensorSpec) -> tensor_pb2.TensorProto:
    """Writes one output, in the field of its type as TensorFlow Serving does by default."""
    field = _FIELDS.get(spec.enum)
    if field is None:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(
        dtype=spec.enum,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
        ),
    )
    tag = _PACKED.get(spec.enum)
    if tag is None:
        getattr(proto, field).extend(array.ravel().tolist())
        return proto
    # Numbers in protobuf's own bytes: a list of Python's would hold up all other requests for a second at 50 MB.
    raw = array.astype(spec.numpy.newbyteorder("<"), copy=False).tobytes()
    proto.MergeFromString(bytes([tag]) + _varint(len(raw)) + raw)
    return proto


def _column(proto: tensor_pb2.TensorProto, spec: TensorSpec) -> np.ndarray | None:
    """What most inputs are, read sooner: a column as it is declared, with a value for each row; else None."""
    content = proto.tensor_content
    if content and not spec.text:
        rows, rest = divmod(len(content), spec.numpy.itemsize)
        if not rest and proto.tensor_shape == _shape_of_column(rows):
            return np.frombuffer(content, spec.numpy)
        return None
    field = _FIELDS.get(spec.enum)
    values = getattr(proto, field) if field else []
    rows = len(values)
    if not rows or proto.tensor_shape != _shape_of_column(rows):
        return None
    try:
        return np.array(values if rows > 1 else (values[0],), spec.numpy)
    except OverflowError:
        return None


@functools.lru_cache(1024)
def _shape_of_column(rows: int) -> tensor_shape_pb2.TensorShapeProto:
    return tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=rows)])


def _varint(number: int) -> bytes:
    """As protobuf writes a length: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number >> 7:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _shape(proto: tensor_shape_pb2.TensorShapeProto, spec: TensorSpec) -> list[int]:
    dims = proto.dim
    # One size, as most inputs have: a request may have a hundred of them.
    if spec.column and len(dims) == 1 and not proto.unknown_rank and 0 <= (size := dims[0].size) <= MAX_EXTENT:
        return [size]
    shape = [dim.size for dim in dims]
    if proto.unknown_rank or min(shape, default=0) < 0 or len(shape) > MAX_RANK:
        raise invalid(f"input {spec.name!r} has no definite shape")
    if math.prod(size for size in shape if size) > MAX_EXTENT:
        raise invalid(f"input {spec.name!r} has the sizes {shape}, which are too large")
    return shape


def _from_values(proto: tensor_pb2.TensorProto, spec: TensorSpec, count: int) -> np.ndarray:
    field = _FIELDS.get(proto.dtype)
    if field is None:
        if count > MAX_FILLED:
            raise _too_full(spec, count)
        try:
            return tf.make_ndarray(proto).ravel()
        except (TypeError, ValueError, OverflowError) as error:
            raise invalid(f"input {spec.name!r}: {error}") from error
    values = list(getattr(proto, field))
    if len(values) > count:
        raise invalid(f"input {spec.name!r}: {field} holds {len(values)} values, but its shape needs {count}")
    if len(values) < count and count > MAX_FILLED:
        raise _too_full(spec, count)
    try:
        array = np.array(values, spec.numpy)
    except OverflowError as error:
        raise invalid(f"input {spec.name!r}: a number is out of the range of {spec.dtype.name}") from error
    if len(array) < count:
        last = array[-1] if len(array) else b"" if spec.text else 0
        array = np.concatenate([array, np.full(count - len(array), last, spec.numpy)])
    return array


def _too_full(spec: TensorSpec, count: int) -> ServingError:
    return invalid(f"input {spec.name!r} has {count} elements; a repeated value fills at most {MAX_FILLED}")
