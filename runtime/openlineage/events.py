"""OpenLineage's run events of one attempt of a node, with its facets and four of our own."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import attr
from openlineage.client import event_v2 as ol
from openlineage.client.facet_v2 import (
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    error_message_run,
    execution_parameters_run,
    job_type_job,
    nominal_time_run,
    parent_run,
    processing_engine_run,
    symlinks_dataset,
    test_run,
)
from openlineage.client.generated.base import DatasetFacet, InputDatasetFacet, RunFacet

from airtight import fingerprint
from airtight.verdict import Check
from runtime.lineage.artifacts import Artifact, Scalar
from runtime.openlineage.record import ENDED, FAILED, Dataset, NodeRun, interval_of

PRODUCER = "airtight://openlineage"
NAMESPACE = "OPENLINEAGE_NAMESPACE"
"""Environment variable of the namespace of jobs and datasets, as OpenLineage's other producers have it."""
_MODELS = ("Model", "PushedModel")
_JUDGED = {"ModelEvaluation": "model", "InfraBlessing": "model"}
"""Input keys of what gates judge, by the type of the artifact that holds the verdict; else data set or examples."""
_SUMMARY = "summary.json"
_TYPE = ol.RunState


@attr.define
class ExecutionRunFacet(RunFacet):
    """What ML Metadata calls the attempt, what the scheduler does, and what the cache said."""

    execution: int
    run: str
    attempt: str
    state: str
    cache: str
    labels: dict[str, Scalar]

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}/ExecutionRunFacet"


@attr.define
class ArtifactDatasetFacet(DatasetFacet):
    """The artifact in ML Metadata: its id, type and properties."""

    artifact: int
    artifactType: str
    properties: dict[str, Scalar]

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}/ArtifactDatasetFacet"


@attr.define
class MetricsDatasetFacet(DatasetFacet):
    """Numbers about a whole artifact, such as a model's metrics: OpenLineage has metrics of columns alone."""

    metrics: dict[str, float]

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}/MetricsDatasetFacet"


def namespace() -> str:
    """The namespace of jobs and datasets."""
    return os.environ.get(NAMESPACE, "") or "airtight"


def events_of(node_run: NodeRun) -> list[ol.RunEvent]:
    """The events of an attempt, the same ones whenever they are made: START, and its end where it has ended.

    Args:
      node_run: The attempt.

    Returns:
      None at all for a node that was skipped.
    """
    events = []
    if node_run.state in (*ENDED, "new", "running"):
        events.append(_event(node_run, _TYPE.START))
    if node_run.state in ENDED:
        events.append(_event(node_run, _TYPE.FAIL if node_run.state == FAILED else _TYPE.COMPLETE))
    return events


def _event(node_run: NodeRun, kind: ol.RunState) -> ol.RunEvent:
    is_start = kind is _TYPE.START
    at = node_run.began if is_start else node_run.ended
    judged = None if is_start or node_run.verdict is None else _judged(node_run)
    checks = node_run.verdict.checks if node_run.verdict else ()
    job_type = job_type_job.JobTypeJobFacet("BATCH", "TFX", "TASK", producer=PRODUCER)
    return ol.RunEvent(
        eventTime=at.isoformat(timespec="milliseconds"),
        producer=PRODUCER,
        eventType=kind,
        run=ol.Run(_run_id(node_run.name), _run_facets(node_run, is_start=is_start)),
        job=ol.Job(namespace(), node_run.job, {"jobType": job_type}),
        inputs=[
            ol.InputDataset(
                namespace(),
                dataset.name,
                facets=_facets(dataset.artifact),
                inputFacets=_assertions(checks) if dataset is judged else {},
            )
            for dataset in node_run.inputs
        ],
        outputs=[]
        if is_start
        else [
            ol.OutputDataset(namespace(), dataset.name, facets=_facets(dataset.artifact))
            for dataset in node_run.outputs
        ],
    )


