"""evaluate: judges the candidate on the interval's rows, against thresholds and against the champion of then."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

import numpy as np
from tfx.components.evaluator import constants
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact, standard_artifacts

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.import_string import load
from airtight.verdict import Check, Verdict
from components.data import examples as reading
from components.measures import analysis
from components.measures.analysis import AUC, CALIBRATION, CANDIDATE, CHAMPION, COUNT, LOG_LOSS
from components.measures.scores import expected_calibration_error
from components.modelling import judged, saved_model
from components.reports import evaluation as evaluation_report
from components.schema import ExampleSchema

log = logging.getLogger(__name__)

REPORT = "report.html"
ANALYSIS = "tfma"
"""Folder of TensorFlow Model Analysis's own files inside a `ModelEvaluation`."""


@component
def evaluate(
    examples: InputArtifact[standard_artifacts.Examples],
    model: InputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    schema: Parameter[str],
    champion: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
    auc_minimum: Parameter[float] = 0.65,
    champion_tolerance: Parameter[float] = 0.01,
    max_log_loss_rise: Parameter[float] = 0.01,
    calibration_tolerance: Parameter[float] = 0.25,
    slice_auc_minimum: Parameter[float] = 0.55,
    slice_rows_minimum: Parameter[int] = 200,
) -> None:
    """Judges a model on the split `test`, by TensorFlow Model Analysis, and blesses it or not.

    Not blessed is a decision, not a fault. Rows of one class only, or none, cannot judge: the model is not blessed.

    Args:
      examples: The split `test` holds the interval's rows.
      model: The candidate; it is called through its serving signature.
      evaluation: Gets `verdict.json`, `report.html` and TensorFlow Model Analysis's files, names the model, and has the
        custom properties `roc_auc`, `log_loss` and, where there is a champion, `champion_roc_auc`, `champion_log_loss`.
      blessing: Gets TFX's BLESSED or NOT_BLESSED and the custom property `blessed`, 1 or 0.
      schema: Names the pipeline's `ExampleSchema`.
      champion: The champion as of the interval, if there is one. The changes are held against it alone.
      auc_minimum: Least ROC AUC.
      champion_tolerance: By how much ROC AUC may be below the champion's.
      max_log_loss_rise: By how much log loss may be above the champion's, nats.
      calibration_tolerance: A warning when mean prediction / mean label is farther from 1 than this.
      slice_auc_minimum: A warning when a slice's ROC AUC is below this.
      slice_rows_minimum: Slices of fewer rows are not warned of.
    """
    thresholds = analysis.Thresholds(auc_minimum, champion_tolerance, max_log_loss_rise)
    warnings = _Warnings(calibration_tolerance, slice_auc_minimum, slice_rows_minimum)
    interval = reading.interval_of(examples)
    test = _read_test(Path(examples.uri), load(schema))
    folder = Path(evaluation.uri)
    rows = _rows_check(test.labels)
    if not rows.passed:
        verdict = Verdict("evaluate", "/".join(interval), (rows,))
        evaluation_report.write(folder / REPORT, verdict)
    else:
        probabilities, incomparable = _answers(test, model, champion or [])
        told = analysis.analyse(test.labels, probabilities, test.slices, thresholds, folder / ANALYSIS)
        checks = (rows, *incomparable, *_checks(told, thresholds), *warnings.checks(told, test.labels, probabilities))
        verdict = Verdict("evaluate", "/".join(interval), checks)
        evaluation_report.write(folder / REPORT, verdict, test.labels, probabilities, told)
        _note_figures(evaluation, told)
    verdict.write(folder)
    _bless(blessing, model, champion or [], verdict)
    judged.write(evaluation, model)
    for output in (evaluation, blessing):
        output.set_string_custom_property("interval_start", interval[0])
        output.set_string_custom_property("interval_end", interval[1])
    for check in verdict.checks:
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    log.info("%s. %s. The report lies in %s.", verdict, "Blessed" if verdict.passed else "Not blessed", folder / REPORT)


@dataclass(frozen=True)
class _Test:
    """The rows to judge on."""

    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    slices: Mapping[str, np.ndarray]
    schema: ExampleSchema


def _read_test(folder: Path, schema: ExampleSchema) -> _Test:
    table = reading.read_table(folder, "test", schema)
    slices = {name: np.array([str(value) for value in table[name].to_pylist()], dtype=str) for name in schema.slices}
    return _Test(reading.features(table, schema), reading.labels(table, schema), slices, schema)


def _rows_check(labels: np.ndarray) -> Check:
    both = len(np.unique(labels)) == len((0, 1))
    if not len(labels):
        note = "The interval has no rows with a known label, so that nothing can be judged."
    else:
        note = "" if both else f"All {len(labels)} rows have the label {labels[0]}, so that nothing can be judged."
    return Check("test rows of both classes", both, float(len(labels)), "> 0", note=note)


