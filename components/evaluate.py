"""evaluate: judges the candidate on the interval's rows, beside the champions of then and a baseline."""

import json
import logging
from pathlib import Path
from typing import List, Literal, cast  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.components.evaluator import constants
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact, standard_artifacts

from airtight.audit import log as audit_log
from airtight.files import write_text
from airtight.import_string import load
from airtight.parameters import check_choice, check_override
from airtight.verdict import Verdict
from components.data import examples as reading
from components.measures import analysis, evaluation_rows, slices
from components.measures.comparison import Margins
from components.measures.gate import THE_CHAMPION, Gate, GateResult
from components.measures.slices import CANDIDATE, CHAMPION
from components.modelling import judged, metric_names
from components.reports import evaluation as evaluation_report
from components.rollout.anchoring import anchor_in
from components.schema import ExampleSchema
from components.tasks import Task, task_of, thresholds

log = logging.getLogger(__name__)

REPORT = "report.html"
ANALYSIS = "tfma"
"""Folder of TensorFlow Model Analysis's own files inside a `ModelEvaluation`."""
BLOCK, ACCEPT = "block", "accept"
WARN = "warn"


@component
def evaluate(
    examples: InputArtifact[standard_artifacts.Examples],
    model: InputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    schema: Parameter[str],
    champion: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
    earlier_champions: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
    champion_pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    zone: Parameter[str] = "UTC",
    margins: Parameter[str] = "",
    margin_rows: Parameter[int] = 20000,
    widest_margin: Parameter[float] = 20.0,
    baseline_gains: Parameter[str] = "",
    champion_incomparable: Parameter[str] = BLOCK,
    override_reason: Parameter[str] = "",
    calibration_tolerance: Parameter[float] = 0.25,
    slices_worse: Parameter[str] = WARN,
    slice_rows_minimum: Parameter[int] = 200,
    analysis_rows: Parameter[int] = 2000,
    analysis_intervals: Parameter[int] = 0,
    beam_pipeline_args: Parameter[str] = "",
) -> None:
    """Judges a model on the split `test` and blesses it or not, by the metrics of the schema's task.

    Not blessed is a decision, not a fault. Rows of which the task says that they judge nothing, such as those of one
    label alone, bless nothing. Nor is a model blessed whose answers are none of the task's, such as probabilities
    over 1, or of whose champions one cannot answer for these rows.

    The candidate must not be worse than the champion, nor than the champions before it, by more than a margin, and
    must be better than the baseline that the schema names. Bounds of a block bootstrap decide: the lower one, and
    against the baseline, where there is a champion, the upper one (docs/adr/0024-gates-decide-by-intervals.md).

    Models answer piece by piece. Of a row some 30 bytes are kept, and 4 for each number that is predicted for it, so
    a million rows with five models take some 50 MB, with what is sorted of them some 110 MB (see `evaluation_rows`).

    Args:
      examples: The split `test` holds the interval's rows; the baseline learns from `train` and `validation`.
      model: The candidate; it is called through its serving signature.
      evaluation: Gets `verdict.json`, `report.html`, `slices.json` and TensorFlow Model Analysis's files (of several
        labels a folder each), names the model, and has the custom properties `metrics` (titles, see
        `components.modelling.metric_names`) and for each metric of the task `<metric>` and, where the champion was
        measured, `champion_<metric>`, `<metric>_gain`, `<metric>_gain_lower` and `<metric>_gain_upper`; where it is
        known, `champion_version`; and of the candidate's answers the range that a release compares them by,
        `answers_low` and `answers_high`.
      blessing: Gets TFX's BLESSED or NOT_BLESSED and the custom property `blessed`, 1 or 0. It names the champion as
        baseline where the champion was measured.
      schema: Names the pipeline's `ExampleSchema`.
      champion: The champion as of the interval, if there is one.
      earlier_champions: Champions before it, in any order: they stop a loss that is small each time.
      champion_pushed: The champion's push, which says as which version it served.
      zone: Time zone whose days are the blocks of the bootstrap, where the schema says "day".
      margins: By how much a metric may be worse than a champion's, such as "auc=0.008, log_loss=0.008" or, of a metric
        in the label's unit, "mae=2%" of the champion's; a metric that is not named has its task's default.
      margin_rows: How many rows these margins are for; fewer rows have margins that are larger by the root.
      widest_margin: How many times larger at most; an interval of fewer rows cannot tell, and blesses nothing.
      baseline_gains: What the deciding bound of the gain over the baseline must reach, likewise.
      champion_incomparable: "block", or "accept" for a candidate of whose champions, the earlier ones included, one
        cannot answer for these rows.
      override_reason: Why it is "accept"; it must be given then.
      calibration_tolerance: A warning when a ratio of `Task.calibration` is farther from 1 than this.
      slices_worse: "warn" or "block" when the candidate is worse in a slice by more than the margin, beyond chance.
      slice_rows_minimum: Slices of fewer rows are not compared.
      analysis_rows: TensorFlow Model Analysis measures so many rows at most, evenly many of all times; 0 for none.
      analysis_intervals: 1 has it add its own confidence intervals, which takes it twenty times as long.
      beam_pipeline_args: Where it runs: "flink" is the session cluster that AIRTIGHT_FLINK names; other texts are as
        Beam's command line has it, such as "--runner=FlinkRunner --flink_master=host:8081"; empty is its local runner.

    Raises:
      TerminalError: A parameter cannot be read, a split or column is missing, a label is none of the task, a weight is
        below 0, or the candidate cannot be called.
    """
    check_choice("champion_incomparable", champion_incomparable, (BLOCK, ACCEPT))
    check_override("champion_incomparable", champion_incomparable, override_reason)
    check_choice("slices_worse", slices_worse, (WARN, BLOCK))
    interval = reading.interval_of(examples)
    declared: ExampleSchema = load(schema)
    task = task_of(declared)
    held_to = thresholds.margins(margins, task), thresholds.baseline_gains(baseline_gains, task)
    gate = Gate(
        evaluation_rows.read(Path(examples.uri), declared, zone),
        Margins(held_to[0], margin_rows, widest_margin),
        held_to[1],
        champion_incomparable == ACCEPT,
        calibration_tolerance,
        cast(Literal["blocking", "warning"], {WARN: "warning", BLOCK: "blocking"}[slices_worse]),
        slice_rows_minimum,
    )
    folder = Path(evaluation.uri)
    result = gate.judge(model, champion or [], earlier_champions or [])
    if result.predictions and analysis_rows:
        arguments = analysis.beam_arguments(beam_pipeline_args)
        several = len(task.parts) > 1
        for label, rows, predictions in gate.test.by_label(result.predictions):
            place = folder / ANALYSIS / label if several else folder / ANALYSIS
            analysis.analyse(rows, predictions, place, analysis_rows, arguments, bool(analysis_intervals))
    verdict = Verdict("evaluate", "/".join(interval), tuple(result.checks), result.reason)
    version = next((pushed.get_int_custom_property("version") for pushed in champion_pushed or []), 0)
    evaluation_report.write(
        folder / REPORT,
        verdict,
        gate.test,
        result.predictions,
        result.figures,
        result.comparisons,
        champion=f"version {version}" if version else "",
    )
    verdict.write(folder)
    if result.figures:
        record = slices.record(task, result.figures[CANDIDATE], result.figures.get(CHAMPION))
        write_text(folder / metric_names.SLICES, json.dumps(record, indent=1, allow_nan=False))
    _record_figures(evaluation, task, result)
    if version and CHAMPION in result.predictions:
        evaluation.set_int_custom_property("champion_version", version)
    _bless(blessing, model, (champion or [])[:1] if CHAMPION in result.predictions else [], verdict)
    judged.write(evaluation, model)
    if verdict.passed and (accepted := result.accepted):
        anchor = audit_log.append(
            audit_log.OVERRIDDEN,
            digest=evaluation.get_string_custom_property(judged.DIGEST),
            interval=interval,
            reason=f"{override_reason.strip()} ({' '.join(check.note for check in accepted)})",
            gate="evaluate",
            checks=[check.name for check in accepted],
        )
        anchor_in(evaluation, anchor)
    for output in (evaluation, blessing):
        output.set_string_custom_property("interval_start", interval[0])
        output.set_string_custom_property("interval_end", interval[1])
    for check in verdict.checks:
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    log.info("%s. %s. The report lies in %s.", verdict, "Blessed" if verdict.passed else "Not blessed", folder / REPORT)


