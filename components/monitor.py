"""monitor: reports how the interval's rows differ from those the model trained on, as warnings; never fails a run."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
from components.data.row_faults import naming_rows
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
    `label_limit`; classes, or the numbers that are labels, by a PSI beyond `psi_limit`. Of several labels each is
    compared, and so are the predictions of each.

    Each split is read once, a few thousand rows at a time. Counts, rates and shares of missing values are those of all
    rows; the distributions of numbers those of up to a million rows and 16 million values, of more those of a part
    drawn by chance, the same in every run.

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
    labels = _label_features(declared)
    compared = [*labels, *declared.features]
    others = _scores(declared, Path(path_utils.serving_model_dir(model.uri))) if model is not None else {}
    compared = [*(Feature(name, "number", "what the model predicts") for name in others), *compared]
    sides = [_Side(compared, others, declared) for _ in range(2)]
    for side, split in zip(sides, (reference, interval), strict=True):
        side.read(Path(examples.uri), split)
    old, new = sides
    log.info("Compared %d rows of %s with %d of %s.", new.profile.rows, interval, old.profile.rows, reference)
    drifts = compare(compared, old.profile, new.profile)
    checks = [_feature_check([d for d in drifts if d.feature is feature], psi_limit) for feature in compared]
    overall, checks = checks[: -len(declared.features)], checks[-len(declared.features) :]
    rates = [name for name in declared.labels if name not in {label.name for label in labels}]
    overall += [
        _rate_check(_of("label rate", name, declared), old.rate(name), new.rate(name), label_limit) for name in rates
    ]
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
    means = {name: {"reference": old.daily(name), "interval": new.daily(name)} for name in declared.labels}
    write_text(folder / REPORT, page(f"Drift of {start[:10]} to {end[:10]}", verdict, drifts, means, psi_limit))
    verdict.write(folder)
    drift.interval_start, drift.interval_end = start, end
    drift.drifted = int(not all(check.passed for check in overall))
    log.info("The report lies in %s.", folder / REPORT)


def _label_features(schema: ExampleSchema) -> list[Feature]:
    """Labels as features whose distribution is compared; of those that are 0 or 1 the rate says all."""
    types = {name: part.label_type for name, part in task_of(schema).parts.items()}
    return [
        Feature(name, "category" if pa.types.is_string(type_) else "number", "the label")
        for name, type_ in types.items()
        if not pa.types.is_integer(type_)
    ]


def _of(what: str, label: str, schema: ExampleSchema) -> str:
    """What something of a label is called: by the label where there are several."""
    return f"{what} of {label}" if schema.more_labels else what


def _scores(schema: ExampleSchema, folder: Path) -> dict[str, Score]:
    """One value a row of what the model predicts of each label, by the check's name."""
    from components.modelling.saved_model import Predictor

    predictor, task = Predictor(folder, schema), task_of(schema)
    last: list[tuple[pa.Table, np.ndarray]] = []

    def predictions(table: pa.Table) -> np.ndarray:
        """Of the same rows the model is called once, whichever label they are for."""
        if not last or last[0][0] is not table:
            last[:] = [(table, predictor(reading.features(table, schema)))]
        return last[0][1]

    def score(label: str) -> Score:
        return lambda table: task.parts[label].score(task.predictions_of(label, predictions(table)))

    return {_of(PREDICTION, label, schema): score(label) for label in schema.labels}


class _Side:
    """One split, read once: its profile, and the labels' means by day (UTC).

    Args:
      compared: What is compared.
      others: Columns that are made of the rows.
      schema: Of the examples.
    """

    def __init__(self, compared: Sequence[Feature], others: dict[str, Score], schema: ExampleSchema) -> None:
        self.profile = Profile(compared, others)
        self._schema = schema
        self._days: dict[str, defaultdict[str, list[float]]] = {
            name: defaultdict(lambda: [0.0, 0.0]) for name in schema.labels
        }

    def read(self, folder: Path, split: str) -> None:
        """Reads the split."""
        schema = self._schema
        columns = (*schema.names, *schema.labels, *([schema.time] if schema.time else []))
        for table in reading.batches(folder, split, schema, columns):
            with naming_rows(folder, (split,), schema, self.profile.rows):
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
        day = pc.strftime(table[self._schema.time], format="%Y-%m-%d") if self._schema.time else [""] * len(table)
        for name, days in self._days.items():
            label = table[name]
            if pa.types.is_string(label.type):
                continue
            by_day = pa.table({"day": day, "label": label}).group_by("day")
            for row in by_day.aggregate([("label", "sum"), ("label", "count")]).to_pylist():
                total = days[row["day"]]
                total[0] += row["label_sum"] or 0
                total[1] += row["label_count"]

    def rate(self, label: str) -> float:
        """A label's mean."""
        days = self._days[label].values()
        return sum(total for total, _ in days) / max(1, sum(count for _, count in days))

    def daily(self, label: str) -> list[tuple[str, float]]:
        """A label's mean on each day, in order; nothing where there is no time, or no number."""
        return [(day, total / count) for day, (total, count) in sorted(self._days[label].items()) if day and count]


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


def _rate_check(name: str, old: float, new: float, limit: float) -> Check:
    note = "Share of rows with label 1."
    return Check(name, abs(new - old) <= limit, new, f"within {limit:g} of it", old, "warning", note)


def _share_check(drifted: int, features: int, limit: float) -> Check:
    share = drifted / features
    return Check("share of drifted features", share <= limit, share, f"<= {limit:g}", severity="warning")