def _answers(
    test: _Test, model: artifact.Artifact, champions: list[artifact.Artifact]
) -> tuple[dict[str, np.ndarray], list[Check]]:
    """Probabilities by model, and a warning where the champion cannot answer for these rows."""
    folder = saved_model.serving_folder(model.uri)
    answers = {CANDIDATE: saved_model.Predictor(folder, test.schema)(test.features)}
    log.info("The candidate answered for %d rows.", len(test.labels))
    if not champions:
        log.info("There is no champion yet: the candidate is held to the fixed thresholds alone.")
        return answers, []
    folder = saved_model.serving_folder(champions[0].uri)
    try:
        answers[CHAMPION] = saved_model.Predictor(folder, test.schema)(test.features)
    except TerminalError as error:
        return answers, [Check("champion can be compared", False, severity="warning", note=str(error))]
    log.info("The champion in %s answered for the same rows.", folder)
    return answers, []


def _checks(told: analysis.Analysis, thresholds: analysis.Thresholds) -> list[Check]:
    """TensorFlow Model Analysis's decisions, in words."""
    candidate = told.overall(CANDIDATE)
    checks = [
        Check(AUC, (AUC, False) not in told.failures, candidate[AUC], f">= {thresholds.auc_minimum:g}"),
    ]
    if CHAMPION in told.metrics:
        champion = told.overall(CHAMPION)
        changes = ((AUC, f">= {-thresholds.champion_tolerance:g}"), (LOG_LOSS, f"<= {thresholds.max_log_loss_rise:g}"))
        for name, bound in changes:
            change = candidate[name] - champion[name]
            note = f"The candidate has {candidate[name]:.4f}."
            words = f"{name} less the champion's"
            checks.append(Check(words, (name, True) not in told.failures, change, bound, champion[name], note=note))
    return checks


@dataclass(frozen=True)
class _Warnings:
    """What is told and does not stop a model."""

    calibration_tolerance: float
    slice_auc_minimum: float
    slice_rows_minimum: int

    def checks(
        self, told: analysis.Analysis, labels: np.ndarray, probabilities: Mapping[str, np.ndarray]
    ) -> list[Check]:
        """Calibration over all rows, and the worst slice of each column."""
        ratio = told.overall(CANDIDATE)[CALIBRATION]
        error = expected_calibration_error(labels, probabilities[CANDIDATE])
        baseline = told.overall(CHAMPION)[CALIBRATION] if CHAMPION in told.metrics else None
        found = [
            Check(
                CALIBRATION,
                abs(ratio - 1) <= self.calibration_tolerance,
                ratio,
                f"1 +- {self.calibration_tolerance:g}",
                baseline,
                "warning",
                f"Mean prediction / mean label; the expected calibration error is {error:.4f}.",
            )
        ]
        columns = dict.fromkeys(key[0][0] for key in told.metrics[CANDIDATE] if key)
        return found + [check for column in columns if (check := self._worst(told, column))]

    def _worst(self, told: analysis.Analysis, column: str) -> Check | None:
        slices = {
            key[0][1]: figures[AUC]
            for key, figures in told.metrics[CANDIDATE].items()
            if key and key[0][0] == column and figures[COUNT] >= self.slice_rows_minimum
            if not math.isnan(figures[AUC])
        }
        if not slices:
            return None
        value = min(slices, key=lambda name: slices[name])
        bound = self.slice_auc_minimum
        return Check(
            f"{AUC} in the worst {column}",
            slices[value] >= bound,
            slices[value],
            f">= {bound:g}",
            severity="warning",
            note=f"{column} {value}, of {len(slices)} with at least {self.slice_rows_minimum} rows.",
        )


def _note_figures(evaluation: artifact.Artifact, told: analysis.Analysis) -> None:
    """Where lineage can be asked for them without opening a file."""
    for model, prefix in ((CANDIDATE, ""), (CHAMPION, "champion_")):
        if model in told.metrics:
            figures = told.overall(model)
            evaluation.set_float_custom_property(f"{prefix}roc_auc", figures[AUC])
            evaluation.set_float_custom_property(f"{prefix}log_loss", figures[LOG_LOSS])


def _bless(
    blessing: artifact.Artifact, model: artifact.Artifact, champions: list[artifact.Artifact], verdict: Verdict
) -> None:
    """As TFX's Evaluator does, so that its Pusher and its resolvers understand it."""
    blessed = verdict.passed
    write_text(Path(blessing.uri) / (constants.BLESSED_FILE_NAME if blessed else constants.NOT_BLESSED_FILE_NAME), "")
    blessing.set_int_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSED_KEY, constants.BLESSED_VALUE if blessed else constants.NOT_BLESSED_VALUE
    )
    judged.write(blessing, model)
    for champion in champions[:1]:
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, champion.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, champion.id)
    blessing.set_string_custom_property("reason", str(verdict))
