"""What a journal of the prediction log holds, and the rows that readers see of it; it does without TensorFlow.

The model server writes columns as they cost it least; the name of one that is not yet as readers see it begins with
its role: `text:` are bytes that are text, Base64 or serialized tf.Examples, `value:` belongs into the row's JSON, and
`json:` is a part of that JSON already. What is the same in all rows of a request may be run-end encoded.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError

from airtight.predictions import CALLER, INPUT, OTHER_INPUTS, OTHER_OUTPUTS, OUTPUT, REQUEST
from serving.declared_messages import message_classes

if TYPE_CHECKING:
    from serving.prediction_log.personal import Personal

TEXT, VALUE, JSON = "text:", "value:", "json:"
"""The roles of columns."""
BINARY = "b64:"
"""Before the Base64 of bytes that are no text."""
REQUEST_COLUMNS: dict[str, pa.DataType] = {
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
"""The columns of every row."""
TOGETHER = 1000
"""Rows that are converted together."""
_MARK = b"\xff\xff\xff\xff"
_HEAD = re.compile(_MARK + rb"..[\x00-\x0f]\x00", re.DOTALL)
"""How a message of an Arrow stream begins; then comes the size of its description."""
_EXAMPLE = message_classes(
    "airtight.example",
    {  # Names and numbers as in tensorflow/core/example/*.proto.
        "BytesList": (("value", 1, "bytes", True),),
        "FloatList": (("value", 1, "float", True),),
        "Int64List": (("value", 1, "int64", True),),
        "Feature": (
            ("bytes_list", 1, "BytesList", False),
            ("float_list", 2, "FloatList", False),
            ("int64_list", 3, "Int64List", False),
        ),
        "Entry": (("key", 1, "string", False), ("value", 2, "Feature", False)),
        "Features": (("feature", 1, "Entry", True),),
        "Example": (("features", 1, "Features", False),),
    },
)["Example"]
_KINDS = ("bytes_list", "float_list", "int64_list")


def batches(path: Path) -> Generator[pa.RecordBatch, None, int]:
    """The batches of a journal up to its end, or up to the one that is not whole, or damaged.

    Returns:
      Where the last of them ends, bytes from the beginning.

    Raises:
      OSError: The file is not there or cannot be read.
    """
    end = 0
    try:
        with path.open("rb") as file, pa.ipc.open_stream(file) as stream:
            end = file.tell()
            for batch in stream:
                batch.validate(full=True)  # What is computed with damaged bytes may end the process.
                end = file.tell()
                yield batch
    except (EOFError, pa.ArrowInvalid):
        pass
    except OSError as error:
        # Arrow has the same kind of error, without a number, for a message that is not whole yet.
        if error.errno is not None:
            raise
    return end


def slices(path: Path) -> Generator[pa.RecordBatch, None, int]:
    """The same rows, `TOGETHER` at a time: where few requests come, a batch has few rows, and each has its price."""
    gathered: list[pa.RecordBatch] = []
    rows, reading = 0, batches(path)
    while True:
        try:
            gathered.append(next(reading))
            rows += len(gathered[-1])
        except StopIteration as ended:
            yield from _sliced(gathered)
            return ended.value
        if rows >= TOGETHER:
            yield from _sliced(gathered)
            gathered, rows = [], 0


def _sliced(gathered: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if gathered:
        yield from pa.Table.from_batches(gathered).combine_chunks().to_batches(max_chunksize=TOGETHER)


def is_torn_message(path: Path, start: int) -> bool:
    """Whether a journal holds from a place on nothing, or one message that was not written to its end.

    Args:
      path: The journal.
      start: Where the last batch that can be read ends, bytes from the beginning.

    Returns:
      False where there is more: a batch that can be read behind one that cannot, one that is whole and damaged, or
      what is no message at all.

    Raises:
      OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        rest = file.read()
    if not rest.strip(b"\0"):
        return True  # Where the power fails, a file may be longer than what was written to it.
    if not rest.startswith(_MARK[: len(rest)]):
        return False
    stream = pa.BufferReader(rest)
    try:
        pa.ipc.read_message(stream)
    except (EOFError, pa.ArrowInvalid, OSError):
        return stream.tell() == len(rest) and not _holds_message(rest)
    return False


def _holds_message(rest: bytes) -> bool:
    for match in _HEAD.finditer(rest, len(_MARK)):
        try:
            pa.ipc.read_message(pa.BufferReader(rest[match.start() :]))
        except (EOFError, pa.ArrowInvalid, OSError):
            continue
        return True
    return False


