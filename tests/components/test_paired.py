"""Paired comparisons: exact on replicated rows, bounds that hold what they promise, blocks that are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from components.measures import baseline, paired
from components.measures.scores import log_losses, roc_auc

SAMPLES = 800
BOUNDS_MISSED = [(7, 1, 0.03), (12, 1, 0.04), (30, 1, 0.05), (7, -1, 0.16), (12, -1, 0.15), (30, -1, 0.125)]
"""Blocks, the side of the skew (1: the candidate's good days), and in what share of samples it is missed at most."""


@pytest.fixture
def rows():
    """Labels, two models' answers with ties, and ten blocks of unequal size."""
    rng = np.random.default_rng(3)
    labels = (rng.random(500) < 0.3).astype(np.int64)
    answers = [np.round(np.clip(0.3 * labels + rng.normal(0.4, 0.2, 500), 0.01, 0.99), 2) for _ in range(2)]
    return labels, *answers, np.sort(rng.integers(0, 10, 500))


def test_weights_of_blocks_are_copies_of_their_rows(rows):
    labels, one, other, blocks = rows
    weights = np.random.default_rng(0).integers(0, 4, (5, 10)).astype(float)
    rank = paired.RankGain.of(labels, one, other, blocks)
    mean = paired.MeanGain.of(log_losses(labels, one), log_losses(labels, other), blocks)
    for draw, ranked, averaged in zip(weights, rank.value(weights), mean.value(weights), strict=True):
        copied = np.repeat(np.arange(500), draw[blocks].astype(int))
        y, a, b = labels[copied], one[copied], other[copied]
        assert ranked == pytest.approx(roc_auc(y, a) - roc_auc(y, b), abs=1e-12)
        assert averaged == pytest.approx((log_losses(y, b) - log_losses(y, a)).mean(), abs=1e-12)


def test_influence_is_the_derivative(rows):
    labels, one, other, blocks = rows
    weights = np.random.default_rng(0).integers(1, 4, (1, 10)).astype(float)
    for gain in (paired.RankGain.of(labels, one, other, blocks), paired.MeanGain.of(one, other, blocks)):
        for block in range(10):
            step = np.eye(10)[[block]] * 1e-5
            slope = (gain.value(weights + step) - gain.value(weights - step)) / 2e-5
            assert gain.influence(weights)[0, block] == pytest.approx(slope[0], abs=1e-7)


def test_error_of_rows_as_blocks_is_delongs(rows):
    labels, one, other, _ = rows
    estimate = paired.estimate(paired.RankGain.of(labels, one, other, np.arange(500)), 500)
    placements = []
    for answers in (one, other):
        positive, negative = answers[labels == 1][:, None], answers[labels == 0][None, :]
        pairs = (positive > negative) + 0.5 * (positive == negative)
        placements.append((pairs.mean(axis=1), pairs.mean(axis=0)))
    variance = sum(np.var(a - b, ddof=1) / len(a) for a, b in zip(*placements, strict=True))
    assert estimate.error == pytest.approx(np.sqrt(variance), rel=0.01)


@pytest.mark.parametrize(("count", "sign", "most"), BOUNDS_MISSED)
def test_how_often_the_lower_bound_is_missed_in_skewed_samples(count, sign, most):
    rng = np.random.default_rng(1)
    missed = missed_by_t = 0
    for _ in range(SAMPLES):
        # A few days count for most, as after a storm: the candidate's good or its bad ones. The mean is exp(1/2).
        gains = sign * rng.lognormal(0, 1, count)
        interval = paired.interval(paired.MeanGain(gains, np.ones(count)), count)
        missed += interval.lower > sign * np.exp(0.5)
        missed_by_t += interval.gain - stats.t(count - 1).ppf(0.95) * interval.error > sign * np.exp(0.5)
    assert missed / SAMPLES < most
    # A plain t interval does not keep the bound where it matters.
    assert sign > 0 or missed_by_t / SAMPLES > most


def test_what_cannot_be_told_has_no_interval():
    labels, answers = np.array([0, 1, 1, 0]), np.array([0.1, 0.2, 0.3, 0.4])
    assert paired.interval(paired.RankGain.of(labels, answers, answers, np.zeros(4, int)), 1) is None
    assert paired.interval(paired.RankGain.of(np.ones(4, int), answers, answers, np.arange(4)), 4) is None
    same = paired.interval(paired.RankGain.of(labels, answers, answers, np.arange(4)), 4)
    assert (same.gain, same.lower, same.upper, same.resolution(2)) == (0, 0, 0, 0)
    assert same.p_worse_than(0.0) == 1.0


def test_blocks_are_units_or_runs_of_rows_where_units_are_few():
    days = np.repeat(np.array(["b", "a", *"cdefg"]), 5)
    blocks = paired.blocks_of(days, "days")
    assert str(blocks) == "7 days" and blocks.of_row.tolist() == np.repeat(range(7), 5).tolist()
    one = paired.blocks_of(np.full(100, "a"), "days")
    assert str(one) == "12 runs of consecutive rows, for want of 7 days"
    assert np.all(np.diff(one.of_row) >= 0) and set(np.bincount(one.of_row)) == {8, 9}
    many = paired.blocks_of(np.arange(1000), "hours")
    assert str(many) == "366 groups of neighbouring hours" and np.all(np.diff(many.of_row) >= 0)
    assert paired.blocks_of(np.array(["x", "y"] * 2), "days").count == 4


def test_holm_adjusts_as_in_his_example():
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.holm([0.9, 0.8]) == [1, 1]


def test_the_baseline_is_the_rate_of_the_same_category_or_bin():
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.3).astype(int)
    colours = np.where(rng.random(4000) < 0.8, np.where(labels, "red", "green"), "blue").astype(object)
    answers = baseline.means(colours, labels, np.array(["red", "green", "new"], object), 3)
    assert answers[0] > 0.9 and answers[1] < 0.1 and answers[2] == pytest.approx(labels.mean())
    numbers = (labels + rng.normal(0, 0.5, 4000)).astype(np.float32)
    numbers[labels == 0] = np.where(rng.random((labels == 0).sum()) < 0.1, np.nan, numbers[labels == 0])
    answers = baseline.means(numbers, labels, np.array([2, -1, np.nan], np.float32), 3)
    assert answers[0] > 0.75 and answers[1] < 0.1 and answers[2] < 0.1
    assert baseline.means(np.full(10, np.nan), np.tile([0, 1], 5), np.array([1.0]), 1) == pytest.approx(0.5)
