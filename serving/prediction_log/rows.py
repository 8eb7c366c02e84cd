"""Notes of answered requests as batches of a journal: a row for each example, a column for each feature and answer.

A feature of the shape [batch] is a column of its type; what has more dimensions, or no batch, is lists, which become
JSON when the journal becomes a file. Only columns that are hashed or left out are converted here, because nobody may
read them on the disk. All of one column is converted at once: what is done for each request has to cost little.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from airtight.predictions import CALLER, INPUT, OUTPUT, REQUEST
from serving.prediction_log.journal_rows import JSON, REQUEST_COLUMNS, TEXT, VALUE, as_json, without_personal
from serving.prediction_log.notes import LONGEST_ID, NUMBERS, Answered, Note, Row
from serving.prediction_log.personal import Personal
from serving.signature import TensorSpec

MANY_ROWS = 10_000
"""A table of so many rows takes long enough that other threads get their turn between two columns."""
_ID_BYTES = 16
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)


_Entry: TypeAlias = tuple[Note, Answered | Row | None]
"""A request, and one call of it."""


@dataclass(slots=True)
class Group:
    """Calls whose rows have the same columns, so that they are one batch.

    Args:
      day: Of the answers, in UTC, days since 1970.
      by_row: Whether each example is a row; otherwise each call is one.
      ok: Whether there are answers.
      entries: The calls, with their requests.
      examples: How many each has.
    """

    day: int
    by_row: bool
    ok: bool
    entries: list[_Entry] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)

    @property
    def date(self) -> str:
        """The day as YYYY-MM-DD."""
        return (_EPOCH + timedelta(self.day)).isoformat()

    @property
    def rows(self) -> int:
        """How many there are: a request that was refused, or asked for nothing, has one, of no example."""
        return sum([max(1, count) for count in self.examples])

    def batch(self, personal: Personal) -> pa.RecordBatch:
        """The rows."""
        columns = _request_columns(self, personal)
        calls: Any = [call for _, call in self.entries]
        if any(self.examples):
            signature = calls[0].signature
            specs = [(INPUT, spec) for spec in signature.inputs]
            specs += [(OUTPUT, spec) for spec in signature.outputs if self.ok]
            if type(calls[0]) is Row:
                values: Any = zip(*[call.values for call in calls], strict=True)
                convert: Callable[..., tuple[str, pa.Array]] = _typed
            else:
                values = zip(*[(*call.inputs, *(call.outputs if self.ok else ())) for call in calls], strict=True)
                convert = _by_row if self.by_row else _by_call
            many = len(columns["row"]) >= MANY_ROWS
            for (prefix, spec), column in zip(specs, values, strict=True):
                if many:
                    time.sleep(0)  # The requests' thread takes its turn.
                if spec.name not in personal.omitted:
                    name, converted = convert(prefix + spec.name, spec, column, personal)
                    columns[name] = converted
        return pa.record_batch(columns)


def groups(notes: Sequence[Note]) -> Iterator[Group]:
    """The notes of one model, by what their rows look like."""
    by_columns: dict[tuple[Any, ...], Group] = {}
    for note in notes:
        ok, day = note.code == "OK", int(note.at // _DAY_S)
        for call in note.calls or (None,):
            if type(call) is Row:
                key: tuple[Any, ...] = (call.signature.serial, day, ok)
                examples: int | None = 1
            else:
                layout, examples = _layout(call, ok)
                key = (day, *layout)
            group = by_columns.get(key)
            if group is None:
                group = by_columns[key] = Group(day, examples is not None, ok)
            group.entries.append((note, call))
            group.examples.append(1 if examples is None else examples)
    yield from by_columns.values()


def _layout(call: Any, ok: bool) -> tuple[tuple[Any, ...], int | None]:
    """What calls of one group have in common, and the size of the batch that all tensors have; None without one."""
    if call is None:
        return (), 0
    arrays = (*call.inputs, *(call.outputs if ok else ()))
    sizes = {array.shape[0] if array.ndim else None for array in arrays}
    examples = sizes.pop() if len(sizes) == 1 else None
    # Calls without examples are apart: their rows have no features, as those of refused requests.
    return (
        call.signature.serial,
        ok,
        examples is None,
        examples == 0,
        tuple([array.ndim for array in arrays]),
    ), examples


def _request_columns(group: Group, personal: Personal) -> dict[str, pa.Array]:
    entries, examples = group.entries, group.examples
    notes = [note for note, _ in entries]
    calls = [call for _, call in entries]
    headers = [note.headers for note in notes]
    per_request: dict[str, Sequence[Any]] = {
        "time": [round(note.at * 1e6) for note in notes],
        "model": [note.model for note in notes],
        "version": [call.version if call else None for call in calls],
        "label": [note.label or None for note in notes],
        "side": [_id(of.get("side")) if of else None for of in headers],
        "signature": [call.signature.name if call else None for call in calls],
        "protocol": [note.protocol for note in notes],
        "method": [note.method for note in notes],
        "code": [note.code for note in notes],
        "latency_ms": [1e3 * note.seconds for note in notes],
        CALLER: [_id(of.get(CALLER)) if of else None for of in headers],
        REQUEST: _request_ids(notes),
        "rows": examples if group.by_row else [1] * len(examples),
        "sampling_rate": [note.sampling_rate for note in notes],
    }
    for name in (CALLER, REQUEST):
        if name in personal.hashed:
            per_request[name] = personal.hashes(per_request[name])
        if name in personal.omitted:
            per_request[name] = list(repeat(None, len(notes)))
    single = not any([count > 1 for count in examples])
    if single:
        row, run_ends = np.zeros(len(examples), np.int32), None
    else:
        counts = np.maximum(examples, 1)
        ends = np.cumsum(counts)
        row = (np.arange(ends[-1]) - np.repeat(ends - counts, counts)).astype(np.int32)
        run_ends = pa.array(ends, pa.int32())
    columns: dict[str, pa.Array] = {}
    for name, kind in REQUEST_COLUMNS.items():
        column = pa.array(row if name == "row" else per_request[name], kind)
        if run_ends is not None and name != "row":
            column = pa.RunEndEncodedArray.from_arrays(run_ends, column)
        columns[name] = column
    return columns


def _request_ids(notes: Sequence[Note]) -> list[str | None]:
    # A request without a name gets one, so that its rows belong together and are told from any others; a request of
    # several calls, which may be in several groups, has the same in all of them.
    ids = [_id(note.headers.get(REQUEST)) if note.headers else None for note in notes]
    missing = ids.count(None)
    if missing:
        drawn = os.urandom(_ID_BYTES * missing).hex()
        names = (drawn[start : start + 2 * _ID_BYTES] for start in range(0, len(drawn), 2 * _ID_BYTES))
        for number, name in enumerate(ids):
            if name is None:
                ids[number] = made_up = notes[number].headers.get(REQUEST) or next(names)
                if len(notes[number].calls) > 1:
                    notes[number].headers = {**notes[number].headers, REQUEST: made_up}
    return ids


def _id(value: Any) -> str | None:
    if not value:
        return None
    return (value.decode("utf-8", "replace") if type(value) is bytes else value)[:LONGEST_ID]


def _by_row(name: str, spec: TensorSpec, arrays: Sequence[np.ndarray], personal: Personal) -> tuple[str, pa.Array]:
    """A column with a value for each example."""
    if arrays[0].ndim > 1:
        return _lists(name, spec, arrays, personal)
    values = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return _typed(name, spec, values, personal)


def _by_call(name: str, spec: TensorSpec, arrays: Sequence[np.ndarray], personal: Personal) -> tuple[str, pa.Array]:
    """A column with all of a tensor in one value, for calls without a batch."""
    return _lists(name, spec, [array[None] for array in arrays], personal)


def _typed(name: str, spec: TensorSpec, values: Any, personal: Personal) -> tuple[str, pa.Array]:
    """A column of one value for each row, of a sequence or an array of them."""
    if isinstance(values, np.ndarray) and (spec.text or spec.name in personal.hashed):
        values = values.tolist()
    guarded = without_personal(values, personal) if spec.text and personal else None
    if guarded is not None and guarded[1]:
        return JSON + name, pa.array([as_json(value) for value in guarded[0]], pa.binary())
    if spec.name in personal.hashed:
        return name, pa.array(personal.hashes(values), pa.string())
    if not spec.text and spec.numpy.kind not in NUMBERS:
        return VALUE + name, _plain(spec, values)
    return (TEXT + name if spec.text else name), _plain(spec, values if guarded is None else guarded[0])


def _lists(name: str, spec: TensorSpec, arrays: Sequence[np.ndarray], personal: Personal) -> tuple[str, pa.Array]:
    """Arrays of [rows, ...] one after the other, as lists of lists."""
    flat = np.concatenate([array.ravel() for array in arrays])
    if spec.text and personal and spec.name not in personal.hashed:
        guarded = without_personal(flat.tolist(), personal)
        if guarded is not None:
            flat = flat.astype(object)
            flat[:] = guarded[0]
            if guarded[1]:
                ends = np.cumsum([array.size for array in arrays])[:-1]
                parts = zip(np.split(flat, ends), arrays, strict=True)
                nested = [row for part, array in parts for row in part.reshape(array.shape).tolist()]
                return JSON + name, pa.array([as_json(row) for row in nested], pa.binary())
    column = _plain(spec, flat)
    for axis in range(arrays[0].ndim - 1, 0, -1):
        sizes = [array.shape[axis] for array in arrays]
        offsets = np.cumsum([0, *np.repeat(sizes, [math.prod(array.shape[:axis]) for array in arrays])])
        column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), column)
    if spec.name in personal.hashed:
        column = pa.array(personal.hashes(map(as_json, column.to_pylist())), pa.string())
    return VALUE + name, column


def _plain(spec: TensorSpec, values: Any) -> pa.Array:
    if spec.text:
        return pa.array(values.tolist() if isinstance(values, np.ndarray) else values, pa.binary())
    if spec.numpy.kind in NUMBERS:
        return pa.array(values, pa.from_numpy_dtype(spec.numpy))
    if spec.numpy.kind == "c":
        return pa.array(list(map(str, values.tolist())), pa.string())
    return pa.array(values.astype(np.float64))  # bfloat16 and its kin, which Arrow does not know.
