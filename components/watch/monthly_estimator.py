"""What estimates days without labels: fitted once a month on samples of days that were ripe by then, and carried on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airtight.files import write_text
from components.measures.evaluation_rows import Codes
from components.measures.predictions import output_array
from components.measures.slices import Slices
from components.tasks import Task
from components.watch import estimates
from components.watch.day_rows import DayRows
from components.watch.estimates import Estimator
from components.watch.prediction_rows import Form
from components.watch.quality_days import RIPE, DayQuality

SAMPLE, FILE = "sample.parquet", "estimator.json"
SAMPLE_ROWS = 4096
"""Rows that are kept of a day."""


@dataclass
class Monthly:
    """The estimator of a month.

    Args:
      task: Of the labels.
      form: Of the rows.
      month: Such as 2013-06.
      estimator: None where there was nothing to fit it on.
      fitted_on: Its days.
      before: Folder of the result of the run before; None where there is none.
      first: First day whose sample is carried on.
      sample_rows: Kept of a day.
    """

    task: Task
    form: Form
    month: str
    estimator: Estimator | None
    fitted_on: tuple[str, ...]
    before: Path | None
    first: str
    sample_rows: int = SAMPLE_ROWS

    @classmethod
    def of(
        cls,
        task: Task,
        form: Form,
        before: Path | None,
        known: Mapping[str, DayQuality],
        day: str,
        calibration: str,
        days: int,
    ) -> Monthly:
        """That of the run before, or in a new month one that is fitted on the days that were ripe then.

        Args:
          task: Of the labels.
          form: Of the rows.
          before: Folder of the result of the run before.
          known: Its days.
          day: The last day that is judged.
          calibration: Of classes.
          days: So many days before `day` count.
        """
        month = day[:7]
        first = (date.fromisoformat(day) - timedelta(days=days)).isoformat()
        kept: Estimator | None = None
        fitted_on: tuple[str, ...] = ()
        if before and (before / FILE).is_file():
            payload = json.loads((before / FILE).read_text(encoding="utf-8"))
            kept = Estimator.of_json(payload["estimator"]) if payload["estimator"] else None
            fitted_on = tuple(payload["fitted_on"])
            if payload["month"] == month and kept is not None:
                return cls(task, form, month, kept, fitted_on, before, first)
        ripe = [name for name, one in sorted(known.items()) if one.state == RIPE and first <= name < day]
        paths = [(name, before / f"date={name}" / SAMPLE) for name in ripe] if before else []
        there = [(name, path) for name, path in paths if path.is_file()]
        fitted = _fitted(task, form, [path for _, path in there], calibration) if there else None
        if fitted is not None:
            kept, fitted_on = fitted, tuple(name for name, _ in there)
        return cls(task, form, month, kept, fitted_on, before, first)

    def estimate(self, rows: DayRows) -> dict[str, float]:
        """Expected metrics of a day's answers, labelled or not; nothing where nothing is fitted."""
        places = rows.answers
        if self.estimator is None or not len(places):
            return {}
        predictions = rows.column("predictions")[places]
        if self.task.wrong_predictions(predictions):
            return {}
        expected = estimates.estimate(self.estimator, self.task, predictions, rows.slices(places))
        return {name: value for name, value in expected.items() if np.isfinite(value)}

    def write(self, folder: Path, days: Mapping[str, DayQuality]) -> None:
        """Writes the estimator, and carries samples on that this run has not made."""
        payload = {
            "month": self.month,
            "fitted_on": list(self.fitted_on),
            "estimator": self.estimator.to_json() if self.estimator else None,
        }
        write_text(folder / FILE, json.dumps(payload, sort_keys=True, allow_nan=False))
        for day in days:
            target = folder / f"date={day}" / SAMPLE
            source = self.before / f"date={day}" / SAMPLE if self.before else None
            if day >= self.first and source and source.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def _fitted(task: Task, form: Form, paths: list[Path], calibration: str) -> Estimator | None:
    table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths], promote_options="default")
    labels = task.labels(table)
    response = {name: output_array(table[name]) for name in form.outputs}
    predictions = np.asarray(task.predictions(response), np.float32)
    slices = {}
    for name in form.schema.slices:
        codes = Codes()
        codes.add(table[f"slice_{name}"])
        slices[name] = Slices(codes.names, codes.codes)
    return estimates.fit(task, labels, predictions, slices, calibration)
