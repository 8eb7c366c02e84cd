"""Tensors in JSON: TensorFlow Serving's row and column formats, in both directions.

Nested lists are flattened and checked level by level at C speed. Whatever is unusual there (base64, lists of uneven
length, a wrong type) takes the slow way, which looks at each element and says what is wrong and where.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from serving import base64_text, json_pieces
from serving.errors import invalid

if TYPE_CHECKING:  # That module imports TensorFlow, and the process that parses large bodies does without.
    from serving.signature import Signature, TensorSpec

BOM = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which .NET and PowerShell write before a document."""
NULL_IS_NAN = "\0"
"""A key of a parsed body, which no body without escapes can have: what is None in it was NaN."""
MAX_SHOWN = 120
"""Characters of a request that an error repeats."""
MAX_DEPTH = 64
"""NumPy's limit of dimensions, and more than any model has."""

_INTEGERS, _FLOATS, _BOOLEANS = "iu", "fV", "b"
_LISTS, _NONE = {list}, type(None)
_LEAVES: dict[str, set[type]] = {
    **{kind: {int} for kind in _INTEGERS},
    **{kind: {int, float} for kind in _FLOATS},
    _BOOLEANS: {bool},
    "O": {str},
    "c": set(),
}
"""The JSON types that a tensor of a NumPy kind is made of (V is bfloat16 and its kin, O a string)."""


def parse(body: bytes) -> dict[str, Any]:
    """Reads a request body.

    Raises:
      ServingError: INVALID_ARGUMENT, it is not a JSON object. NaN, Infinity and -Infinity count as numbers.
    """
    body = body.removeprefix(BOM)
    if not body or body.isspace():
        raise invalid("JSON Parse error: The document is empty")
    try:
        parsed = _loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(parsed, dict):
        raise invalid(f"JSON Value: {_shown(parsed)} Type: {_type(parsed)} is not object")
    return parsed


def _loads(body: bytes) -> Any:
    """Reads JSON with orjson, which is several times as fast as the standard library but knows no NaN.

    NaN outside of strings is read as null, and `NULL_IS_NAN` says so. That is done where no null of the client's own
    and no escape is in the way; a body with Infinity, which hardly any has, is left to the standard library, too.
    """
    if b"NaN" not in body and b"Infinity" not in body:
        return orjson.loads(body)
    if b"Infinity" in body or b"null" in body or b"\\" in body:
        return json.loads(body)
    parts = body.split(b'"')  # Every other one is a string's.
    parts[::2] = [part.replace(b"NaN", b"null") if b"NaN" in part else part for part in parts[::2]]
    parsed = orjson.loads(b'"'.join(parts))
    return {**parsed, NULL_IS_NAN: True} if isinstance(parsed, dict) else parsed


def decode(request: dict[str, Any], signature: Signature) -> tuple[list[np.ndarray], bool]:
    """Turns a predict request into the signature's arrays.

    Args:
      request: The parsed body.
      signature: Whose inputs are wanted.

    Returns:
      The arrays in the order of `signature.inputs`, and whether the request was in row format.

    Raises:
      ServingError: INVALID_ARGUMENT, saying what is wrong and where.
    """
    if "instances" in request:
        if "inputs" in request:
            raise invalid("Not formatted correctly: only one of the keys 'inputs' and 'instances' may be there")
        columns, rows = _columns_of_rows(request["instances"], signature), True
    elif "inputs" in request:
        columns, rows = _columns(request["inputs"], signature), False
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    with np.errstate(over="ignore"):  # A number too large for a float32 becomes infinite, as in C++.
        nan = NULL_IS_NAN in request
        arrays = [_array(column, spec, nan) for column, spec in zip(columns, signature.inputs, strict=True)]
    return arrays, rows


def encode(arrays: Sequence[np.ndarray], signature: Signature, rows: bool) -> bytes:
    """Writes a predict answer in the format of the request.

    Args:
      arrays: In the order of `signature.outputs`.
      signature: Whose outputs they are.
      rows: Row format (`predictions`) or column format (`outputs`).

    Raises:
      ServingError: INVALID_ARGUMENT, the outputs have no common batch size and so no rows.
    """
    specs = signature.outputs
    if rows:
        _check_batch(arrays, specs)
    finite = all(array.dtype.kind not in _FLOATS or np.isfinite(array).all() for array in arrays)
    values = [_printable(array, spec) for array, spec in zip(arrays, specs, strict=True)]
    names = [spec.name for spec in specs]
    if len(specs) == 1:
        answer = json_pieces.dump_array(values[0], finite)
    elif rows:
        answer = _rows(names, values, finite)
    else:
        answer = _object(names, values, finite)
    return (b'{"predictions":' if rows else b'{"outputs":') + answer + b"}"


