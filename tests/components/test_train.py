"""Training on toy examples: what is exported, what is recorded, what is repeatable, what is refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.home import ROOT
from components import train as training
from components.data.examples import features, labels, read_table
from components.measures.scores import roc_auc
from components.modelling import fitting, saved_model
from components.modelling.weights import Weights, file_of
from components.schema import PREDICTION
from tests.components import toy

pytestmark = pytest.mark.slow

SETTINGS = {
    "schema": "tests.components.toy:SCHEMA",
    "model_fn": "tests.components.toy:model",
    "epochs": 5,
    "batch_size": 64,
    "learning_rate": 0.03,
    "ema_momentum": 0.9,
}


def test_the_schedule_and_adamw_are_settings():
    """The rate rises for an epoch of 10 steps, and then falls towards a tenth."""
    settings = fitting.FitSettings(epochs=2, learning_rate=0.01, warm_up=1.0, final_rate=0.1, beta_2=0.9)
    optimizer = fitting._optimizer(settings, 10)
    rates = [float(optimizer._learning_rate(step)) for step in (5, 10, 30)]
    assert rates == pytest.approx([0.005, 0.01, 0.001]) and optimizer.beta_2 == 0.9


class Trained:
    """A finished training and what it left."""

    def __init__(self, folder: Path, examples=None, **settings):
        self.examples = examples or toy.examples(folder / "examples")
        self.model = toy.artifact(standard_artifacts.Model, folder / "model")
        self.run = toy.artifact(standard_artifacts.ModelRun, folder / "run")
        training.train.test_call(
            examples=self.examples, model=self.model, model_run=self.run, **{**SETTINGS, **settings}
        )
        self.record = json.loads((folder / "run" / training.RECORD).read_text())
        table = read_table(Path(self.examples.uri), "test", toy.SCHEMA)
        self.raw, self.labels = features(table, toy.SCHEMA), labels(table, toy.SCHEMA)
        self.folder = saved_model.serving_folder(self.model.uri)
        self.answers = saved_model.Predictor(self.folder, toy.SCHEMA)(self.raw)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRTIGHT_HOME", str(folder / "home"))
        yield Trained(folder, calibrate="scale_and_shift")


def test_it_learns(trained):
    assert roc_auc(trained.labels, trained.answers) > 0.75


def test_both_signatures_answer_the_same_for_raw_values(trained):
    served = tf.saved_model.load(str(trained.folder)).signatures
    inputs = served["serving_default"].structured_input_signature[1]
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "colour": (tf.string, [None]),
        "size": (tf.float32, [None]),
        "weight": (tf.float32, [None]),
    }
    rows = [{"colour": "red", "size": 1.5, "weight": -1.0}, {"colour": "never seen", "weight": 2.0}, {}]
    serialized = []
    for row in rows:
        example = tf.train.Example()
        for name, value in row.items():
            if isinstance(value, str):
                example.features.feature[name].bytes_list.value.append(value.encode())
            else:
                example.features.feature[name].float_list.value.append(value)
        serialized.append(example.SerializeToString())
    parsed = served["serving_examples"](examples=tf.constant(serialized))[PREDICTION]
    named = served["serving_default"](
        colour=tf.constant([row.get("colour", "") for row in rows]),
        size=tf.constant([row.get("size", float("nan")) for row in rows]),
        weight=tf.constant([row.get("weight", float("nan")) for row in rows]),
    )[PREDICTION]
    assert parsed.shape == (3,) and parsed.dtype == tf.float32
    assert np.isfinite(parsed).all() and len(set(parsed.numpy().tolist())) == 3
    np.testing.assert_allclose(parsed, named, atol=1e-7)


def test_a_graph_session_answers_like_python(trained):
    # Model servers open a session on the graph; there every variable must be restored that a signature reads.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(trained.folder))
        signature = meta_graph.signature_def["serving_default"]
        feed = {spec.name: trained.raw[name] for name, spec in signature.inputs.items()}
        answers = session.run(signature.outputs[PREDICTION].name, feed)
    np.testing.assert_allclose(answers, trained.answers, atol=1e-6)


def test_the_record_tells_all(trained):
    record = trained.record
    assert record["interval"] == list(toy.INTERVAL)
    assert record["refit"] == "judged" and record["rows"]["fitted"] == 600
    assert record["rows"]["validation"]["rows"] == 200
    assert record["rows"]["train"]["first"].startswith("2020-01-01 00:00:00")
    epochs = record["epochs"]["judged"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4, 5]
    best = min(epochs, key=lambda epoch: epoch["validation_log_loss"])
    assert record["best_epoch"] == best["epoch"]
    assert record["validation"]["log_loss_uncalibrated"] == pytest.approx(best["validation_log_loss"], abs=1e-6)
    assert record["validation"]["log_loss"] <= record["validation"]["log_loss_uncalibrated"]
    assert record["calibration"]["scale"] != 1
    assert list(Path(trained.run.uri).glob("tensorboard/judged/*/events*"))
    assert trained.model.get_string_custom_property("interval_end") == toy.INTERVAL[1]


def test_equal_examples_and_settings_give_equal_models(trained, tmp_path):
    again = Trained(tmp_path, calibrate="scale_and_shift")
    np.testing.assert_allclose(again.answers, trained.answers, atol=1e-7)
    other = Trained(tmp_path / "other", calibrate="scale_and_shift", seed=1)
    assert np.abs(other.answers - trained.answers).max() > 1e-3


def test_a_retry_goes_on_where_the_last_attempt_died_and_comes_to_the_same(
    trained, tmp_path, home, monkeypatch, caplog
):
    judged = fitting._Judge.on_epoch_end

    def dies(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt
        judged(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(fitting._Judge, "on_epoch_end", dies)
        with pytest.raises(KeyboardInterrupt):
            Trained(tmp_path / "first", calibrate="scale_and_shift")
    assert not saved_model.serving_folder(str(tmp_path / "first" / "model")).exists()
    assert len(list(home.glob("checkpoints/*.npz"))) == 1
    with caplog.at_level(logging.INFO):
        again = Trained(tmp_path / "second", calibrate="scale_and_shift")
    assert "Going on after epoch 3" in caplog.text
    np.testing.assert_allclose(again.answers, trained.answers, atol=1e-7)
    without_seconds = [
        [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in run.record["epochs"]["judged"]]
        for run in (again, trained)
    ]
    for one, other in zip(*without_seconds, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert not list(home.glob("checkpoints/*.npz"))


def test_a_retry_of_a_refit_repeats_an_epoch_of_the_fit_before_it(tmp_path, home, monkeypatch, caplog):
    judged = fitting._Judge.on_epoch_end

    def dies(self, epoch, logs=None):
        if self.validation is None and epoch == 1:
            raise KeyboardInterrupt
        judged(self, epoch, logs)

    whole = Trained(tmp_path / "whole", refit="include_validation")
    with monkeypatch.context() as patch:
        patch.setattr(fitting._Judge, "on_epoch_end", dies)
        with pytest.raises(KeyboardInterrupt):
            Trained(tmp_path / "first", refit="include_validation")
    with caplog.at_level(logging.INFO):
        again = Trained(tmp_path / "second", refit="include_validation")
    last = len(whole.record["epochs"]["judged"]) - 1
    assert [f"Going on after epoch {epoch}" in caplog.text for epoch in (last, 1)] == [True, True]
    np.testing.assert_allclose(again.answers, whole.answers, atol=1e-7)
    assert not list(home.glob("checkpoints/*.npz"))


def test_an_ensemble_member_is_half_of_what_is_judged_and_served(tmp_path):
    alone = Trained(tmp_path / "alone", refit="include_validation", epochs=1)
    both = Trained(
        tmp_path / "both", refit="include_validation", epochs=1, model_fn="tests.components.toy:model_with_member"
    )
    share = both.record["tuned"]["share"]
    assert share == pytest.approx(both.record["rows"]["validation"]["label_mean"]), "a refit takes what was tuned"
    # The network is the same: the ensemble member takes no part in its training.
    ours, theirs = (run.record["epochs"]["judged"][0] for run in (both, alone))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-6)
    assert abs(ours["validation_log_loss"] - theirs["validation_log_loss"]) > 1e-3
    np.testing.assert_allclose(both.answers, (alone.answers + share) / 2, atol=1e-5)


def test_another_training_does_not_go_on_from_this_checkpoint(tmp_path, home, monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    Trained(tmp_path / "one", epochs=2)
    Trained(tmp_path / "two", epochs=2, seed=3)
    Trained(tmp_path / "chance", epochs=2, deterministic=False)
    Trained(tmp_path / "three", epochs=2, examples=toy.examples(tmp_path / "more", train=toy.table(601, 1)))
    assert len(list(home.glob("checkpoints/[!.]*.npz"))) == 4


def test_a_refit_learns_from_the_validation_rows_too(trained, tmp_path):
    refit = Trained(tmp_path, refit="include_validation")
    assert refit.record["refit"] == "include_validation"
    assert refit.record["rows"]["fitted"] == 800
    assert len(refit.record["epochs"]["refit"]) == refit.record["best_epoch"]
    assert refit.record["epochs"]["judged"][0]["train_loss"] == pytest.approx(
        trained.record["epochs"]["judged"][0]["train_loss"], abs=1e-6
    )
    assert np.abs(refit.answers - trained.answers).max() > 1e-3


def test_it_ends_early_and_keeps_the_best_epoch(tmp_path):
    noise = toy.table(600, 1)
    rng = np.random.default_rng(0)
    shuffled = noise.set_column(3, "broken", [rng.permutation(noise["broken"].to_numpy())])
    run = Trained(tmp_path, toy.examples(tmp_path / "noise", train=shuffled), epochs=12, learning_rate=0.2, patience=2)
    losses = [epoch["validation_log_loss"] for epoch in run.record["epochs"]["judged"]]
    assert len(losses) < 12
    assert run.record["best_epoch"] == len(losses) - 2 == int(np.argmin(losses)) + 1


def test_a_fit_on_one_cpu_has_no_tuner_whose_sleep_its_end_would_wait_for(tmp_path, monkeypatch):
    from tensorflow.python.data.ops import iterator_ops, multi_device_iterator_ops

    monkeypatch.setattr(multi_device_iterator_ops, "OwnedMultiDeviceIterator", lambda *_, **__: pytest.fail("fetches"))
    tuned, make = [], iterator_ops.OwnedIterator.__init__

    def made(self, dataset=None, *given, **named):
        if dataset is not None:
            tuned.append(dataset.options().autotune.enabled)
        make(self, dataset, *given, **named)

    monkeypatch.setattr(iterator_ops.OwnedIterator, "__init__", made)
    Trained(tmp_path, epochs=2)
    assert tuned and set(tuned) == {False}


def test_without_validation_rows_the_last_epoch_is_kept(tmp_path):
    run = Trained(tmp_path, toy.examples(tmp_path / "e", validation=toy.table(0, 1)), epochs=2, calibrate="scale")
    assert run.record["best_epoch"] == 2 and run.record["validation"] == {}
    assert run.record["calibration"] == {"kind": "scale"}
    assert np.isfinite(run.answers).all()


def with_infinity(rows, column: str):
    values = rows[column].to_numpy().copy()
    values[7] = np.inf
    return rows.set_column(rows.column_names.index(column), column, [values])


def coloured(rows):
    return rows.filter(pc.not_equal(rows["colour"], ""))


@pytest.mark.parametrize(
    ("splits", "settings", "message"),
    [
        ({"validation": with_infinity(toy.table(200, 2), "weight")}, {}, "validation holds inf.*weight in 1 of 200"),
        ({"train": with_infinity(toy.table(600, 1), "size")}, {}, "train holds infinite.*size in 1 of 600 rows"),
        (
            {"train": coloured(toy.table(600, 1)), "validation": coloured(toy.table(200, 2))},
            {"model_fn": "tests.components.toy:model_with_a_broken_weight"},
            "sum of the weights is no longer a number.*epoch 1.*Lower the learning rate",
        ),
        ({}, {"model_fn": "tests.components.toy:model_with_a_broken_member"}, "validation loss is no longer a"),
        ({"train": toy.table(50, 1, label=0)}, {}, "nothing to learn.*all with the label 0"),
        ({"train": toy.table(0, 1)}, {}, "nothing to learn.*0 rows"),
        ({}, {"strategy": "magic"}, "strategy .* one of mirrored, mirrored_cpus, one_device, tpu"),
        ({}, {"strategy": "tpu"}, "no TPU"),
        ({}, {"refit": "always"}, "refit .* one of judged, include_validation"),
        ({}, {"learning_rate": 1e30, "epochs": 1}, "no longer a number"),
        ({}, {"model_fn": "tests.components.toy:modell"}, "did you mean 'model'"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_no_model(tmp_path, splits, settings, message):
    with pytest.raises(TerminalError, match=message):
        Trained(tmp_path, toy.examples(tmp_path / "e", **splits), **settings)
    assert not saved_model.serving_folder(str(tmp_path / "model")).exists()


def test_fresh_processes_mirror_over_two_cpus_and_write_the_same_bytes(tmp_path):
    code = "import sys, pathlib, tests.components.test_train as t; "
    code += "t.Trained(pathlib.Path(sys.argv[1]), epochs=1, strategy='mirrored_cpus')"
    folders = [tmp_path / "one", tmp_path / "other"]
    running = []
    for seed, folder in enumerate(folders):
        variables = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1", "PYTHONHASHSEED": str(seed)}
        # Each with its own home, or the second would go on from the checkpoint of the first.
        environment = {**os.environ, **variables, "AIRTIGHT_HOME": str(folder / "home")}
        folder.mkdir()
        running.append(subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, cwd=ROOT))
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    record = json.loads((folders[0] / "run" / training.RECORD).read_text())
    assert record["devices"] == "CPU:0, CPU:1" and record["strategy"] == "mirrored_cpus"
    one, other = (saved_model.serving_folder(str(folder / "model")) for folder in folders)
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert files == {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    assert [path for path in files if (one / path).read_bytes() != (other / path).read_bytes()] == []


def test_a_warm_start_takes_fewer_epochs_and_is_nearly_as_good(trained, tmp_path, caplog):
    rows = toy.table(900, 7)
    colours = rows["colour"].to_pylist()
    fresh_colour = ["violet" if place % 50 == 0 else colour for place, colour in enumerate(colours)]
    examples = toy.examples(tmp_path / "next", train=rows.set_column(0, "colour", [fresh_colour]))
    settings = {"refit": "include_validation", "warm_epochs": 1, "start_from": [trained.model]}
    with caplog.at_level(logging.INFO):
        warm = Trained(tmp_path / "warm", examples, **settings)
    assert "Start: 5 of 5 weights carried over, 1 new words." in caplog.text
    warm_start = warm.record["warm_start"]
    assert warm_start["judged"] == warm_start["refit"] == {"weights": 5, "fresh": [], "new_words": 1}
    assert [len(epochs) for epochs in warm.record["epochs"].values()] == [1, 1]
    assert warm.record["settings"]["epochs"] == 1
    assert [trainer_run.model.get_int_custom_property("warm_start") for trainer_run in (warm, trained)] == [1, 0]
    assert trained.record["warm_start"] is None
    cold = Trained(tmp_path / "cold", examples, epochs=1)
    quality = {name: roc_auc(run.labels, run.answers) for name, run in (("warm", warm), ("cold", cold))}
    assert quality["warm"] > roc_auc(trained.labels, trained.answers) - 0.01
    assert quality["warm"] > quality["cold"]
    again = Trained(tmp_path / "again", examples, **settings)
    assert file_of(again.model.uri).read_bytes() == file_of(warm.model.uri).read_bytes()
    np.testing.assert_allclose(again.answers, warm.answers, atol=1e-7)


def test_the_weights_lie_beside_what_is_served(trained):
    kept = Weights.read(file_of(trained.model.uri))
    assert kept.vocabulary == {"embedding_0/embeddings": ["", "blue", "green", "red"]}
    assert len(kept.arrays) == 5 and sum(array.size for array in kept.arrays.values()) == trained.record["weights"]
    assert not [path for path in trained.folder.rglob("*") if "npz" in path.name or "Weights" in path.parts]


def test_without_kept_weights_it_starts_from_scratch_and_says_so(trained, tmp_path, caplog):
    older = toy.artifact(standard_artifacts.Model, tmp_path / "older")
    run = Trained(tmp_path, calibrate="scale_and_shift", start_from=[older])
    assert "kept no weights" in caplog.text and run.record["warm_start"] is None
    assert len(run.record["epochs"]["judged"]) == 5 and run.model.get_int_custom_property("warm_start") == 0
    np.testing.assert_allclose(run.answers, trained.answers, atol=1e-7)
