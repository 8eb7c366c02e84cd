"""Judging on toy examples: figures agree with scikit-learn, thresholds hold, a decision is never a fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from sklearn import metrics
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.verdict import Verdict
from components import evaluate
from components.data.examples import labels, read_table
from components.measures import analysis
from components.measures.analysis import AUC, CANDIDATE, CHAMPION, COUNT, LOG_LOSS, MEAN_LABEL, PR_AUC
from components.modelling import saved_model
from components.schema import PREDICTION
from tests.components import toy

pytestmark = pytest.mark.slow


def linear_model(folder: Path, weight: float, *, inputs: tuple[str, ...] = ("colour", "size", "weight")):
    """A `Model` artifact that answers sigmoid(weight * the row's weight): a model without training."""

    class Linear(tf.Module):
        @tf.function
        def serve(self, **features):
            return {
                PREDICTION: tf.sigmoid(weight * tf.where(tf.math.is_nan(features["weight"]), 0.0, features["weight"]))
            }

    module = Linear()
    specs = {name: tf.TensorSpec([None], tf.string if name == "colour" else tf.float32, name=name) for name in inputs}
    model = toy.artifact(standard_artifacts.Model, folder)
    signature = module.serve.get_concrete_function(**specs)
    tf.saved_model.save(module, str(saved_model.serving_folder(model.uri)), signatures={"serving_default": signature})
    return model


class Judged:
    """A finished evaluation and what it left."""

    def __init__(self, folder: Path, examples, model, champion=None, **settings):
        self.evaluation = toy.artifact(standard_artifacts.ModelEvaluation, folder / "evaluation")
        self.blessing = toy.artifact(standard_artifacts.ModelBlessing, folder / "blessing")
        evaluate.evaluate.test_call(
            examples=examples,
            model=model,
            evaluation=self.evaluation,
            blessing=self.blessing,
            schema="tests.components.toy:SCHEMA",
            champion=[champion] if champion else [],
            **settings,
        )
        self.folder = Path(self.evaluation.uri)
        self.verdict = Verdict.read(self.folder)
        self.checks = {check.name: check for check in self.verdict.checks}
        self.page = (self.folder / evaluate.REPORT).read_text()
        self.files = sorted(path.name for path in Path(self.blessing.uri).iterdir())
        self.blessed = self.blessing.get_int_custom_property("blessed")


def test_figures_are_those_of_scikit_learn_and_of_tfma_row_by_row(tmp_path):
    rng = np.random.default_rng(0)
    rows = 9000  # More than one of TensorFlow Model Analysis's examples in a slice.
    truth = (rng.random(rows) < 0.3).astype(np.int64)
    said = {
        CANDIDATE: np.clip(0.3 + 0.3 * truth * rng.random(rows), 0, 1).astype(np.float32),
        CHAMPION: np.clip(0.3 + 0.2 * truth * rng.random(rows) + 0.1 * rng.random(rows), 0, 1).astype(np.float32),
    }
    slices = {"kind": rng.choice(["a", "b", ""], rows, p=[0.6, 0.39, 0.01]), "all": np.full(rows, "x")}
    told = analysis.analyse(truth, said, slices, analysis.Thresholds(0.5, 0.5, 0.5), tmp_path / "tfma")
    assert not told.failures
    keys = {(), (("all", "x"),), (("kind", ""),), (("kind", "a"),), (("kind", "b"),)}
    for model, probability in said.items():
        assert set(told.metrics[model]) == keys
        for key, figures in told.metrics[model].items():
            mask = np.ones(rows, bool) if not key else slices[key[0][0]] == key[0][1]
            y, p = truth[mask], probability[mask]
            assert figures[COUNT] == mask.sum()
            assert figures[MEAN_LABEL] == pytest.approx(y.mean(), abs=1e-6)
            assert figures[LOG_LOSS] == pytest.approx(metrics.log_loss(y, p.astype(np.float64)), abs=1e-6)
            # TensorFlow Model Analysis cuts the curve at 10,000 thresholds.
            assert figures[AUC] == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-3)
            assert figures[PR_AUC] == pytest.approx(metrics.average_precision_score(y, p), abs=5e-3)
    assert tfma.load_eval_result(str(tmp_path / "tfma"), model_name=CANDIDATE).slicing_metrics


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: linear_model(folder / name, weight) for name, weight in (("good", 1), ("flat", 1e-3), ("bad", -1))}