def _rows(names: Sequence[str], values: Sequence[np.ndarray], finite: bool) -> bytes:
    count, elements = len(values[0]), sum(value.size for value in values)

    def part_of(part: slice) -> list[dict[str, Any]]:
        return [dict(zip(names, row, strict=True)) for row in zip(*(value[part] for value in values), strict=True)]

    if elements <= json_pieces.PIECE * count:
        return json_pieces.dump_list(count, elements, part_of, finite)
    return json_pieces.dump_each(_object(names, row, finite) for row in zip(*values, strict=True))


def _object(names: Sequence[str], values: Iterable[Any], finite: bool) -> bytes:
    pairs = zip(names, values, strict=True)
    members = [json_pieces.dump(name, True) + b":" + json_pieces.dump_array(value, finite) for name, value in pairs]
    return b"{" + b",".join(members) + b"}"


def _columns_of_rows(instances: Any, signature: Signature) -> list[list[Any]]:
    if not isinstance(instances, list):
        raise invalid(f"Expecting 'instances' value to be an array/list, but got {_type(instances)}")
    if not instances:
        raise invalid("No values in 'instances' array")
    specs = signature.inputs
    if not _is_object(instances[0]):
        if len(specs) != 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple input tensors required "
                f"as per tensorinfo_map: {_names(specs)}"
            )
        for index, instance in enumerate(instances):
            if type(instance) is dict and _is_object(instance):
                raise _at(index, "expecting a value/list, but got an object")
        return [instances]
    count = len(specs)
    for index, instance in enumerate(instances):
        if type(instance) is not dict or len(instance) != count or not _is_object(instance):
            raise _at(index, _keys_fault(instance, specs))
    try:
        return [[instance[spec.name] for instance in instances] for spec in specs]
    except KeyError:
        index = next(i for i, row in enumerate(instances) if any(spec.name not in row for spec in specs))
        raise _at(index, _keys_fault(instances[index], specs)) from None


def _columns(inputs: Any, signature: Signature) -> list[Any]:
    specs = signature.inputs
    if _is_object(inputs):
        for spec in specs:
            if spec.name not in inputs:
                raise invalid(f"Missing named input: {spec.name} in 'inputs' object.")
        return [inputs[spec.name] for spec in specs]
    if len(specs) != 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required "
            f"as per tensorinfo_map: {_names(specs)}"
        )
    return [inputs]


def _array(value: Any, spec: TensorSpec, nan: bool) -> np.ndarray:
    quick = _quick(value, spec, nan) if type(value) is list else None
    if quick is not None:
        return quick
    leaves: list[Any] = []
    shape = _walk(value, spec, leaves, 0)
    flat = [_element(math.nan if nan and leaf is None else leaf, spec) for leaf in leaves]
    if spec.text:
        return _objects(flat, shape)
    try:
        return np.array(flat, spec.numpy).reshape(shape)
    except OverflowError as error:
        raise invalid(f"input {spec.name!r}: a number is out of the range of {spec.dtype.name}") from error


def _quick(value: list[Any], spec: TensorSpec, nan: bool) -> np.ndarray | None:
    """Flattens one level after the other at C speed; None where anything is unusual, and the slow way decides."""
    level, shape = value, [len(value)]
    types = set(map(type, level))
    while types == _LISTS:
        sizes = set(map(len, level))
        if len(sizes) != 1 or len(shape) == MAX_DEPTH:
            return None
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
        types = set(map(type, level))
    if nan and spec.numpy.kind == "f":
        types.discard(_NONE)  # NumPy makes NaN of it.
        types = types or {float}
    if not types or not types <= _LEAVES[spec.numpy.kind]:
        return None
    try:
        flat = _objects([text.encode() for text in level], (len(level),)) if spec.text else np.array(level, spec.numpy)
    except (OverflowError, UnicodeEncodeError):
        return None
    return flat if len(shape) == 1 else flat.reshape(shape)


