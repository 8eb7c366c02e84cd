"""Raw rows of the lake through batch transform and batch_predict, and through the served model: the largest difference.

`python -m benchmarks.parity [--interval 2013-06-12/2013-06-24] [--rows 10000] [--version served]`, with the checkout's
root on PYTHONPATH and the lake and a pushed model in the state folder (as `make demo` leaves them); JAVA as for Spark.

The steps of `flight_delays_batch_predict` run in a scratch folder. Then a model server of its own, on free ports, is
asked for the same rows over REST and over gRPC with the features that transform made. The two ways have in common the
SavedModel's files and the features; the code that feeds and runs the model is another on each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tfx.types import standard_artifacts

from airtight.home import ROOT, Home
from airtight.import_string import load
from airtight.interval import Interval
from airtight.verdict import Verdict
from components.artifacts import Dataset, Predictions, ValidationReport
from components.batch_predict import batch_predict
from components.data.examples import features as raw_features
from components.ingest import ingest
from components.modelling.model_server import ModelServer
from components.schema import PREDICTION, ExampleSchema
from components.transform import PREDICTION as FOR_PREDICTION
from components.transform import transform
from pipelines.flight_delays import features

FLIGHTS = "pipelines.flight_delays"
ZONE = "America/New_York"
MODEL = "flight_delays"
LIMIT = 1e-6
READY_S = 300.0


def run(component: Any, **given: Any) -> None:
    component.EXECUTOR_SPEC.executor_class._FUNCTION(**given)


def artifact(kind: type, folder: Path, name: str) -> Any:
    made = kind()
    made.uri = str(folder / name)
    (folder / name).mkdir()
    return made


def by_batch(folder: Path, interval: Interval, version: str) -> tuple[pa.Table, pa.Table, int]:
    """The rows with their features, and with their predictions, in the same order; and the model's version."""
    dataset, report = artifact(Dataset, folder, "dataset"), artifact(ValidationReport, folder, "report")
    examples = artifact(standard_artifacts.Examples, folder, "examples")
    predictions = artifact(Predictions, folder, "predictions")
    ends = {"interval_start": interval.start.isoformat(), "interval_end": interval.end.isoformat()}
    tables = f"{FLIGHTS}.lake:TABLES"
    run(ingest, dataset=dataset, tables=tables, zone=ZONE, **ends, window_days=features.LOOKBACK_DAYS)
    Verdict("validate", str(interval), ()).write(folder / "report")  # The data are the demo's, which passed.
    run(
        transform,
        dataset=dataset,
        report=report,
        examples=examples,
        transform=f"{FLIGHTS}.transform:transform",
        schema=f"{FLIGHTS}.features:SCHEMA",
        purpose=FOR_PREDICTION,
    )
    run(
        batch_predict,
        examples=examples,
        predictions=predictions,
        model_name=MODEL,
        schema=f"{FLIGHTS}.features:SCHEMA",
        zone=ZONE,
        version=version,
    )
    rows = pq.read_table(next((folder / "examples").glob("Split-predict/*.parquet")))
    files = sorted(map(str, (folder / "predictions").glob("date=*/*.parquet")))
    return rows, ds.dataset(files, format="parquet").to_table(), predictions.version


def served(folder: Path, version: int) -> tuple[subprocess.Popen, dict[str, int]]:
    """A server of that version alone."""
    base, ready = folder / "served", folder / "ready.json"
    base.mkdir()
    (base / str(version)).mkdir()
    for file in sorted((Home.current().models(MODEL) / str(version)).rglob("*")):
        target = base / str(version) / file.relative_to(Home.current().models(MODEL) / str(version))
        target.mkdir(exist_ok=True) if file.is_dir() else target.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "serving", "--port=0", "--rest_api_port=0", f"--ready_file={ready}"]
    command += [f"--model_name={MODEL}", f"--model_base_path={base}"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + READY_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit("the server did not start")
        time.sleep(0.05)
    return process, json.loads(ready.read_text())


def batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def by_rest(port: int, rows: dict[str, np.ndarray], size: int) -> np.ndarray:
    server, answers = ModelServer(f"http://127.0.0.1:{port}", timeout_s=120), []
    for part in batches(len(next(iter(rows.values()))), size):
        columns = {name: values[part].tolist() for name, values in rows.items()}
        instances = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        status, answer = server.request(
            "POST", f"/v1/models/{MODEL}:predict", json.dumps({"instances": instances}).encode()
        )
        if status != 200:
            raise SystemExit(f"REST answers {status}: {answer}")
        answers += answer["predictions"]
    return np.array(answers, np.float64)


def by_grpc(port: int, rows: dict[str, np.ndarray], schema: ExampleSchema, size: int) -> np.ndarray:
    types = {f.name: tf.string if f.kind == "category" else tf.float32 for f in schema.features}
    answers = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for part in batches(len(next(iter(rows.values()))), size):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = MODEL
            for name, values in rows.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values[part].tolist(), types[name]))
            answers += tf.make_ndarray(stub.Predict(request, timeout=120).outputs[PREDICTION]).tolist()
    return np.array(answers, np.float64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval", default="2013-06-12/2013-06-24")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=50, help="rows of a request")
    parser.add_argument("--version", default="served")
    args = parser.parse_args()
    schema: ExampleSchema = load(f"{FLIGHTS}.features:SCHEMA")
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        folder = Path(scratch)
        rows, predictions, version = by_batch(folder, Interval.parse(args.interval, ZONE), args.version)
        if rows["flight_id"].to_pylist() != predictions["flight_id"].to_pylist():
            raise SystemExit("the predictions are not of the rows, in their order")
        chosen = np.unique(np.linspace(0, rows.num_rows - 1, min(args.rows, rows.num_rows)).astype(np.int64))
        raw, batch = raw_features(rows.take(chosen), schema), predictions.take(chosen)["probability"].to_numpy()
        process, ports = served(folder, version)
        try:
            rest = by_rest(ports["rest_api_port"], raw, args.batch)
            over_grpc = by_grpc(ports["port"], raw, schema, args.batch)
        finally:
            process.terminate()
            process.wait()
    missing = sum(int(np.isnan(values).sum()) for values in raw.values() if values.dtype != object)
    print(f"{len(chosen)} of {rows.num_rows} rows of {args.interval}, version {version}, {missing} missing numbers.\n")
    print("| batch against | largest difference | mean difference |\n|---|---|---|")
    largest = 0.0
    for name, answers in (("REST", rest), ("gRPC", over_grpc)):
        difference = np.abs(answers - batch)
        largest = max(largest, float(difference.max()))
        print(f"| {name} | {difference.max():.3g} | {difference.mean():.3g} |")
    print(f"\nLargest: {largest:.3g}, aim <= {LIMIT:g}.")
    return 0 if math.isfinite(largest) and largest <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
