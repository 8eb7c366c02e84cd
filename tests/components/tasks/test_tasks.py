"""Metrics, baselines, calibration and predictions of each task, beside scikit-learn and by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn import metrics

from components.measures import baseline, paired
from components.tasks import task_of
from tests.components.tasks import schemas
from tests.components.tasks.schemas import BINARY, BY_LAST, MULTICLASS, QUANTILES, REGRESSION

RNG = np.random.default_rng(4)
ROWS = 400
BLOCKS = np.sort(RNG.integers(0, 9, ROWS))
WEIGHTS = RNG.integers(0, 4, ROWS).astype(float)
LABELS = {
    "binary": RNG.integers(0, 2, ROWS),
    "multiclass": RNG.integers(0, 3, ROWS),
    "regression": RNG.normal(5, 2, ROWS),
}
ANSWERS = {
    "binary": [RNG.random(ROWS).round(2) for _ in range(2)],
    "multiclass": [schemas.probabilities(RNG, ROWS) for _ in range(2)],
    "regression": [RNG.normal(5, 2, ROWS) for _ in range(2)],
    "quantiles": [np.sort(RNG.normal(5, 2, (ROWS, 3)), axis=1) for _ in range(2)],
}
CASES = [(BINARY, "binary"), (MULTICLASS, "multiclass"), (REGRESSION, "regression"), (QUANTILES, "quantiles")]


def labels_of(schema):
    return LABELS[schema.task]


@pytest.mark.parametrize(("schema", "answers"), CASES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_gain_is_the_difference_of_the_metric_by_its_direction(schema, answers, weights):
    task, (candidate, other) = task_of(schema), ANSWERS[answers]
    for metric in task.metrics.values():
        values = [metric.value(labels_of(schema), answer, weights) for answer in (candidate, other)]
        gain = metric.gain(labels_of(schema), candidate, other, BLOCKS, weights)
        sign = 1 if metric.higher_is_better else -1
        assert gain.value(np.ones((1, 9)))[0] == pytest.approx(sign * (values[0] - values[1]), abs=1e-12)


@pytest.mark.parametrize(("schema", "answers"), CASES)
def test_a_rows_weight_counts_as_so_many_rows(schema, answers):
    task, (candidate, other) = task_of(schema), ANSWERS[answers]
    copied = np.repeat(np.arange(ROWS), WEIGHTS.astype(int))
    labels = labels_of(schema)
    figures = {name: value for name, (_, value) in task.figures.items()}
    for value in [*(metric.value for metric in task.metrics.values()), *figures.values()]:
        assert value(labels, candidate, WEIGHTS) == pytest.approx(value(labels[copied], candidate[copied], None))
    for metric in task.metrics.values():
        weighted = paired.interval(metric.gain(labels, candidate, other, BLOCKS, WEIGHTS), 9)
        as_rows = metric.gain(labels[copied], candidate[copied], other[copied], BLOCKS[copied], None)
        assert dataclasses.astuple(weighted) == pytest.approx(dataclasses.astuple(paired.interval(as_rows, 9)))


@pytest.mark.parametrize(("schema", "answers"), CASES)
def test_a_rows_weight_counts_as_so_many_rows_in_calibration(schema, answers):
    task, copied = task_of(schema), np.repeat(np.arange(ROWS), WEIGHTS.astype(int))
    labels, predictions = labels_of(schema), ANSWERS[answers][0]
    weighted = task.calibration(labels, predictions, WEIGHTS)
    as_rows = task.calibration(labels[copied], predictions[copied], None)
    assert [check.ratio for check in weighted] == pytest.approx([check.ratio for check in as_rows])


@pytest.mark.parametrize(("schema", "answers"), CASES)
def test_rows_of_no_weight_have_no_figures(schema, answers):
    task, weights = task_of(schema), np.zeros(ROWS)
    values = [*(metric.value for metric in task.metrics.values()), *(value for _, value in task.figures.values())]
    assert np.isnan([value(labels_of(schema), ANSWERS[answers][0], weights) for value in values]).all()


def test_without_a_class_of_enough_weight_there_is_no_calibration():
    labels = np.repeat([0, 1, 2], [30, 30, 5])
    assert not task_of(MULTICLASS).calibration(labels, schemas.probabilities(RNG, 65), (labels == 2).astype(float))


def test_values_are_those_of_scikit_learn():
    values = {
        (schema.task, name): metric.value(labels_of(schema), ANSWERS[answers][0], None)
        for schema, answers in CASES
        for name, metric in task_of(schema).metrics.items()
    }
    binary, classes, numbers = (ANSWERS[task][0] for task in ("binary", "multiclass", "regression"))
    assert values["binary", "auc"] == pytest.approx(metrics.roc_auc_score(LABELS["binary"], binary))
    clipped = classes.astype(float) / classes.sum(axis=1, keepdims=True)
    assert values["multiclass", "log_loss"] == pytest.approx(metrics.log_loss(LABELS["multiclass"], clipped), rel=1e-5)
    accuracy = metrics.accuracy_score(LABELS["multiclass"], classes.argmax(axis=1))
    assert values["multiclass", "accuracy"] == pytest.approx(accuracy)
    error = metrics.mean_absolute_error(LABELS["regression"], ANSWERS["quantiles"][0][:, 1])
    assert values["regression", "mae"] == pytest.approx(error)
    losses = [
        metrics.mean_pinball_loss(LABELS["regression"], ANSWERS["quantiles"][0][:, place], alpha=level)
        for place, level in enumerate(QUANTILES.quantiles)
    ]
    assert values["regression", "pinball"] == pytest.approx(np.mean(losses))
    rmse = task_of(REGRESSION).figures["rmse"][1](LABELS["regression"], numbers, None)
    assert rmse == pytest.approx(metrics.root_mean_squared_error(LABELS["regression"], numbers))


@pytest.mark.parametrize(
    ("schema", "predictions", "wrong"),
    [
        (BINARY, [0, 0.5, 1], 0),
        (BINARY, [np.nan, np.inf, -0.1, 1.1, 0.3], 4),
        (MULTICLASS, [[0.2, 0.3, 0.5], [0, 0, 1]], 0),
        (MULTICLASS, [[0.2, 0.3, 0.4999], [0.2, 0.3, 0.52], [np.nan, 0.5, 0.5], [-0.1, 0.6, 0.5]], 3),
        (REGRESSION, [-3.0, 1e30], 0),
        (REGRESSION, [np.nan, np.inf, 1.0], 2),
        (QUANTILES, [[1, 1, 2], [-1, 0, 1]], 0),
        (QUANTILES, [[1, 0.9, 2], [0, 1, np.nan], [0, 1, 2]], 2),
    ],
)
def test_predictions_that_are_none_are_counted(schema, predictions, wrong):
    assert task_of(schema).wrong_predictions(np.array(predictions, np.float32)) == wrong


@pytest.mark.parametrize(
    ("schema", "labels", "message"),
    [
        (BINARY, [], "no rows"),
        (BINARY, [1] * 30, "All 30 rows have the label 1"),
        (BINARY, [1] * 30 + [0] * 9, "Only 9 rows have the label 0"),
        (MULTICLASS, [], "no rows"),
        (MULTICLASS, [2] * 30, "All 30 rows have the label high"),
        (MULTICLASS, [2] * 30 + [0] * 9 + [1] * 9, "No class but high has 10 rows of 48"),
        (REGRESSION, [], "no rows"),
        (REGRESSION, [1.0] * 19, "19 rows; 20 are needed"),
        (REGRESSION, [2.5] * 30, "All 30 rows have the label 2.5"),
    ],
)
def test_labels_that_judge_nothing_say_why(schema, labels, message):
    task = task_of(schema)
    encoded = np.array(labels, float if schema.task == "regression" else int)
    assert message in task.decidable(encoded)
    enough = np.repeat(range(2 if schema is BINARY else 3), 10)
    assert not task.decidable(np.concatenate([encoded, enough]).astype(encoded.dtype))
    assert task.described(enough.astype(encoded.dtype))


def test_classes_have_the_shares_that_they_had_by_the_features_value():
    history, labels = np.repeat(["red", "green"], 1000).astype(object), np.repeat([0, 1, 2], [1000, 500, 500])
    rows = np.array(["red", "green", "new"], object)
    shares = task_of(MULTICLASS).baseline(history, labels, rows, 3)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares[0] == pytest.approx([1, 0, 0], abs=0.02) and shares[1] == pytest.approx([0, 0.5, 0.5], abs=0.02)
    assert shares[2] == pytest.approx([0.5, 0.25, 0.25])
    weights = np.random.default_rng(0).random(2000)
    one_by_one = [baseline.means(history, labels == place, rows, 3, weights) for place in range(3)]
    weighted = task_of(MULTICLASS).baseline(history, labels, rows, 3, weights)
    np.testing.assert_allclose(weighted, np.stack(one_by_one, axis=1))
    assert task_of(MULTICLASS).baseline(None, labels, None, 4) == pytest.approx(np.tile([0.5, 0.25, 0.25], (4, 1)))


def test_a_regressions_baseline_is_the_mean_or_the_quantiles_by_the_features_bin():
    history = np.repeat([1.0, 2.0, np.nan], 500).astype(np.float32)
    labels = np.concatenate([np.linspace(0, 1, 500), np.linspace(10, 20, 500), np.linspace(100, 102, 500)])
    rows = np.array([1, 2, np.nan], np.float32)
    assert task_of(REGRESSION).baseline(history, labels, rows, 3) == pytest.approx([0.5, 15, 101], rel=0.1, abs=2)
    quantiles = task_of(QUANTILES).baseline(history, labels, rows, 3)
    assert quantiles == pytest.approx(np.array([[0.1, 0.5, 0.9], [11, 15, 19], [100.2, 101, 101.8]]))
    weights = (labels < 0.5).astype(float)
    assert task_of(REGRESSION).baseline(None, labels, None, 1, weights) == pytest.approx([0.249], abs=1e-3)
    assert task_of(QUANTILES).baseline(None, labels, None, 1, weights)[0, 1] == pytest.approx(0.249, abs=0.01)


def test_a_baseline_that_is_the_prediction_has_quantiles_as_labels_lay_around_it():
    rng = np.random.default_rng(1)
    history = rng.normal(100, 30, 20_000).astype(np.float32)
    labels = history + rng.normal(0, 1, 20_000)
    rows = np.array([50, 200, np.nan], np.float32)
    answers = task_of(BY_LAST).baseline(history, labels, rows, 3)
    assert answers[:2] == pytest.approx(rows[:2, None] + np.array([-1.28, 0, 1.28]), abs=0.05)
    assert answers[2] == pytest.approx(np.quantile(labels, (0.1, 0.5, 0.9)))
    of_mean = task_of(dataclasses.replace(BY_LAST, quantiles=()))
    assert of_mean.baseline(history, labels, rows, 3) == pytest.approx([50, 200, labels.mean()])


def test_calibration_is_a_ratio_of_what_was_foretold_to_what_came():
    labels, rng = np.tile([0, 1], 500), np.random.default_rng(2)
    (binary,) = task_of(BINARY).calibration(labels, np.full(1000, 0.6), None)
    assert binary.ratio == pytest.approx(1.2) and "expected calibration error is 0.1" in binary.note
    probabilities = np.tile([0.5, 0.4, 0.1], (1000, 1))
    (classes,) = task_of(MULTICLASS).calibration(np.repeat([0, 1, 2], [500, 300, 200]), probabilities, None)
    assert classes.ratio == pytest.approx(0.5) and "class high" in classes.note
    values = rng.normal(0, 1, 5000)
    levels = np.tile(np.quantile(values, (0.05, 0.5, 0.9)), (5000, 1))
    ratios = {check.name: check.ratio for check in task_of(QUANTILES).calibration(values, levels, None)}
    assert ratios["coverage of quantile 0.1"] == pytest.approx(0.5, abs=0.01)
    assert ratios["coverage of quantile 0.9"] == pytest.approx(1, abs=0.01)
    (bias,) = task_of(REGRESSION).calibration(values, values + 0.5, None)
    assert bias.ratio == pytest.approx(1.5, abs=0.02)


def test_predictions_are_read_of_the_served_outputs():
    response = {"probability": [0.25], "probabilities": [[0.25, 0.25, 0.5]], "class": [b"high"]}
    response |= {"prediction": [3.0], "quantiles": [[1.0, 3.0, 4.0]]}
    for schema, shape in ((BINARY, (1,)), (MULTICLASS, (1, 3)), (REGRESSION, (1,)), (QUANTILES, (1, 3))):
        assert task_of(schema).predictions(response).shape == shape
        assert set(task_of(schema).outputs) <= set(response)
        with pytest.raises(KeyError):
            task_of(schema).predictions({})
    wrong = {"probability": [[0.5]], "probabilities": [[0.5, 0.5]], "prediction": [[1.0]], "quantiles": [[1.0]]}
    for schema in (BINARY, MULTICLASS, REGRESSION, QUANTILES):
        with pytest.raises(ValueError, match="of shape"):
            task_of(schema).predictions(wrong)


def test_a_score_is_one_number_a_row():
    assert task_of(BINARY).score(np.array([0.25], np.float32)).tolist() == [0.25]
    assert task_of(QUANTILES).score(np.array([[1, 2, 9]], np.float32)).tolist() == [2]
    # Which class, and how surely: from 0 to 1.
    answers = np.array([[0.75, 0.25, 0], [0.25, 0.5, 0.25], [0, 0, 1]], np.float32)
    assert task_of(MULTICLASS).score(answers) == pytest.approx([0.25, 0.5, 1], abs=1e-5)
    assert (task_of(MULTICLASS).score(answers) < 1).all()
