"""Judging on toy examples: figures agree with scikit-learn, thresholds hold, a decision is never a fault."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from sklearn import metrics
from tfx.types import standard_artifacts

from airtight.audit.actor import Actor, acting
from airtight.audit.log import AuditLog
from airtight.errors import TerminalError, TransientError
from airtight.verdict import Verdict
from components import evaluate
from components.data.examples import labels, read_table
from components.measures import analysis, evaluation_rows, slices
from components.measures.slices import CANDIDATE, CHAMPION, COUNT, MEAN_LABEL
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
            champion=[champion] if champion else [],
            **{
                **{"schema": "tests.components.toy:SCHEMA", "margin_rows": 100, "analysis_rows": 0},
                **{"override_reason": "colour was renamed", **settings},
            },
        )
        self.folder = Path(self.evaluation.uri)
        self.verdict = Verdict.read(self.folder)
        self.checks = {check.name: check for check in self.verdict.checks}
        self.page = (self.folder / evaluate.REPORT).read_text()
        self.files = sorted(path.name for path in Path(self.blessing.uri).iterdir())
        self.blessed = self.blessing.get_int_custom_property("blessed")
        self.blocking = {c.name for c in self.verdict.checks if not c.passed and c.severity == "blocking"}


def examples_of(folder: Path, rows: int = 4000):
    """Examples whose test rows are enough to tell the models of these tests apart."""
    return toy.examples(folder, test=toy.table(rows, 3))


def test_figures_by_slice_are_those_of_scikit_learn_and_of_tensorflow_model_analysis(tmp_path):
    rng = np.random.default_rng(0)
    colour = toy.table(500, 3)["colour"].to_pylist()
    folder = tmp_path / "e"
    toy.examples(folder, test=toy.table(500, 3))
    rows = evaluation_rows.read(folder, toy.SCHEMA, "UTC")
    truth = rows.rows.labels
    predictions = {
        # No two labels within one of the 10,000 thresholds at which TensorFlow Model Analysis cuts the curve.
        CANDIDATE: (0.3 + truth * (0.01 + 0.3 * rng.random(500))).astype(np.float32),
        CHAMPION: np.clip(0.3 + 0.2 * truth * rng.random(500) + 0.1 * rng.random(500), 0, 1).astype(np.float32),
    }
    analysis.analyse(rows, predictions, tmp_path / "tfma", 500)
    for model, probability in predictions.items():
        by_slice = slices.figures(rows.task, truth, probability, None, rows.slices)
        theirs = dict(tfma.load_eval_result(str(tmp_path / "tfma"), model_name=model).slicing_metrics)
        assert set(by_slice) == {(), *((("colour", c),) for c in set(colour)), (("id", "k0"),), (("id", "k1"),)}
        assert set(theirs) == set(by_slice)
        for key, figures in by_slice.items():
            mask = np.ones(500, bool) if not key or key[0][0] == "id" else np.array(colour) == key[0][1]
            mask &= np.arange(500) % 2 == int(key[0][1][1]) if key and key[0][0] == "id" else True
            y, p = truth[mask], probability[mask]
            their = {name: value.get("doubleValue") for name, value in theirs[key][""][""].items()}
            assert figures[COUNT] == their[COUNT] == mask.sum()
            assert figures[MEAN_LABEL] == pytest.approx(y.mean()) == pytest.approx(their[MEAN_LABEL])
            assert figures["log_loss"] == pytest.approx(metrics.log_loss(y, p.astype(np.float64)))
            assert figures["log_loss"] == pytest.approx(their["log_loss"], abs=1e-5)
            assert figures["auc"] == pytest.approx(metrics.roc_auc_score(y, p))
            # TensorFlow Model Analysis cuts the curve at 10,000 thresholds.
            assert figures["auc"] == pytest.approx(their["auc"], abs=1e-3)
            assert figures["auc_precision_recall"] == pytest.approx(metrics.average_precision_score(y, p))
            assert figures["calibration"] == pytest.approx(their["calibration"], abs=1e-5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: linear_model(folder / name, weight) for name, weight in (("good", 1), ("flat", 1e-3), ("bad", -1))}


def test_a_first_model_is_blessed_if_it_is_better_than_the_baseline(tmp_path, models):
    judged = Judged(tmp_path, examples_of(tmp_path / "e"), models["good"], analysis_rows=200)
    assert judged.blessed == 1 and judged.files == ["BLESSED"]
    assert judged.verdict.passed and "auc against the champion" not in judged.checks
    rows = read_table(tmp_path / "e", "test", toy.SCHEMA)
    expected = metrics.roc_auc_score(labels(rows, toy.SCHEMA), rows["weight"].to_numpy())
    assert judged.evaluation.get_float_custom_property("roc_auc") == pytest.approx(expected, abs=1e-12)
    # The toy's schema names no feature as baseline, so it is the constant rate, which orders nothing.
    assert judged.checks["auc against the baseline"].baseline == pytest.approx(0.5)
    assert judged.checks["auc against the baseline"].value > 0.1
    assert judged.blessing.get_string_custom_property("current_model") == models["good"].uri
    assert not judged.blessing.get_string_custom_property("baseline_model")
    assert judged.evaluation.get_string_custom_property("interval_start") == toy.INTERVAL[0]
    figures = dict(tfma.load_eval_result(str(judged.folder / evaluate.ANALYSIS)).slicing_metrics)[()][""][""]
    assert figures["example_count"]["doubleValue"] == 200, "evenly many of all times"


def test_not_better_than_the_baseline_is_not_blessed_and_no_fault(tmp_path, models):
    judged = Judged(tmp_path, examples_of(tmp_path / "e"), models["bad"])
    assert judged.blessed == 0 and judged.files == ["NOT_BLESSED"]
    assert judged.blocking == {"auc against the baseline", "log_loss against the baseline"}
    assert "auc against the baseline" in judged.blessing.get_string_custom_property("reason")
    assert "not blessed" in judged.page


def test_the_baseline_is_the_feature_that_the_schema_names(tmp_path, models, monkeypatch):
    monkeypatch.setattr(toy, "BY_WEIGHT", dataclasses.replace(toy.SCHEMA, baseline="weight"), raising=False)
    judged = Judged(
        tmp_path,
        examples_of(tmp_path / "e"),
        models["good"],
        schema="tests.components.toy:BY_WEIGHT",
        baseline_gains="auc=0.05",
    )
    # The model says what the baseline says: it orders rows by their weight.
    assert "auc against the baseline" in judged.blocking and judged.blessed == 0
    assert judged.checks["auc against the baseline"].baseline > 0.62


@pytest.mark.parametrize(
    ("candidate", "champion", "settings", "failed"),
    [
        ("good", "flat", {}, set()),
        ("good", "good", {}, set()),
        ("bad", "good", {"baseline_gains": "auc=-1"}, {"auc against the champion", "log_loss against the champion"}),
        # The same order of rows, but a worse loss: only that stops it.
        ("flat", "good", {}, {"log_loss against the champion"}),
        ("flat", "good", {"margins": "log_loss=0.5"}, set()),
    ],
)
def test_against_the_champion(tmp_path, models, candidate, champion, settings, failed):  # noqa: PLR0917
    judged = Judged(tmp_path, examples_of(tmp_path / "e"), models[candidate], models[champion], **settings)
    assert {name for name in judged.blocking if "champion" in name} == failed
    figure = judged.evaluation.get_float_custom_property
    for metric, sign in (("roc_auc", 1), ("log_loss", -1)):
        # One measurement: the gain is exactly the difference of the two figures.
        gain = figure(f"{metric}_gain")
        assert gain == pytest.approx(sign * (figure(metric) - figure(f"champion_{metric}")), abs=1e-12)
        assert figure(f"{metric}_gain_lower") <= gain <= figure(f"{metric}_gain_upper")
    assert judged.blessing.get_string_custom_property("baseline_model") == models[champion].uri
    assert "the champion" in judged.page and judged.page.count("data:image/png;base64,") == 2
    assert "lower bound" in str(judged.verdict) and ".." not in str(judged.verdict)
    assert not str(judged.verdict).endswith(".")


def test_what_served_is_named_with_the_interval_of_the_gain_over_it(tmp_path, models):
    pushed = standard_artifacts.PushedModel()
    pushed.set_int_custom_property("version", 201306010400001)
    examples = examples_of(tmp_path / "e")
    judged = Judged(tmp_path, examples, models["good"], models["bad"], champion_pushed=[pushed])
    assert judged.evaluation.get_int_custom_property("champion_version") == 201306010400001
    assert "The champion, version 201306010400001, is what served when the interval began." in judged.page
    lower, gain, upper = (
        judged.evaluation.get_float_custom_property(f"roc_auc_gain{bound}") for bound in ("_lower", "", "_upper")
    )
    assert 0 < lower < gain < upper
    assert "better by" in str(judged.verdict) and "lower bound" in str(judged.verdict), "the verdict is a sentence"


def test_margins_are_larger_for_fewer_rows_and_too_few_cannot_tell(tmp_path, models):
    examples, champion = examples_of(tmp_path / "e", 400), linear_model(tmp_path / "m", 1.2)
    month = Judged(tmp_path / "month", examples, models["good"], champion, margin_rows=400, margins="auc=0.01")
    day = Judged(tmp_path / "day", examples, models["good"], champion, margin_rows=6400, margins="auc=0.01")
    rows = read_table(tmp_path / "e", "test", toy.SCHEMA)
    share = labels(rows, toy.SCHEMA).mean()
    assert float(month.checks["log_loss against the champion"].threshold.split()[1]) == pytest.approx(-0.008)
    assert float(day.checks["log_loss against the champion"].threshold.split()[1]) == pytest.approx(-0.032)
    # Of an area the rarer label decides, as if there were so many rows of each.
    widened = 0.04 / np.sqrt(4 * share * (1 - share))
    check = day.checks["auc against the champion"]
    assert float(check.threshold.split()[1]) == pytest.approx(-widened, rel=1e-3)
    assert "for about 6,4" in check.note and "these are 400" in check.note


@pytest.mark.parametrize("champion", ["good", "lost", None])
def test_an_interval_of_too_few_rows_blesses_nothing(tmp_path, models, champion):
    # As good as the champion, better than the baseline, and still nobody could have told a worse one from it.
    others = {"good": models["good"], "lost": damaged(models["good"], tmp_path / "lost"), None: None}
    settings = {"margin_rows": 4000 * 21**2, "champion_incomparable": "accept"}
    judged = Judged(tmp_path, examples_of(tmp_path / "e"), models["good"], others[champion], **settings)
    assert judged.blocking == {"the rows can decide"} and judged.blessed == 0
    assert "The interval cannot tell" in judged.checks["the rows can decide"].note
    assert "failed: the rows can decide" in judged.verdict.reason
    enough = Judged(
        tmp_path / "enough",
        examples_of(tmp_path / "e2"),
        models["good"],
        others[champion],
        **settings | {"margin_rows": 4000},
    )
    assert enough.blessed == 1 and enough.checks["the rows can decide"].passed


def test_an_earlier_champion_stops_what_the_champion_lets_pass(tmp_path):
    examples = examples_of(tmp_path / "e")
    candidate, champion, *earlier = (linear_model(tmp_path / str(weight), weight) for weight in (0.25, 0.4, 0.6, 0.61))
    for model, day in zip(earlier, (15, 31), strict=True):
        # Two intervals that began together, such as half a month and the whole of it.
        model.set_string_custom_property("interval_start", "2020-01-01T00:00:00+00:00")
        model.set_string_custom_property("interval_end", f"2020-01-{day}T00:00:00+00:00")
    settings = {"margins": "log_loss=0.0145"}
    assert Judged(tmp_path / "without", examples, candidate, champion, **settings).blessed == 1
    judged = Judged(tmp_path / "with", examples, candidate, champion, earlier_champions=earlier, **settings)
    names = {f"champion up to 2020-01-{day} 00:00+00:00" for day in (15, 31)}
    assert judged.blocking == {f"log_loss against {name}" for name in names}
    assert all(name in judged.verdict.reason for name in names)


def test_an_earlier_champion_that_cannot_be_compared_blocks_until_a_person_accepts(tmp_path, models):
    examples = examples_of(tmp_path / "e")
    lost = {"champion": models["good"], "earlier_champions": [damaged(models["good"], tmp_path / "lost")]}
    judged = Judged(tmp_path / "block", examples, models["good"], **lost)
    assert judged.blocking == {"champion 1 before it can be compared"} and judged.blessed == 0
    assert "champion_incomparable" in judged.checks["champion 1 before it can be compared"].note
    with acting(Actor("toy", "evaluate", "run", "try", "try")):
        accepted = Judged(tmp_path / "accept", examples, models["good"], **lost, champion_incomparable="accept")
        # What still fails is no override.
        Judged(tmp_path / "bad", examples, models["bad"], **lost, champion_incomparable="accept")
        Judged(tmp_path / "block again", examples, models["good"], **lost)
        with pytest.raises(TerminalError, match="override_reason"):
            Judged(
                tmp_path / "why", examples, models["good"], **lost, champion_incomparable="accept", override_reason=" "
            )
    (line,) = AuditLog("toy").lines()[0]
    assert line.entry["reason"].startswith("colour was renamed (")
    assert (line.entry["act"], line.entry["details"]["checks"]) == (
        "gate overridden",
        ["champion 1 before it can be compared"],
    )
    assert line.entry["digest"] == accepted.evaluation.get_string_custom_property("current_model_digest")
    assert accepted.evaluation.get_string_custom_property("audit_sha256") == line.sha256
    record = json.loads((Path(accepted.evaluation.uri) / "slices.json").read_text())
    assert record["rows"][0]["slice"] == [] and set(record["rows"][0]["figures"]) == set(record["columns"])
    assert accepted.blessed == 1 and "log_loss against the champion" in accepted.checks
    assert "Not compared, which this run accepts: champion 1 before it" in accepted.verdict.reason


def test_a_slice_that_is_worse_beyond_chance_warns_or_blocks(tmp_path, models):
    rows = toy.table(4000, 3)
    weight, red = rows["weight"].to_numpy(), np.array(rows["colour"].to_pylist()) == "red"
    rows = rows.set_column(2, "weight", [np.where(red, -weight, weight).astype(np.float32)])
    examples = toy.examples(tmp_path / "e", test=rows)
    candidate, margins = linear_model(tmp_path / "m", 0.4), "auc=0.4, log_loss=0.02"
    for setting, blessed in (("warn", 1), ("block", 0)):
        judged = Judged(tmp_path / setting, examples, candidate, models["flat"], slices_worse=setting, margins=margins)
        check = judged.checks["slices against the champion"]
        assert not check.passed and "colour red, log_loss" in check.note and "colour green" not in check.note
        assert judged.blessed == blessed
    judged = Judged(tmp_path / "wide", examples, candidate, models["flat"], margins="auc=0.4, log_loss=0.2")
    assert judged.checks["slices against the champion"].passed


@pytest.mark.parametrize(
    ("rows", "message"),
    [(toy.table(0, 1), "has no rows"), (toy.table(30, 1, label=1), "All 30 rows have the label 1")],
)
def test_rows_that_cannot_judge_do_not_bless(tmp_path, models, rows, message):
    judged = Judged(tmp_path, toy.examples(tmp_path / "e", test=rows), models["good"], models["flat"])
    assert judged.blessed == 0 and judged.files == ["NOT_BLESSED"]
    assert message in judged.verdict.checks[0].note and message in judged.page


def test_a_slice_of_one_class_is_not_compared_and_does_not_stop_the_rest(tmp_path, models):
    rows = toy.table(600, 5)
    red = np.array(rows["colour"].to_pylist()) == "red"
    broken = np.where(red, 1, rows["broken"].to_numpy())
    examples = toy.examples(tmp_path / "e", test=rows.set_column(3, "broken", [broken]))
    margins = "auc=0.1, log_loss=0.1"
    judged = Judged(tmp_path, examples, models["good"], models["flat"], slice_rows_minimum=10, margins=margins)
    assert judged.blessed == 1
    # Three colours and two ids, two metrics.
    assert "of 10 comparisons" in judged.checks["slices against the champion"].note


def damaged(model, folder: Path):
    """A copy whose graph is no graph."""
    shutil.copytree(model.uri, folder)
    (saved_model.serving_folder(str(folder)) / "saved_model.pb").write_bytes(b"damaged")
    return toy.artifact(standard_artifacts.Model, folder)


def model_of(serve, folder: Path):
    """A `Model` artifact whose signature answers with what `serve` makes of the row's weight."""

    class Answering(tf.Module):
        @tf.function
        def serve(self, colour, size, weight):
            return {PREDICTION: serve(weight)}

    module, model = Answering(), toy.artifact(standard_artifacts.Model, folder)
    specs = [tf.TensorSpec([None], tf.string if n == "colour" else tf.float32, name=n) for n in toy.SCHEMA.names]
    signature = module.serve.get_concrete_function(*specs)
    tf.saved_model.save(module, str(saved_model.serving_folder(model.uri)), signatures={"serving_default": signature})
    return model


