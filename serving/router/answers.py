"""The numbers of an answer: one for each row, where the model answers floats, or probabilities of classes.

Probabilities of classes count as their `airtight.class_score.class_score`, as `components.tasks.multiclass` has it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

import orjson
from google.protobuf.message import DecodeError

from airtight.class_score import class_score
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
      A number for each row; of several outputs with one float for each row the first by name, and else of those with
      probabilities of classes. None where there is none, and one that is not finite where the answer holds such.
    """
    try:
        payload = orjson.loads(answer)
    except orjson.JSONDecodeError:
        # NaN and Infinity are no JSON. An answer with one is known for it; its other numbers are not.
        return [math.nan] if b"NaN" in answer or b"Infinity" in answer else None
    if type(payload) is not dict:
        return None
    if verb == "regress":
        return _floats(payload.get("results"))
    if verb == "classify":
        return _classified(payload.get("results"))
    columns: dict[str, Any]
    rows = payload.get("predictions")
    if type(rows) is list and rows and type(rows[0]) is dict:
        names = sorted(rows[0])
        columns = {name: [row.get(name) if type(row) is dict else None for row in rows] for name in names}
    elif rows is not None:
        columns = {"": rows}
    else:
        outputs = payload.get("outputs")
        columns = outputs if type(outputs) is dict else {"": outputs}
    return _first(columns[name] for name in sorted(columns))


def from_grpc(method: str, answer: bytes) -> list[float] | None:
    """Reads a serialized answer of the gRPC API; the result is as of `from_rest`.

    Args:
      method: `Predict`, `Classify`, `Regress` or `MultiInference`.
      answer: The serialized message.
    """
    try:
        if method == "Regress":
            return [row.value for row in messages.regressed(answer).result.regressions]
        if method == "Classify":
            rows = messages.classified(answer).result.classifications
            return _class_scores([[entry.score for entry in row.classes] for row in rows])
        if method != "Predict":
            return None
        outputs = {output.key: output.value for output in messages.predicted(answer).outputs}
    except DecodeError:
        return None
    return _first(_tensor(outputs[name]) for name in sorted(outputs))


def _first(columns: Iterable[Any]) -> list[float] | None:
    """The first column of one float for each row, or else of probabilities of classes."""
    there = list(columns)
    return next((numbers for read in (_floats, _class_scores) for column in there if (numbers := read(column))), None)


def _classified(rows: Any) -> list[float] | None:
    """Of rows of pairs of label and score."""
    if type(rows) is not list or not all(type(row) is list for row in rows):
        return None
    pairs = all(type(entry) is list and len(entry) == 2 for row in rows for entry in row)  # noqa: PLR2004
    return _class_scores([[entry[1] for entry in row] for row in rows]) if pairs else None


def _class_scores(rows: Any) -> list[float] | None:
    """Of rows of probabilities; a row that is not finite is NaN."""
    if type(rows) is not list or not rows or not all(type(row) is list and len(row) > 1 for row in rows):
        return None
    if not all(type(value) is float for row in rows for value in row):
        return None
    scores = []
    for row in rows:
        score = class_score(row) if all(map(math.isfinite, row)) else math.nan
        if score is None:
            return None
        scores.append(score)
    return scores


def _floats(column: Any) -> list[float] | None:
    """The server writes floats so that they look like floats, so whole numbers are an output of another type."""
    if type(column) is not list or not column:
        return None
    flat = [value[0] if type(value) is list and len(value) == 1 else value for value in column]
    return flat if all(type(value) is float for value in flat) else None


def _tensor(tensor: Any) -> list[Any] | None:
    """Floats of each row: one, or a list of several."""
    shape = [dimension.size for dimension in tensor.tensor_shape.dim]
    if tensor.dtype not in (_FLOAT, _DOUBLE) or not shape or min(shape) < 1:
        return None
    count, width = math.prod(shape), math.prod(shape[1:])
    if tensor.tensor_content:
        kind, size = ("f", 4) if tensor.dtype == _FLOAT else ("d", 8)
        if len(tensor.tensor_content) != count * size:
            return None
        values = list(struct.unpack(f"<{count}{kind}", tensor.tensor_content))
    else:
        values = list(tensor.float_val if tensor.dtype == _FLOAT else tensor.double_val)
    if len(values) != count:
        return None
    return values if width == 1 else [values[start : start + width] for start in range(0, count, width)]