def _record_figures(evaluation: artifact.Artifact, task: Task, result: GateResult) -> None:
    """Where lineage can be queried for them without opening a file."""
    names = {metric: described.property or metric for metric, described in task.metrics.items()}
    if result.comparisons:
        titles = {names[metric]: described.title for metric, described in task.metrics.items()}
        evaluation.set_string_custom_property(metric_names.METRICS, json.dumps(titles))
        answers = task.answers_range(result.predictions[CANDIDATE])
        for name, value in zip(metric_names.ANSWERS, answers, strict=True):
            evaluation.set_float_custom_property(name, value)
    for compared in result.comparisons:
        name = names[compared.metric]
        figures = {name: compared.candidate}
        if compared.other == THE_CHAMPION:
            figures[f"champion_{name}"] = compared.baseline
            if compared.interval is not None:
                gain = compared.interval
                figures |= {
                    f"{name}_gain": gain.gain,
                    f"{name}_gain_lower": gain.lower,
                    f"{name}_gain_upper": gain.upper,
                }
        for key, value in figures.items():
            evaluation.set_float_custom_property(key, value)


def _bless(
    blessing: artifact.Artifact, model: artifact.Artifact, measured: list[artifact.Artifact], verdict: Verdict
) -> None:
    """As TFX's Evaluator does, so that its Pusher and its resolvers understand it."""
    blessed = verdict.passed
    write_text(Path(blessing.uri) / (constants.BLESSED_FILE_NAME if blessed else constants.NOT_BLESSED_FILE_NAME), "")
    blessing.set_int_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSED_KEY, constants.BLESSED_VALUE if blessed else constants.NOT_BLESSED_VALUE
    )
    judged.write(blessing, model)
    for champion in measured:
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, champion.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, champion.id)
    blessing.set_string_custom_property("reason", str(verdict))
