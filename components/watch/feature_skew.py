"""Features that a model was asked with, beside the same features recomputed in batch as of the cut-off.

This is skew: the same row, two ways of computing it. Differences between days are drift, and are looked for elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from airtight.interval import Interval
from airtight.predictions import INPUT, OTHER_INPUTS, REQUEST, ROW, SIGNATURE, TIME, VERSION
from components.data import predictions as prediction_log
from components.data.feature_kinds import kind_of
from components.schema import ExampleSchema, Feature
from components.watch.prediction_rows import ANSWERED, key_of

EXAMPLES = 5
"""Rows of a feature that are shown."""
_BASE64 = "b64:"
_KEY, _HASH = "_key", "_hash"
_NAMES = (VERSION, SIGNATURE, REQUEST, ROW)


@dataclass
class FeatureSkew:
    """One feature.

    Args:
      feature: It.
      rows: That were compared.
      mismatch: Both have a value, and another one.
      missing: Recomputed there is a value, and the request had none.
      extra: The request had a value, and recomputed there is none.
      not_logged: Rows whose log has no such column: an older model, or one that is left out or hashed.
      distance: Of numbers, the sum over rows of both of |a - b| / ((|a| + |b|) / 2), 0 of equal ones.
      both: Rows in which both have a value.
      examples: Of differing rows: key, version, instant, logged and recomputed value.
    """

    feature: Feature
    rows: int = 0
    mismatch: int = 0
    missing: int = 0
    extra: int = 0
    not_logged: int = 0
    distance: float = 0.0
    both: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def differing(self) -> int:
        """Rows that are not the same."""
        return self.mismatch + self.missing + self.extra

    @property
    def share(self) -> float:
        """Of the compared rows that differ; 0 of none."""
        return self.differing / self.rows if self.rows else 0.0

    @property
    def smape(self) -> float:
        """Symmetric mean absolute percentage error of numbers, as a share from 0 to 2."""
        return self.distance / self.both if self.both else 0.0

    def to_json(self) -> dict[str, Any]:
        """For the artifact."""
        counts = {name: getattr(self, name) for name in ("rows", "mismatch", "missing", "extra", "not_logged")}
        return {"feature": self.feature.name, **counts, "smape": self.smape, "examples": self.examples}


@dataclass
class Sampled:
    """Logged rows, each once.

    Args:
      rows: With `_key` and the log's columns; those of which the hash of the key is smallest.
      seen: How many answered rows the log has in the interval, those that were written twice counted twice.
    """

    rows: pa.Table
    seen: int


def sampled(root: Path, model: str, interval: Interval, limit: int) -> Sampled:
    """Reads answered rows of the log, and keeps those of some keys; the same keys each time.

    Args:
      root: Folder of the log.
      model: The model.
      interval: When it was answered.
      limit: Rows that are kept, about.

    Raises:
      TerminalError: A file is broken.
    """
    kept: list[pa.Table] = []
    seen = held = 0
    bound = np.uint64(2**64 - 1)
    for piece in prediction_log.pieces(root, model, interval):
        start, end = (pa.scalar(moment, pa.timestamp("us", "UTC")) for moment in (interval.start, interval.end))
        inside = (pc.field(TIME) >= start) & (pc.field(TIME) < end) & (pc.field("code") == ANSWERED)
        rows = piece.filter(inside & (pc.field("rows") > 0))
        if not rows.num_rows:
            continue
        seen += rows.num_rows
        keys = key_of(rows)
        hashes = pd.util.hash_array(np.asarray(keys.to_pylist(), object), categorize=False)
        rows = rows.append_column(_KEY, keys).append_column(_HASH, pa.array(hashes))
        rows = rows.filter(pa.array(hashes <= bound))
        kept.append(rows)
        held += rows.num_rows
        if held > 2 * limit:
            kept, bound, held = _smallest(kept, limit)
    if not kept:
        return Sampled(pa.table({_KEY: pa.array([], pa.string())}), seen)
    rows = pa.concat_tables(_smallest(kept, limit)[0], promote_options="permissive")
    names = list(_NAMES)
    numbered = rows.select(names).append_column("number", pa.array(range(rows.num_rows), pa.int64()))
    first = numbered.group_by(names).aggregate([("number", "min")])["number_min"]
    return Sampled(rows.take(first.combine_chunks().sort()).drop_columns([_HASH]), seen)


def _smallest(kept: list[pa.Table], limit: int) -> tuple[list[pa.Table], np.uint64, int]:
    """Rows whose hash is among the smallest, all rows of a key."""
    hashes = np.sort(np.concatenate([table[_HASH].to_numpy() for table in kept]))
    bound = hashes[min(limit, len(hashes)) - 1]
    smallest = [table.filter(pa.array(table[_HASH].to_numpy() <= bound)) for table in kept]
    smallest = [table for table in smallest if table.num_rows]
    return smallest, bound, sum(table.num_rows for table in smallest)


def matching(tables: Iterable[pa.Table], key: str, sample: Sampled) -> Iterator[pa.Table]:
    """The recomputed rows of the keys of a sample."""
    wanted = sample.rows[_KEY].unique()
    for table in tables:
        yield table.filter(pc.is_in(table[key], value_set=wanted))


def compare(
    schema: ExampleSchema, sample: Sampled, recomputed: pa.Table, key: str, tolerance: float
) -> tuple[list[FeatureSkew], int]:
    """Compares logged with recomputed features.

    Args:
      schema: Of the examples.
      sample: Logged rows.
      recomputed: Rows with the key and all features, at most one for each key.
      key: Its column.
      tolerance: Numbers are the same that differ by so much at most, relative to the larger of 1 and the recomputed
        one: float32 has 6e-8.

    Returns:
      The features in the schema's order, and how many logged rows the batch does not know.
    """
    places = {name: place for place, name in enumerate(recomputed[key].to_pylist())}
    keys = sample.rows[_KEY].to_pylist()
    at = np.array([places.get(name, -1) for name in keys], np.int64)
    known = np.flatnonzero(at >= 0)
    logged = sample.rows.take(pa.array(known))
    there = recomputed.take(pa.array(at[known]))
    others = [_parsed(text) for text in logged[OTHER_INPUTS].to_pylist()] if OTHER_INPUTS in logged.column_names else []
    names = {
        "key": logged[_KEY].to_pylist() if len(known) else [],
        "version": logged[VERSION].to_pylist() if len(known) else [],
        "time": [str(moment) for moment in logged[TIME].to_pylist()] if len(known) else [],
    }
    compared = [
        _compared(feature, _logged(feature, logged, others), there[feature.name], names, tolerance)
        for feature in schema.features
    ]
    return compared, len(keys) - len(known)


def _logged(feature: Feature, rows: pa.Table, others: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Logged values [rows]; `_ABSENT` where the log does not have the feature."""
    if INPUT + feature.name in rows.column_names:
        return rows[INPUT + feature.name].to_pylist()
    if others:
        return [row.get(feature.name, _ABSENT) for row in others]
    return [_ABSENT] * rows.num_rows


