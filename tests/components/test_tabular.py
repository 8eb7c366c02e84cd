"""The model of any schema: each kind of feature is learned from, trees alone, shards, weights, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components.data.examples import labels, read_table
from components.modelling import (
    encoder_layers,
    labelled_examples,
    raw_features,
    row_store,
    saved_model,
    tabular,
)
from components.modelling.boosted_trees import TreeSettings
from components.modelling.labelled_examples import LabelledExamples, sampled
from components.modelling.weights import file_of
from components.schema import ExampleSchema, Feature
from components.tasks import task_of
from serving.loader import load
from tests.components import tables, toy
from tests.components.tables import ALL, BINARY, FEATURES, PICTURE, WEIGHTED

pytestmark = pytest.mark.slow


def predictions(folder: Path, served: Path, schema: ExampleSchema) -> tuple[np.ndarray, np.ndarray]:
    """Of the test rows, and their labels."""
    table = read_table(folder, "test", schema)
    raw = raw_features.columns(table, schema.features)
    return saved_model.Predictor(served, schema)(raw), labels(table, schema)


@pytest.mark.parametrize("name", ["TAGS", "NOTE", "MEASURES", "PICTURE", "ALL"])
def test_a_model_learns_from_features_of_each_kind_and_our_server_loads_it(tmp_path, name):
    schema = getattr(tables, name)
    folder, record = tables.train(tmp_path, name, epochs=16, learning_rate=0.02, ema_momentum=0.9, patience=0)
    answers, expected = predictions(tmp_path / "examples", folder, schema)
    assert np.mean((answers > 0.5) == expected) > {"TAGS": 0.7, "NOTE": 0.65, "PICTURE": 0.65}.get(name, 0.85)
    trees = name in ("MEASURES", "ALL")
    assert bool(record["tuned"]) == trees, "texts, pictures and several categories are the network's alone"
    loaded = load(folder, folder, 1).signature("serving_default")
    raw = raw_features.columns(read_table(tmp_path / "examples", "test", schema).slice(0, 9), schema.features)
    encode = np.vectorize(lambda text: text if isinstance(text, bytes) else text.encode(), otypes=[object])
    arrays = [encode(v) if (v := raw[spec.name]).dtype == object else v for spec in loaded.inputs]
    np.testing.assert_allclose(loaded.run(*arrays)[0], answers[:9], atol=1e-6)


def test_what_is_missing_in_an_example_is_missing_in_the_model(tmp_path):
    folder, _ = tables.train(tmp_path, "ALL", epochs=1)
    signatures = tf.saved_model.load(str(folder)).signatures
    parsed = signatures["serving_examples"](examples=tf.constant([tf.train.Example().SerializeToString()]))
    missing = {
        "colour": tf.constant([""]),
        "size": tf.constant([np.nan]),
        "tags": tf.zeros([1, 0], tf.string),
        "note": tf.constant([""]),
        "measures": tf.fill([1, 3], np.nan),
        "picture": tf.constant([b""]),
    }
    np.testing.assert_allclose(parsed["probability"], signatures["serving_default"](**missing)["probability"])


def test_a_picture_that_is_none_is_refused_by_its_row(tmp_path):
    rows = tables.table(PICTURE, 600, 0)
    broken = rows["picture"].to_pylist()
    broken[411] = b"no picture"
    artifact = tables.examples(
        tmp_path / "examples", PICTURE, train=rows.set_column(rows.column_names.index("picture"), "picture", [broken])
    )
    with pytest.raises(TerminalError, match=r"row 411 of the split train \(id k1, at 2020-01-01 06:51"):
        tables.train(tmp_path, "PICTURE", artifact)
    assert not saved_model.serving_folder(str(tmp_path / "model")).exists()


def test_trees_alone_answer_and_keep_no_weights(tmp_path):
    folder, record = tables.train(tmp_path, "QUANTILES", model_fn="components.modelling.tabular:build_trees")
    assert record["best_epoch"] == 0 and record["epochs"] == {"judged": []} and record["weights"] == 0
    assert record["validation"]["pinball"] < 17
    answers, expected = predictions(tmp_path / "examples", folder, tables.QUANTILES)
    assert (np.diff(answers, axis=1) >= 0).all() and np.abs(expected - answers[:, 1]).mean() < 45
    assert not file_of(str(tmp_path / "model")).exists()


def sampled_trees(*args):
    """A model of few trees, which learn from half of the rows."""
    trees = TreeSettings(most=3, rows=300)
    return tabular.build(*args, tabular.Settings(network=None, trees=trees))


def test_trees_that_learn_from_a_sample_say_so(tmp_path, caplog):
    _, record = tables.train(tmp_path, "BINARY", model_fn=f"{__name__}:sampled_trees")
    learned = record["rows"]["ensemble_member"]
    assert 200 < learned < 400 and record["rows"]["fitted"] == 600
    assert f"Trees see a sample, {learned} of the 600 rows of train." in caplog.text


@pytest.mark.parametrize("place", [0, 1, 4])
def test_trees_learn_from_categories_numbers_or_vectors_alone(tmp_path, place):
    schema = replace(BINARY, features=FEATURES[place : place + 1], slices=())
    tables.examples(tmp_path, schema)
    fitted, judges, test = (LabelledExamples(tmp_path, [split], schema) for split in ("train", "validation", "test"))
    spec = tabular.build(schema, fitted, judges, {}, 0, tabular.Settings(network=None))
    saved_model.ExportModule(schema, spec, None, task_of(schema).head).save(tmp_path / "model")
    (rows,) = test.pieces()
    answers = saved_model.Predictor(tmp_path / "model", schema)(rows.columns)
    assert np.mean((answers > 0.5) == rows.labels) > 0.65


def test_trees_alone_are_refitted_with_as_many(tmp_path):
    settings = {"model_fn": "components.modelling.tabular:build_trees", "refit": "include_validation"}
    _, record = tables.train(tmp_path, "MEAN", **settings)
    assert record["rows"]["fitted"] == 800 and record["tuned"]["trees"] > 5


def test_trees_alone_of_pictures_are_refused(tmp_path):
    with pytest.raises(TerminalError, match="nothing to train"):
        tables.train(tmp_path, "PICTURE", model_fn="components.modelling.tabular:build_trees")


def test_many_shards_are_one(tmp_path, monkeypatch):
    one = tables.examples(tmp_path / "one", ALL)
    many = tables.examples(tmp_path / "many", ALL)
    for split in ("train", "validation"):
        folder = tmp_path / "many" / f"Split-{split}"
        (file,) = folder.glob("*.parquet")
        rows = pq.read_table(file)
        file.unlink()
        for shard in range(7):
            pq.write_table(rows.slice(shard * 100, 100), folder / f"examples-{shard:05}-of-00007.parquet")
    answers = []
    for artifact in (one, many):
        folder, _ = tables.train(tmp_path / "of" / Path(artifact.uri).name, "ALL", artifact)
        answers.append(predictions(tmp_path / "one", folder, ALL)[0])
    np.testing.assert_array_equal(*answers)


def test_pieces_and_blocks_of_another_size_are_the_same_training(tmp_path, monkeypatch):
    whole, record = tables.train(tmp_path / "whole", "BINARY")
    monkeypatch.setattr(labelled_examples, "PIECE", 37)
    monkeypatch.setattr(row_store.RowStore.__init__, "__defaults__", (256,))
    small, again = tables.train(tmp_path / "small", "BINARY")
    same = [predictions(tmp_path / "whole" / "examples", folder, BINARY)[0] for folder in (whole, small)]
    np.testing.assert_allclose(*same, atol=1e-6)
    assert record["epochs"]["judged"][-1]["train_loss"] == pytest.approx(again["epochs"]["judged"][-1]["train_loss"])


def test_rows_that_do_not_fit_in_a_window_are_learned_from_too(tmp_path, monkeypatch):
    monkeypatch.setattr(row_store.RowStore.__init__, "__defaults__", (64,))
    folder, _ = tables.train(tmp_path, "BINARY", epochs=4, window_mb=0)
    answers, expected = predictions(tmp_path / "examples", folder, BINARY)
    assert np.mean((answers > 0.5) == expected) > 0.8
    again, _ = tables.train(tmp_path / "again", "BINARY", epochs=4, window_mb=0)
    np.testing.assert_array_equal(answers, predictions(tmp_path / "examples", again, BINARY)[0])
    other, _ = tables.train(tmp_path / "other", "BINARY", epochs=4)
    assert (answers != predictions(tmp_path / "examples", other, BINARY)[0]).any(), "one window is shuffled whole"


def test_weights_pull_the_probability_and_a_scale_of_them_does_nothing(tmp_path):
    plain, record = tables.train(tmp_path / "plain", "BINARY")
    weighted, heavy = tables.train(tmp_path / "weighted", "WEIGHTED")
    made = {split: tables.table(WEIGHTED, rows, seed) for seed, (split, rows) in enumerate(_SIZES.items())}
    tenfold = {
        split: rows.set_column(rows.column_names.index("times"), "times", [rows["times"].to_numpy() * 10])
        for split, rows in made.items()
    }
    scaled, _ = tables.train(tmp_path / "scaled", "WEIGHTED", tables.examples(tmp_path / "e", WEIGHTED, **tenfold))
    means = [predictions(tmp_path / "e", folder, BINARY)[0] for folder in (plain, weighted, scaled)]
    assert means[1].mean() > means[0].mean() + 0.03
    np.testing.assert_allclose(means[1], means[2], atol=1e-4)
    assert record["validation"]["log_loss"] != heavy["validation"]["log_loss"]
    assert heavy["rows"]["train"]["label_mean"] == pytest.approx(_weighted_mean(made["train"]))


_SIZES = {"train": 600, "validation": 200, "test": 400}


def _weighted_mean(rows) -> float:
    return float(np.average(rows["label"].to_numpy(), weights=rows["times"].to_numpy()))


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_weights_that_are_none_are_refused(tmp_path, wrong):
    rows = tables.table(WEIGHTED, 600, 0)
    times = rows["times"].to_numpy().copy()
    times[500] = wrong
    artifact = tables.examples(
        tmp_path / "e", WEIGHTED, train=rows.set_column(rows.column_names.index("times"), "times", [times])
    )
    with pytest.raises(TerminalError, match=r"weights times of the split train.*(-1|nan|inf)"):
        tables.train(tmp_path, "WEIGHTED", artifact)


@pytest.mark.parametrize(("name", "wrong"), [("MULTICLASS", "hoch"), ("MEAN", np.nan), ("BINARY", 2)])
def test_a_label_that_does_not_fit_is_refused(tmp_path, name, wrong):
    schema = getattr(tables, name)
    rows = tables.table(schema, 600, 0)
    labels = [*rows["label"].to_pylist()[:-1], wrong]
    artifact = tables.examples(
        tmp_path / "e", schema, train=rows.set_column(rows.column_names.index("label"), "label", [labels])
    )
    with pytest.raises(TerminalError, match=f"label.*{wrong}"):
        tables.train(tmp_path, name, artifact)


def test_statistics_are_those_of_all_rows(tmp_path):
    artifact = tables.examples(tmp_path, ALL)
    examples = LabelledExamples(Path(artifact.uri), ["train", "validation"], ALL)
    statistics = examples.statistics
    rows = [read_table(tmp_path, split, ALL) for split in ("train", "validation")]
    colours = [colour for table in rows for colour in table["colour"].to_pylist()]
    assert statistics.vocabularies["colour"] == {name: colours.count(name) for name in ("red", "green")}
    assert statistics.vocabularies["tags"]["rare"] == len(colours) - colours.count("")
    sizes = np.concatenate([table["size"].to_numpy() for table in rows])
    np.testing.assert_array_equal(examples.samples(["size"])["size"], sizes)
    labels = np.concatenate([table["label"].to_numpy() for table in rows])
    assert (statistics.rows, statistics.labels["label"].mean) == (800, pytest.approx(labels.mean()))
    assert statistics.labels["label"].deviation == pytest.approx(labels.std())
    measures = np.array([row for table in rows for row in table["measures"].to_pylist()], np.float32)
    np.testing.assert_allclose(statistics.vectors["measures"], [measures.mean(axis=0), measures.std(axis=0)], rtol=1e-4)


def test_what_is_kept_of_rows_holds_none_of_their_numbers(tmp_path):
    """A training has the statistics of three sets of rows at once: as many samples would be half a gigabyte."""
    examples = LabelledExamples(Path(tables.examples(tmp_path, ALL).uri), ["train"], ALL)
    statistics, values = examples.statistics, examples.samples(ALL.of_kind("number"))
    assert list(values) == list(ALL.of_kind("number")) and all(len(own) == len(examples) for own in values.values())
    kept = (*vars(statistics).values(), *statistics.vectors.values(), *vars(examples).values())
    assert not any(isinstance(value, np.ndarray) and len(value) >= len(examples) for value in kept)


def test_of_a_column_of_ids_the_rarest_are_forgotten_and_no_common_word_is(tmp_path, monkeypatch):
    schema = ExampleSchema((Feature("word", "category", ""),), "label", "", (), ())
    rng, common = np.random.default_rng(0), ["red", "green", "blue"]
    words = [f"id-{row}" if row % 2 else common[rng.integers(3)] for row in range(4000)]
    toy.examples(tmp_path, train=pa.table({"word": words, "label": rng.integers(0, 2, 4000)}))
    monkeypatch.setattr(labelled_examples, "PIECE", 100)
    monkeypatch.setattr(labelled_examples, "MOST_WORDS", 200)
    counts = LabelledExamples(tmp_path, ["train"], schema).statistics.vocabularies["word"]
    assert len(counts) <= 200
    assert {word: counts[word] for word in common} == {word: words.count(word) for word in common}


def test_a_sample_is_of_its_size_and_knows_no_pieces():
    whole = sampled(0, 100_000, 100_000, 10_000)
    assert whole.sum() == pytest.approx(10_000, rel=0.05)
    pieces = [sampled(start, start + 1000, 100_000, 10_000) for start in range(0, 100_000, 1000)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert min(piece.sum() for piece in pieces) > 50, "from all over"
    assert sampled(0, 10, 10, 10).all()


def test_words_are_cut_at_punctuation_in_any_script_and_pairs_are_told_apart():
    layer = encoder_layers.HashedWords(1000, 8)
    codes = layer(tf.constant(["Straße, GROẞ!", "straße groß", "groß straße", "", "a b c d e f g h i j"])).numpy()
    assert codes.shape == (5, 8) and (codes[0] == codes[1]).all() and (codes[3] == 0).all()
    assert set(codes[1, :2]) == set(codes[2, :2]) and codes[1, 2] != codes[2, 2]
    assert (codes[4] > 0).all()


def test_cells_of_many_categories_are_cut_and_short_ones_filled():
    layer = encoder_layers.FixedLength(3)
    assert layer(tf.constant([[1], [2]], tf.int64)).numpy().tolist() == [[1, 0, 0], [2, 0, 0]]
    assert layer(tf.constant([[1, 2, 3, 4]], tf.int64)).numpy().tolist() == [[1, 2, 3]]
