"""What is said of a comparison, and on which rows none is made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.measures import comparison
from components.measures.comparison import Margins, Rows
from components.measures.slices import Slices
from components.tasks import task_of
from components.tasks.thresholds import Threshold
from tests.components import toy

BINARY = task_of(toy.SCHEMA)


def month(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, answers that order them, and the same answers with noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.25).astype(np.int64)
    logits = 1.5 * labels - 1.5 + rng.normal(0, 1, count)
    return labels, 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-logits - rng.normal(0, 1.5, count)))


def test_the_rows_that_are_needed_are_counted_by_the_margin_that_is_not_widened():
    labels, good, noisy = month(902)
    rows = Rows(BINARY, labels, np.arange(902) // 31, "days")
    margins = Margins({"log_loss": Threshold(0.008)}, 20_000, 20)
    (compared,) = comparison.non_inferior(rows, noisy, {"the champion": good}, margins)
    resolution = compared.interval.resolution(1)
    assert not compared.passed and resolution > -compared.required > 0.03
    # Fewer than the margin is made for are never enough: until then it shrinks as the resolution does.
    needed = 902 * (resolution / 0.008) ** 2
    assert needed > 20_000 and f"power on about {needed:,.0f} rows" in compared.note


@pytest.mark.parametrize(("blocks", "decides"), [(1, False), (4, False), (5, True)])
def test_a_label_that_lies_in_few_blocks_gives_no_interval(blocks, decides):
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(12), 80)
    labels = np.where((units < blocks) & (np.arange(960) % 8 == 0), 1, 0)
    answers = np.clip(0.2 + 0.4 * labels + rng.normal(0, 0.1, 960), 0.01, 0.99)
    rows = Rows(BINARY, labels, units, "days")
    margins = Margins({"auc": Threshold(0.5), "log_loss": Threshold(0.5)}, 100, 20)
    by_metric = {c.metric: c for c in comparison.non_inferior(rows, answers, {"the champion": answers}, margins)}
    assert by_metric["log_loss"].passed
    assert by_metric["auc"].passed is decides is (by_metric["auc"].interval is not None)
    assert decides or f"has rows in {blocks} blocks alone" in by_metric["auc"].check().note
    (floor,) = comparison.superior(
        rows, answers, "the baseline", np.full(960, 0.5), {"auc": Threshold(0.0)}, proven=False
    )
    assert floor.passed is decides


def test_rows_of_no_weight_judge_nothing():
    labels = np.tile([0, 1], 50)
    rows = Rows(BINARY, labels, np.arange(100) // 10, "days")
    assert comparison.rows_check(rows).passed
    for weights, words in ((labels, "All 50 rows have the label 1"), (0 * labels, "no rows")):
        check = comparison.rows_check(replace(rows, weights=weights.astype(np.float32)))
        assert not check.passed and words in check.note and "rows of weight 0" in check.note


@pytest.mark.filterwarnings("error")
def test_slices_whose_rows_of_weight_have_one_label_are_not_compared():
    labels, codes = np.tile([0, 1], 300), (np.arange(600) // 2 % 3).astype(np.int32)
    answers = np.random.default_rng(0).random((2, 600))
    slices = {"shop": Slices(("a", "none weighs", "one label weighs"), codes)}
    weights = np.select([codes == 0, codes == 1], [1.0, 0.0], labels)
    rows = Rows(BINARY, labels, np.arange(600) // 20, "days", weights)
    margins = Margins({"auc": Threshold(0.01), "log_loss": Threshold(0.01)}, 600, 20)
    check = comparison.slices_check(rows, answers[0], "the champion", answers[1], slices, margins, 50, "warning")
    assert "of 2 comparisons" in check.note
