"""Intervals of a model's own metrics, by the gate's bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from components.measures import paired, scores
from components.measures.value_interval import figures
from components.schema import ExampleSchema
from components.tasks import task_of

BINARY = task_of(ExampleSchema((), "late", "at", ("id",), ()))
CLASSES = task_of(ExampleSchema((), "kind", "at", ("id",), (), task="multiclass", classes=("a", "b", "c")))
NUMBERS = task_of(ExampleSchema((), "length", "at", ("id",), (), task="regression", quantiles=(0.1, 0.5, 0.9)))
MEAN = task_of(ExampleSchema((), "length", "at", ("id",), (), task="regression"))


def rows(task, seed: int, count: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if task is BINARY:
        p = rng.uniform(0.05, 0.95, count)
        return (rng.random(count) < p).astype(np.int64), p.astype(np.float32)
    if task is CLASSES:
        p = rng.dirichlet([1, 1, 1], count)
        return np.array([rng.choice(3, p=one) for one in p]), p.astype(np.float32)
    middle = rng.uniform(0, 10, count)
    labels = middle + rng.normal(size=count)
    return labels, middle if task is MEAN else middle[:, None] + np.array([-1.28, 0.0, 1.28])


@pytest.mark.parametrize("task", [BINARY, CLASSES, NUMBERS, MEAN], ids=["binary", "classes", "quantiles", "mean"])
def test_bounds_lie_around_the_value_of_every_metric_of_every_task(task):
    labels, predictions = rows(task, 0)
    blocks = paired.blocks_of(np.arange(len(labels)) // 40, "groups")
    measured = figures(task, labels, predictions, blocks)
    assert list(measured) == [*task.metrics, *task.figures]
    for name, metric in task.metrics.items():
        figure = measured[name]
        assert figure.value == pytest.approx(metric.value(labels, predictions, None))
        assert figure.lower < figure.value < figure.upper
        assert figure.upper - figure.lower < 0.3 * abs(figure.value)


def test_nine_of_ten_intervals_hold_the_true_log_loss_and_area():
    hit = {"log_loss": 0, "auc": 0}
    whole = rows(BINARY, 1, 400_000)
    true = {"log_loss": scores.log_loss(*whole), "auc": scores.roc_auc(*whole)}
    for seed in range(60):
        labels, p = rows(BINARY, 100 + seed, 600)
        measured = figures(BINARY, labels, p, paired.blocks_of(np.arange(600) // 20, "groups"))
        for name in hit:
            hit[name] += measured[name].lower <= true[name] <= measured[name].upper
    assert all(48 <= count <= 60 for count in hit.values()), hit


def test_what_is_not_defined_is_null_and_one_block_has_no_interval():
    ones = np.ones(30, np.int64)
    measured = figures(BINARY, ones, np.full(30, 0.5, np.float32), paired.blocks_of(np.zeros(30, np.int32), "days"))
    assert measured["auc"].to_json() == [None, None, None]
    assert measured["log_loss"].value == pytest.approx(np.log(2))
    single = figures(BINARY, ones, np.full(30, 0.5, np.float32), paired.Blocks(np.zeros(30, np.int64), "one"))
    assert single["log_loss"].lower is None
    none = figures(BINARY, ones[:0], np.zeros(0, np.float32), paired.blocks_of(np.zeros(0, np.int32), "days"))
    assert none["log_loss"].to_json() == [None, None, None]


def test_the_perfect_predictions_of_a_task_have_no_loss():
    for task in (BINARY, CLASSES, NUMBERS, MEAN):
        labels, _ = rows(task, 3, 50)
        known = task.perfect(labels)
        assert task.wrong_predictions(known) == 0
        for metric in task.metrics.values():
            if metric.losses is not None:
                assert np.abs(metric.losses(labels, known)).max() < 1e-6