def _run_id(*names: str) -> str:
    """The same id for the same names, in whichever process and however often."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}/{json.dumps([namespace(), *names])}"))


def _run_facets(node_run: NodeRun, *, is_start: bool) -> dict[str, RunFacet]:
    facets: dict[str, RunFacet] = {
        "parent": _parent(node_run),
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            fingerprint.versions(("tfx",))["tfx"], "TFX", producer=PRODUCER
        ),
        "executionParameters": execution_parameters_run.ExecutionParametersRunFacet(
            [
                execution_parameters_run.ExecutionParameter(name, value=str(value))
                for name, value in sorted(node_run.parameters.items())
            ],
            producer=PRODUCER,
        ),
        "airtight_execution": ExecutionRunFacet(
            node_run.execution,
            node_run.run,
            node_run.name,
            "running" if is_start else node_run.state,
            "" if is_start else node_run.cache,
            dict(node_run.labels),
            producer=PRODUCER,
        ),
    }
    # What a node makes has an interval too, and is not there at its start.
    if interval := interval_of(node_run.parameters) if is_start else node_run.interval:
        ends = (end.isoformat() for end in (interval.start, interval.end))
        facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(*ends, producer=PRODUCER)
    if not is_start and node_run.error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(node_run.error, "PYTHON", producer=PRODUCER)
    if not is_start and node_run.verdict:
        gate, checks = node_run.verdict.gate, node_run.verdict.checks
        facets["test"] = test_run.TestRunFacet([_test(gate, check) for check in checks], producer=PRODUCER)
    return facets


def _parent(node_run: NodeRun) -> parent_run.ParentRunFacet:
    """The DAG run; of a run without Airflow the pipeline's run."""
    dag_id, run_id = (str(node_run.labels.get(name, "")) for name in ("dag_id", "run_id"))
    names = (dag_id, run_id) if dag_id and run_id else (node_run.pipeline, node_run.run)
    return parent_run.ParentRunFacet(
        parent_run.Run(_run_id("parent", *names)), parent_run.Job(namespace(), names[0]), producer=PRODUCER
    )


def _judged(node_run: NodeRun) -> Dataset | None:
    """The input that a gate's verdict is about."""
    keys = [_JUDGED[d.artifact.type.name] for d in node_run.outputs if d.artifact.type.name in _JUDGED]
    by_key = {dataset.key: dataset for dataset in reversed(node_run.inputs)}
    wanted = [*keys, "dataset", "examples", *by_key]
    return next((by_key[key] for key in wanted if key in by_key), None)


def _facets(artifact: Artifact) -> dict[str, DatasetFacet]:
    properties = artifact.properties
    kind = "MODEL" if artifact.type.name in _MODELS else "FILE"
    facets: dict[str, DatasetFacet] = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(_version(artifact), producer=PRODUCER),
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(kind, artifact.type.name, producer=PRODUCER),
        "airtight_artifact": ArtifactDatasetFacet(artifact.proto.id, artifact.type.name, properties, producer=PRODUCER),
    }
    if artifact.uri:
        scheme, has_scheme, rest = artifact.uri.partition("://")
        place = symlinks_dataset.Identifier(*((scheme, rest) if has_scheme else ("file", artifact.uri)), "LOCATION")
        facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet([place], producer=PRODUCER)
    if quality := _quality(artifact):
        facets["dataQualityMetrics"] = quality
    metrics = {name: value for name, value in properties.items() if isinstance(value, float)}
    if metrics:
        facets["airtight_metrics"] = MetricsDatasetFacet(metrics, producer=PRODUCER)
    return facets


def _version(artifact: Artifact) -> str:
    """The digest of the lake's files that a data set names, else that of the artifact's contents, else its id."""
    return str(artifact.properties.get("digest") or artifact.digest or artifact.proto.id)


def _quality(artifact: Artifact) -> data_quality_metrics_dataset.DataQualityMetricsDatasetFacet | None:
    """Rows, and of a day's summary what is missing and different in each column."""
    properties = artifact.properties
    counts = [n for name, n in properties.items() if isinstance(n, int) and name.startswith("rows_")]
    rows = properties.get("rows", sum(counts) if counts else None)
    if not isinstance(rows, int):
        return None
    columns = _columns(Path(artifact.uri) / _SUMMARY, rows) if artifact.type.name == "SummarizedDay" else {}
    return data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(columns, rowCount=rows, producer=PRODUCER)


def _columns(file: Path, rows: int) -> dict[str, data_quality_metrics_dataset.ColumnMetrics]:
    """See `components.watch.day_summary`."""
    if not file.is_file():
        return {}
    summary = json.loads(file.read_text(encoding="utf-8"))
    missing = {name: known[0] for kind in ("numbers", "categories") for name, known in summary[kind].items()}
    distinct = {name: len(known[2]) for name, known in summary["categories"].items() if not known[1]}
    return {
        name: data_quality_metrics_dataset.ColumnMetrics(
            nullCount=count, distinctCount=distinct.get(name), count=float(rows - count)
        )
        for name, count in missing.items()
    }


def _assertions(checks: Sequence[Check]) -> dict[str, InputDatasetFacet]:
    assertions = [
        data_quality_assertions_dataset.Assertion(
            check.name,
            check.passed,
            severity=_severity(check),
            name=check.name,
            description=str(check),
            expected=check.threshold or None,
            actual=_number(check.value),
        )
        for check in checks
    ]
    facet = data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions, producer=PRODUCER)
    return {"dataQualityAssertions": facet} if assertions else {}


def _test(gate: str, check: Check) -> test_run.TestExecution:
    return test_run.TestExecution(
        check.name,
        "pass" if check.passed else "fail",
        severity=_severity(check),
        type=gate,
        description=str(check),
        expected=check.threshold or None,
        actual=_number(check.value),
    )


def _severity(check: Check) -> str:
    return "error" if check.severity == "blocking" else "warn"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.10g}"