def _walk(value: Any, spec: TensorSpec, leaves: list[Any], depth: int) -> tuple[int, ...]:
    """Appends the elements of a nested list to `leaves` and returns its shape."""
    if not isinstance(value, list):
        leaves.append(value)
        return ()
    if depth == MAX_DEPTH:
        raise invalid(f"input {spec.name!r} is nested more than {MAX_DEPTH} deep")
    inner: tuple[int, ...] | None = None
    for index, element in enumerate(value):
        shape = _walk(element, spec, leaves, depth + 1)
        if inner is not None and shape != inner:
            if len(shape) != len(inner):
                raise invalid(
                    f"input {spec.name!r}: Encountered list at unexpected level: element {index} has "
                    f"{len(shape)} dimensions, expected {len(inner)}"
                )
            raise invalid(
                f"input {spec.name!r}: Expecting tensor shape [{','.join(map(str, inner))}] but got "
                f"[{','.join(map(str, shape))}] at element {index}"
            )
        inner = shape
    return (len(value), *(inner or ()))


def _element(value: Any, spec: TensorSpec) -> Any:
    kind = spec.numpy.kind
    if spec.text:
        if isinstance(value, str):
            try:
                return value.encode()
            except UnicodeEncodeError as error:
                raise invalid(f"input {spec.name!r}: a string is not valid Unicode: {error.reason}") from error
        if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
            try:
                return base64_text.decode(value["b64"])
            except ValueError as error:
                raise invalid(f"input {spec.name!r}: Unable to base64 decode {_shown(value['b64'])}") from error
    elif kind in _BOOLEANS:
        if isinstance(value, bool):
            return value
    elif kind in _INTEGERS:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise invalid(
        f"JSON Value: {_shown(value)} Type: {_type(value)} is not of expected type: {spec.dtype.name} "
        f"(input {spec.name!r})"
    )


def _check_batch(arrays: Sequence[np.ndarray], specs: Sequence[TensorSpec]) -> None:
    batch: int | None = None
    for array, spec in zip(arrays, specs, strict=True):
        if not array.ndim:
            raise invalid(f"Tensor name: {spec.name} has no shape information; ask in column format ('inputs')")
        if batch is not None and len(array) != batch:
            raise invalid(f"Tensor name: {spec.name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)


def _printable(array: np.ndarray, spec: TensorSpec) -> Any:
    kind = array.dtype.kind
    if kind in "OS":
        texts = _objects(list(_texts(array, spec.name.endswith("_bytes"))), array.shape)
        return texts if texts.ndim else texts.item()
    if kind == "V":
        array = array.astype(np.float32)  # bfloat16 and its kin, which only ml_dtypes knows.
    elif kind == "c":
        raise invalid(f"Tensor name: {spec.name} is of type {spec.dtype.name}, which has no JSON form")
    return np.ascontiguousarray(array) if array.ndim else array[()]


def _texts(array: np.ndarray, as_bytes: bool) -> Iterator[Any]:
    for value in array.ravel():
        try:
            yield {"b64": base64.b64encode(value).decode()} if as_bytes else value.decode()
        except UnicodeDecodeError:
            yield {"b64": base64.b64encode(value).decode()}


def _objects(flat: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape)


def _is_object(value: Any) -> bool:
    """A JSON object that is not a base64 string in disguise."""
    return type(value) is dict and not (len(value) == 1 and "b64" in value)


def _keys_fault(instance: Any, specs: Sequence[TensorSpec]) -> str:
    if not _is_object(instance):
        return f"expecting an object, but got {_type(instance)}"
    return f"JSON object: {_shown(instance)} keys must be equal to: {_names(specs)}"


def _at(index: int, fault: str) -> Exception:
    return invalid(f"Failed to process element: {index} of 'instances' list. Error: {fault}")


def _names(specs: Sequence[TensorSpec]) -> str:
    return ",".join(spec.name for spec in specs)


def _type(value: Any) -> str:
    names = {dict: "Object", list: "Array", str: "String", bool: "Bool", type(None): "Null"}
    return names.get(type(value), "Number")


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "(nested very deep)"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
