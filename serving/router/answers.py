"""The numbers of an answer: one float for each row, where the model answers such."""

from __future__ import annotations

import math
import struct
from typing import Any

import orjson
from google.protobuf.message import DecodeError

from serving.router import messages

LARGEST = 1 << 20
"""Bytes; a larger answer is not looked into."""
_FLOAT, _DOUBLE = 1, 2
"""TensorFlow's DataType."""


def from_rest(verb: str, answer: bytes) -> list[float] | None:
    """Reads an answer of the REST API.

    Args:
      verb: `predict`, `classify` or `regress`.
      answer: The body of a 200.

    Returns:
      A number for each row; of several outputs with one float for each row, the first by name. None where there is
      none, and one that is not finite where the answer holds such.
    """
    if verb == "classify":
        return None
    try:
        told = orjson.loads(answer)
    except orjson.JSONDecodeError:
        # NaN and Infinity are no JSON. An answer with one is known for it; its other numbers are not.
        return [math.nan] if b"NaN" in answer or b"Infinity" in answer else None
    if type(told) is not dict:
        return None
    if verb == "regress":
        return _floats(told.get("results"))
    columns: dict[str, Any]
    rows = told.get("predictions")
    if type(rows) is list and rows and type(rows[0]) is dict:
        names = sorted(rows[0])
        columns = {name: [row.get(name) if type(row) is dict else None for row in rows] for name in names}
    elif rows is not None:
        columns = {"": rows}
    else:
        outputs = told.get("outputs")
        columns = outputs if type(outputs) is dict else {"": outputs}
    return next((found for name in sorted(columns) if (found := _floats(columns[name])) is not None), None)


def from_grpc(method: str, answer: bytes) -> list[float] | None:
    """Reads a serialized answer of the gRPC API; the result is as of `from_rest`.

    Args:
      method: `Predict`, `Classify`, `Regress` or `MultiInference`.
      answer: The serialized message.
    """
    try:
        if method == "Regress":
            return [row.value for row in messages.regressed(answer).result.regressions]
        if method != "Predict":
            return None
        outputs = {output.key: output.value for output in messages.predicted(answer).outputs}
    except DecodeError:
        return None
    return next((found for name in sorted(outputs) if (found := _tensor(outputs[name])) is not None), None)


def _floats(column: Any) -> list[float] | None:
    """The server writes floats so that they look like floats, so whole numbers are an output of another type."""
    if type(column) is not list or not column:
        return None
    flat = [each[0] if type(each) is list and len(each) == 1 else each for each in column]
    return flat if all(type(each) is float for each in flat) else None


def _tensor(tensor: Any) -> list[float] | None:
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    if tensor.dtype not in (_FLOAT, _DOUBLE) or not shape or shape[0] < 1 or any(size != 1 for size in shape[1:]):
        return None
    if tensor.tensor_content:
        kind, size = ("f", 4) if tensor.dtype == _FLOAT else ("d", 8)
        if len(tensor.tensor_content) != shape[0] * size:
            return None
        return list(struct.unpack(f"<{shape[0]}{kind}", tensor.tensor_content))
    values = list(tensor.float_val if tensor.dtype == _FLOAT else tensor.double_val)
    return values if len(values) == shape[0] else None
