"""What is pushed for real, without the work before it: a model whose gates say what the run wants."""

import json
from pathlib import Path

from tfx.components.evaluator import constants
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from airtight.audit import log as audit_log
from airtight.files import digest_of_tree
from airtight.parameters import Parameter as RunParameter
from airtight.verdict import Check, Verdict
from components.artifacts import Dataset, DriftReport, ValidationReport
from components.evaluate import REPORT
from components.modelling import judged
from components.modelling.metric_names import METRICS
from components.modelling.saved_model import serving_folder
from components.push import push
from components.rollout.anchoring import anchor_in
from pipelines.flight_delays.settings import SETTINGS
from runtime.parameters import interval_parameters, runtime_parameter

CONTENT = RunParameter("content", "str", "one", "What the model's file holds.")
BLESSED = RunParameter("blessed", "int", 1, "0 has evaluate not bless it.")
CHAMPION = RunParameter("champion", "int", 0, "Version of the champion; 0 for none.")
PARAMETERS = (CONTENT, BLESSED, CHAMPION)


@component
def ingest(dataset: OutputArtifact[Dataset], interval_start: Parameter[str], interval_end: Parameter[str]) -> None:
    """Names one file of one table."""
    files = [{"path": "trips/a.parquet", "day": "2013-06-01", "rows": 7, "bytes": 70, "sha256": "a" * 64}]
    table = {"name": "trips", "version": 3, "known_at": None, "files": files}
    manifest = {"interval_start": interval_start, "interval_end": interval_end, "digest": "d" * 64, "zone": "UTC"}
    manifest |= {"training_start": "2013-01-01T00:00:00-05:00", "lake_version": "then", "tables": {"trips": table}}
    (Path(dataset.uri) / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    dataset.interval_start, dataset.interval_end, dataset.rows, dataset.digest = (
        interval_start,
        interval_end,
        7,
        "d" * 64,
    )


@component
def validate(dataset: InputArtifact[Dataset], report: OutputArtifact[ValidationReport]) -> None:
    """Finds the data well."""
    Verdict("validate", "june", (Check("trips.km >= 0", True, 0.0, "<= 0"),)).write(Path(report.uri))
    report.passed = 1


@component
def train(
    dataset: InputArtifact[Dataset],
    report: InputArtifact[ValidationReport],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    content: Parameter[str],
) -> None:
    """Writes what no server would load."""
    folder = serving_folder(model.uri)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text(content, encoding="utf-8")
    record = {"rows": {"fitted": 7}, "settings": {"seed": 0}, "epochs": {"judged": [{"epoch": 1, "loss": 0.5}]}}
    (Path(model_run.uri) / "training.json").write_text(json.dumps(record), encoding="utf-8")
    anchor_in(model, audit_log.append(audit_log.TRAINED, digest=digest_of_tree(folder)))


@component
def evaluate(  # noqa: PLR0917 - a component's parameters
    model: InputArtifact[standard_artifacts.Model],
    dataset: InputArtifact[Dataset],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    blessed: Parameter[int],
    champion: Parameter[int],
) -> None:
    """Says what the run wants."""
    checks = (
        Check("km against the baseline", bool(blessed), 0.2, ">= 0.1", 0.5),
        Check("<slices>", False, 0.01, "", None, "warning", "worse & thin"),
    )
    Verdict("evaluate", "june", checks).write(Path(evaluation.uri))
    (Path(evaluation.uri) / REPORT).write_text("<p>", encoding="utf-8")
    figures = {"columns": {"km": "km off"}, "rows": [{"slice": [], "count": 7, "figures": {"km": 0.3}}]}
    (Path(evaluation.uri) / "slices.json").write_text(json.dumps(figures), encoding="utf-8")
    evaluation.set_string_custom_property(METRICS, json.dumps({"km": "km off"}))
    evaluation.set_float_custom_property("km", 0.3)
    if champion:
        evaluation.set_int_custom_property("champion_version", champion)
        for name, value in (("champion_km", 0.4), ("km_gain", 0.1), ("km_gain_lower", 0.05), ("km_gain_upper", 0.2)):
            evaluation.set_float_custom_property(name, value)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, blessed)
    for judgement in (evaluation, blessing):
        judged.write(judgement, model)
        judgement.set_string_custom_property("interval_start", dataset.interval_start)
        judgement.set_string_custom_property("interval_end", dataset.interval_end)
    (Path(blessing.uri) / "BLESSED").touch()


@component
def try_serving(
    model: InputArtifact[standard_artifacts.Model], infra_blessing: OutputArtifact[standard_artifacts.InfraBlessing]
) -> None:
    """Finds it fast."""
    Verdict("try_serving", "june", (Check("p99", True, 3.0, "<= 100"),)).write(Path(infra_blessing.uri))
    infra_blessing.set_int_custom_property("blessed", 1)
    judged.write(infra_blessing, model)


@component
def monitor(dataset: InputArtifact[Dataset], drift: OutputArtifact[DriftReport]) -> None:
    """Finds no drift."""
    Verdict("monitor", "june", (Check("share of drifted features", True, 0.1, "<= 0.3"),)).write(Path(drift.uri))
    drift.interval_start, drift.interval_end, drift.drifted = dataset.interval_start, dataset.interval_end, 0


def create_pipeline() -> Pipeline:
    """Gives the pipeline, under the name of the real one."""
    start, end = interval_parameters()
    content, blessed, champion = map(runtime_parameter, PARAMETERS)
    data = ingest(interval_start=start, interval_end=end).with_id("ingest")
    dataset = data.outputs["dataset"]
    valid = validate(dataset=dataset).with_id("validate")
    trained = train(dataset=dataset, report=valid.outputs["report"], content=content).with_id("train")
    model = trained.outputs["model"]
    judge = evaluate(model=model, dataset=dataset, blessed=blessed, champion=champion).with_id("evaluate")
    tried = try_serving(model=model).with_id("try_serving")
    watched = monitor(dataset=dataset).with_id("monitor")
    pushed = push(
        model=model,
        blessing=judge.outputs["blessing"],
        infra_blessing=tried.outputs["infra_blessing"],
        dataset=dataset,
        model_name=SETTINGS.name,
        zone=SETTINGS.zone,
    ).with_id("push")
    nodes = [data, valid, trained, judge, tried, watched, pushed]
    return Pipeline(pipeline_name=SETTINGS.name, components=nodes, enable_cache=False)
