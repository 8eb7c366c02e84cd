"""monitor: how the interval's rows differ from those that the model trained on; a warning for people, never a fault."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.import_string import load
from airtight.verdict import Check, Verdict
from components.artifacts import DriftReport
from components.data import examples as reading
from components.measures import drift as measures
from components.measures.drift import Drift
from components.reports.drift import page
from components.schema import ExampleSchema

log = logging.getLogger(__name__)

REPORT = "report.html"
MISSING_LIMIT = 0.1
"""A feature drifted when its share of missing values changed by more."""
NEW_LIMIT = 0.01
"""A category drifted when more of the interval's rows hold a value that the model never saw."""


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
) -> None:
    """Compares two splits feature by feature, and says which drifted.

    Drift is a decision, not a fault: every check is a warning, the node succeeds, and `drifted` is 1 when more than
    `share_limit` of the features drifted or the label's rate moved by more than `label_limit`.

    Args:
      examples: The splits.
      drift: Receives `verdict.json` with one check for each feature, and `report.html`.
      schema: Names the pipeline's `ExampleSchema`.
      reference: The split that the model learned from.
      interval: The split that is watched.
      psi_limit: Population stability index from which on a feature has drifted; few rows are given their noise on top.
      label_limit: How much the rate of label 1 may move.
      share_limit: Share of the features that may drift.

    Raises:
      TerminalError: A split is missing, empty or of another form.
    """
    declared: ExampleSchema = load(schema)
    tables = {name: _read(Path(examples.uri), name, declared) for name in (reference, interval)}
    start, end = reading.interval_of(examples)
    log.info(
        "Comparing %d rows of %s with %d of %s.", len(tables[interval]), interval, len(tables[reference]), reference
    )
    raw = {name: reading.features(table, declared) for name, table in tables.items()}
    drifts = [measures.measure(f, raw[reference][f.name], raw[interval][f.name]) for f in declared.features]
    labels = {name: reading.labels(table, declared) for name, table in tables.items()}
    checks = [_feature_check(found, psi_limit) for found in drifts]
    drifted = [check.name for check in checks if not check.passed]
    overall = (
        _label_check(labels[reference], labels[interval], label_limit),
        _share_check(len(drifted), len(checks), share_limit),
    )
    told = "; ".join(f"{check.name} {'holds' if check.passed else 'moved'}" for check in overall)
    reason = f"{len(drifted)} of {len(checks)} features drifted" + (
        f" ({measures.in_words(drifted)})" if drifted else ""
    )
    verdict = Verdict("monitor", f"{start}/{end}", (*overall, *checks), f"{reason}; {told}.")
    for check in (*overall, *(check for check in checks if not check.passed)):
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    log.info("%s", verdict)
    rates = {
        role: _daily_rates(tables[name], declared) for role, name in (("reference", reference), ("interval", interval))
    }
    folder = Path(drift.uri)
    write_text(folder / REPORT, page(f"Drift of {start[:10]} to {end[:10]}", verdict, drifts, rates))
    verdict.write(folder)
    drift.interval_start, drift.interval_end = start, end
    drift.drifted = int(not all(check.passed for check in overall))
    log.info("The report lies in %s.", folder / REPORT)


def _read(folder: Path, split: str, schema: ExampleSchema) -> pa.Table:
    table = reading.read_table(folder, split, schema, (*schema.names, schema.label, schema.time))
    if not table.num_rows:
        raise TerminalError(
            f"The split {split} has no rows to compare.",
            expected="at least one row",
            received=f"none in {folder}",
            remedy="Choose an interval and a history that hold labelled rows.",
        )
    return table


def _feature_check(found: Drift, psi_limit: float) -> Check:
    bound = psi_limit + found.noise
    reasons = []
    if found.missing_shift > MISSING_LIMIT:
        reasons.append(f"missing in {found.missing[0]:.1%} of the reference and {found.missing[1]:.1%} of the interval")
    if found.new_share > NEW_LIMIT:
        reasons.append(f"{found.new_share:.1%} of the rows hold values never seen: {measures.in_words(found.new)}")
    if found.psi > bound:
        reasons.append(", ".join(f"{name} {value:.3g}" for name, value in found.distances.items()))
    return Check(
        found.feature.name,
        not reasons,
        found.psi,
        f"psi <= {bound:.3g}",
        severity="warning",
        note=f"{'; '.join(reasons)}." if reasons else "",
    )


def _label_check(reference: np.ndarray, interval: np.ndarray, limit: float) -> Check:
    old, new = float(reference.mean()), float(interval.mean())
    note = "Share of rows with label 1."
    return Check("label rate", abs(new - old) <= limit, new, f"within {limit:g} of it", old, "warning", note)


def _share_check(drifted: int, features: int, limit: float) -> Check:
    share = drifted / features
    return Check("share of drifted features", share <= limit, share, f"<= {limit:g}", severity="warning")


def _daily_rates(table: pa.Table, schema: ExampleSchema) -> list[tuple[str, float]]:
    """The label's rate on each day (UTC), in order."""
    days = pc.strftime(table[schema.time], format="%Y-%m-%d")
    grouped = pa.table({"day": days, "label": table[schema.label]}).group_by("day").aggregate([("label", "mean")])
    return sorted(zip(grouped["day"].to_pylist(), grouped["label_mean"].to_pylist(), strict=True))
