"""The rows that a candidate is judged on, in the order of time, with blocks, slices and the baseline's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data import examples as reading
from components.measures import baseline
from components.measures.comparison import Rows
from components.schema import DAY, ExampleSchema


@dataclass(frozen=True)
class EvaluationRows:
    """The split `test`.

    Args:
      features: Raw features by name, each [rows].
      rows: Labels and blocks.
      slices: Values by column, as text, each [rows].
      baseline: Probabilities by the schema's baseline feature, [rows].
      schema: Of the examples.
    """

    features: Mapping[str, np.ndarray]
    rows: Rows
    slices: Mapping[str, np.ndarray]
    baseline: np.ndarray
    schema: ExampleSchema


def read(folder: Path, schema: ExampleSchema, zone: str) -> EvaluationRows:
    """Reads the split `test`, and of `train` and `validation` what the baseline learns from.

    Args:
      folder: The `Examples` artifact's.
      schema: Of the examples.
      zone: Time zone whose days are the blocks, where the schema says "day".

    Raises:
      TerminalError: A split or a column is missing, or a label is neither 0 nor 1.
    """
    block = [] if schema.blocks == DAY else [schema.blocks]
    columns = (*schema.names, schema.label, schema.time, *schema.slices, *block)
    table = reading.read_table(folder, "test", schema, columns).sort_by(schema.time)
    units = _text(table, schema.blocks) if block else _local_days(table[schema.time], zone)
    rows = Rows(reading.labels(table, schema), units, f"values of {schema.blocks}" if block else "days")
    features = reading.features(table, schema)
    answers = _baseline(folder, schema, features, len(rows.labels))
    return EvaluationRows(features, rows, {name: _text(table, name) for name in schema.slices}, answers, schema)


def _text(table: pa.Table, column: str) -> np.ndarray:
    return np.array([str(value) for value in table[column].to_pylist()], dtype=str)


def _local_days(times: pa.ChunkedArray, zone: str) -> np.ndarray:
    local = pc.local_timestamp(times.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone)))
    return pc.floor_temporal(local, unit="day").to_numpy()


def _baseline(folder: Path, schema: ExampleSchema, features: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    columns = [*filter(None, [schema.baseline]), schema.label]
    parts = [reading.read_table(folder, split, schema, columns) for split in ("train", "validation")]
    labels = np.concatenate([reading.labels(part, schema) for part in parts])
    if not schema.baseline:
        return np.full(rows, labels.mean())
    kinds = {feature.name: feature.kind for feature in schema.features if feature.name == schema.baseline}
    history = reading.concatenated(*(reading.raw(part, kinds) for part in parts))
    return baseline.predict(history[schema.baseline], labels, features[schema.baseline])
