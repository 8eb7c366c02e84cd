"""Raw features as a model takes them: from columns of examples to arrays and tensors, by the kind of each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from components.data.feature_kinds import kind_of
from components.schema import Feature


def columns(table: pa.Table, features: Sequence[Feature]) -> dict[str, np.ndarray]:
    """Columns by name, each [rows, ...]; see `components.data.feature_kinds`."""
    return {feature.name: kind_of(feature).numpy(feature, table[feature.name]) for feature in features}


def tensors(raw: Mapping[str, np.ndarray], features: Sequence[Feature]) -> dict[str, tf.Tensor]:
    """Raw columns as the tensors that `preprocess` takes."""
    return {feature.name: tf.constant(raw[feature.name], kind_of(feature).tensor(feature)[0]) for feature in features}


def specs(features: Sequence[Feature]) -> dict[str, tf.TensorSpec]:
    """Type and shape of each raw feature's tensor."""
    return {feature.name: kind_of(feature).tensor_spec(feature) for feature in features}


def parsers(features: Sequence[Feature]) -> dict[str, Any]:
    """How each raw feature is read from a tf.Example; one that lacks it lacks the value."""
    return {feature.name: kind_of(feature).parse_spec(feature) for feature in features}
