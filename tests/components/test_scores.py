"""Scores agree with scikit-learn, and have a defined answer where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from airtight.errors import TerminalError
from components.measures import scores
from components.modelling import calibration


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    probability = np.round(rng.random(3000), 2)  # With ties.
    return (rng.random(3000) < probability).astype(np.int64), probability


def test_as_scikit_learn(rows):
    labels, probability = rows
    assert scores.roc_auc(labels, probability) == pytest.approx(metrics.roc_auc_score(labels, probability), abs=1e-12)
    inside = np.clip(probability, 1e-7, 1 - 1e-7)
    assert scores.log_loss(labels, probability) == pytest.approx(metrics.log_loss(labels, inside), abs=1e-12)


def test_without_rows_or_with_one_class():
    none = np.zeros(0)
    assert math.isnan(scores.log_loss(none, none))
    assert math.isnan(scores.expected_calibration_error(none, none))
    assert math.isnan(scores.roc_auc(np.ones(3), np.array([0.1, 0.2, 0.3])))
    assert scores.calibration_bins(np.ones(3), np.array([0.1, 0.2, 0.3])).shape == (3, 3)


def test_expected_calibration_error_sees_a_shift(rows):
    labels, probability = rows
    assert scores.expected_calibration_error(labels, probability) < 0.05
    assert scores.expected_calibration_error(labels, probability * 0.5) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("kind", "expected"), [("none", (1, 0)), ("scale", (2, 0)), ("scale_and_shift", (2, 0.5))])
def test_calibration_finds_what_was_done_to_the_logit(kind, expected):
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 1, 60000)
    truth = 1 / (1 + np.exp(-(expected[0] * logit + expected[1])))
    labels = (rng.random(len(logit)) < truth).astype(np.int64)
    probability = 1 / (1 + np.exp(-logit))
    scale, shift = calibration.fit(labels, probability, kind)
    assert (scale, shift) == pytest.approx(expected, abs=0.05)
    logit = np.log(probability) - np.log1p(-probability)
    corrected = 1 / (1 + np.exp(-(scale * logit + shift)))
    assert scores.log_loss(labels, corrected) <= scores.log_loss(labels, probability) + 1e-12
    # Rows that weigh nothing do not count.
    weights = np.where(np.arange(2 * len(labels)) < len(labels), 2.0, 0.0)
    twice = np.concatenate([labels, 1 - labels]), np.concatenate([probability, probability])
    assert calibration.fit(*twice, kind, weights) == pytest.approx((scale, shift), abs=1e-4)


def test_calibration_leaves_alone_what_it_cannot_correct():
    probability = np.array([0.2, 0.8, 0.6])
    assert calibration.fit(np.ones(3), probability, "scale_and_shift") == (1.0, 0.0)
    # A model that is the wrong way round is not turned silently.
    labels = np.tile([1, 0], 500)
    assert calibration.fit(labels, np.tile([0.1, 0.9], 500), "scale") == (1.0, 0.0)
    with pytest.raises(TerminalError, match=r"calibrate .* one of none, scale"):
        calibration.fit(labels, probability, "isotonic")
