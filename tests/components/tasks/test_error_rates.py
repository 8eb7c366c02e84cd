"""How often the gate errs for classes and numbers: rows of a day depend on each other, equal models differ by chance.

Each trial draws other days. By 200 trials a rate is known to some 1.5 points, and the bounds leave room for three times
that: refusing is planned for 5 % of equal models, and letting a loss of three margins pass for none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from components.measures import comparison
from components.measures.comparison import Margins, Rows
from components.tasks import Task, task_of, thresholds
from tests.components.tasks.schemas import MULTICLASS, QUANTILES

pytestmark = pytest.mark.slow
TRIALS, DAYS = 200, 30
MOST_REFUSED, LEAST_STOPPED = 0.08, 0.97


class Classes:
    """400 rows a day whose classes follow the row and the day; models err in the logits, by day and by row."""

    task, rows, metric = task_of(MULTICLASS), DAYS * 400, "log_loss"

    def labels(self, rng: np.random.Generator, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        truth = rng.normal(0, 1, (len(days), 3)) + rng.normal(0, 0.7, (DAYS, 3))[days]
        return (truth + rng.gumbel(size=truth.shape)).argmax(axis=1), truth

    def model(self, rng: np.random.Generator, days: np.ndarray, truth: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, 0.1, truth.shape) + rng.normal(0, 0.05, (DAYS, 3))[days]
        logits = np.exp(truth + noise)
        return logits / logits.sum(axis=1, keepdims=True)

    def worse(self, answers: np.ndarray, amount: float) -> np.ndarray:
        """Surer than it should be."""
        powered = answers ** (1 + amount)
        return powered / powered.sum(axis=1, keepdims=True)


class Numbers:
    """Hours of a month whose values follow the hour and the day; models err by both."""

    task, rows, metric = task_of(QUANTILES), DAYS * 24, "mae"

    def labels(self, rng: np.random.Generator, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        truth = 200 + 80 * np.sin(np.arange(len(days)) * 2 * np.pi / 24)
        return truth + rng.normal(0, 12, DAYS)[days] + rng.normal(0, 25, len(days)), truth

    def model(self, rng: np.random.Generator, days: np.ndarray, truth: np.ndarray) -> np.ndarray:
        center = truth + rng.normal(0, 1.5, len(days)) + rng.normal(0, 0.5, DAYS)[days]
        return center[:, None] + np.array([-35.5, 0, 35.5])

    def worse(self, answers: np.ndarray, amount: float) -> np.ndarray:
        """Off, now up, now down."""
        return answers + (amount * 40 * np.sin(np.arange(len(answers)) * 1.7))[:, None]


def refused(task: Task, rows: Rows, candidate: np.ndarray, others: dict[str, np.ndarray]) -> bool:
    margins = Margins(thresholds.margins("", task), len(rows.labels), 20)
    gains = thresholds.baseline_gains("", task)
    rate = task.baseline(None, rows.labels, None, len(rows.labels))
    comparisons = comparison.non_inferior(rows, candidate, others, margins)
    comparisons += comparison.superior(rows, candidate, "the baseline", rate, gains, proven=False)
    return not all(compared.passed for compared in comparisons)


Change = Callable[[Rows, np.ndarray, np.ndarray], np.ndarray]


def trials(kind: Classes | Numbers, change: Change, earlier: int) -> float:
    """The share of candidates that are refused."""
    outcomes = []
    for trial in range(TRIALS):
        rng = np.random.default_rng([trial, earlier])
        days = np.repeat(np.arange(DAYS), kind.rows // DAYS)
        labels, truth = kind.labels(rng, days)
        candidate, *others = (kind.model(rng, days, truth) for _ in range(2 + earlier))
        rows = Rows(kind.task, labels, days, "days")
        changed = change(rows, candidate, others[0])
        outcomes.append(refused(kind.task, rows, changed, {f"champion {n}": other for n, other in enumerate(others)}))
    return float(np.mean(outcomes))


@pytest.mark.parametrize("kind", [Classes(), Numbers()], ids=["classes", "numbers"])
def test_equal_models_are_seldom_refused(kind):
    assert trials(kind, lambda rows, candidate, champion: candidate, 3) <= MOST_REFUSED


@pytest.mark.parametrize("kind", [Classes(), Numbers()], ids=["classes", "numbers"])
def test_a_loss_of_three_margins_is_stopped(kind):
    metric = kind.task.metrics[kind.metric]
    amounts = np.linspace(0, 2, 41)

    def planted(rows: Rows, candidate: np.ndarray, champion: np.ndarray) -> np.ndarray:
        values = np.array([metric.value(rows.labels, kind.worse(candidate, amount), None) for amount in amounts])
        reference = metric.value(rows.labels, champion, None)
        margin = metric.margin * (reference if metric.relative else 1)
        losses = np.maximum.accumulate(values - reference)
        assert losses[-1] > 3 * margin
        return kind.worse(candidate, float(np.interp(3 * margin, losses, amounts)))

    assert trials(kind, planted, 0) >= LEAST_STOPPED
