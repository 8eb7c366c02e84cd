"""Days of made-up predictions and their labels, and the component that judges them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.interval import Interval
from components import label_quality as module
from components.artifacts import Dataset, LabelQuality, Predictions
from components.data.dataset import DatasetReader
from components.schema import LABEL_KNOWN_AT, ExampleSchema, Feature
from components.tasks import task_of
from components.watch import quality_days
from components.watch.quality_days import DayQuality

ZONE = "America/New_York"
FIRST = datetime(2020, 3, 6, 5, tzinfo=UTC)
"""Midnight in New York; the third day has 23 hours."""
NAMES = ("2020-03-06", "2020-03-07", "2020-03-08", "2020-03-09", "2020-03-10")
SCHEMA = ExampleSchema(
    features=(Feature("colour", "category", "a colour"),),
    label="broken",
    time="at",
    keys=("id",),
    slices=("colour",),
)
ROWS = 240


def day_rows(number: int, count: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """The rows of a day: id, at (microseconds), colour, probability, label."""
    rng = np.random.default_rng([number, seed])
    probability = rng.uniform(0.05, 0.95, count).astype(np.float32)
    start = FIRST + timedelta(days=number)
    at = int(start.timestamp() * 1e6) + np.sort(rng.integers(0, 22 * 3600, count)) * 1_000_000
    return {
        "id": np.array([f"d{number}-{row:04}" for row in range(count)], object),
        "at": at,
        "colour": rng.choice(np.array(["red", "green"], object), count),
        "probability": probability,
        "broken": (rng.random(count) < probability).astype(np.int64),
    }


@dataclass
class World:
    """What lies on disk.

    Args:
      folder: For everything.
      schema: Of the rows.
      labels: Rows of the labels' table: name, instant of the row, label (of several a tuple), when it became known.
    """

    folder: Path
    schema: ExampleSchema = SCHEMA
    labels: list[tuple[str, int, Any, datetime | None]] = field(default_factory=list)
    batches: list[Predictions] = field(default_factory=list)
    results: list[LabelQuality] = field(default_factory=list)

    def predict(
        self, days: dict[str, dict[str, np.ndarray]], version: int = 1, requested: str = "as_of"
    ) -> Predictions:
        """Writes a batch of predictions as batch_predict does."""
        batch = Predictions()
        batch.uri, batch.id = str(self.folder / f"batch-{len(self.batches)}"), len(self.batches) + 1
        batch.model, batch.version, batch.digest = "toy", version, f"digest {len(self.batches)}"
        for day, rows in days.items():
            path = Path(batch.uri) / f"date={day}"
            path.mkdir(parents=True)
            columns = {
                name: pa.array(values.tolist()) for name, values in rows.items() if name not in self.schema.labels
            }
            columns["at"] = pa.array(rows["at"], pa.timestamp("us", "UTC"))
            for name in task_of(self.schema).outputs:
                values = rows[name].astype(np.float32)
                type_ = pa.float32() if values.ndim == 1 else pa.list_(pa.float32())
                columns[name] = pa.array(list(values), type_)
            columns["version"] = pa.array([version] * len(rows["id"]), pa.int64())
            pq.write_table(pa.table(columns), path / "predictions.parquet")
        (Path(batch.uri) / "summary.json").write_text(json.dumps({"asked": requested}))
        self.batches.append(batch)
        return batch

    def label(self, rows: dict[str, np.ndarray], hours: float | np.ndarray, places: slice = slice(None)) -> None:
        """Has labels become known so many hours after their row's instant."""
        hours = np.broadcast_to(hours, len(rows["id"]))
        names = self.schema.labels
        columns = [column[places].tolist() for column in (rows["id"], rows["at"], hours, *(rows[n] for n in names))]
        for name, at, later, *labels in zip(*columns, strict=True):
            label = labels[0] if len(labels) == 1 else tuple(labels)
            known = datetime.fromtimestamp(at / 1e6, UTC) + timedelta(hours=later)
            self.labels.append((name, at, label, known))

    def table(self, spark: Any) -> Any:
        """The labels as a pipeline's function makes them."""
        ids, ats, labels, known = zip(*self.labels, strict=True) if self.labels else ((), (), (), ())
        instant = pa.timestamp("us", "UTC")
        path = self.folder / "labels.parquet"
        columns = {
            "id": pa.array(ids, pa.string()),
            "at": pa.array(ats, pa.int64()).cast(instant),
            **{
                name: pa.array([one[place] if isinstance(one, tuple) else one for one in labels], part.label_type)
                for place, (name, part) in enumerate(task_of(self.schema).parts.items())
            },
            LABEL_KNOWN_AT: pa.array(known, instant),
        }
        pq.write_table(pa.table(columns), path)
        return spark.read.parquet(str(path))

    def judge(self, known_by: datetime, monkeypatch: Any, spark: Any, **settings: Any) -> dict[str, DayQuality]:
        """Runs the component for the day that ends then; gives its days."""
        known_by = known_by.replace(microsecond=0)
        start = known_by - timedelta(days=1)
        reader = DatasetReader(self.folder, ZONE, Interval(start, known_by), FIRST, FIRST, known_by, "then", {})
        dataset, made = Dataset(), LabelQuality()
        number = len(self.results)
        dataset.uri, made.uri = str(self.folder / f"dataset-{number}"), str(self.folder / f"quality-{number}")
        made.id = number + 1
        for one in (dataset, made):
            Path(one.uri).mkdir()
        reader.write(dataset.uri)
        known = {"toy:SCHEMA": self.schema, "toy:labels": lambda table: self.table(spark)}
        monkeypatch.setattr(module, "load", known.__getitem__)
        module.label_quality.EXECUTOR_SPEC.executor_class._FUNCTION(
            dataset=dataset,
            quality=made,
            previous=self.results,
            predictions=self.batches,
            **{"model_name": "toy", "schema": "toy:SCHEMA", "labels": "toy:labels"} | settings,
        )
        self.results.append(made)
        return quality_days.read(Path(made.uri))


def end_of(number: int) -> datetime:
    """When the given day of NAMES ends."""
    ends = FIRST + timedelta(days=number + 1)
    return ends - timedelta(hours=1) if number >= 2 else ends  # The clocks go forward on the third.
