"""Some days of the lake as plain rows, to be changed and written again, and the first nodes of a run on them."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from tfx.types import standard_artifacts

from airtight.interval import Interval
from airtight.verdict import Verdict
from components.artifacts import Dataset, ValidationReport
from components.data.examples import files_of
from components.data.lake import Lake
from components.ingest import ingest
from components.transform import transform
from pipelines.flight_delays import clock
from pipelines.flight_delays.lake import TABLES

HERE = "pipelines.flight_delays"
Rows = dict[str, list[dict[str, Any]]]


def read(path: Path, first: date, last: date) -> Rows:
    """The rows of some days, and the static tables whole."""
    lake, days = Lake(path), {(first + timedelta(days=i)).isoformat() for i in range((last - first).days + 1)}
    files = {t.name: [f for f in lake.snapshot(t.name).files if f.day is None or f.day in days] for t in TABLES}
    return {name: ds.dataset([path / f.path for f in held]).to_table().to_pylist() for name, held in files.items()}


def write(path: Path, rows: Rows, known_at: datetime | None = None) -> Path:
    """Writes rows into a lake: the whole content of the days that these rows are of."""
    for table in TABLES:
        days = defaultdict(list)
        for row in rows[table.name]:
            days[clock.local_day(row[table.time]) if table.time else None].append(row)
        content = {day: pa.Table.from_pylist(held, table.schema) for day, held in days.items()}
        Lake(path).write(table.name, content, known_at)
    return path


def ingested(lake: Path, interval: Interval, folder: Path, **settings: Any) -> Dataset:
    """What the flagship's ingest makes of an interval."""
    dataset = Dataset()
    dataset.uri = str(folder / "dataset")
    ends = {"interval_start": interval.start.isoformat(), "interval_end": interval.end.isoformat()}
    ingest.EXECUTOR_SPEC.executor_class._FUNCTION(
        dataset=dataset, tables=f"{HERE}.lake:TABLES", zone=clock.ZONE, lake=str(lake), **ends, **settings
    )
    return dataset


def transformed(dataset: Dataset, folder: Path, **settings: int | str) -> standard_artifacts.Examples:
    """What the flagship's transform makes of it with these settings, when it passed validation."""
    report, examples = ValidationReport(), standard_artifacts.Examples()
    report.uri, examples.uri = str(folder / "report"), str(folder / "examples")
    Verdict("validate", "these days", ()).write(folder / "report")
    transform.EXECUTOR_SPEC.executor_class._FUNCTION(
        dataset=dataset,
        report=report,
        examples=examples,
        transform=f"{HERE}.transform:transform",
        schema=f"{HERE}.features:SCHEMA",
        **settings,
    )
    return examples


def bytes_of(examples: standard_artifacts.Examples, split: str) -> list[bytes]:
    """The shards of a split."""
    return [file.read_bytes() for file in files_of(Path(examples.uri), split)]


def rows_of(examples: standard_artifacts.Examples, split: str) -> pa.Table:
    """The rows of a split, all columns."""
    return pa.concat_tables(map(pq.read_table, files_of(Path(examples.uri), split)))
