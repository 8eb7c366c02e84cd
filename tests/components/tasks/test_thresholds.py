"""What a form says of margins and gains, and what is no such thing."""

from __future__ import annotations

import pytest

from airtight.errors import TerminalError
from components.tasks import task_of, thresholds
from components.tasks.thresholds import Threshold
from tests.components.tasks.schemas import BINARY, MULTICLASS, QUANTILES

TASKS = {"binary": task_of(BINARY), "multiclass": task_of(MULTICLASS), "quantiles": task_of(QUANTILES)}


@pytest.mark.parametrize(
    ("task", "text", "margins"),
    [
        ("binary", "", {"auc": Threshold(0.008), "log_loss": Threshold(0.008)}),
        ("binary", "auc=0.02", {"auc": Threshold(0.02), "log_loss": Threshold(0.008)}),
        ("binary", " log_loss = .5 , auc=0,", {"auc": Threshold(0.0), "log_loss": Threshold(0.5)}),
        ("multiclass", "accuracy=0.05", {"log_loss": Threshold(0.01), "accuracy": Threshold(0.05)}),
        ("quantiles", "mae=5%", {"mae": Threshold(0.05, True), "pinball": Threshold(0.02, True)}),
        ("quantiles", "mae=3", {"mae": Threshold(3.0), "pinball": Threshold(0.02, True)}),
    ],
)
def test_margins_are_read_and_the_rest_are_defaults(task, text, margins):
    assert thresholds.margins(text, TASKS[task]) == margins


def test_a_share_is_of_the_other_models_value():
    assert Threshold(0.02, True).of(50) == 1 and str(Threshold(0.02, True)) == "2%"
    assert Threshold(0.02).of(50) == 0.02 and str(Threshold(0.02)) == "0.02"


def test_gains_over_the_baseline_may_be_losses():
    assert thresholds.baseline_gains("auc=-1", TASKS["binary"]) == {"auc": Threshold(-1.0), "log_loss": Threshold(0.0)}
    assert thresholds.baseline_gains("", TASKS["binary"])["auc"] == Threshold(0.01)


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("binary", "acu=0.1", "'acu', which is no metric"),
        ("binary", "mae=2%", "'mae', which is no metric"),
        ("binary", "auc", "'auc' without an amount"),
        ("binary", "0.008", "without an amount"),
        ("binary", "auc=0.1 log_loss=0.1", "the amount is no number"),
        ("binary", "auc=x", "the amount is no number"),
        ("binary", "auc=nan", "the amount is no number"),
        ("binary", "auc=inf", "the amount is no number"),
        ("binary", "auc=", "the amount is no number"),
        ("binary", "auc=-0.1", "below 0"),
        ("binary", "auc=0.1, auc=0.2", "auc twice"),
        ("binary", "auc=2%", "no margin of auc"),
        ("quantiles", "rmse=2%", "'rmse', which is no metric"),
        ("quantiles", "mae=2 percent", "the amount is no number"),
        ("quantiles", "mae=-2%", "below 0"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_can(task, text, message):
    with pytest.raises(TerminalError, match=message) as raised:
        thresholds.margins(text, TASKS[task])
    assert all(name in str(raised.value) for name in TASKS[task].metrics)
