"""What the features of a month cost: the pipeline's transform on a warm Spark session, for a short and a long history.

    python -m benchmarks.transform [2013-06 2013-12]

Builds its own lake in a temporary folder. Prints the seconds of planning (the data frame), of computing and collecting
(Spark to Arrow), and of the whole node, files written; each once, after the first month has warmed the session up.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tfx.types import standard_artifacts

from airtight.interval import Interval
from airtight.verdict import Verdict
from components.artifacts import Dataset, ValidationReport
from components.data.dataset import DatasetReader
from components.data.spark import session
from components.ingest import ingest
from components.transform import transform
from pipelines.flight_delays import clock, lake
from pipelines.flight_delays.transform import transform as make

MONTHS = ("2013-06", "2013-12")


def _artifact(kind: type, folder: Path) -> object:
    folder.mkdir(parents=True, exist_ok=True)
    artifact = kind()
    artifact.uri = str(folder)
    return artifact


def _dataset(root: Path, month: str) -> Dataset:
    interval = Interval.parse(month, clock.ZONE)
    dataset = _artifact(Dataset, root / month / "dataset")
    ingest.EXECUTOR_SPEC.executor_class._FUNCTION(
        dataset=dataset,
        tables="pipelines.flight_delays.lake:TABLES",
        zone=clock.ZONE,
        interval_start=interval.start.isoformat(),
        interval_end=interval.end.isoformat(),
        lake=str(root / "lake"),
    )
    return dataset


def _node(root: Path, month: str, dataset: Dataset) -> float:
    """Seconds of the whole node, but for opening the session."""
    report = _artifact(ValidationReport, root / month / "report")
    Verdict("validate", month, ()).write(Path(report.uri))
    examples = _artifact(standard_artifacts.Examples, root / month / "examples")
    start = time.perf_counter()
    transform.EXECUTOR_SPEC.executor_class._FUNCTION(
        dataset=dataset,
        report=report,
        examples=examples,
        transform="pipelines.flight_delays.transform:transform",
        schema="pipelines.flight_delays.features:SCHEMA",
        validation_days=14,
    )
    return time.perf_counter() - start


def measure(root: Path, months: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """By month: rows, and the seconds planned, computed and of the node."""
    lake.build(root / "lake")
    told: dict[str, dict[str, float]] = {}
    with session("benchmark") as spark:
        # The first month comes twice: the second time tells, the first one compiles Spark's code.
        for month in (months[0], *months):
            dataset = _dataset(root, month)
            reader = DatasetReader.open(dataset.uri)
            start = time.perf_counter()
            frame = make(lambda name, reader=reader: reader.spark_frame(spark, name))
            planned = time.perf_counter()
            rows = frame.toArrow().num_rows
            computed = time.perf_counter()
            node = _node(root, month, dataset)
            seconds = {"planned_s": planned - start, "computed_s": computed - planned, "node_s": node}
            told[month] = {"rows": rows, **{name: round(value, 2) for name, value in seconds.items()}}
    return told


def main() -> None:
    months = tuple(sys.argv[1:]) or MONTHS
    with tempfile.TemporaryDirectory() as folder:
        told = measure(Path(folder), months)
    print(json.dumps({"cores": os.cpu_count(), "months": told}, indent=1))


if __name__ == "__main__":
    main()