def rows_of(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    """The rows of a journal's batch as readers see them: typed columns, and JSON for what has none."""
    columns: dict[str, Any] = {}
    others: dict[str, dict[str, Sequence[Any]]] = {OTHER_INPUTS: {}, OTHER_OUTPUTS: {}}
    for full_name, column in zip(batch.schema.names, batch.columns, strict=True):
        role = next((role for role in (TEXT, VALUE, JSON) if full_name.startswith(role)), "")
        name = full_name.removeprefix(role)
        prefix, other = (INPUT, OTHER_INPUTS) if name.startswith(INPUT) else (OUTPUT, OTHER_OUTPUTS)
        if name.startswith(OUTPUT):
            _add_json(columns, others, OTHER_INPUTS)
        if not role:
            is_repeated = pa.types.is_run_end_encoded(column.type)
            columns[name] = pc.run_end_decode(column) if is_repeated else column
            continue
        values: Sequence[Any] | None
        if role == TEXT:
            values = opened(column.to_pylist())
            if values is None:
                columns[name] = _texts(column)
                continue
        elif role == JSON:
            values = [orjson.Fragment(text) for text in column.to_pylist()]
        else:
            values = column.to_pylist()
        others[other][name.removeprefix(prefix)] = values
    _add_json(columns, others, OTHER_INPUTS)
    _add_json(columns, others, OTHER_OUTPUTS)
    return pa.table(columns)


def _add_json(columns: dict[str, Any], others: dict[str, dict[str, Sequence[Any]]], name: str) -> None:
    if values := others.pop(name, None):
        rows = zip(*values.values(), strict=True)
        columns[name] = pa.array([as_json(dict(zip(values, row, strict=True))).decode() for row in rows], pa.string())


def as_json(value: Any) -> bytes:
    """JSON of plain values and lists of them; bytes are text or Base64."""
    return orjson.dumps(value, default=_plain)


def opened(values: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Serialized tf.Examples by the names of their features; None where the values are no such thing.

    Args:
      values: One for each row.
    """
    # Field 1 of the message begins with this byte, and hardly any text does.
    if not any(values) or not all(value[:1] == b"\n" for value in values if value):
        return None
    try:
        return [_features(_EXAMPLE.FromString(value), None) for value in values]
    except DecodeError:
        return None


def without_personal(values: Sequence[bytes], personal: Personal) -> tuple[list[Any], bool] | None:
    """Text of which nobody reads personal features of a tf.Example, whatever else its client put into it.

    Args:
      values: Text, or serialized tf.Examples.
      personal: Which features are hashed or left out; some are.

    Returns:
      Examples by the names of their features, text as it is, and None for what may be an example that cannot be read:
      it begins as one does, has the name of a personal feature in it, or others of the column are examples. Then
      whether some are examples. Or None for the whole where all is text.
    """

    def is_suspect(value: bytes) -> bool:
        return b"\n" in value or personal.is_named_in(value)  # An example has this byte in it, the tag of its features.

    if not is_suspect(b"\0".join(values)):  # Most columns are short text, and looked at all at once.
        return None
    suspects = [number for number, value in enumerate(values) if is_suspect(value)]
    kept: list[Any] = list(values)
    for number in suspects:
        value = values[number]
        kept[number] = _example(value, personal)
        if kept[number] is None and not value.startswith(b"\n") and not personal.is_named_in(value):
            kept[number] = value
    if not any(isinstance(value, dict) for value in kept):
        return kept, False
    return [value if isinstance(value, dict) else None if value else {} for value in kept], True


def _example(value: bytes, personal: Personal) -> dict[str, Any] | None:
    """The features of a serialized tf.Example that has some; None for anything else."""
    try:
        example = _EXAMPLE.FromString(value)
    except DecodeError:
        return None
    return _features(example, personal) if example.HasField("features") else None


def _features(example: Any, personal: Personal | None) -> dict[str, Any]:
    by_name = {entry.key: entry.value for entry in example.features.feature}  # Of a name that is there twice, the last.
    return {
        name: _plain_feature(name, by_name[name], personal)
        for name in sorted(by_name)
        if personal is None or name not in personal.omitted
    }


def _plain_feature(name: str, feature: Any, personal: Personal | None) -> Any:
    values: list[Any] = [value for kind in _KINDS if feature.HasField(kind) for value in getattr(feature, kind).value]
    if personal is not None and name in personal.hashed:
        values = list(personal.hashes(values))
    return values[0] if len(values) == 1 else values


def _texts(column: Any) -> Any:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # Some are no UTF-8.
        return pa.array([None if value is None else _text(value) for value in column.to_pylist()], pa.string())


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return BINARY + base64.b64encode(value).decode()


def _plain(value: Any) -> Any:
    """What orjson does not know: bytes as text, and others as their text."""
    return _text(value) if isinstance(value, bytes) else str(value)
