"""monitor: reports how the interval's rows differ from those the model trained on, as warnings; never fails a run."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.import_string import load
from airtight.verdict import Check, Verdict
from components.artifacts import DriftReport
from components.data import examples as reading
from components.measures import drift as measures
from components.measures.drift import Drift
from components.measures.profile import Profile, Score, compare
from components.reports.drift import page
from components.schema import ExampleSchema, Feature
from components.tasks import task_of

log = logging.getLogger(__name__)

REPORT = "report.html"
MISSING_LIMIT = 0.1
"""A feature drifted when its share of missing values changed by more."""
NEW_LIMIT = 0.01
"""A category drifted when more of the interval's rows hold a value that the model never saw."""
SHIFT_LIMIT = 0.5
"""A vector drifted when the mean of a dimension moved by more of its standard deviations, beyond chance."""
PREDICTION = "prediction"
"""Name of the check of a model's predictions."""


@component
def monitor(
    examples: InputArtifact[standard_artifacts.Examples],
    drift: OutputArtifact[DriftReport],
    schema: Parameter[str],
    reference: Parameter[str] = "train",
    interval: Parameter[str] = "test",
    psi_limit: Parameter[float] = 0.25,
    label_limit: Parameter[float] = 0.1,
    share_limit: Parameter[float] = 0.25,
    model: InputArtifact[standard_artifacts.Model] = None,
) -> None:
    """Compares two splits feature by feature, and says which drifted.

    Drift is a decision, not a fault: every check is a warning, the node succeeds, and `drifted` is 1 when more than
    `share_limit` of the features drifted, or label or predictions moved: the rate of label 1 by more than
    `label_limit`; classes, or the numbers that are labels, by a PSI beyond `psi_limit`.

    Each split is read once, a few thousand rows at a time. Counts, rates and shares of missing values are those of all
    rows; the distributions of numbers those of up to a million rows, of more those of a part drawn by chance, the same
    in every run.

    Args:
      examples: The splits.
      drift: Receives `verdict.json` with one check for each feature, and `report.html`.
      schema: Names the pipeline's `ExampleSchema`.
      reference: The split that the model learned from.
      interval: The split that is watched.
      psi_limit: Population stability index from which on a feature has drifted; few rows are given their noise on top.
      label_limit: How much the rate of label 1 may move.
      share_limit: Share of the features that may drift.
      model: Where it is given, its predictions for both splits are compared, too.

    Raises:
      TerminalError: A split is missing, empty or of another form.
    """
    declared: ExampleSchema = load(schema)
    start, end = reading.interval_of(examples)
    label = _label_feature(declared)
    compared, others = [*([label] if label else []), *declared.features], {}
    if model is not None:
        compared.insert(0, Feature(PREDICTION, "number", "what the model predicts"))
        others[PREDICTION] = _scores(declared, Path(path_utils.serving_model_dir(model.uri)))
    sides = [_Side(compared, others, declared) for _ in range(2)]
    for side, split in zip(sides, (reference, interval), strict=True):
        side.read(Path(examples.uri), split)
    old, new = sides
    log.info("Compared %d rows of %s with %d of %s.", new.profile.rows, interval, old.profile.rows, reference)
    drifts = compare(compared, old.profile, new.profile)
    checks = [_feature_check([d for d in drifts if d.feature is feature], psi_limit) for feature in compared]
    overall, checks = checks[: -len(declared.features)], checks[-len(declared.features) :]
    if not label:
        overall.append(_rate_check(old.rate, new.rate, label_limit))
    drifted = [check.name for check in checks if not check.passed]
    overall.append(_share_check(len(drifted), len(checks), share_limit))
    words = "; ".join(f"{check.name} {'holds' if check.passed else 'moved'}" for check in overall)
    reason = f"{len(drifted)} of {len(checks)} features drifted" + (
        f" ({measures.in_words(drifted)})" if drifted else ""
    )
    verdict = Verdict("monitor", f"{start}/{end}", (*overall, *checks), f"{reason}; {words}.")
    for check in (*overall, *(check for check in checks if not check.passed)):
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    log.info("%s", verdict)
    folder = Path(drift.uri)
    means = {"reference": old.daily, "interval": new.daily}
    write_text(folder / REPORT, page(f"Drift of {start[:10]} to {end[:10]}", verdict, drifts, means, psi_limit))
    verdict.write(folder)
    drift.interval_start, drift.interval_end = start, end
    drift.drifted = int(not all(check.passed for check in overall))
    log.info("The report lies in %s.", folder / REPORT)


