"""The gate of evaluate: measures a candidate beside champions and the baseline on the same rows, and decides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import zip_longest
from typing import Literal

import numpy as np
from tfx.types import artifact

from airtight.errors import TerminalError
from airtight.verdict import Check
from components.measures import comparison, slices
from components.measures.comparison import Comparison, Margins
from components.measures.evaluation_rows import EvaluationRows
from components.measures.slices import CANDIDATE, CHAMPION, Figures
from components.modelling import saved_model
from components.tasks import Task
from components.tasks.thresholds import Threshold

log = logging.getLogger(__name__)

THE_CHAMPION, THE_BASELINE = "the champion", "the baseline"


@dataclass
class GateResult:
    """What was decided, and on what grounds.

    Args:
      checks: In the order of the report.
      predictions: By model, of those that were measured.
      comparisons: With champions and baseline.
      incomparable: Champions that could not be compared.
      figures: By model and slice, of those that were measured.
    """

    checks: list[Check]
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    incomparable: list[str] = field(default_factory=list)
    figures: dict[str, Figures] = field(default_factory=dict)

    @property
    def accepted(self) -> list[Check]:
        """What would have failed the gate, had the run not accepted it: champions that could not be compared."""
        names = {_comparable(name) for name in self.incomparable}
        return [check for check in self.checks if check.name in names and check.severity == "warning"]

    @property
    def reason(self) -> str:
        """The decision in a sentence; empty for the verdict's own."""
        failed = [check.name for check in self.checks if not check.passed and check.severity == "blocking"]
        decisive = [compared for compared in self.comparisons if not compared.passed]
        decisive = decisive or [compared for compared in self.comparisons if compared.other == THE_CHAMPION]
        shown = "; ".join(map(str, decisive or self.comparisons))
        if not shown:
            return ""
        if accepted := [name for name in self.incomparable if _comparable(name) not in failed]:
            shown += f". Not compared, which this run accepts: {', '.join(accepted)}"
        return f"failed: {', '.join(failed)}. {shown}" if failed else f"all blocking checks hold. {shown}"


