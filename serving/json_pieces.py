"""Writes JSON piece by piece: the interpreter is kept for one piece, and between two pieces other threads run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import orjson

PIECE = 1 << 15
"""Elements that are written at once, which takes a millisecond or two."""


def dump(value: Any, finite: bool) -> bytes:
    """Writes a value at once.

    Args:
      value: What JSON holds, and NumPy's arrays and numbers, also arrays of strings.
      finite: Whether it holds no NaN and no infinity, which take longer.
    """
    if finite:
        return orjson.dumps(value, _listed, orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_listed).encode()


def dump_array(array: np.ndarray | Any, finite: bool) -> bytes:
    """The bytes of `dump` for an array or a single value, written in pieces."""
    if not isinstance(array, np.ndarray) or array.size <= PIECE:
        return dump(array, finite)
    if array.size > PIECE * len(array):
        return dump_each(dump_array(row, finite) for row in array)
    return dump_list(len(array), array.size, lambda part: array[part], finite)


def dump_list(count: int, elements: int, part_of: Callable[[slice], Any], finite: bool) -> bytes:
    """Writes a list in pieces.

    Args:
      count: Its entries.
      elements: The numbers and strings in all of them together.
      part_of: The value of a part of it: a list or an array.
      finite: As for `dump`.
    """
    pieces = [dump(part_of(part), finite)[1:-1] for part in _parts(count, elements)]
    return b"[" + b",".join(pieces) + b"]"


def dump_each(entries: Iterable[bytes]) -> bytes:
    """A list of what is written already."""
    return b"[" + b",".join(list(entries)) + b"]"


def _parts(count: int, elements: int) -> Iterator[slice]:
    step = max(1, PIECE * count // max(1, elements))
    return (slice(start, start + step) for start in range(0, count, step))


def _listed(value: Any) -> Any:
    """What JSON's writers know, for an array or a number of NumPy's."""
    if value.dtype.kind != "f":
        return value.tolist()
    # The digits of a float32, not those of the float64 nearest to it.
    numbers = np.array([float(str(number)) for number in np.ravel(value)], object)
    return numbers.reshape(value.shape).tolist()
