"""What a run did, as the page of all runs shows it."""

from collections.abc import Collection
from datetime import UTC, datetime

import pytest
from ml_metadata.proto import metadata_store_pb2

from airtight.interval import Interval
from airtight.verdict import Check, Verdict
from commands import report
from components.reports.year import Month
from runtime.lineage.artifacts import Artifact
from runtime.lineage.runs import Run, Step
from runtime.lineage.versions import served_ever
from runtime.metadata_connection import project_store
from tests.commands.audited import AUGUST, JULY, JUNE, MODEL

ZONE = "America/New_York"
OF_JUNE = {"interval_start": "2013-06-01T00:00:00-04:00", "interval_end": "2013-07-01T00:00:00-04:00"}


def month_of(run: Run, served: Collection[int] = ()) -> Month:
    return report.month_of(run, ZONE, served)


def output(kind: str, uri: str, properties: dict[str, str | int | float]) -> Artifact:
    artifact = metadata_store_pb2.Artifact(uri=uri)
    names = {str: "string_value", int: "int_value", float: "double_value"}
    for name, value in properties.items():
        setattr(artifact.custom_properties[name], names[type(value)], value)
    return Artifact(artifact, metadata_store_pb2.ArtifactType(name=kind))


def step(node: str, state: str = "complete", **outputs: Artifact) -> Step:
    made = {key: [output] for key, output in outputs.items()}
    return Step(node, state, 1, datetime(2026, 1, 1, tzinfo=UTC), 2.5, made)


def run(*steps: Step) -> Run:
    return Run("key", {"run_id": "backfill__june"}, {step.node: step for step in steps})


@pytest.fixture
def whole(tmp_path):
    Verdict("evaluate", "june", (Check("auc", False),)).write(tmp_path / "evaluation")
    Verdict("monitor", "june", (Check("share of drifted features", True, 0.08),)).write(tmp_path / "drift")
    figures = {"roc_auc": 0.81, "log_loss": 0.46, "champion_roc_auc": 0.8, "current_model_digest": "m"}
    figures |= {"roc_auc_gain": 0.01, "roc_auc_gain_lower": -0.02, "roc_auc_gain_upper": 0.03, "log_loss_gain": 0.1}
    data = {**OF_JUNE, "lake_version": "now", "version_flights": 2, "version_weather": 1, "digest": "d"}
    return run(
        step("ingest", dataset=output("Dataset", "", data)),
        step("transform", "cached", examples=output("Examples", "", {"rows_test": 10, "digest": "e"})),
        step("train", model=output("Model", "", {"rows": 90, "warm_start": 1})),
        step("evaluate", evaluation=output("ModelEvaluation", str(tmp_path / "evaluation"), figures)),
        step("monitor", drift=output("DriftReport", str(tmp_path / "drift"), {"drifted": 0})),
        step("champion", pushed=output("PushedModel", "", {"version": 5, "pushed": 1})),
        step("push", pushed=output("PushedModel", "", {"version": 0, "reason": "Not pushed: evaluate did not."})),
    )


def test_a_run_tells_all_that_its_artifacts_tell(whole):
    month = month_of(whole)
    assert (month.name, month.run, month.data) == ("2013-06", "backfill__june", "now: flights 2, weather 1")
    assert (month.rows, month.learned, month.warm) == (10, 90, True)
    assert month.metrics == (("ROC AUC", 0.81, 0.8, (0.01, -0.02, 0.03)), ("log loss", 0.46, None, None))
    assert month.champion == 5
    assert {name: gate.passed for name, gate in month.gates.items()} == {
        "validate": None,
        "evaluate": False,
        "try_serving": None,
    }
    assert (month.drift, month.drifted) == (0.08, False)
    assert (month.version, month.refusal) == (0, "Not pushed: evaluate did not.")
    assert month.digests == {"data": "d", "examples": "e", "model": "m"}
    assert "transform" not in month.seconds and month.seconds["train"] == 2.5, "the cache took no time of a node's"


@pytest.mark.parametrize("took_over", [1, 0])
@pytest.mark.parametrize("served", [set(), {7}])
def test_a_run_tells_whether_its_version_served_by_its_push_or_later(whole, took_over, served):
    whole.steps["push"].outputs["pushed"] = [
        output("PushedModel", "", {**OF_JUNE, "version": 7, "pushed": 1, "took_over": took_over})
    ]
    month = month_of(whole, served)
    assert (month.version, month.took_over) == (7, bool(took_over or served))


def test_a_run_that_broke_off_tells_where_and_makes_nothing_up(whole):
    month = month_of(run(whole.steps["ingest"], step("validate", "failed")))
    assert month.refusal == "validate failed"
    assert (month.rows, month.metrics, month.drift, month.drifted, month.version) == (None, (), None, None, 0)


def test_a_verdict_whose_artifact_was_removed_is_none(whole, tmp_path):
    (tmp_path / "evaluation" / "verdict.json").unlink()
    assert month_of(whole).gates["evaluate"].passed is None


@pytest.mark.parametrize(
    ("interval", "expected"),
    [("2013-06", "2013-06"), ("2013-06-03/2013-06-10", "2013-06-03 to 2013-06-10"), ("2013-03", "2013-03")],
)
def test_a_month_is_told_by_its_name_and_anything_else_by_its_days(interval, expected):
    assert report.short(Interval.parse(interval, ZONE), ZONE) == expected


def test_tables_of_one_version_are_told_together():
    assert report._versions({"version_a": 3, "version_b": 3, "lake_version": "then"}) == "then: all 3"
    assert report._versions({}) == ""


@pytest.mark.slow
def test_a_version_served_if_its_push_or_a_promotion_says_so(audited_home):
    store = project_store(audited_home)
    versions = {JUNE, JULY, AUGUST}
    assert served_ever(store, MODEL, versions) == {JUNE, JULY}, "August was registered, and never served"
    assert served_ever(store, MODEL, {JULY, AUGUST}) == {JULY}
    assert served_ever(store, "another", versions) == served_ever(store, MODEL, ()) == set()
