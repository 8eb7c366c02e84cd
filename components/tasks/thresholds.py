"""What a pipeline's form says of margins and gains: "auc=0.008, log_loss=0.008", or "mae=2%" of the other model's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from airtight.errors import TerminalError
from components.tasks.task import Task

LABEL_UNIT = "label"


@dataclass(frozen=True)
class Threshold:
    """An amount of a metric.

    Args:
      amount: In the metric's unit, or a share of the other model's value.
      relative: Whether it is such a share.
    """

    amount: float
    relative: bool = False

    def of(self, value: float) -> float:
        """In the metric's unit, beside a model that has this value of it."""
        return self.amount * value if self.relative else self.amount

    def __str__(self) -> str:
        return f"{100 * self.amount:g}%" if self.relative else f"{self.amount:g}"


def margins(text: str, task: Task) -> dict[str, Threshold]:
    """By how much a candidate may be worse, by metric; a metric that `text` does not name has the task's default.

    Args:
      text: As the parameter `margins` has it; "" for all defaults.
      task: Whose metrics decide.

    Raises:
      TerminalError: A metric or a unit is not known, or a number is none, or below 0.
    """
    defaults = {name: Threshold(metric.margin, metric.relative) for name, metric in task.metrics.items()}
    given = _parsed("margins", text, task)
    for name, threshold in given.items():
        if threshold.amount < 0:
            raise _refused("margins", task, f"{name}={threshold}, which is below 0")
    return defaults | given


def baseline_gains(text: str, task: Task) -> dict[str, Threshold]:
    """By how much a candidate must be better than the baseline, by metric; as `margins`, and may be below 0."""
    defaults = {name: Threshold(metric.baseline_gain, metric.relative) for name, metric in task.metrics.items()}
    return defaults | _parsed("baseline_gains", text, task)


def _parsed(parameter: str, text: str, task: Task) -> dict[str, Threshold]:
    thresholds: dict[str, Threshold] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, equals, number = (part.strip() for part in entry.partition("="))
        if not equals:
            raise _refused(parameter, task, f"{entry!r} without an amount")
        if name not in task.metrics:
            raise _refused(parameter, task, f"{name!r}, which is no metric that decides")
        if name in thresholds:
            raise _refused(parameter, task, f"{name} twice")
        relative = number.endswith("%")
        if relative and task.metrics[name].unit != LABEL_UNIT:
            raise _refused(parameter, task, f"{entry}: a share of the other model's value is no margin of {name}")
        try:
            amount = float(number.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            amount = math.nan
        if not math.isfinite(amount):
            raise _refused(parameter, task, f"{entry}, of which the amount is no number")
        thresholds[name] = Threshold(amount, relative)
    return thresholds


def _refused(parameter: str, task: Task, received: str) -> TerminalError:
    shares = [name for name, metric in task.metrics.items() if metric.unit == LABEL_UNIT]
    example = ", ".join(f"{name}={metric.margin:g}" for name, metric in task.metrics.items() if name not in shares)
    example = ", ".join(filter(None, [example, *(f"{name}=2%" for name in shares)]))
    return TerminalError(
        f"The parameter {parameter} cannot be read.",
        expected=f"amounts for {', '.join(task.metrics)}, such as {example!r}; empty for the defaults",
        received=received,
        remedy=f"Correct {parameter}.",
    )
