"""Examples are read as the schema says, and refused in words where they are not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from components.data import examples as reading
from tests.components import toy


def test_raw_features_keep_what_is_missing(tmp_path):
    rows = toy.table(300, 1)
    nulled = rows.set_column(1, "size", pa.array([None, *rows["size"].to_pylist()[1:]], pa.float32()))
    nulled = nulled.set_column(0, "colour", pa.array([None, *rows["colour"].to_pylist()[1:]]))
    toy.examples(tmp_path, train=nulled)
    raw = reading.features(reading.read_table(tmp_path, "train", toy.SCHEMA), toy.SCHEMA)
    assert list(raw) == ["colour", "size", "weight"]
    assert raw["colour"][0] == "" and set(raw["colour"]) == {"", "red", "green", "blue"}
    assert raw["size"].dtype == np.float32 and np.isnan(raw["size"][0])
    assert raw["weight"].tolist() == rows["weight"].to_pylist()


def test_rows_keep_their_order_and_only_the_columns_asked_for(tmp_path):
    toy.examples(tmp_path)
    table = reading.read_table(tmp_path, "test", toy.SCHEMA, ("broken", "at"))
    assert table.column_names == ["broken", "at"]
    assert table["at"].to_pylist() == toy.table(400, 3)["at"].to_pylist()
    assert reading.labels(table, toy.SCHEMA).tolist() == toy.table(400, 3)["broken"].to_pylist()


def test_an_empty_split_has_no_rows(tmp_path):
    toy.examples(tmp_path, test=toy.table(0, 1))
    table = reading.read_table(tmp_path, "test", toy.SCHEMA)
    assert len(reading.labels(table, toy.SCHEMA)) == 0
    assert {name: len(column) for name, column in reading.features(table, toy.SCHEMA).items()}["size"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["weight"]), "lack columns.*weight"),
        (lambda t: t.set_column(1, "size", pa.array(["x"] * len(t))), "size.*another type.*string"),
        (lambda t: t.set_column(0, "colour", pa.array([1.0] * len(t))), "colour.*another type.*double"),
        (lambda t: t.set_column(3, "broken", pa.array([0.5] * len(t))), "broken.*another type.*double"),
    ],
)
def test_wrong_columns_are_refused(tmp_path, change, message):
    toy.examples(tmp_path, train=change(toy.table(10, 1)))
    with pytest.raises(TerminalError, match=message):
        reading.read_table(tmp_path, "train", toy.SCHEMA)


@pytest.mark.parametrize("label", [2, -1, None])
def test_strange_labels_are_refused(tmp_path, label):
    rows = toy.table(5, 1)
    toy.examples(tmp_path, train=rows.set_column(3, "broken", pa.array([0, 1, 0, 1, label], pa.int64())))
    with pytest.raises(TerminalError, match="no label"):
        reading.labels(reading.read_table(tmp_path, "train", toy.SCHEMA), toy.SCHEMA)


def test_a_missing_split_or_a_corrupt_file_is_refused(tmp_path):
    toy.examples(tmp_path)
    with pytest.raises(TerminalError, match=r"no split 'serving'.*test, train, validation"):
        reading.read_table(tmp_path, "serving", toy.SCHEMA)
    file = tmp_path / "Split-train" / "examples-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(TerminalError, match="cannot be read"):
        reading.read_table(tmp_path, "train", toy.SCHEMA)


def test_several_files_are_one_split(tmp_path):
    toy.examples(tmp_path)
    pq.write_table(toy.table(7, 9), tmp_path / "Split-train" / "examples-00001-of-00002.parquet")
    assert len(reading.read_table(tmp_path, "train", toy.SCHEMA)) == 607


def test_the_interval_is_found_or_missed_in_words(tmp_path):
    assert reading.interval_of(toy.examples(tmp_path)) == toy.INTERVAL
    with pytest.raises(TerminalError, match="which data interval"):
        reading.interval_of(toy.artifact(standard_artifacts.Examples, tmp_path / "x"))


def test_some_rows_of_a_large_split_are_read_in_the_memory_of_a_piece(tmp_path, monkeypatch):
    rows = toy.table(20_000, 1)
    (tmp_path / "Split-test").mkdir()
    for number in range(2):
        part = rows.slice(number * 10_000, 10_000)
        pq.write_table(part, tmp_path / "Split-test" / f"examples-{number:05d}-of-00002.parquet", row_group_size=1000)
    monkeypatch.setattr(reading, "PIECE", 1000)
    before, held, tables = pa.total_allocated_bytes(), [], reading._tables

    def watched(*arguments):
        for table in tables(*arguments):
            yield table
            held.append(pa.total_allocated_bytes() - before)

    monkeypatch.setattr(reading, "_tables", watched)
    some = reading.spread_rows(tmp_path, "test", toy.SCHEMA, 50)
    places = np.linspace(0, 19_999, 50).astype(int)
    assert repr(some.to_pydict()) == repr(rows.select(some.column_names).take(places).to_pydict())  # NaN is NaN.
    assert len(held) >= 20 and max(held) < rows.select(some.column_names).nbytes / 2
    assert reading.spread_rows(tmp_path, "test", toy.SCHEMA, 30_000).num_rows == 20_000


def test_some_rows_of_none_are_none(tmp_path):
    toy.examples(tmp_path, test=toy.table(0, 1))
    assert reading.spread_rows(tmp_path, "test", toy.SCHEMA, 50).num_rows == 0