def test_a_first_model_is_blessed_on_the_fixed_thresholds_alone(tmp_path, models):
    judged = Judged(tmp_path, toy.examples(tmp_path / "e"), models["good"])
    assert judged.blessed == 1 and judged.files == ["BLESSED"]
    assert judged.verdict.passed and "auc less the champion's" not in judged.checks
    rows = read_table(tmp_path / "e", "test", toy.SCHEMA)
    weight = rows["weight"].to_numpy()
    expected = metrics.roc_auc_score(labels(rows, toy.SCHEMA), weight)
    assert judged.checks["auc"].value == pytest.approx(expected, abs=2e-3)
    assert judged.checks["auc"].threshold == ">= 0.65"
    assert judged.blessing.get_string_custom_property("current_model") == models["good"].uri
    assert not judged.blessing.get_string_custom_property("baseline_model")
    assert judged.evaluation.get_string_custom_property("interval_start") == toy.INTERVAL[0]
    assert tfma.load_eval_result(str(judged.folder / evaluate.ANALYSIS)).slicing_metrics


def test_below_the_minimum_is_not_blessed_and_no_fault(tmp_path, models):
    judged = Judged(tmp_path, toy.examples(tmp_path / "e"), models["bad"], auc_minimum=0.6)
    assert judged.blessed == 0 and judged.files == ["NOT_BLESSED"]
    assert not judged.checks["auc"].passed
    assert "auc" in judged.blessing.get_string_custom_property("reason")
    assert "not blessed" in judged.page


@pytest.mark.parametrize(
    ("candidate", "champion", "settings", "failed"),
    [
        ("good", "flat", {}, set()),
        ("bad", "good", {"auc_minimum": 0.0}, {"auc less the champion's", "log_loss less the champion's"}),
        # The same order of rows, but a worse loss: only that change stops it.
        ("flat", "good", {}, {"log_loss less the champion's"}),
        ("flat", "good", {"max_log_loss_rise": 0.5}, set()),
    ],
)
def test_changes_against_the_champion(tmp_path, models, candidate, champion, settings, failed):  # noqa: PLR0917
    judged = Judged(tmp_path, toy.examples(tmp_path / "e"), models[candidate], models[champion], **settings)
    blocking = {name for name, check in judged.checks.items() if not check.passed and check.severity == "blocking"}
    assert blocking == failed
    assert judged.blessed == (not failed)
    change = judged.checks["log_loss less the champion's"]
    assert change.baseline is not None and change.value == pytest.approx(
        float(change.note.split()[-1].rstrip(".")) - change.baseline, abs=1e-3
    )
    assert judged.blessing.get_string_custom_property("baseline_model") == models[champion].uri
    assert "champion" in judged.page and "data:image/png;base64," in judged.page


@pytest.mark.parametrize(
    ("rows", "said"),
    [(toy.table(0, 1), "has no rows"), (toy.table(30, 1, label=1), "All 30 rows have the label 1")],
)
def test_rows_that_cannot_judge_do_not_bless(tmp_path, models, rows, said):
    judged = Judged(tmp_path, toy.examples(tmp_path / "e", test=rows), models["good"], models["flat"])
    assert judged.blessed == 0 and judged.files == ["NOT_BLESSED"]
    assert said in judged.verdict.checks[0].note and said in judged.page


def test_a_slice_of_one_class_has_no_auc_and_does_not_stop_the_rest(tmp_path, models):
    rows = toy.table(600, 5)
    red = np.array(rows["colour"].to_pylist()) == "red"
    broken = np.where(red, 1, rows["broken"].to_numpy())
    examples = toy.examples(tmp_path / "e", test=rows.set_column(3, "broken", [broken]))
    judged = Judged(tmp_path, examples, models["good"], auc_minimum=0.55, slice_rows_minimum=10, slice_auc_minimum=0.99)
    assert judged.blessed == 1
    worst = judged.checks["auc in the worst colour"]
    assert not worst.passed and worst.severity == "warning" and "red" not in worst.note


def test_a_champion_of_other_features_is_told_and_not_compared(tmp_path, models):
    champion = linear_model(tmp_path / "old", 1, inputs=("weight", "length"))
    judged = Judged(tmp_path, toy.examples(tmp_path / "e"), models["good"], champion)
    told = judged.checks["champion can be compared"]
    assert not told.passed and told.severity == "warning" and "length" in told.note
    assert judged.blessed == 1


def test_a_candidate_that_does_not_load_is_a_fault(tmp_path):
    model = toy.artifact(standard_artifacts.Model, tmp_path / "model")
    with pytest.raises(TerminalError, match="cannot be loaded"):
        Judged(tmp_path, toy.examples(tmp_path / "e"), model)
    assert not list((tmp_path / "blessing").iterdir())
