"""Skew of the flagship: what the router's look-up asked with, beside the features that Spark makes of the lake."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from airtight.interval import Interval
from airtight.predictions import REQUEST
from components.artifacts import SkewReport
from components.skew import skew
from pipelines.flight_delays import clock, features, online
from pipelines.flight_delays.events import Flight
from pipelines.flight_delays.replay import events_of
from pipelines.flight_delays.streams import STREAM
from pipelines.flight_delays.tests import plain_totals, small_lake
from serving.prediction_log import journal_rows
from serving.prediction_log.notes import Answered, Note
from serving.prediction_log.personal import Personal
from serving.prediction_log.rows import groups
from serving.signature import Signature, TensorSpec
from streaming.windows.sqlite_store import SqliteStore

FIRST, DAY = date(2013, 6, 12), date(2013, 6, 14)
ANSWERED = datetime(2026, 11, 29, 12, tzinfo=UTC)
TEXT = features.SCHEMA.of_kind("category")


def _signature() -> Signature:
    def spec(name: str) -> TensorSpec:
        dtype = tf.string if name in TEXT else tf.float32
        return TensorSpec(name, name, dtype, np.dtype(dtype.as_numpy_dtype), (None,))

    outputs = (TensorSpec("probability", "probability", tf.float32, np.dtype(np.float32), (None,)),)
    specs = tuple(spec(name) for name in features.SCHEMA.names)
    return Signature("serving_default", "tensorflow/serving/predict", specs, outputs, lambda *unused: [])


def _log(root: Path, rows: list[tuple[str, dict]]) -> None:
    """Writes what the model server's log writes of requests of one flight each."""
    signature, notes = _signature(), []
    for name, row in rows:
        arrays = [
            np.array([str(row[n]).encode()], object) if n in TEXT else np.array([row[n]], np.float32)
            for n in features.SCHEMA.names
        ]
        call = Answered(7, signature, arrays, [np.array([0.5], np.float32)])
        about = ("flight_delays", None, "REST", "Predict", "OK", 0.002, {REQUEST: name.encode()})
        notes.append(Note(ANSWERED.timestamp(), *about, [call], 1.0, 1))
    folder = root / "flight_delays" / f"date={ANSWERED:%Y-%m-%d}"
    folder.mkdir(parents=True)
    for number, group in enumerate(groups(notes)):
        pq.write_table(journal_rows.rows_of(group.batch(Personal())), folder / f"{number}.parquet")


@pytest.mark.slow
def test_the_look_up_has_no_skew_and_a_stale_one_is_found_feature_by_feature(spark, flight_lake, tmp_path):
    rows = small_lake.read(flight_lake, FIRST, DAY)
    lake = small_lake.write(tmp_path / "lake", rows)
    day = Interval.parse(DAY.isoformat(), clock.ZONE)
    dataset = small_lake.ingested(lake, day, tmp_path)
    examples = small_lake.transformed(dataset, tmp_path, purpose="prediction")

    store = SqliteStore(tmp_path / "online.sqlite", replace(STREAM, keep_days=10_000))
    tables = {t.name: pa.Table.from_pylist(rows[t.name], t.schema) for t in small_lake.TABLES}
    span = (day.start - timedelta(days=4), day.end + timedelta(days=4))
    plain_totals.put(store, list(events_of(tables["flights"], tables["weather"], *span)))
    planes = {row["tailnum"]: row for row in rows["planes"]}
    sampled = [row for row in rows["flights"] if day.start <= row["scheduled_departure"] < day.end][::7]
    flights = [Flight(**{name: row[name] for name in Flight.__struct_fields__}) for row in sampled]
    known = online.known(flights, store, planes)
    logged = [(row["flight_id"], one.features) for row, one in zip(sampled, known, strict=True)]
    assert len(logged) > 100

    def compared(name: str, requests: list[tuple[str, dict]]) -> tuple[SkewReport, dict[str, dict]]:
        _log(tmp_path / f"{name}-log", requests)
        made = SkewReport()
        made.uri = str(tmp_path / name)
        Path(made.uri).mkdir()
        skew.EXECUTOR_SPEC.executor_class._FUNCTION(
            examples=examples,
            skew=made,
            model_name="flight_delays",
            schema="pipelines.flight_delays.features:SCHEMA",
            log_root=str(tmp_path / f"{name}-log"),
            zone=clock.ZONE,
            answered="2026-11-29",
        )
        record = json.loads((Path(made.uri) / "skew.json").read_text())
        return made, {one["feature"]: one for one in record["features"]}

    made, by_feature = compared("same", logged)
    assert (made.rows, made.unknown, made.skewed) == (len(logged), 0, 0), made.summary
    assert set(by_feature) == set(features.SCHEMA.names)
    assert not any(one["mismatch"] or one["missing"] or one["extra"] for one in by_feature.values())

    faults = {"temp": float("nan"), "carrier": "??"}
    stale = [(name, row | faults | {"distance": row["distance"] * 1.609}) for name, row in logged]
    made, by_feature = compared("stale", stale)
    assert made.skewed == 3 and made.summary.startswith("3 of 65 features are skewed (carrier, distance, temp)")
    assert by_feature["temp"]["missing"] > 0.9 * len(logged)
    assert by_feature["distance"]["mismatch"] == len(logged)
    assert by_feature["distance"]["smape"] == pytest.approx(0.467, 0.01)
    assert by_feature["carrier"]["examples"][0]["logged"] == "??"