_ABSENT = object()


def _compared(
    feature: Feature, logged: list[Any], recomputed: pa.ChunkedArray, names: Mapping[str, list[Any]], tolerance: float
) -> FeatureSkew:
    skew = FeatureSkew(feature)
    batch = kind_of(feature).numpy(feature, recomputed).tolist()
    for row, (here, other) in enumerate(zip(logged, batch, strict=True)):
        if here is _ABSENT:
            skew.not_logged += 1
            continue
        skew.rows += 1
        a, b = _plain(feature, here), _plain(feature, other)
        if a is None or b is None:
            kind = "" if a is b else "missing" if a is None else "extra"
        else:
            skew.both += 1
            kind = "" if _same(a, b, tolerance) else "mismatch"
            if isinstance(a, float) and isinstance(b, float) and kind:
                skew.distance += 2 * abs(a - b) / (abs(a) + abs(b))
        if kind:
            setattr(skew, kind, getattr(skew, kind) + 1)
            if len(skew.examples) < EXAMPLES:
                place = {name: values[row] for name, values in names.items()}
                skew.examples.append({**place, "kind": kind, "logged": _shown(a), "recomputed": _shown(b)})
    return skew


def _plain(feature: Feature, value: Any) -> Any:
    """A value in the form that both sides share; None where it is missing."""
    if feature.kind == "number":
        number = float("nan") if value is None else float(np.float32(value))
        return None if np.isnan(number) else number
    if feature.kind == "vector":
        numbers = [float("nan") if one is None else float(np.float32(one)) for one in value or ()]
        return None if not numbers or all(np.isnan(numbers)) else numbers
    if feature.kind == "categories":
        return [_text(one) for one in value or () if one] or None
    return _text(value) or None


def _text(value: Any) -> str:
    """Text; bytes that are none as the log writes them."""
    if not isinstance(value, bytes):
        return value or ""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _BASE64 + base64.b64encode(value).decode()


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, float):
        return bool(abs(a - b) <= tolerance * max(1.0, abs(b)))
    if isinstance(a, list) and a and isinstance(a[0], float):
        return len(a) == len(b) and bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(a == b)


def _shown(value: Any) -> Any:
    return value[:100] if isinstance(value, str) else value


def _parsed(text: str | None) -> Mapping[str, Any]:
    return orjson.loads(text) if text else {}
