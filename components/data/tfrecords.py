"""Examples as gzipped TFRecords of tf.Example, the same bytes for the same rows, which TFX's own components read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.data.feature_kinds import kind_of
from components.data.pieces import PIECE_BYTES
from components.schema import ExampleSchema, Feature

_TOGETHER = 64
"""Records that are read together."""
SCHEMA_FILE = "schema.pbtxt"
"""The schema of TensorFlow Metadata beside the splits."""


def write(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes one file, a tf.Example for each row; an instant is int64, microseconds since 1970, a float64 a float."""
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    encoder = RecordBatchToExamplesEncoder()
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for table in tables:
            lists = pa.table({name: _lists(table[name].combine_chunks()) for name in table.column_names})
            for batch in lists.to_batches():
                for example in encoder.encode(batch):
                    # The encoder writes features in the order of a hash map, another in each process.
                    fixed = tf.train.Example.FromString(example).SerializeToString(deterministic=True)
                    writer.write(fixed)


def read(path: Path, columns: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """The rows of one file.

    Args:
      path: The file.
      columns: Names and types of the columns to read.
      rows: Rows of a piece, at most; of large values it has fewer.

    Yields:
      Tables of these columns, in order; a column that an example lacks is null.

    Raises:
      OSError: The file is broken.
    """
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    proto = schema_pb2.Schema(feature=[_proto(field) for field in columns])
    decoder = ExamplesToRecordBatchDecoder(proto.SerializeToString())
    try:
        for records in _bounded(tf.data.TFRecordDataset(str(path), "GZIP").batch(min(rows, _TOGETHER)), rows):
            batch = decoder.DecodeBatch(records)
            values = [_column(batch.column(batch.schema.get_field_index(field.name)), field.type) for field in columns]
            yield pa.Table.from_arrays(values, schema=columns)
    except (tf.errors.OpError, RuntimeError) as error:
        raise OSError(str(error)) from error


def _bounded(batches: Iterable[Any], rows: int) -> Iterator[list[bytes]]:
    """Records in lists of so many rows, and PIECE_BYTES, at most."""
    held: list[bytes] = []
    size = 0
    for batch in batches:
        records = batch.numpy().tolist()
        more = sum(map(len, records))
        if held and (len(held) + len(records) > rows or size + more > PIECE_BYTES):
            yield held
            held, size = [], 0
        held, size = held + records, size + more
    if held:
        yield held


def names_in(path: Path) -> list[str]:
    """The features of a file's first example; [] where it has none."""
    import tensorflow as tf

    try:
        for record in tf.data.TFRecordDataset(str(path), "GZIP").take(1):
            return list(tf.train.Example.FromString(record.numpy()).features.feature)
    except tf.errors.OpError as error:
        raise OSError(str(error)) from error
    return []


def count(path: Path) -> int:
    """How many examples a file holds; it is read whole."""
    import tensorflow as tf

    return int(tf.data.TFRecordDataset(str(path), "GZIP").reduce(0, lambda rows, _: rows + 1).numpy())


def schema_text(schema: ExampleSchema, columns: pa.Schema) -> str:
    """TensorFlow Metadata's schema of these columns, as TFX's Trainer and Evaluator take one."""
    features = {feature.name: feature for feature in schema.features}
    proto = schema_pb2.Schema(feature=[_proto(field, features.get(field.name)) for field in columns])
    return str(text_format.MessageToString(proto))


def _proto(field: pa.Field, feature: Feature | None = None) -> schema_pb2.Feature:
    leaf = field.type.value_type if pa.types.is_list(field.type) else field.type
    if pa.types.is_floating(leaf):
        kind = schema_pb2.FLOAT
    else:
        kind = schema_pb2.INT if pa.types.is_integer(leaf) or pa.types.is_timestamp(leaf) else schema_pb2.BYTES
    made = schema_pb2.Feature(name=field.name, type=kind)
    shape = kind_of(feature).tensor(feature)[1] if feature else ()
    if None in shape:
        made.value_count.min = 0
    elif feature or not pa.types.is_list(field.type):
        made.presence.min_fraction = 1
        made.shape.dim.extend(schema_pb2.FixedShape.Dim(size=size) for size in shape or (1,))
    return made


def _lists(values: pa.Array) -> pa.Array:
    """A column as the encoder takes it: a list of values for each row."""
    if pa.types.is_list(values.type):
        return values.cast(pa.large_list(_wide(values.type.value_type)))
    flat = values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values
    flat = flat.cast(_wide(flat.type))
    there = flat.drop_null()
    lengths = pc.cast(flat.is_valid(), pa.int64())
    ends = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    return pa.LargeListArray.from_arrays(ends, there)


def _wide(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_floating(type_):
        return pa.float32()
    return pa.int64() if pa.types.is_integer(type_) else pa.large_binary()


def _column(lists: pa.Array, type_: pa.DataType) -> pa.Array:
    """A column of lists as the examples have it: of one that is no list the first value, null where there is none."""
    if pa.types.is_list(type_):
        return lists.cast(type_)
    first = pc.list_element(lists, 0) if pc.min(pc.list_value_length(lists)).as_py() else _first(lists)
    return first.cast(type_)


def _first(lists: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    starts = pc.subtract(pc.cumulative_sum(lengths), lengths)
    return pc.take(pc.list_flatten(lists), pc.if_else(pc.greater(lengths, 0), starts, pa.scalar(None, starts.type)))
