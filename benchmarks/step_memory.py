"""How the memory of transform, monitor and batch_predict grows with the rows: each step in a process of its own.

    python -m benchmarks.step_memory [--rows 200000 2000000]

The rows have ten numbers, a category and a text, over forty days; the model is a sum. `node` is the highest resident
size of the step's own process (ru_maxrss), `spark` that of the JVM and its Python workers together, twice a second.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from tfx.types import standard_artifacts

from airtight.interval import Interval
from airtight.verdict import Verdict
from components.artifacts import Dataset, DriftReport, Predictions, ValidationReport
from components.data.dataset import DatasetReader, TableFiles
from components.data.lake import Lake
from components.schema import LABEL_KNOWN_AT, ExampleSchema, Feature

DAYS = [date(2020, 1, 1) + timedelta(days=i) for i in range(40)]
INTERVAL = Interval.parse("2020-01-31/2020-02-10", "UTC")
NUMBERS = [f"x{i}" for i in range(10)]
SCHEMA = ExampleSchema(
    features=(
        *(Feature(name, "number", "a number") for name in NUMBERS),
        Feature("colour", "category", "a colour"),
        Feature("words", "text", "some words"),
    ),
    label="late",
    time="at",
    keys=("id",),
    slices=(),
)
_INSTANT = pa.timestamp("us", tz="UTC")
COLUMNS = {
    "id": pa.string(),
    "at": _INSTANT,
    **dict.fromkeys(NUMBERS, pa.float64()),
    "colour": pa.string(),
    "words": pa.string(),
    "late": pa.int64(),
}
STEPS = ("transform", "transform for prediction", "monitor", "batch_predict")


def make(table: Callable[[str], Any]) -> Any:
    """The function of the pipeline: labels are known at once."""
    from pyspark.sql import functions as F

    return table("events").withColumn(LABEL_KNOWN_AT, F.col("at"))


def write_lake(folder: Path, rows: int) -> None:
    """The table, its manifest and a verdict that passed."""
    a_day = rows // len(DAYS)
    lake, version = Lake(folder / "lake"), None
    for number, day in enumerate(DAYS):
        rng = np.random.default_rng(number)
        start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1_000_000)
        words = rng.choice(["late", "early", "never", "again", "once"], (a_day, 3))
        columns = {
            "id": [f"{number:02d}-{row:07d}" for row in range(a_day)],
            "at": start + np.sort(rng.integers(0, 86_400_000_000, a_day)),
            **{name: rng.normal(size=a_day) for name in NUMBERS},
            "colour": rng.choice(["red", "green", "blue"], a_day),
            "words": [" ".join(row) for row in words],
            "late": rng.integers(0, 2, a_day),
        }
        arrays = {name: pa.array(columns[name]).cast(type_) for name, type_ in COLUMNS.items()}
        version = lake.write("events", {day: pa.table(arrays, pa.schema(COLUMNS))})
    assert version is not None
    types = {name: str(type_) for name, type_ in COLUMNS.items()}
    files = TableFiles("events", version.number, None, "at", ("id",), types, (), version.files)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    reader = DatasetReader(lake.path, "UTC", INTERVAL, start, start, INTERVAL.end, "now", {"events": files})
    reader.write(folder / "dataset")
    Verdict("validate", str(INTERVAL), ()).write(folder / "report")


def write_model(folder: Path) -> None:
    """A SavedModel that answers the sum of the numbers as a probability."""
    import tensorflow as tf

    module = tf.Module()
    specs = [tf.TensorSpec([None], tf.float32, name=name) for name in NUMBERS]
    module.serve = tf.function(lambda *x: {"probability": tf.sigmoid(tf.add_n(list(x)))}, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def run(step: str, folder: Path) -> None:
    """Runs one step, and prints its seconds and the mebibytes of this process and of Spark."""
    from components.batch_predict import batch_predict
    from components.monitor import monitor
    from components.transform import transform

    here = "benchmarks.step_memory"
    names = {"schema": f"{here}:SCHEMA"}
    dataset, report = _artifact(Dataset, folder / "dataset"), _artifact(ValidationReport, folder / "report")
    examples = _artifact(standard_artifacts.Examples, folder / "examples")
    rows = _artifact(standard_artifacts.Examples, folder / "rows")
    peak = [0]
    threading.Thread(target=_watch, args=(peak,), daemon=True).start()
    start = time.perf_counter()
    if step.startswith("transform"):
        purpose = {"examples": examples} if step == "transform" else {"examples": rows, "purpose": "prediction"}
        _call(
            transform, dataset=dataset, report=report, transform=f"{here}:make", validation_days=5, **purpose, **names
        )
    elif step == "monitor":
        _call(monitor, examples=examples, drift=_artifact(DriftReport, folder / "drift"), **names)
    else:
        predictions = _artifact(Predictions, folder / "predictions")
        where = {"model_name": "m", "zone": "UTC", "version": "1", "serving_root": str(folder / "models")}
        _call(batch_predict, examples=rows, predictions=predictions, **where, **names)
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, peak[0] / 2**20)


def _call(step: Any, **arguments: Any) -> None:
    step.EXECUTOR_SPEC.executor_class._FUNCTION(**arguments)


def _artifact(kind: type, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    artifact = kind()
    artifact.uri = str(folder)
    if kind is standard_artifacts.Examples:
        artifact.set_string_custom_property("interval_start", INTERVAL.start.isoformat())
        artifact.set_string_custom_property("interval_end", INTERVAL.end.isoformat())
    return artifact


def _watch(peak: list[int]) -> None:
    while True:
        with suppress(psutil.Error):
            peak[0] = max(peak[0], sum(p.memory_info().rss for p in psutil.Process().children(recursive=True)))
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 2_000_000])
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        run(args.step[0], Path(args.step[1]))
        return
    print("| rows | step | seconds | node MiB | spark MiB |\n|---:|---|---:|---:|---:|", flush=True)
    for rows in args.rows:
        with tempfile.TemporaryDirectory(prefix="airtight-step-memory-") as scratch:
            folder = Path(scratch)
            write_lake(folder, rows)
            write_model(folder / "models" / "m" / "1")
            for step in STEPS:
                command = [sys.executable, "-m", "benchmarks.step_memory", "--step", step, scratch]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                seconds, node, spark = map(float, output.split()[-3:])
                print(f"| {rows:,} | {step} | {seconds:.1f} | {node:,.0f} | {spark:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
