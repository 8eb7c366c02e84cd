"""Shards: the same rows are the same bytes however they come, in Parquet and as tf.Examples that TFX reads."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.util import tfxio_utils
from tfx.proto import example_gen_pb2
from tfx_bsl.tfxio import dataset_options

from airtight.errors import TerminalError
from airtight.files import digest_of_tree
from components.data import examples, pieces, shards, tfrecords
from components.data.example_frame import columns_of
from components.data.feature_kinds import parse_specs
from tests.components.test_feature_kinds import JPEG, PNG, SCHEMA

ROWS = 5000
COLUMNS = columns_of(SCHEMA, labelled=True)


def table(rows: int = ROWS) -> pa.Table:
    """Rows of every kind of feature, some of them missing."""
    rng = np.random.default_rng(1)
    at = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    columns = {
        "number": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)).astype(np.float32),
        "category": rng.choice(["", "red", "green"], rows),
        "categories": [[f"c{j}" for j in range(n)] for n in rng.integers(0, 3, rows)],
        "text": [" ".join(rng.choice(["late", "früh", "never"], n)) for n in rng.integers(0, 4, rows)],
        "vector": list(rng.normal(size=(rows, 2)).astype(np.float32)),
        "image": [(b"", PNG, JPEG)[n] for n in rng.integers(0, 3, rows)],
        "label": rng.integers(0, 2, rows),
        "at": [at + datetime.timedelta(microseconds=i) for i in range(rows)],
        "id": [f"k{i}" for i in range(rows)],
    }
    return pa.table({name: pa.array(columns[name], COLUMNS.field(name).type) for name in COLUMNS.names}, COLUMNS)


def write(
    folder: Path, rows: pa.Table, batch: int = 999, format_: str = shards.PARQUET, shard_rows: int = 2000
) -> list[Path]:
    """Writes a split of rows that come a batch at a time."""
    pieces = [rows.slice(start, batch) for start in range(0, rows.num_rows, batch)]
    shards.write_shards(folder / "Split-train", pieces, rows.num_rows, COLUMNS, format_, shard_rows)
    return examples.files_of(folder, "train")


@pytest.mark.parametrize("format_", shards.FORMATS)
def test_the_same_rows_are_the_same_bytes_and_rows_however_they_come(tmp_path, format_):
    files = write(tmp_path / "one", table(), 17, format_)
    write(tmp_path / "other", table(), ROWS, format_)
    assert digest_of_tree(tmp_path / "one") == digest_of_tree(tmp_path / "other")
    ending = shards.SUFFIXES[format_]
    assert [file.name for file in files] == [f"examples-0000{i}-of-00003{ending}" for i in range(3)]
    assert examples.count(tmp_path / "one", "train") == ROWS
    write(tmp_path / "whole", table(), ROWS, format_, shard_rows=ROWS)
    every = [
        examples.read_table(folder, "train", SCHEMA, COLUMNS.names) for folder in (tmp_path / "one", tmp_path / "whole")
    ]
    for rows in every:
        assert str(rows.to_pylist()) == str(table().to_pylist())  # As text: NaN equals itself.
    sizes = [batch.num_rows for batch in examples.batches(tmp_path / "one", "train", SCHEMA, ("id", "label"), 700)]
    assert sum(sizes) == ROWS and max(sizes) <= 700


@pytest.mark.parametrize("format_", shards.FORMATS)
def test_a_split_of_no_rows_is_one_shard_of_none(tmp_path, format_):
    files = write(tmp_path, table(0), 10, format_)
    assert len(files) == 1 and examples.count(tmp_path, "train") == 0
    empty = examples.read_table(tmp_path, "train", SCHEMA, COLUMNS.names)
    assert empty.schema.equals(COLUMNS) and not list(examples.batches(tmp_path, "train", SCHEMA))


LARGE = pa.schema({"id": pa.string(), "image": pa.binary(), "texts": pa.list_(pa.string())})


def large_rows(rows: int = 400) -> pa.Table:
    """Some values small, some of a kilobyte; all the same, so that a dictionary would hide them."""
    columns = {
        "id": [f"k{i}" for i in range(rows)],
        "image": [b"x" * (2000 if i % 3 else 0) for i in range(rows)],
        "texts": [["y" * 1000] * (i % 3) or None for i in range(rows)],
    }
    return pa.table(columns, LARGE)


def test_large_values_end_a_row_group_at_the_same_rows_however_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "ROW_GROUP_BYTES", 100_000)
    rows = large_rows()
    for batch in (7, 400):
        parts = (rows.slice(start, batch) for start in range(0, rows.num_rows, batch))
        pieces.write_parquet(tmp_path / f"{batch}.parquet", parts, LARGE)
    assert (tmp_path / "7.parquet").read_bytes() == (tmp_path / "400.parquet").read_bytes()
    with pq.ParquetFile(tmp_path / "7.parquet") as source:
        groups = [source.read_row_group(i) for i in range(source.num_row_groups)]
    assert pa.concat_tables(groups).equals(rows)
    sizes = [sum(len(row["image"]) + sum(map(len, row["texts"] or ())) for row in g.to_pylist()) for g in groups]
    assert len(groups) > 2 and max(sizes) <= 100_000 + 4000 and min(sizes[:-1]) > 90_000


def test_a_piece_of_large_values_is_few_rows_whatever_the_row_groups_are(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 20_000)
    rows = large_rows()
    for group in (5, 400):
        path = tmp_path / f"{group}.parquet"
        pq.write_table(rows, path, row_group_size=group, use_dictionary=False)
        with pq.ParquetFile(path) as source:
            every = list(pieces.pieces(source, 8192))
            narrow = list(pieces.pieces(source, 8192, ["id"]))
        assert pa.Table.from_batches(every).equals(rows)
        assert max(piece.nbytes for piece in every) < 30_000
        assert max(piece.num_rows for piece in narrow) == group


@pytest.mark.parametrize("format_", shards.FORMATS)
def test_pieces_of_examples_with_images_are_bounded_in_bytes_in_either_format(tmp_path, monkeypatch, format_):
    image = PNG + b"." * 2000
    rows = table(600)
    rows = rows.set_column(rows.schema.get_field_index("image"), COLUMNS.field("image"), pa.array([image] * 600))
    for module in (pieces, tfrecords):
        monkeypatch.setattr(module, "PIECE_BYTES", 200_000)
    monkeypatch.setattr(pieces, "ROW_GROUP_BYTES", 200_000)
    write(tmp_path, rows, format_=format_)
    read = list(examples.batches(tmp_path, "train", SCHEMA))
    assert sum(len(piece) for piece in read) == 600 and max(piece.nbytes for piece in read) < 250_000
    assert max(len(piece) for piece in examples.batches(tmp_path, "train", SCHEMA, ("id",))) >= 50


@pytest.mark.slow
def test_of_what_spark_sorted_large_values_that_repeat_are_few_rows_of_a_piece(tmp_path, spark, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1 << 20)
    frame = spark.range(2000, numPartitions=1).selectExpr("id", "repeat('x', 5000) AS text")
    sizes = [piece.nbytes for piece in shards.read_parts(shards.sorted_parts(frame, ["id"], tmp_path / "sorted"))]
    assert sum(sizes) > 10_000_000 and max(sizes) < 1_200_000


def test_rows_are_taken_as_many_as_wanted_and_none_is_lost():
    stream = shards.RowStream([table(10).slice(start, 4) for start in (0, 4, 8)])
    taken = [pa.concat_tables(list(stream.take(rows)))["id"].to_pylist() for rows in (3, 6, 5)]
    assert taken == [["k0", "k1", "k2"], ["k3", "k4", "k5", "k6", "k7", "k8"], ["k9"]]
    assert list(stream.take(5)) == []


def test_tf_data_parses_the_examples_as_the_model_is_served(tmp_path):
    files = write(tmp_path, table(), format_=shards.TFRECORD)
    records = tf.data.TFRecordDataset([str(file) for file in files], "GZIP").batch(ROWS)
    parsed = tf.io.parse_example(next(iter(records)), parse_specs(SCHEMA))
    raw = examples.features(table(), SCHEMA)
    for name, values in raw.items():
        kind = tf.string if values.dtype == object else tf.float32
        np.testing.assert_array_equal(parsed[name].numpy(), tf.constant(values, kind).numpy())


def test_tfx_reads_the_shards_with_the_schema_beside_them(tmp_path):
    write(tmp_path, table(), format_=shards.TFRECORD)
    source = tfxio_utils.make_tfxio(
        file_pattern=[str(tmp_path / "Split-train" / "*")],
        telemetry_descriptors=["test"],
        payload_format=example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE,
        file_format=["tfrecords_gzip"],
        schema=text_format.Parse(tfrecords.schema_text(SCHEMA, COLUMNS), schema_pb2.Schema()),
    )
    options = dataset_options.RecordBatchesOptions(batch_size=512, num_epochs=1)
    batches = list(source.RecordBatches(options))
    assert sum(batch.num_rows for batch in batches) == ROWS
    assert set(batches[0].schema.names) == set(COLUMNS.names)
    tensors = dataset_options.TensorFlowDatasetOptions(batch_size=100, shuffle=False, num_epochs=1)
    first = next(iter(source.TensorFlowDataset(tensors)))
    assert first["vector"].shape == (100, 2) and first["label"].dtype == tf.int64


def test_a_file_that_is_cut_off_is_refused_by_name(tmp_path):
    for format_ in shards.FORMATS:
        files = write(tmp_path / format_, table(), format_=format_)
        files[1].write_bytes(files[1].read_bytes()[:200])
        with pytest.raises(TerminalError, match=r"examples-00001-of-00003.* cannot be read"):
            list(examples.batches(tmp_path / format_, "train", SCHEMA))


def test_a_column_that_is_not_there_is_refused_in_either_format(tmp_path):
    for format_ in shards.FORMATS:
        write(tmp_path / format_, table(10), format_=format_)
        with pytest.raises(TerminalError, match=r"lack columns.*no colour"):
            list(examples.batches(tmp_path / format_, "train", SCHEMA, ("colour",)))
