"""Judging models of classes and of numbers: what is worse is stopped, equal is passed, and reports show their kind."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.verdict import Verdict
from components import evaluate
from components.measures import evaluation_rows
from components.modelling import saved_model
from tests.components import toy
from tests.components.tasks import schemas
from tests.components.tasks.schemas import BY_LAST, MULTICLASS, QUANTILES, REGRESSION, WEIGHTED

pytestmark = pytest.mark.slow
SCHEMAS = {
    "classes": MULTICLASS,
    "numbers": REGRESSION,
    "quantiles": QUANTILES,
    "weighted": WEIGHTED,
    "by_last": BY_LAST,
}
WIDTH = {"classes": 3, "numbers": 0, "quantiles": 3, "weighted": 3, "by_last": 3}
Z = np.array([-1.28, 0, 1.28], np.float32)


def table(kind: str, rows: int, seed: int) -> pa.Table:
    """Rows of forty an hour whose label follows the size; the value before is the size with noise."""
    rng = np.random.default_rng(seed)
    size, noise = rng.normal(0, 1, rows).astype(np.float32), rng.normal(0, 1, rows)
    if kind == "classes":
        logits = 1.5 * size[:, None] * np.array([-1, 0, 1]) + rng.gumbel(size=(rows, 3))
        target = pa.array(np.array(MULTICLASS.classes)[logits.argmax(axis=1)])
    else:
        target = pa.array(20 + 5 * size + noise)
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    at = [start + datetime.timedelta(minutes=1.5 * row) for row in range(rows)]
    columns = {
        "colour": pa.array(rng.choice(["red", "green", ""], rows)),
        "size": size,
        "last": (20 + 5 * size + rng.normal(0, 2, rows)).astype(np.float32),
        "target": target,
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        "id": [f"k{row}" for row in range(rows)],
    }
    if kind == "weighted":
        columns["importance"] = rng.integers(0, 3, rows).astype(np.float32)
    return pa.table(columns)


def examples(folder: Path, kind: str, rows: int = 8000):
    return toy.examples(folder, train=table(kind, 2000, 1), validation=table(kind, 500, 2), test=table(kind, rows, 3))


def model(folder: Path, kind: str, answer):
    """A `Model` artifact that answers with what `answer` makes of the sizes, [rows] or [rows, 3]."""

    class Answering(tf.Module):
        @tf.function
        def serve(self, colour, size, last):
            values = answer(size)
            if kind == "classes":
                names = tf.gather(tf.constant(MULTICLASS.classes), tf.argmax(values, axis=1))
                return {"probabilities": values, "class": names}
            return {"prediction": values} if kind == "numbers" else {"prediction": values[:, 1], "quantiles": values}

    module, made = Answering(), toy.artifact(standard_artifacts.Model, folder)
    types = {"colour": tf.string, "size": tf.float32, "last": tf.float32}
    signature = module.serve.get_concrete_function(**{n: tf.TensorSpec([None], t, name=n) for n, t in types.items()})
    tf.saved_model.save(module, str(saved_model.serving_folder(made.uri)), signatures={"serving_default": signature})
    return made


def answers(kind: str, slope: float, shift: float = 0.0):
    """Of the true model slope 1 and shift 0."""
    if kind == "classes":
        return lambda size: tf.nn.softmax(1.5 * slope * size[:, None] * tf.constant([-1.0, 0.0, 1.0]) + shift)
    if kind == "numbers":
        return lambda size: 20 + 5 * slope * size + shift
    return lambda size: (20 + 5 * slope * size + shift)[:, None] + Z


class Judged:
    """A finished evaluation and what it left."""

    def __init__(self, folder: Path, kind: str, made, candidate, champion=None, **settings):
        self.evaluation = toy.artifact(standard_artifacts.ModelEvaluation, folder / "evaluation")
        blessing = toy.artifact(standard_artifacts.ModelBlessing, folder / "blessing")
        evaluate.evaluate.test_call(
            examples=made,
            model=candidate,
            evaluation=self.evaluation,
            blessing=blessing,
            champion=[champion] if champion else [],
            **{"schema": f"{__name__}:{kind.upper()}", "margin_rows": 4000, "analysis_rows": 0, **settings},
        )
        self.folder = Path(self.evaluation.uri)
        self.checks = {check.name: check for check in Verdict.read(self.folder).checks}
        self.page = (self.folder / evaluate.REPORT).read_text()
        self.blessed = blessing.get_int_custom_property("blessed")
        self.blocking = {c.name for c in self.checks.values() if not c.passed and c.severity == "blocking"}


globals().update({kind.upper(): schema for kind, schema in SCHEMAS.items()})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return {kind: examples(folder / kind, kind) for kind in SCHEMAS}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_good_is_blessed_and_bad_is_not(tmp_path, made, kind):
    first = Judged(tmp_path / "first", kind, made[kind], model(tmp_path / "good", kind, answers(kind, 1)))
    assert first.blessed == 1 and not first.blocking
    metrics = list(first.checks)[3:5] if kind != "numbers" else list(first.checks)[3:4]
    assert all(name.endswith("against the baseline") for name in metrics)
    bad = Judged(tmp_path / "bad", kind, made[kind], model(tmp_path / "m", kind, answers(kind, -1)))
    assert bad.blessed == 0 and bad.blocking == set(metrics)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_equal_is_passed_and_a_loss_of_three_margins_is_stopped(tmp_path, made, kind):
    champion = model(tmp_path / "champion", kind, answers(kind, 1))
    equal = Judged(tmp_path / "equal", kind, made[kind], model(tmp_path / "m1", kind, answers(kind, 0.995)), champion)
    assert equal.blessed == 1
    # So much that log loss rises by .03 nats, or the error by 6 %.
    slope = 1.65 if kind == "classes" else 1.08
    candidate = model(tmp_path / "m2", kind, answers(kind, slope))
    worse = Judged(tmp_path / "worse", kind, made[kind], candidate, champion)
    foremost = next(iter(evaluation_rows.task_of(SCHEMAS[kind]).metrics))
    assert f"{foremost} against the champion" in worse.blocking and worse.blessed == 0
    gain = worse.evaluation.get_float_custom_property(f"{foremost}_gain")
    value, champions = (worse.evaluation.get_float_custom_property(f"{of}{foremost}") for of in ("", "champion_"))
    assert gain == pytest.approx(champions - value) and gain < 0
    required = float(worse.checks[f"{foremost} against the champion"].threshold.removeprefix(">= "))
    assert gain < 2 * required < 0 and (kind == "classes" or required == pytest.approx(-0.02 * champions, rel=1e-3))
    # A margin of one's own lets it pass.
    wide = "log_loss=0.5, accuracy=0.5" if kind == "classes" else "mae=50%"
    wide += ", pinball=50%" if WIDTH[kind] and kind != "classes" else ""
    assert Judged(tmp_path / "wide", kind, made[kind], candidate, champion, margins=wide).blessed == 1


def test_reports_show_what_the_task_is_about(tmp_path, made):
    words = {
        "classes": ("<td>mid</td>", "recall", "log loss", "mean top probability", "Confusion matrix"),
        "quantiles": ("MAE", "pinball loss", "RMSE", "coverage of quantile 0.9", "error over time"),
        "weighted": ("MAE", "coverage of quantile 0.1"),
        "numbers": ("RMSE", "mean label", "mean prediction"),
    }
    for kind, texts in words.items():
        candidate, champion = (model(tmp_path / kind / str(n), kind, answers(kind, n)) for n in (1, 0.9))
        judged = Judged(tmp_path / kind / "judged", kind, made[kind], candidate, champion)
        assert all(text in judged.page for text in texts), kind
        assert judged.page.count("data:image/png;base64,") == 2 and "ROC AUC" not in judged.page
        assert "colour red" in judged.page and "http" not in judged.page


@pytest.mark.parametrize(
    ("kind", "answer", "words"),
    [
        ("classes", lambda size: tf.nn.softmax(size[:, None] * tf.ones(3)) * 1.01, "that sum up to 1"),
        ("classes", lambda size: tf.where(size[:, None] > 1, np.nan, tf.fill([tf.size(size), 3], 1 / 3)), "0 to 1"),
        ("numbers", lambda size: tf.where(size > 1, np.inf, size), "finite numbers"),
        ("quantiles", lambda size: (20 + 5 * size)[:, None] - Z, "quantiles rising"),
    ],
)
def test_answers_that_are_none_are_not_blessed(tmp_path, made, kind, answer, words):
    judged = Judged(tmp_path, kind, made[kind], model(tmp_path / "m", kind, answer))
    assert judged.blocking == {"finite predictions"} and judged.blessed == 0
    assert words in judged.checks["finite predictions"].note


def test_a_champion_of_another_task_cannot_be_compared(tmp_path, made):
    candidate = model(tmp_path / "m", "quantiles", answers("quantiles", 1))
    champion = model(tmp_path / "old", "numbers", answers("numbers", 1))
    judged = Judged(tmp_path / "judged", "quantiles", made["quantiles"], candidate, champion)
    assert judged.blocking == {"the champion can be compared"}


def test_a_baseline_that_is_the_prediction_is_harder_to_beat(tmp_path, made):
    candidate = model(tmp_path / "m", "quantiles", answers("quantiles", 1))
    constant = Judged(tmp_path / "constant", "quantiles", made["quantiles"], candidate)
    as_is = Judged(tmp_path / "as_is", "by_last", made["by_last"], candidate)
    floor = [judged.checks["mae against the baseline"].baseline for judged in (constant, as_is)]
    assert floor[0] > 3.5 and floor[1] < 2


def test_parameters_that_cannot_be_read_are_named_before_anything_is_measured(tmp_path, made):
    candidate = model(tmp_path / "m", "numbers", answers("numbers", 1))
    for name in ("margins", "baseline_gains"):
        with pytest.raises(TerminalError, match=f"{name} cannot be read.*mae"):
            Judged(tmp_path / name, "numbers", made["numbers"], candidate, **{name: "auc=0.1"})


@pytest.mark.parametrize("kind", ["classes", "weighted"])
def test_tensorflow_model_analysis_reads_rows_of_every_task(tmp_path, kind):
    rows = examples(tmp_path / "e", kind, 600)
    models = [model(tmp_path / str(slope), kind, answers(kind, slope)) for slope in (1, 0.9)]
    judged = Judged(tmp_path, kind, rows, *models, margin_rows=100, analysis_rows=1000)
    for name, prefix in (("candidate", ""), ("baseline", "champion_")):
        result = tfma.load_eval_result(str(judged.folder / evaluate.ANALYSIS), model_name=name)
        figures = {key: value["doubleValue"] for key, value in dict(result.slicing_metrics)[()][""][""].items()}
        metric = "accuracy" if kind == "classes" else "mae"
        expected = judged.evaluation.get_float_custom_property(f"{prefix}{metric}")
        assert figures[metric] == pytest.approx(expected, abs=1e-4)


def test_its_own_intervals_are_of_rows(tmp_path):
    rows = examples(tmp_path / "e", "numbers", 60)
    candidate = model(tmp_path / "m", "numbers", answers("numbers", 1))
    settings = {"margin_rows": 60, "analysis_rows": 60, "analysis_intervals": 1}
    judged = Judged(tmp_path, "numbers", rows, candidate, **settings)
    figures = dict(tfma.load_eval_result(str(judged.folder / evaluate.ANALYSIS)).slicing_metrics)[()][""][""]
    bounds = figures["mae"]["boundedValue"]
    assert bounds["lowerBound"] < judged.evaluation.get_float_custom_property("mae") < bounds["upperBound"]


def test_shards_in_any_order_are_judged_by_time(tmp_path):
    whole = table("quantiles", 3000, 3)
    toy.examples(tmp_path / "one", train=whole, validation=whole, test=whole)
    parts = [whole.slice(2000), whole.slice(0, 700), whole.slice(700, 1300)]
    toy.examples(tmp_path / "three", train=whole, validation=whole.slice(0, 0), test=parts[0])
    for number, part in enumerate(parts[1:], 1):
        pq.write_table(part, tmp_path / "three" / "Split-test" / f"examples-0000{number}-of-00003.parquet")
    one, three = (evaluation_rows.read(tmp_path / name, QUANTILES, "UTC") for name in ("one", "three"))
    predictor = saved_model.Predictor(
        saved_model.serving_folder(model(tmp_path / "m", "quantiles", answers("quantiles", 1)).uri), QUANTILES
    )
    for name in ("labels", "units"):
        np.testing.assert_array_equal(getattr(one.rows, name), getattr(three.rows, name))
    np.testing.assert_array_equal(one.predictions(predictor), three.predictions(predictor))
    texts = [np.array(rows.slices["colour"].names)[rows.slices["colour"].codes] for rows in (one, three)]
    np.testing.assert_array_equal(*texts)
    np.testing.assert_allclose(one.baseline, three.baseline)


def test_a_row_on_which_a_model_fails_is_named(tmp_path):
    rows = table("numbers", 9000, 3)
    size = rows["size"].to_numpy().copy()
    size[8500] = 1000
    test = rows.set_column(rows.column_names.index("size"), "size", pa.array(size))
    toy.examples(tmp_path / "e", train=rows, validation=rows.slice(0, 0), test=test)

    def answer(size):
        with tf.control_dependencies([tf.debugging.assert_less(size, 100.0, "too large")]):
            return size * 5

    candidate = model(tmp_path / "m", "numbers", answer)
    predictor = saved_model.Predictor(saved_model.serving_folder(candidate.uri), REGRESSION)
    judged = evaluation_rows.read(tmp_path / "e", REGRESSION, "UTC")
    with pytest.raises(TerminalError, match=r"fails on row 8500 of the split test \(id k8500, at 2020-.*too large"):
        judged.predictions(predictor)


def test_rows_without_a_time_are_judged_by_runs_of_rows(tmp_path):
    rows = table("classes", 1000, 3).drop_columns("at")
    toy.examples(tmp_path, train=rows, validation=rows, test=rows)
    schema = dataclasses.replace(MULTICLASS, time="")
    timeless = evaluation_rows.read(tmp_path, schema, "UTC").rows
    assert timeless.unit_name == "runs of rows"
    assert np.bincount(timeless.units).tolist() == [5] * evaluation_rows.RUNS


def test_of_a_long_history_the_baseline_learns_evenly_many_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_rows, "HISTORY_ROWS", 300)
    monkeypatch.setattr(evaluation_rows, "PIECE", 128)
    made = examples(tmp_path, "quantiles", 100)
    schema = dataclasses.replace(schemas.QUANTILES, baseline="size")
    history = evaluation_rows._History.read(tmp_path, schema, evaluation_rows.task_of(schema))
    every = pa.concat_tables([table("quantiles", 2000, 1), table("quantiles", 500, 2)])
    np.testing.assert_array_equal(history.labels, every["target"].to_numpy()[::9])
    np.testing.assert_array_equal(history.features["size"], every["size"].to_numpy()[::9])
    assert made.splits


def test_a_value_that_is_missing_is_a_slice_without_a_name(tmp_path):
    rows = table("classes", 100, 3)
    place = rows.column_names.index("id")
    rows = rows.set_column(place, "id", pa.array([None, *["k"] * 98, None]))
    toy.examples(tmp_path, train=rows, validation=rows, test=rows)
    schema = dataclasses.replace(MULTICLASS, slices=("id",))
    slices = evaluation_rows.read(tmp_path, schema, "UTC").slices["id"]
    by_size = [(name, places.tolist()) for name, places in slices.by_size()]
    assert by_size == [("k", list(range(1, 99))), ("", [0, 99])]


def test_a_weight_below_zero_fails_by_name(tmp_path):
    rows = table("weighted", 50, 1)
    wrong = rows["importance"].to_numpy().copy()
    wrong[7] = -1
    place = rows.column_names.index("importance")
    toy.examples(tmp_path, train=rows, validation=rows, test=rows.set_column(place, "importance", pa.array(wrong)))
    with pytest.raises(TerminalError, match=r"importance has values that are no weight.*-1 in row 7"):
        evaluation_rows.read(tmp_path, WEIGHTED, "UTC")
