"""Estimates without labels: near the truth where predictions mean what they meant, for every task."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from components.measures import scores
from components.measures.slices import Slices
from components.schema import ExampleSchema, Label
from components.tasks import task_of
from components.watch import estimates
from components.watch.estimates import Estimator

BINARY = task_of(ExampleSchema((), "late", "at", ("id",), ()))
CLASSES = task_of(ExampleSchema((), "kind", "at", ("id",), (), task="multiclass", classes=("a", "b", "c")))
NUMBERS = task_of(ExampleSchema((), "length", "at", ("id",), ("colour",), task="regression", quantiles=(0.1, 0.5, 0.9)))


def binary(seed: int, count: int = 4000, sureness: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are too sure of themselves."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-0.8, 1.2, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-true))).astype(np.int64)
    return labels, (1 / (1 + np.exp(-sureness * true))).astype(np.float32)


@pytest.mark.parametrize("calibration", ["isotonic", "platt"])
def test_calibrated_estimates_are_near_the_truth_where_the_models_own_are_not(calibration):
    estimator = estimates.fit(BINARY, *binary(0), {}, calibration)
    own = estimates.fit(BINARY, *binary(0), {}, "none")
    labels, p = binary(1)
    truth = {name: metric.value(labels, p, None) for name, metric in BINARY.metrics.items()}
    expected, naive = (estimates.estimate(one, BINARY, p, {}) for one in (estimator, own))
    assert expected["auc"] == pytest.approx(truth["auc"], abs=0.015)
    assert expected["log_loss"] == pytest.approx(truth["log_loss"], rel=0.06)
    assert abs(naive["log_loss"] - truth["log_loss"]) > 3 * abs(expected["log_loss"] - truth["log_loss"])


def test_of_several_labels_each_is_estimated_by_its_name():
    schema = replace(BINARY.schema, more_labels=(Label("length", "regression"),))
    several, rng = task_of(schema), np.random.default_rng(3)

    def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels, p = binary(seed)
        middle = rng.uniform(0, 10, len(p))
        length = middle + rng.normal(size=len(p)) * (0.2 + middle / 5)
        return np.stack([labels, length], 1), np.stack([p, middle], 1).astype(np.float32)

    kept = estimates.fit(several, *rows(0), {})
    estimator = Estimator.of_json(json.loads(json.dumps(kept.to_json())))
    labels, predictions = rows(1)
    expected = estimates.estimate(estimator, several, predictions, {})
    for name in ("late_auc", "late_log_loss", "length_mae"):
        assert expected[name] == pytest.approx(several.metrics[name].value(labels, predictions, None), rel=0.06)
    # A label that is always the same leaves the other one.
    labels[:, 0] = 1
    assert set(estimates.fit(several, labels, predictions, {}).parts) == {"length"}
    assert estimates.fit(several, labels[:10], predictions[:10], {}) is None


def test_the_estimate_follows_another_mix_of_rows():
    estimator = estimates.fit(BINARY, *binary(0, 20_000), {})
    labels, p = binary(2, 20_000)
    easy = (p < 0.02) | (p > 0.98)
    expected = estimates.estimate(estimator, BINARY, p[easy], {})["log_loss"]
    assert expected == pytest.approx(scores.log_loss(labels[easy], p[easy]), rel=0.15)
    assert expected != pytest.approx(scores.log_loss(labels, p), rel=0.15)


def test_classes_are_calibrated_one_by_one_and_sum_up():
    rng = np.random.default_rng(0)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        p = rng.dirichlet([1, 1, 1], count)
        labels = np.array([rng.choice(3, p=one) for one in p])
        sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
        return labels, sharp.astype(np.float32)

    estimator = estimates.fit(CLASSES, *rows(4000), {})
    labels, p = rows(4000)
    calibrated = estimates.calibrated(estimator, p)
    assert calibrated.shape == (4000, 3) and np.allclose(calibrated.sum(axis=1), 1)
    expected = estimates.estimate(estimator, CLASSES, p, {})
    for name, metric in CLASSES.metrics.items():
        assert expected[name] == pytest.approx(metric.value(labels, p, None), rel=0.08)


def test_losses_of_numbers_are_learned_from_predictions_and_slices():
    rng = np.random.default_rng(0)

    def rows(count: int, wild: float) -> tuple[np.ndarray, np.ndarray, dict[str, Slices]]:
        codes = (rng.random(count) < wild).astype(np.int32)
        middle = rng.uniform(0, 10, count)
        labels = middle + rng.normal(size=count) * np.where(codes, 4.0, 0.5)
        return labels, middle[:, None] + np.array([-1.0, 0.0, 1.0]), {"colour": Slices(("calm", "wild"), codes)}

    estimator = estimates.fit(NUMBERS, *rows(4000, 0.3))
    labels, predictions, slices = rows(4000, 0.7)
    expected = estimates.estimate(estimator, NUMBERS, predictions, slices)
    for name, metric in NUMBERS.metrics.items():
        assert expected[name] == pytest.approx(metric.value(labels, predictions, None), rel=0.1)
    unknown = {"colour": Slices(("new",), np.zeros(4000, np.int32))}
    assert np.isfinite(estimates.estimate(estimator, NUMBERS, predictions, unknown)["mae"])


def test_an_estimator_is_json_and_back():
    for task, made in ((BINARY, estimates.fit(BINARY, *binary(0), {})),):
        again = Estimator.of_json(json.loads(json.dumps(made.to_json())))
        p = binary(1)[1]
        assert estimates.estimate(again, task, p, {}) == estimates.estimate(made, task, p, {})


def test_too_few_rows_or_one_label_fit_nothing():
    labels, p = binary(0, 100)
    assert estimates.fit(BINARY, labels, p, {}) is None
    assert estimates.fit(BINARY, np.ones(500, np.int64), np.full(500, 0.5, np.float32), {}) is None