def failing(weight):
    with tf.control_dependencies([tf.debugging.assert_less(weight, 0.0, "no such row")]):
        return tf.identity(weight)


@pytest.mark.parametrize("kind", ["damaged", "renamed", "unsigned", "not finite", "failing", "another shape"])
def test_a_champion_that_cannot_be_compared_blocks_until_a_person_accepts(tmp_path, models, kind):
    if kind == "damaged":
        champion, words = damaged(models["good"], tmp_path / "old"), "cannot be loaded"
    elif kind == "renamed":
        champion, words = linear_model(tmp_path / "old", 1, inputs=("weight", "length")), "length"
    elif kind == "unsigned":
        champion, words = toy.artifact(standard_artifacts.Model, tmp_path / "old"), "signature"
        tf.saved_model.save(tf.Module(), str(saved_model.serving_folder(champion.uri)))
    elif kind == "not finite":
        champion, words = linear_model(tmp_path / "old", float("nan")), "finite numbers from 0 to 1"
    elif kind == "failing":
        champion, words = model_of(failing, tmp_path / "old"), "cannot answer"
    else:
        champion, words = model_of(lambda weight: tf.stack([weight, weight], 1), tmp_path / "old"), "shape [4000, 2]"
    examples = examples_of(tmp_path / "e")
    judged = Judged(tmp_path / "block", examples, models["good"], champion)
    check = judged.checks["the champion can be compared"]
    assert judged.blocking == {"the champion can be compared"} and judged.blessed == 0
    assert check.note.startswith("No, because") and words in check.note and "champion_incomparable" in check.note
    accepted = Judged(tmp_path / "accept", examples, models["good"], champion, champion_incomparable="accept")
    assert accepted.blessed == 1 and "which this run accepts" in str(accepted.verdict)
    assert "accepts" in accepted.checks["the champion can be compared"].note
    # What is still held, is held: the floor.
    assert Judged(tmp_path / "bad", examples, models["bad"], champion, champion_incomparable="accept").blessed == 0
    for result in (judged, accepted):
        assert not result.blessing.get_string_custom_property("baseline_model")
        assert not result.evaluation.has_custom_property("champion_roc_auc")