@dataclass(frozen=True)
class Gate:
    """The rows, and what a candidate is held to on them.

    Args:
      test: The rows.
      margins: By how much a metric may be worse than a champion's.
      baseline_gains: What the deciding bound of the gain over the baseline must reach, by metric.
      accepts_incomparable: Whether a champion that cannot answer for these rows is a warning alone.
      calibration_tolerance: A warning when a ratio of `Task.calibration` is farther from 1 than this.
      slices: Severity of a slice in which the candidate is worse.
      slice_rows_minimum: Slices of fewer rows are not compared.
    """

    test: EvaluationRows
    margins: Margins
    baseline_gains: Mapping[str, Threshold]
    accepts_incomparable: bool
    calibration_tolerance: float
    slices: Literal["blocking", "warning"]
    slice_rows_minimum: int

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.test.task

    def judge(
        self, model: artifact.Artifact, champions: list[artifact.Artifact], earlier: list[artifact.Artifact]
    ) -> GateResult:
        """Measures and decides.

        Args:
          model: The candidate.
          champions: The champion as of the interval, or none.
          earlier: Champions before it, in any order.

        Raises:
          TerminalError: The candidate cannot be called.
        """
        rows = self.test.rows
        result = GateResult([comparison.rows_check(rows)])
        if not result.checks[0].passed:
            return result
        result.checks.append(comparison.decidable_check(rows, self.margins))
        candidate = self._predictions(model)
        result.checks.append(comparison.finite_check(self.task, candidate))
        if not result.checks[-1].passed:
            return result
        log.info("The candidate answered for %d rows.", len(rows.labels))
        result.predictions[CANDIDATE] = candidate
        others = self._others(champions, earlier, result)
        if THE_CHAMPION in others:
            result.predictions[CHAMPION] = others[THE_CHAMPION]
        result.comparisons = comparison.non_inferior(rows, candidate, others, self.margins)
        # Without a champion the candidate must show that it clears the floor; beside one, short intervals need not.
        result.comparisons += comparison.superior(
            rows, candidate, THE_BASELINE, self.test.baseline, self.baseline_gains, proven=THE_CHAMPION not in others
        )
        result.checks += [compared.check() for compared in result.comparisons]
        result.figures = {
            name: slices.figures(self.task, rows.labels, predictions, rows.weights, self.test.slices)
            for name, predictions in result.predictions.items()
        }
        result.checks += [*self._calibration(result), *self._slices(candidate, others)]
        return result

    def _predictions(self, model: artifact.Artifact) -> np.ndarray:
        return self.test.predictions(saved_model.Predictor(saved_model.serving_folder(model.uri), self.test.schema))

    def _others(
        self, champions: list[artifact.Artifact], earlier: list[artifact.Artifact], result: GateResult
    ) -> dict[str, np.ndarray]:
        """Predictions of the champions that can be compared; of one that cannot, a check says why."""
        others = {}
        named = {THE_CHAMPION: champions[0]} if champions else {}
        for number, model in enumerate(earlier, 1):
            name = _name(model)
            named[name if name and name not in named else f"champion {number} before it"] = model
        for name, model in named.items():
            try:
                others[name] = self._finite_predictions(model)
            except TerminalError as error:
                result.incomparable.append(name)
                result.checks.append(self._incomparable(name, error))
            else:
                log.info("%s in %s answered for the same rows.", name.capitalize(), model.uri)
        if not champions:
            log.info("There is no champion yet: the candidate is held to the baseline alone.")
        return others

    def _finite_predictions(self, model: artifact.Artifact) -> np.ndarray:
        predictions = self._predictions(model)
        check = comparison.finite_check(self.task, predictions)
        if not check.passed:
            raise TerminalError(
                f"The model in {model.uri} does not answer as the task {self.test.schema.task} wants it.",
                expected=self.task.right_predictions,
                received=check.note,
                remedy="Train and push that interval's model once more.",
            )
        return predictions

    def _incomparable(self, name: str, error: TerminalError) -> Check:
        check = Check(_comparable(name), False, note=f"No, because: {error}")
        if self.accepts_incomparable:
            accepted = "This run accepts that: its parameter champion_incomparable is accept."
            return replace(check, severity="warning", note=f"{check.note} {accepted}")
        remedy = (
            "To bless the candidate without the comparison, run with champion_incomparable = accept and an "
            "override_reason."
        )
        return replace(check, note=f"{check.note} {remedy}")

    def _calibration(self, result: GateResult) -> list[Check]:
        rows = self.test.rows
        measured = {
            name: self.task.calibration(rows.labels, predictions, rows.weights)
            for name, predictions in result.predictions.items()
        }
        champion = [measure.ratio for measure in measured.get(CHAMPION, ())]
        return [
            Check(
                measure.name,
                abs(measure.ratio - 1) <= self.calibration_tolerance,
                measure.ratio,
                f"1 +- {self.calibration_tolerance:g}",
                other,
                "warning",
                measure.note,
            )
            for measure, other in zip_longest(measured[CANDIDATE], champion)
        ]

    def _slices(self, candidate: np.ndarray, others: Mapping[str, np.ndarray]) -> list[Check]:
        """Against the champion by the margin, or else against the baseline by none."""
        other = THE_CHAMPION if THE_CHAMPION in others else THE_BASELINE
        check = comparison.slices_check(
            self.test.rows,
            candidate,
            other,
            others.get(other, self.test.baseline),
            self.test.slices,
            self.margins if other in others else None,
            self.slice_rows_minimum,
            self.slices,
        )
        return [check] if check else []


def _comparable(name: str) -> str:
    """Name of the check that a champion can be compared."""
    return f"{name} can be compared"


def _name(model: artifact.Artifact) -> str:
    """What an earlier champion is called: TFX gives them in no order. Empty where its interval is not known.

    Intervals may begin together; champions are those of intervals that end at different instants.
    """
    end = model.get_string_custom_property("interval_end")
    return f"champion up to {datetime.fromisoformat(end).isoformat(' ', 'minutes')}" if end else ""