def _label_feature(schema: ExampleSchema) -> Feature | None:
    """The label as a feature whose distribution is compared; None where it is 0 or 1, and its rate says all."""
    type_ = task_of(schema).label_type
    if pa.types.is_integer(type_):
        return None
    return Feature(schema.label, "category" if pa.types.is_string(type_) else "number", "the label")


def _scores(schema: ExampleSchema, folder: Path) -> Score:
    """One value a row of what the model predicts."""
    from components.modelling.saved_model import Predictor

    predictor, task = Predictor(folder, schema), task_of(schema)
    return lambda table: task.score(predictor(reading.features(table, schema)))


class _Side:
    """One split, read once: its profile, and the label's mean by day (UTC).

    Args:
      compared: What is compared.
      others: Columns that are made of the rows.
      schema: Of the examples.
    """

    def __init__(self, compared: Sequence[Feature], others: dict[str, Score], schema: ExampleSchema) -> None:
        self.profile = Profile(compared, others)
        self._schema = schema
        self._days: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def read(self, folder: Path, split: str) -> None:
        """Reads the split."""
        schema = self._schema
        columns = (*schema.names, schema.label, *([schema.time] if schema.time else []))
        for table in reading.batches(folder, split, schema, columns):
            self.profile.add(table)
            self._count(table)
        if not self.profile.rows:
            raise TerminalError(
                f"The split {split} has no rows to compare.",
                expected="at least one row",
                received=f"none in {folder}",
                remedy="Choose an interval and a history that hold labelled rows.",
            )

    def _count(self, table: pa.Table) -> None:
        label = table[self._schema.label]
        if pa.types.is_string(label.type):
            return
        day = pc.strftime(table[self._schema.time], format="%Y-%m-%d") if self._schema.time else [""] * len(table)
        by_day = (
            pa.table({"day": day, "label": label}).group_by("day").aggregate([("label", "sum"), ("label", "count")])
        )
        for row in by_day.to_pylist():
            total = self._days[row["day"]]
            total[0] += row["label_sum"] or 0
            total[1] += row["label_count"]

    @property
    def rate(self) -> float:
        """The label's mean."""
        rows = sum(count for _, count in self._days.values())
        return sum(total for total, _ in self._days.values()) / max(1, rows)

    @property
    def daily(self) -> list[tuple[str, float]]:
        """The label's mean on each day, in order; nothing where there is no time, or no number."""
        return [(day, total / count) for day, (total, count) in sorted(self._days.items()) if day and count]


def _feature_check(aspects: Sequence[Drift], psi_limit: float) -> Check:
    """One check of all that is compared of a feature; its figure is the aspect that comes closest to its bound."""
    reasons = []
    for drift in aspects:
        prefix = f"{drift.aspect}: " if drift.aspect else ""
        if drift.missing_shift > MISSING_LIMIT:
            shares = f"{drift.missing[0]:.1%} of the reference and {drift.missing[1]:.1%} of the interval"
            reasons.append(f"{prefix}missing in {shares}")
        if drift.new_share > NEW_LIMIT:
            names = measures.in_words(drift.new)
            reasons.append(f"{prefix}{drift.new_share:.1%} of the rows hold values never seen: {names}")
        if drift.psi > psi_limit + drift.noise:
            distances = ", ".join(f"{name} {value:.3g}" for name, value in drift.distances.items())
            reasons.append(f"{prefix}{distances}")
        if drift.shift > SHIFT_LIMIT + drift.shift_noise:
            reasons.append(f"the mean of a dimension moved by {drift.shift:.3g} standard deviations")
    worst = max(aspects, key=lambda drift: drift.psi - drift.noise)
    return Check(
        worst.feature.name,
        not reasons,
        worst.psi,
        f"psi <= {psi_limit + worst.noise:.3g}",
        severity="warning",
        note=f"{'; '.join(reasons)}." if reasons else "",
    )


def _rate_check(old: float, new: float, limit: float) -> Check:
    note = "Share of rows with label 1."
    return Check("label rate", abs(new - old) <= limit, new, f"within {limit:g} of it", old, "warning", note)


def _share_check(drifted: int, features: int, limit: float) -> Check:
    share = drifted / features
    return Check("share of drifted features", share <= limit, share, f"<= {limit:g}", severity="warning")
