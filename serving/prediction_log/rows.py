"""Notes of answered requests as a table: a row for each example, a column for each feature and answer.

A feature of the shape [batch] is a column of its type. What has more dimensions, or no batch, is JSON; serialized
tf.Examples are opened, so that their features are told, and hidden, by name. Everything of one feature is converted at
once, and between two features other threads get their turn.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import orjson
import pyarrow as pa
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2

from airtight.predictions import CALLER, INPUT, OTHER_INPUTS, OTHER_OUTPUTS, OUTPUT, REQUEST
from serving.prediction_log.personal import Personal
from serving.signature import Signature, TensorSpec

LONGEST_ID = 256
"""Characters of what a caller says of himself that are kept."""
BINARY = "b64:"
"""Before the Base64 of bytes that are no text."""
SIDE_HEADER, CALLER_HEADER, REQUEST_HEADER = "x-airtight-side", "x-caller-id", "x-request-id"
_META: dict[str, pa.DataType] = {
    "time": pa.timestamp("us", tz="UTC"),
    "model": pa.string(),
    "version": pa.int64(),
    "label": pa.string(),
    "side": pa.string(),
    "signature": pa.string(),
    "protocol": pa.string(),
    "method": pa.string(),
    "code": pa.string(),
    "latency_ms": pa.float64(),
    CALLER: pa.string(),
    REQUEST: pa.string(),
    "row": pa.int32(),
    "rows": pa.int32(),
    "sampling_rate": pa.float64(),
}


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
      headers: HTTP headers or gRPC metadata, as they came.
      calls: What was called; nothing where it was refused before.
      sampling_rate: With which it was chosen.
      size: Bytes that the note keeps in memory, about.
    """

    at: float
    model: str
    label: str | None
    protocol: str
    method: str
    code: str
    seconds: float
    headers: Sequence[tuple[Any, Any]]
    calls: Sequence[Answered]
    sampling_rate: float
    size: int


_Entry: TypeAlias = tuple[Note, dict[str, Any], Answered | None]
"""A request, what its caller said, and one call of it."""


@dataclass(slots=True)
class Group:
    """Calls whose rows have the same columns, so that they are one table.

    Args:
      by_row: Whether each example is a row; otherwise each call is one.
      ok: Whether there are answers.
      entries: The calls, with their requests.
    """

    by_row: bool
    ok: bool
    entries: list[_Entry] = field(default_factory=list)

    def table(self, personal: Personal) -> pa.Table:
        """The rows."""
        return _table(self.entries, self.by_row, self.ok, personal)


def groups(notes: Sequence[Note], personal: Personal) -> Iterator[Group]:
    """The notes of one model, by what their rows look like."""
    found: dict[tuple[Any, ...], Group] = {}
    for note in notes:
        said, ok = _said(note, personal), note.code == "OK"
        for call in note.calls or (None,):
            examples = _examples(call, ok)
            # Calls without examples are apart: their rows have no features, as those of refused requests.
            key = (call and id(call.signature), examples is None, examples == 0, ok)
            found.setdefault(key, Group(examples is not None, ok)).entries.append((note, said, call))
    for group in found.values():
        time.sleep(0)
        yield group


def _said(note: Note, personal: Personal) -> dict[str, Any]:
    """What the caller said of himself and of the request, and the router of the side."""
    headers: dict[str, str] = {}
    for raw, value in note.headers:
        name = raw.decode("latin-1") if isinstance(raw, bytes) else raw
        if name in (SIDE_HEADER, CALLER_HEADER, REQUEST_HEADER):
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            headers.setdefault(name, text[:LONGEST_ID])
    said = {
        "side": headers.get(SIDE_HEADER) or None,
        CALLER: headers.get(CALLER_HEADER) or None,
        # A request without a name gets one, so that its rows belong together and are told from any others.
        REQUEST: headers.get(REQUEST_HEADER) or uuid4().hex,
    }
    for name in (CALLER, REQUEST):
        if name in personal.hashed:
            (said[name],) = personal.hashes([said[name]])
        if name in personal.omitted:
            said[name] = None
    return said


def _examples(call: Answered | None, ok: bool) -> int | None:
    """The size of the batch that the call's tensors have in common, so that each example is a row; None without one."""
    if call is None:
        return 0
    sizes = {array.shape[0] if array.ndim else None for array in (*call.inputs, *(call.outputs if ok else ()))}
    return sizes.pop() if len(sizes) == 1 else None


