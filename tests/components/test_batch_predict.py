"""batch_predict: which version scores, and that it says of each row what the server says."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import digest_of_tree
from components import batch_predict as module
from components.artifacts import Predictions, Promotion
from components.data import examples as reading
from components.data import shards
from components.data.example_frame import columns_of
from components.modelling import scoring
from components.modelling.as_of import choose
from components.modelling.served import Choice, Served
from components.schema import ExampleSchema, Feature
from components.tasks.multiclass import Multiclass
from tests.serving import models

ZONE = "America/New_York"
SCHEMA = ExampleSchema(
    features=(Feature("colour", "category", "a colour"), Feature("size", "number", "a size", "m")),
    label="broken",
    time="at",
    keys=("id", "colour"),
    slices=(),
)
INTERVAL = ("2020-03-07T00:00:00-05:00", "2020-03-10T00:00:00-04:00")
START = datetime.fromisoformat(INTERVAL[0])
ROWS = 3000


class Candidate(tf.Module):
    """A probability of a colour and a size, by a layer wide enough to be computed in blocks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        table = tf.lookup.KeyValueTensorInitializer(["red", "green"], [1.0, -1.0])
        self.colours = tf.lookup.StaticHashTable(table, 0.0)
        rng = np.random.default_rng(seed)
        self.first = tf.Variable(rng.normal(size=(2, 64)).astype(np.float32))
        self.second = tf.Variable(rng.normal(size=(64, 1)).astype(np.float32) / 8)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="colour"),
            tf.TensorSpec([None], tf.float32, name="size"),
        ]
    )
    def serve(self, colour, size):
        filled = tf.where(tf.math.is_nan(size), 0.25, size)
        hidden = tf.nn.relu(tf.stack([self.colours.lookup(colour), filled], 1) @ self.first)
        return {"probability": tf.sigmoid(hidden @ self.second)[:, 0]}


def save(folder: Path, seed: int = 0) -> None:
    candidate = Candidate(seed)
    tf.saved_model.save(candidate, str(folder), signatures=candidate.serve)