def greedy(weight):
    """Wants more memory than a process can address."""
    return tf.reduce_max(tf.random.uniform(tf.concat([tf.shape(weight, out_type=tf.int64), [2**40]], 0)), 1)


@pytest.mark.parametrize("kind", ["memory", "saved_model.pb", "variables/variables.index"])
def test_a_fault_of_the_machine_is_no_decision_on_the_champion(tmp_path, models, kind):
    champion = model_of(greedy if kind == "memory" else tf.sigmoid, tmp_path / "old")
    if kind != "memory":
        path = saved_model.serving_folder(champion.uri) / kind
        path.unlink()
        path.symlink_to("/proc/self/mem")  # Whoever reads its first byte gets EIO, as from a failing disk.
    examples = examples_of(tmp_path / "e")
    with pytest.raises(TransientError):
        Judged(tmp_path / "judged", examples, models["good"], champion, champion_incomparable="accept")


@pytest.mark.parametrize("weights", ["variables.index", "variables.data-00000-of-00001"])
@pytest.mark.parametrize("size", [0, 20, None])
def test_a_champion_whose_weights_were_cut_off_or_removed_is_no_fault_of_the_machine(tmp_path, weights, size):
    champion = model_of(tf.sigmoid, tmp_path / "old")
    path = saved_model.serving_folder(champion.uri) / "variables" / weights
    path.write_bytes(path.read_bytes()[:size])
    if size is None:
        path.unlink()
    with pytest.raises(TerminalError, match="cannot be loaded"):
        saved_model.Predictor(saved_model.serving_folder(champion.uri), toy.SCHEMA)


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), 1.5, -0.1])
def test_answers_that_are_no_probabilities_are_a_decision_that_shows_no_rows(tmp_path, models, answer, caplog, capfd):
    model = model_of(lambda weight: tf.where(weight > 1, answer, 0.5), tmp_path / "broken")
    caplog.set_level("INFO")
    judged = Judged(tmp_path, examples_of(tmp_path / "e"), model, models["flat"], analysis_rows=200)
    assert judged.blocking == {"finite predictions"} and judged.files == ["NOT_BLESSED"]
    assert " of 4,000 answers are not finite numbers from 0 to 1" in judged.checks["finite predictions"].note
    assert not (judged.folder / evaluate.ANALYSIS).exists()
    logged = caplog.text + "".join(capfd.readouterr())
    assert "0.5, 0.5" not in logged and "nan, " not in logged


