"""What counts as the same output, and how a difference is told."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from runtime import artifact_diff


@pytest.fixture
def places(tmp_path):
    """Two folders of one artifact, filled by what a test gives for each."""

    def make(then: dict, now: dict) -> list[str]:
        for folder, files in (("then", then), ("now", now)):
            for name, held in files.items():
                file = tmp_path / folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(held if isinstance(held, bytes) else json.dumps(held).encode())
        return artifact_diff.places(tmp_path / "then", tmp_path / "now")

    return make


def test_equal_bytes_are_equal(places):
    assert places({"a/b.txt": b"x", "c": b""}, {"a/b.txt": b"x", "c": b""}) == []


def test_a_file_more_or_less_is_told(places):
    assert places({"a": b"", "b": b""}, {"b": b"", "c": b""}) == ["a is there no longer", "c is new"]


def test_other_bytes_are_told_by_their_place(places):
    assert places({"a.txt": b"same, then"}, {"a.txt": b"same, now"}) == [
        "a.txt: other bytes from 6 on (10 bytes then, 9 now)"
    ]


def test_the_place_itself_in_a_file_is_no_difference(places, tmp_path):
    assert places({"a": str(tmp_path / "then" / "x").encode()}, {"a": str(tmp_path / "now" / "x").encode()}) == []
    assert places({"b.json": [str(tmp_path / "then")]}, {"b.json": [str(tmp_path / "now")]}) == []


def test_json_is_compared_by_its_values(places):
    then = {"loss": 0.1, "seconds": 1.5, "model_uri": "/a", "epochs": [{"loss": 1.0, "seconds": 3}], "nothing": None}
    now = {"nothing": None, "epochs": [{"seconds": 4, "loss": 1.0000001}], "loss": 0.1, "model_uri": "/b"}
    assert places({"record.json": then}, {"record.json": now}) == []


def test_a_difference_in_json_names_the_first_value_and_the_largest(places):
    then = {"best": 3, "epochs": [{"loss": 0.5}, {"loss": 0.25}], "blessed": True}
    now = {"best": 3, "epochs": [{"loss": 0.625}, {"loss": 0.75}], "blessed": 1}
    assert places({"record.json": then}, {"record.json": now}) == [
        "record.json: epochs[0].loss was 0.5, is 0.625 and 2 more values; "
        "the largest difference is 0.5, at epochs[1].loss"
    ]
    assert places({"l.json": [1, 2], "k.json": {"a": 1}}, {"l.json": [1], "k.json": {}})[:2] == [
        "k.json: a was 1, is not there",
        "l.json: the length of all was 2, is 1",
    ]


def test_pages_and_logs_have_only_to_be_there(places):
    logs = "logs/events.out.tfevents.{}.host.{}.0.v2"
    assert (
        places({"report.html": b"then", logs.format(1, 2): b"a"}, {"report.html": b"now", logs.format(3, 4): b"b"})
        == []
    )


def test_logs_that_are_missing_are_told(places):
    assert places({"logs/events.out.tfevents.1.2": b""}, {}) == ["logs/events.out.tfevents.* is there no longer"]


def test_what_is_compressed_is_compared_by_its_contents(places):
    assert places({"a.gz": gzip.compress(b"x", mtime=1)}, {"a.gz": gzip.compress(b"x", mtime=2)}) == []
    assert places({"b.gz": gzip.compress(b"x")}, {"b.gz": gzip.compress(b"y")}) != []


def test_parquet_names_the_column_and_the_largest_difference(tmp_path):
    then, now = tmp_path / "then.parquet", tmp_path / "now.parquet"
    pq.write_table(pa.table({"a": [1.0, None, 3.0], "b": ["x", "y", "z"]}), then)
    pq.write_table(pa.table({"a": [1.0, None, 3.0 + 1e-9], "b": ["x", "y", "z"]}), now)
    assert artifact_diff._parquet(then, now, (then, now)) == ""
    pq.write_table(pa.table({"a": [1.0, None, 3.5], "b": ["x", "y", "zz"]}), now)
    assert artifact_diff._parquet(then, now, (then, now)) == (
        "column a, 1 of 3 values, by up to 0.5; column b, 1 of 3 values"
    )


class Module(tf.Module):
    """A model of one variable and one constant."""

    def __init__(self, weight: float, constant: float) -> None:
        super().__init__()
        self.weight = tf.Variable([weight, 1.0])
        self.constant = constant

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * self.weight[0] + tf.constant([self.constant, 7.0])[0]}


def test_saved_models_are_compared_by_graph_and_variables(tmp_path):
    def compared(*models: Module) -> list[str]:
        folders = [tmp_path / str(number) for number in range(len(models))]
        for model, folder in zip(models, folders, strict=True):
            tf.saved_model.save(model, str(folder), {"serving_default": model.serve})
        return artifact_diff.places(*folders)

    assert compared(Module(0.5, 2.0), Module(0.5 + 1e-8, 2.0)) == []
    (difference,) = compared(Module(0.5, 2.0), Module(0.75, 2.0))
    assert difference.startswith(".: variable weight")
    assert difference.endswith(" differs in 1 of 2 values, by up to 0.25")
    (difference,) = compared(Module(0.5, 2.0), Module(0.5, 3.0))
    assert difference.startswith(".: other graph: 1 nodes are gone, 1 are new")


def test_variables_that_keras_numbered_in_another_order_are_the_same():
    then = {"all/0/value": np.array([1.0, 2.0]), "all/1/value": np.array([1.0, 3.0]), "all/2/value": np.array([4])}
    now = {"all/0/value": np.array([4]), "all/1/value": np.array([1.0, 2.0]), "all/2/value": np.array([1.0, 3.0])}
    assert list(artifact_diff._variables(then, now)) == []
    now["all/2/value"] = np.array([1.0, 3.5])
    assert list(artifact_diff._variables(then, now)) == ["variable all/1/value differs in 1 of 2 values, by up to 0.5"]
    assert list(
        artifact_diff._variables({"a": np.array(1), "b": np.array(2)}, {"b": np.array(1), "c": np.array(2)})
    ) == [
        "variable a is there no longer",
        "variable b differs in 1 of 1 values",
        "variable c is new",
    ]


def test_properties_of_the_run_and_of_the_store_are_no_result():
    then = {
        "rows": 3,
        "share": 0.25,
        "model_uri": "/a",
        "model": "/b",
        "current_model_id": 4,
        "digest": "x",
        "name": "a",
    }
    now = {
        "rows": 3,
        "share": 0.25 + 1e-9,
        "model_uri": "/b",
        "model": "/c",
        "current_model_id": 1,
        "digest": "y",
        "name": "b",
    }
    assert artifact_diff.properties(then, now) == []
    assert artifact_diff.properties({"rows": 3, "why": "a"}, {"rows": 4}) == [
        "property rows was 3, is 4",
        "property why was a, is not there",
    ]


def test_arrays_of_nan_and_text():
    assert artifact_diff._arrays(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])) == ""
    assert artifact_diff._arrays(np.array([np.nan, 1.0]), np.array([1.0, 1.0])) == "1 of 2 values"
