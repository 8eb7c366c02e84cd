"""What a request leaves for the prediction log: itself, as short as it can be kept until it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from airtight.predictions import CALLER, REQUEST
from serving.signature import Signature, size_of

LONGEST_ID = 256
"""Characters of what a caller says of himself that are kept."""
_BY_HEADER = {"x-airtight-side": "side", "x-caller-id": CALLER, "x-request-id": REQUEST}
HEADERS: dict[Any, str] = _BY_HEADER | {name.encode(): column for name, column in _BY_HEADER.items()}
"""Columns by the header, or gRPC's metadata, that they come from."""
NUMBERS = "biuf"
"""NumPy's kinds of types that Arrow has, too."""
_VALUE_BYTES = 40
"""What a Python object of one value takes, about."""
_KEPT_SIGNATURES = 1000
_text_positions: dict[int, tuple[int, ...] | None] = {}
"""By a signature's serial: which values of a `Row` are text, or None where it has no such rows."""


@dataclass(slots=True)
class Answered:
    """One call of a signature.

    Args:
      version: The version that answered.
      signature: What was called.
      inputs: In the order of `signature.inputs`.
      outputs: In the order of `signature.outputs`.
    """

    version: int
    signature: Signature
    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]


@dataclass(slots=True)
class Row:
    """A call of one example whose tensors hold one value each: without its arrays it takes less memory and time.

    Args:
      version: The version that answered.
      signature: What was called.
      values: Of its inputs and outputs, in their order.
    """

    version: int
    signature: Signature
    values: Sequence[Any]


@dataclass(slots=True)
class Note:
    """What is kept of one request until it is written.

    Args:
      at: When it was answered, seconds since 1970.
      model: Its model.
      label: The label that it asked for, or None.
      protocol: "REST" or "gRPC".
      method: "Predict", "Classify", ...
      code: The name of gRPC's code, "OK" for an answer.
      seconds: From its arrival to its answer.
      headers: What the caller says of himself and the request, and the router of the side, by `HEADERS`.
      calls: What was called; nothing where it was refused before.
      sampling_rate: With which it was chosen.
      size: Bytes that the note keeps in memory, about.
      written: Waits for the rows to be on the disk, or None.
    """

    at: float
    model: str
    label: str | None
    protocol: str
    method: str
    code: str
    seconds: float
    headers: dict[str, Any]
    calls: Sequence[Answered | Row]
    sampling_rate: float
    size: int
    written: Any = None


def as_row(call: Answered) -> tuple[Answered | Row, int]:
    """The call as a `Row` where it is one, and the bytes that it keeps in memory, about."""
    signature = call.signature
    texts = _text_positions.get(signature.serial, ())
    if signature.serial not in _text_positions:
        texts = _find_texts(signature)
    if texts is not None and call.outputs[0].size == 1:
        try:
            values = [array.item() for array in chain(call.inputs, call.outputs)]
            size = _VALUE_BYTES * len(values) + sum([len(values[position]) for position in texts])
        except (ValueError, TypeError, IndexError):  # A tensor is not what the model declares.
            pass
        else:
            return Row(call.version, signature, values), size
    return call, size_of(call.inputs) + size_of(call.outputs)


def _find_texts(signature: Signature) -> tuple[int, ...] | None:
    if len(_text_positions) >= _KEPT_SIGNATURES:
        _text_positions.clear()
    specs = [*signature.inputs, *signature.outputs]
    has_rows = all(spec.column and (spec.text or spec.numpy.kind in NUMBERS) for spec in specs)
    texts = tuple(number for number, spec in enumerate(specs) if spec.text) if has_rows and signature.outputs else None
    _text_positions[signature.serial] = texts
    return texts
