"""Notes of requests, as the server hands them to the prediction log, and what lies in its files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from airtight.interval import Interval
from serving.prediction_log import journal_rows
from serving.prediction_log.journals import Journals
from serving.prediction_log.notes import HEADERS, Answered, Note, as_row
from serving.prediction_log.personal import Personal
from serving.prediction_log.rows import groups
from serving.signature import Signature, TensorSpec

NOW = 1_790_000_000.25
DAY = datetime.fromtimestamp(NOW, UTC).date().isoformat()
AROUND = Interval(datetime.fromtimestamp(NOW - 60, UTC), datetime.fromtimestamp(NOW + 60, UTC))


def spec(name: str, dtype: tf.DType, shape: tuple[int | None, ...] | None = (None,)) -> TensorSpec:
    return TensorSpec(name, name, dtype, np.dtype(dtype.as_numpy_dtype), shape)


SIGNATURE = Signature(
    "serving_default",
    "tensorflow/serving/predict",
    (spec("origin", tf.string), spec("delay", tf.float32)),
    (spec("probability", tf.float32),),
    lambda *unused: [],
)


def texts(*values: bytes) -> np.ndarray:
    return np.array(values, object)


def answered(rows: int = 2, version: int = 7) -> Answered:
    origins = texts(*[b"JFK", b"", b"LGA"][:rows])
    delays = np.array([1.5, np.nan, -3.0], np.float32)[:rows]
    return Answered(version, SIGNATURE, [origins, delays], [np.array([0.25, 0.5, 0.75], np.float32)[:rows]])


def note(*calls: Answered, code: str = "OK", headers=(), at: float = NOW, model: str = "m") -> Note:
    kept = [as_row(calls[0])[0]] if code == "OK" and len(calls) == 1 else calls
    named = {HEADERS[name]: value for name, value in headers}
    return Note(at, model, None, "REST", "Predict", code, 0.002, named, kept, 1.0, 1000)


def tables(notes: list[Note], personal: Personal) -> list[pa.Table]:
    return [journal_rows.rows_of(group.batch(personal)) for group in groups(notes)]


def rows_of(*notes: Note, personal: Personal | None = None) -> list[dict]:
    return [row for table in tables(notes, personal or Personal()) for row in table.to_pylist()]


def write(journals: Journals, *notes: Note, personal: Personal | None = None) -> None:
    for group in groups(notes):
        journals.write(notes[0].model, group.date, group.batch(personal or Personal()))


def visible(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
