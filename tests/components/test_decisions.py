"""The gate's error rates, small: rows of a day depend on each other, and models of other seeds differ by chance."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import decisions
from benchmarks.decisions import Pool
from components.measures.comparison import Margins, Rows

TRIALS = 30

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pools() -> list[Pool]:
    """A month of days that are late or not as a whole, and models that err by day and by row."""
    rng = np.random.default_rng(5)
    days = np.repeat(np.arange(30), 120)
    truth = rng.normal(-1.3, 0.9, 30)[days] + rng.normal(0, 1.2, len(days))
    labels = (rng.random(len(days)) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    seen = 0.8 * truth - 0.2

    def answers(by_day: float, by_row: float) -> np.ndarray:
        logits = seen + rng.normal(0, by_day, 30)[days] + rng.normal(0, by_row, len(days))
        return 1 / (1 + np.exp(-logits))

    models = [answers(0.05, 0.15) for _ in range(decisions.SEEDS)]
    return [Pool(labels, days, days * 7 + rng.integers(0, 7, len(days)), models, answers(1.0, 1.5))]


@pytest.mark.parametrize("interval", ["month", "day"])
def test_equal_models_are_seldom_refused(pools, interval):
    assert decisions.equal_models(pools, interval, TRIALS)["refused"] <= 2


@pytest.mark.parametrize("interval", ["month", "day"])
@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_a_loss_of_three_margins_is_stopped(pools, interval, metric):
    assert decisions.planted_loss(pools, interval, metric, TRIALS)["stopped"] >= TRIALS - 2


def test_earlier_champions_stop_a_slow_ratchet(pools):
    # In the margins that these rows have: fewer than the margins are made for, they have wider ones.
    margins = Margins(decisions.MARGINS, decisions.MARGIN_ROWS, decisions.WIDEST)
    widening = margins.widening("auc", Rows(decisions.TASK, pools[0].labels, pools[0].days, "days"))
    without, beside = (
        decisions.ratchet(pools, 0.6, earlier, 8)["margins lost"]["median"] / widening for earlier in (0, 3)
    )
    assert beside <= 0.85 and without > 1