def _table(group: list[_Entry], by_row: bool, ok: bool, personal: Personal) -> pa.Table:
    examples = [_examples(call, ok) or 0 if by_row else 1 for _, _, call in group]
    counts = np.maximum(examples, 1)  # A request that was refused, or asked for nothing, has one row, of no example.
    total = int(counts.sum())
    of = pa.array(np.repeat(np.arange(len(group)), counts))
    ends = np.cumsum(counts)
    row = np.arange(total) - np.repeat(ends - counts, counts)
    per_request = {
        "time": [round(note.at * 1e6) for note, _, _ in group],
        "model": [note.model for note, _, _ in group],
        "version": [call.version if call else None for _, _, call in group],
        "label": [note.label or None for note, _, _ in group],
        "side": [said["side"] for _, said, _ in group],
        "signature": [call.signature.name if call else None for _, _, call in group],
        "protocol": [note.protocol for note, _, _ in group],
        "method": [note.method for note, _, _ in group],
        "code": [note.code for note, _, _ in group],
        "latency_ms": [1e3 * note.seconds for note, _, _ in group],
        CALLER: [said[CALLER] for _, said, _ in group],
        REQUEST: [said[REQUEST] for _, said, _ in group],
        "rows": examples,
        "sampling_rate": [note.sampling_rate for note, _, _ in group],
    }
    columns: dict[str, pa.Array] = {}
    for name, kind in _META.items():
        columns[name] = pa.array(row, kind) if name == "row" else pa.array(per_request[name], kind).take(of)
    calls = [call for _, _, call in group if call]
    if any(examples):
        signature = calls[0].signature
        inputs = _side([call.inputs for call in calls], signature.inputs, by_row, personal)
        columns |= _named(inputs, INPUT, OTHER_INPUTS)
        if ok:
            outputs = _side([call.outputs for call in calls], signature.outputs, by_row, personal)
            columns |= _named(outputs, OUTPUT, OTHER_OUTPUTS)
    return pa.table(columns)


@dataclass(slots=True)
class _Side:
    """Features, or answers: typed columns, and what goes into each row's JSON."""

    typed: dict[str, pa.Array]
    other: dict[str, Sequence[Any]]


def _side(
    calls: Sequence[Sequence[np.ndarray]], specs: Sequence[TensorSpec], by_row: bool, personal: Personal
) -> _Side:
    side = _Side({}, {})
    for number, spec in enumerate(specs):
        time.sleep(0)  # The requests' thread takes its turn between two features.
        if spec.name in personal.omitted:
            continue
        arrays = [call[number] for call in calls]
        if by_row and all(array.ndim == 1 for array in arrays):
            values = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            examples = _opened(values, personal) if spec.text else None
            if examples is not None:
                side.other[spec.name] = examples
            elif spec.name in personal.hashed:
                side.typed[spec.name] = pa.array(personal.hashes(values.tolist()), pa.string())
            elif spec.text:
                side.typed[spec.name] = pa.array(map(_text, values), pa.string())
            elif values.dtype.kind in "biuf":
                side.typed[spec.name] = pa.array(values)
            else:
                side.other[spec.name] = values.tolist()
            continue
        hidden = _hider(spec.name, personal)
        told: list[Any] = []
        for array in arrays:
            told += [hidden(value) for value in (array if by_row else [array])]
        side.other[spec.name] = told
    return side


def _hider(name: str, personal: Personal) -> Callable[[Any], Any]:
    """What makes plain values of an array, hashed where its name says so."""

    def hidden(value: Any) -> Any:
        plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        if name in personal.hashed:
            return personal.hashes([orjson.dumps(plain, default=_plain)])[0]
        return plain

    return hidden


def _opened(values: np.ndarray, personal: Personal) -> list[dict[str, Any]] | None:
    """Serialized tf.Examples by the names of their features; None where the values are no such thing."""
    # Field 1 of the message begins with this byte, and hardly any text does.
    if not len(values) or not all(value[:1] == b"\n" for value in values if value) or not any(values):
        return None
    told = []
    for value in values:
        try:
            features = example_pb2.Example.FromString(value).features.feature
        except DecodeError:
            return None
        kept = features.keys() - personal.omitted
        told.append({name: _of_feature(name, features[name], personal) for name in sorted(kept)})
    return told


def _of_feature(name: str, feature: Any, personal: Personal) -> Any:
    kind = feature.WhichOneof("kind")
    values: list[Any] = list(getattr(feature, kind).value) if kind else []
    if name in personal.hashed:
        values = list(personal.hashes(values))
    return values[0] if len(values) == 1 else values


def _named(side: _Side, prefix: str, other: str) -> dict[str, pa.Array]:
    columns = {f"{prefix}{name}": column for name, column in side.typed.items()}
    if side.other:
        names = list(side.other)
        rows = zip(*side.other.values(), strict=True)
        texts = [orjson.dumps(dict(zip(names, row, strict=True)), default=_plain).decode() for row in rows]
        columns[other] = pa.array(texts, pa.string())
    return columns


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return BINARY + base64.b64encode(value).decode()


def _plain(value: Any) -> Any:
    """What orjson does not know: bytes as text, and numbers of rare types as their text."""
    return _text(value) if isinstance(value, bytes) else str(value)


def as_messages(table: pa.Table) -> Iterator[tuple[bytes, bytes]]:
    """Each row as a key (the request's id) and JSON: inputs and outputs by name, instants in ISO 8601, NaN as null."""
    for start in range(0, table.num_rows, 16):
        time.sleep(0)
        for row in table.slice(start, 16).to_pylist():
            yield row[REQUEST].encode(), orjson.dumps(_message(row))


def _message(row: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {name: row[name] for name in _META}
    for side, prefix, other in (("inputs", INPUT, OTHER_INPUTS), ("outputs", OUTPUT, OTHER_OUTPUTS)):
        named = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        told = orjson.loads(row[other]) if other in row else {}
        said[side] = named | told
    return said
