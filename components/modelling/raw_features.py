"""Raw features: from columns of examples to arrays and tensors, by the kind of each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from components.schema import Feature

_STRINGS = ("category", "categories", "text", "image")


def columns(table: pa.Table, features: Sequence[Feature]) -> dict[str, np.ndarray]:
    """Columns by name: object arrays of str or bytes [rows], [rows, longest] for "categories"; float32 for others."""
    return {feature.name: _array(table[feature.name], feature) for feature in features}


def tensors(raw: Mapping[str, np.ndarray], features: Sequence[Feature]) -> dict[str, tf.Tensor]:
    """Raw columns as the tensors that `preprocess` takes."""
    return {feature.name: tf.constant(raw[feature.name], _dtype(feature)) for feature in features}


def specs(features: Sequence[Feature]) -> dict[str, tf.TensorSpec]:
    """Type and shape of each raw feature's tensor."""
    return {
        feature.name: tf.TensorSpec([None, *_shape(feature)], _dtype(feature), name=feature.name)
        for feature in features
    }


def parsers(features: Sequence[Feature]) -> dict[str, Any]:
    """How each raw feature is read from a tf.Example; one that lacks it lacks the value."""
    answer: dict[str, Any] = {}
    for feature in features:
        if feature.kind == "categories":
            answer[feature.name] = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True, default_value="")
        elif feature.kind == "vector":
            missing = [float("nan")] * feature.length
            answer[feature.name] = tf.io.FixedLenFeature([feature.length], tf.float32, missing)
        else:
            missing_value: Any = "" if feature.kind in _STRINGS else float("nan")
            answer[feature.name] = tf.io.FixedLenFeature([], _dtype(feature), missing_value)
    return answer


def _array(column: pa.ChunkedArray, feature: Feature) -> np.ndarray:
    if feature.kind == "categories":
        rows = [row or [] for row in column.to_pylist()]
        width = max([1, *map(len, rows)])
        padded = np.full((len(rows), width), "", object)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return padded
    if feature.kind == "vector":
        missing = [float("nan")] * feature.length
        rows = [missing if row is None else row for row in column.to_pylist()]
        return np.array(rows, np.float32).reshape(len(rows), feature.length)
    if feature.kind in _STRINGS:
        empty = b"" if feature.kind == "image" else ""
        return column.fill_null(empty).to_numpy(zero_copy_only=False).astype(object)
    return column.fill_null(float("nan")).to_numpy(zero_copy_only=False).astype(np.float32)


def _dtype(feature: Feature) -> Any:
    return tf.string if feature.kind in _STRINGS else tf.float32


def _shape(feature: Feature) -> tuple[int | None, ...]:
    return {"categories": (None,), "vector": (feature.length,)}.get(feature.kind, ())