def test_blocks_are_local_days_or_values_of_a_column(tmp_path):
    instants = [datetime.datetime(2020, 1, 1, 3, tzinfo=datetime.UTC) + datetime.timedelta(hours=i) for i in range(240)]
    rows = toy.table(240, 1).set_column(4, "at", pa.array(instants, pa.timestamp("us", "UTC")))
    toy.examples(tmp_path, test=rows)
    here = evaluation_rows.read(tmp_path, toy.SCHEMA, "America/New_York").rows
    # 03:00 UTC is 22:00 of the day before in New York.
    assert here.units[:3].astype("datetime64[D]").astype(str).tolist() == ["2019-12-31", "2019-12-31", "2020-01-01"]
    by_id = evaluation_rows.read(tmp_path, dataclasses.replace(toy.SCHEMA, blocks="id"), "UTC").rows
    assert by_id.units[:3].tolist() == [0, 1, 0] and by_id.unit_name == "values of id"


def test_a_candidate_that_does_not_load_is_a_fault(tmp_path):
    model = toy.artifact(standard_artifacts.Model, tmp_path / "model")
    with pytest.raises(TerminalError, match="cannot be loaded"):
        Judged(tmp_path, examples_of(tmp_path / "e"), model)
    assert not list((tmp_path / "blessing").iterdir())