def table(count: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(5)
    size = rng.normal(size=count).astype(np.float32)
    size[::7] = np.nan
    # Three local days, one of 23 hours.
    at = [START + timedelta(minutes=4260 * i / count) for i in range(count)]
    columns = {
        "colour": pa.array(rng.choice(["red", "green", "", "Zürich"], count), pa.string()),
        "size": size,
        "at": pa.array([moment.astimezone(UTC) for moment in at], pa.timestamp("us", "UTC")),
        "id": [f"k{i:05d}" for i in range(count)],
    }
    return pa.table(columns)


def push_of(number: int, end: str, digest: str = "", uri: str = "/nowhere", *, pushed: int = 1, id_: int = 1):
    artifact = standard_artifacts.PushedModel()
    artifact.id = id_
    for name, value in (("interval_end", end), ("model_digest", digest), ("model_uri", uri)):
        artifact.set_string_custom_property(name, value)
    artifact.set_int_custom_property("version", number)
    artifact.set_int_custom_property("pushed", pushed)
    return artifact


@pytest.fixture
def root(tmp_path) -> Path:
    """Three versions, of which no file is a real model."""
    for number in (1, 2, 3):
        (tmp_path / "m" / str(number)).mkdir(parents=True)
        (tmp_path / "m" / str(number) / "saved_model.pb").write_text(str(number))
    return tmp_path


def test_as_of_is_the_latest_that_was_pushed_when_the_interval_began_whatever_came_later(root):
    digests = {number: digest_of_tree(root / "m" / str(number)) for number in (1, 2, 3)}
    pushed = [
        push_of(2, "2020-02-01T00:00:00-05:00", digests[2], id_=5),
        push_of(1, "2020-01-01T00:00:00-05:00", digests[1], id_=9),  # A backfill pushed it last.
        push_of(3, "2020-03-08T00:00:00-05:00", digests[3], id_=6),  # It knows a day of this interval.
        push_of(0, "2020-03-01T00:00:00-05:00", pushed=0, id_=7),
    ]
    assert choose("as_of", "m", START, Served(root), None, pushed).number == 2
    later = datetime.fromisoformat("2020-03-08T05:00:00+00:00")
    assert choose("as_of", "m", later, Served(root), None, pushed).number == 3
    with pytest.raises(TerminalError, match="There is no version of m of then"):
        choose("as_of", "m", datetime(2019, 1, 1, tzinfo=UTC), Served(root), None, pushed)


def promotion_of(number: int, end: str, as_of: str, id_: int, *, took_over: int = 1, model: str = "m") -> Promotion:
    artifact = Promotion()
    artifact.id, artifact.to_version, artifact.took_over, artifact.model = id_, number, took_over, model
    artifact.interval_end, artifact.as_of = end, as_of
    return artifact


def test_as_of_is_what_served_and_no_version_that_was_registered_only_or_taken_back(root):
    january, february, march = (f"2020-0{month}-01T00:00:00-05:00" for month in (1, 2, 3))
    digests = {number: digest_of_tree(root / "m" / str(number)) for number in (1, 2, 3)}
    pushed = [
        push_of(number, end, digests[number], id_=number) for number, end in ((1, january), (2, february), (3, march))
    ]

    def chosen(*promotions: Promotion) -> int:
        return choose("as_of", "m", START, Served(root), None, pushed, promotions).number

    assert chosen() == 3
    pushed[2].set_int_custom_property("took_over", 0)
    assert chosen() == 2, "version 3 is registered only"
    taken_back = promotion_of(2, march, march, 4, took_over=0)
    assert chosen(taken_back) == 2
    assert chosen(taken_back, promotion_of(3, march, march, 5)) == 3, "it was promoted later"
    assert chosen(promotion_of(3, march, march, 5), promotion_of(1, january, march, 6)) == 1, "a rollback"
    assert chosen(promotion_of(1, january, "2020-04-01T00:00:00-04:00", 6)) == 2, "a rollback of a later time"
    assert chosen(promotion_of(1, january, march, 6, model="other")) == 2, "of another model"
    version_1 = pushed.pop(0)
    assert chosen(promotion_of(1, january, march, 6)) == 2, "nobody knows what was pushed as version 1"
    version_1.set_string_custom_property("model_digest", "other")
    pushed.append(version_1)
    with pytest.raises(TerminalError, match="no longer those that were pushed"):
        chosen(promotion_of(1, january, march, 6))


def test_served_is_what_is_promoted_or_else_the_highest_and_a_number_is_itself(root):
    assert choose("served", "m", START, Served(root), None, []).number == 3
    Served(root).choose("m", Choice.only(2))
    assert choose("served", "m", START, Served(root), None, []).number == 2
    chosen = choose(" 1 ", "m", START, Served(root), None, [])
    assert (chosen.number, chosen.folder, chosen.digest) == (1, root / "m" / "1", digest_of_tree(root / "m" / "1"))
    for wrong, words in (("4", "no version 4 of m"), ("newest", "no version to score with")):
        with pytest.raises(TerminalError, match=words):
            choose(wrong, "m", START, Served(root), None, [])
    with pytest.raises(TerminalError, match="no version of nobody that is served"):
        choose("served", "nobody", START, Served(root), None, [])


@pytest.mark.parametrize("is_there", [False, True], ids=["gone", "changed"])
def test_a_former_champion_that_is_gone_or_changed_scores_nothing_and_fails_nobody(root, run, caplog, is_there):
    pushed = [push_of(number, f"2020-0{number}-01T00:00:00-05:00", "other", id_=number) for number in (1, 2)]
    if not is_there:
        shutil.rmtree(root / "m" / "1")
    made = run("former", table(3), version="former", pushed=pushed, serving_root=str(root))
    assert (made.version, made.rows, list(Path(made.uri).glob("date=*"))) == (0, 0, [])
    assert [record.levelname for record in caplog.records if "Nothing is scored" in record.message] == ["WARNING"]
    caplog.set_level(logging.INFO)
    assert run("young", table(3), version="former", pushed=pushed[1:], serving_root=str(root)).version == 0
    (record,) = [record for record in caplog.records if "no champion before" in record.message]
    assert record.levelname == "INFO" and record.message.count("\n") == 0
    with pytest.raises(TerminalError):
        run("named", table(3), version="1", pushed=pushed, serving_root=str(root))


def test_a_version_that_was_changed_is_refused_and_one_that_is_no_longer_served_comes_from_its_artifact(root, tmp_path):
    with pytest.raises(TerminalError, match="no longer those that were pushed"):
        choose("2", "m", START, Served(root), None, [push_of(2, INTERVAL[0], "other")])
    artifact = tmp_path / "model"
    (artifact / "Format-Serving").mkdir(parents=True)
    (artifact / "Format-Serving" / "saved_model.pb").write_text("7")
    push = push_of(7, INTERVAL[0], digest_of_tree(artifact / "Format-Serving"), str(artifact))
    assert choose("as_of", "m", START, Served(root), None, [push]).folder == artifact / "Format-Serving"


def test_the_model_is_always_called_with_as_many_rows_and_answers_for_those_that_are_there():
    sizes = []

    def call(x):
        sizes.append(len(x))
        return {"y": x * 2}

    for count in (0, 1, 4, 9):
        given = np.arange(count, dtype=np.float32)
        assert scoring.predict(call, {"x": given}, ["y"], step=4)["y"].tolist() == (2 * given).tolist()
    assert set(sizes) == {4} and len(sizes) == 0 + 1 + 1 + 3


@pytest.fixture(scope="module")
def models_root(tmp_path_factory) -> Path:
    """A real model of two versions."""
    folder = tmp_path_factory.mktemp("models")
    for number in (1, 2):
        save(folder / "m" / str(number), seed=number)
    return folder


@pytest.fixture
def run(tmp_path, models_root, monkeypatch):
    """Scores rows with the real component."""
    monkeypatch.setattr(module, "load", {"toy:SCHEMA": SCHEMA}.__getitem__)

    def run(out: str, rows: pa.Table | Callable[[Path], None], **given) -> Predictions:
        examples, predictions = standard_artifacts.Examples(), Predictions()
        examples.uri, predictions.uri = str(tmp_path / f"{out}-examples"), str(tmp_path / out)
        for name, value in zip(("interval_start", "interval_end"), INTERVAL, strict=True):
            examples.set_string_custom_property(name, value)
        folder = tmp_path / f"{out}-examples" / "Split-predict"
        folder.mkdir(parents=True)
        if callable(rows):
            rows(folder)
        else:
            pq.write_table(rows, folder / "examples.parquet")
        (tmp_path / out).mkdir()
        settings = {"model_name": "m", "schema": "toy:SCHEMA", "zone": ZONE, "serving_root": str(models_root)}
        module.batch_predict.EXECUTOR_SPEC.executor_class._FUNCTION(
            examples=examples, predictions=predictions, **settings | {"version": "1"} | given
        )
        return predictions

    return run


def read(predictions: Predictions) -> pa.Table:
    dataset = ds.dataset(sorted(map(str, Path(predictions.uri).glob("date=*/*.parquet"))), format="parquet")
    return dataset.to_table()


@pytest.mark.slow
def test_spark_says_what_the_server_says_in_the_same_bytes_however_the_rows_are_cut(
    spark, run, tmp_path, models_root, monkeypatch
):
    rows = table()
    whole = run("whole", rows)
    monkeypatch.setattr(module, "ROWS_A_TASK", 700)
    cut = run("cut", rows.take(np.random.default_rng(1).permutation(ROWS)))
    assert whole.digest == cut.digest and len(whole.digest) == 64

    predicted = read(whole)
    assert predicted.column_names == ["id", "colour", "at", "probability", "version"]
    assert predicted["id"].to_pylist() == rows["id"].to_pylist() and set(predicted["version"].to_pylist()) == {1}
    with models.running(tmp_path, f"--models_root={models_root}", "--port=0") as server:
        # The highest is served; the first is asked for in the other run.
        instances = rows.select(["colour", "size"]).to_pylist()
        status, answer = server.ask("POST", "/v1/models/m:predict", {"instances": instances})
        assert status == 200
    second = read(run("second", rows, version="served"))
    served = np.array(answer["predictions"])
    assert np.max(np.abs(served - second["probability"].to_numpy())) <= 1e-6
    assert np.max(np.abs(served - predicted["probability"].to_numpy())) > 0.01, "the two versions say different things"


class Fussy(Candidate):
    """Fails where a size is too large."""

    @tf.function(input_signature=Candidate.serve.input_signature)
    def serve(self, colour, size):
        filled = tf.where(tf.math.is_nan(size), 0.0, size)
        with tf.control_dependencies([tf.debugging.assert_less(filled, 100.0, "too large")]):
            return {"probability": filled * 0}


@pytest.mark.slow
def test_a_row_on_which_the_model_fails_is_named(spark, run, tmp_path):
    fussy, rows = Fussy(0), table()
    tf.saved_model.save(fussy, str(tmp_path / "models" / "m" / "1"), signatures=fussy.serve)
    size = rows["size"].to_numpy().copy()
    size[1234] = 1000
    with pytest.raises(
        TerminalError,
        match=r"cannot answer for these examples.*it fails on the row id k01234, colour .*, at 2020-.*: .*too large",
    ):
        run("out", rows.set_column(1, "size", pa.array(size)), serving_root=str(tmp_path / "models"))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_files_are_by_local_day_and_the_artifact_says_by_which_model(spark, run, models_root):
    predictions = run("out", table(600))
    days = {path.parent.name for path in Path(predictions.uri).rglob("*.parquet")}
    assert days == {"date=2020-03-07", "date=2020-03-08", "date=2020-03-09"}
    first = pq.read_table(Path(predictions.uri) / "date=2020-03-08" / "predictions.parquet", partitioning=None)
    local = first["at"].cast(pa.timestamp("us", ZONE))
    assert set(pc.strftime(local, format="%Y-%m-%d").to_pylist()) == {"2020-03-08"}
    assert (predictions.model, predictions.version, predictions.rows) == ("m", 1, 600)
    assert (predictions.interval_start, predictions.interval_end) == INTERVAL
    assert predictions.model_digest == digest_of_tree(models_root / "m" / "1")
    summary = json.loads((Path(predictions.uri) / "summary.json").read_text())
    assert sum(summary["counts"]) == summary["rows"] == 600 and summary["p5"] < summary["p50"] < summary["p95"]
    page = (Path(predictions.uri) / "report.html").read_text()
    assert page.count("<rect") == 20 and "Predictions of 2020-03-07 to 2020-03-10" in page


@pytest.mark.slow
def test_a_model_of_before_a_feature_came_is_asked_with_what_it_knows(spark, run, monkeypatch):
    newer = dataclasses.replace(SCHEMA, features=(*SCHEMA.features, Feature("weight", "number", "a weight", "kg")))
    before = run("before", table(300))
    monkeypatch.setattr(module, "load", lambda name: newer)
    after = run("after", table(300).append_column("weight", pa.array(np.ones(300, np.float32))))
    assert after.digest == before.digest


@pytest.mark.slow
def test_rows_that_lack_a_feature_are_refused_before_spark_is_asked(run):
    with pytest.raises(TerminalError, match="no size"):
        run("lacking", table(10).drop_columns("size"))


@pytest.mark.slow
def test_no_rows_are_no_fault(spark, run):
    predictions = run("none", table(10).slice(0, 0))
    assert predictions.rows == 0 and list(Path(predictions.uri).rglob("*.parquet")) == []
    assert json.loads((Path(predictions.uri) / "summary.json").read_text())["mean"] is None


class Classes(Multiclass):
    """A task of one's own: three classes, compared by the probability of the first."""

    def score(self, predictions):
        return predictions[:, 0]


class Classifier(tf.Module):
    """Probabilities of three classes, and the class, of a text, tags, a vector and an image."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="words"),
            tf.TensorSpec([None, None], tf.string, name="tags"),
            tf.TensorSpec([None, 2], tf.float32, name="place"),
            tf.TensorSpec([None], tf.string, name="photo"),
        ]
    )
    def serve(self, words, tags, place, photo):
        logits = tf.stack(
            [
                tf.cast(tf.strings.length(words), tf.float32) / 10,
                tf.reduce_sum(tf.cast(tags != "", tf.float32), axis=1),
                tf.reduce_sum(tf.where(tf.math.is_nan(place), 0.0, place), axis=1)
                + tf.cast(tf.strings.length(photo) > 0, tf.float32),
            ],
            axis=1,
        )
        names = tf.gather(tf.constant(["long", "tagged", "far"]), tf.argmax(logits, axis=1))
        return {"probabilities": tf.nn.softmax(logits), "class": names}


WIDE = ExampleSchema(
    features=(
        Feature("words", "text", "words"),
        Feature("tags", "categories", "tags"),
        Feature("place", "vector", "a place", length=2),
        Feature("photo", "image", "a photo"),
    ),
    label="kind",
    time="at",
    keys=("id",),
    slices=(),
    task=f"{__name__}:Classes",
    classes=("long", "tagged", "far"),
)


@pytest.mark.slow
@pytest.mark.parametrize("format_", shards.FORMATS)
def test_every_kind_of_feature_is_scored_and_outputs_are_written_by_name(spark, run, tmp_path, monkeypatch, format_):
    monkeypatch.setattr(module, "load", lambda name: WIDE)
    kinds = {feature.name: feature.kind for feature in WIDE.features}
    monkeypatch.setattr(module, "inputs_of", lambda folder, schema: kinds)
    classifier = Classifier()
    tf.saved_model.save(classifier, str(tmp_path / "models" / "m" / "1"), signatures=classifier.serve)
    rng, plain = np.random.default_rng(3), table(2000)
    columns = {
        "words": ["" if n == 0 else "é" * int(n) for n in rng.integers(0, 40, 2000)],
        "tags": [["a", "b", "c"][: int(n)] for n in rng.integers(0, 4, 2000)],
        "place": [[float("nan")] * 2 if n == 0 else [n, 1.0] for n in rng.integers(0, 3, 2000).astype(float)],
        "photo": [b"" if n == 0 else b"\xff\xd8\xff" for n in rng.integers(0, 2, 2000)],
    }
    types = columns_of(WIDE, labelled=False)
    arrow = {name: pa.array(values, types.field(name).type) for name, values in columns.items()}
    rows = pa.table({**arrow, "at": plain["at"], "id": plain["id"]})

    def written(folder: Path) -> None:
        shards.write_shards(folder, [rows], rows.num_rows, types, format_, 700)

    predictions = run("wide", written, serving_root=str(tmp_path / "models"))
    answers = read(predictions)
    assert answers.column_names == ["id", "at", "class", "probabilities", "version"]
    assert answers["id"].to_pylist() == plain["id"].to_pylist()
    raw = reading.features(rows, WIDE)
    tensors = {n: tf.constant(v, tf.string if v.dtype == object else tf.float32) for n, v in raw.items()}
    expected = classifier.serve(**tensors)
    np.testing.assert_allclose(np.array(answers["probabilities"].to_pylist()), expected["probabilities"], atol=1e-6)
    assert [name.encode() for name in answers["class"].to_pylist()] == expected["class"].numpy().tolist()
    summary = json.loads((Path(predictions.uri) / "summary.json").read_text())
    assert sum(summary["texts"]["class"].values()) == sum(summary["counts"]) == 2000
    assert summary["mean"] == pytest.approx(expected["probabilities"].numpy()[:, 0].mean(), rel=1e-4)
    assert "tagged" in (Path(predictions.uri) / "report.html").read_text()


@pytest.mark.slow
def test_an_output_that_is_called_as_a_key_is_refused(spark, run, monkeypatch):
    monkeypatch.setattr(module, "load", lambda name: dataclasses.replace(SCHEMA, keys=("probability",)))
    with pytest.raises(TerminalError, match="names that columns of the rows have"):
        run("twice", table(10).rename_columns(["colour", "size", "at", "probability"]))


@pytest.mark.slow
def test_without_a_time_there_is_one_file(spark, run, monkeypatch):
    monkeypatch.setattr(module, "load", lambda name: dataclasses.replace(SCHEMA, time=""))
    predictions = run("timeless", table(300).drop_columns("at"))
    rows = pq.read_table(Path(predictions.uri) / "predictions.parquet")
    assert rows.column_names == ["id", "colour", "probability", "version"] and rows.num_rows == 300
