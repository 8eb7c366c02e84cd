"""Piecewise-linear encoding of numbers: by where each one lies between quantiles of the rows that are fitted.

So a number's unit, its skew and its outliers do not matter, and a missing one has an embedding of its own.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from components.modelling.constant_folding import FoldedLayer

_register = keras.saving.register_keras_serializable("airtight")


def quantile_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Edges of quantile bins, float32, rising: at least 1 and at most `bins` + 1 of them.

    Args:
      values: A number's values, [rows]; NaN where missing.
      bins: How many bins at most; a value so common that it fills several quantiles leaves fewer.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(1, np.float32)
    others = np.unique(known)
    if len(others) <= bins + 1:
        return others.astype(np.float32)
    return np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)).astype(np.float32))


@_register
class BinIndex(layers.Layer):
    """Numbers [batch, numbers] to their bins, integers, and how far in them they lie, float32, 0 to 1.

    It has no weights, so it is done once for all epochs, and kept in a byte where there are no more than 255 bins. A
    missing number lies in a bin of its own behind all others.

    Args:
      edges: For each number the edges of its bins, rising.
    """

    def __init__(self, edges: list[list[float]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edges = edges
        self._last = np.array([max(len(number) - 2, 0) for number in edges], np.int32)
        self._most = int(self._last.max()) + 1
        self._kind = "uint8" if self._most < 256 else "int32"  # noqa: PLR2004 - what a byte holds
        table = np.full((len(edges), self._most + 1), np.inf, np.float32)
        for row, number in zip(table, edges, strict=True):
            row[: len(number)] = number
        self._inner, self._low = table[:, 1:-1], table[:, :-1]
        with np.errstate(invalid="ignore"):
            widths = table[:, 1:] - table[:, :-1]
        self._width = np.where(np.isfinite(widths), widths, 1).astype(np.float32)

    def call(self, numbers: Any) -> tuple[Any, Any]:
        """Bin and fraction; below the first edge it is the first bin's start, above the last the last bin's end."""
        absent = tf.math.is_nan(numbers)
        known = tf.where(absent, self._low[:, 0], numbers)
        inner = tf.constant(self._inner)
        index = tf.transpose(tf.searchsorted(inner, tf.transpose(known), side="right"))
        index = tf.minimum(index, self._last)
        bins = index + self._most * np.arange(len(self.edges), dtype=np.int32)
        low, width = tf.gather(self._low.reshape(-1), bins), tf.gather(self._width.reshape(-1), bins)
        fraction = tf.clip_by_value((known - low) / width, 0.0, 1.0)
        return tf.cast(tf.where(absent, self._most, index), self._kind), tf.where(absent, 0.0, fraction)

    def compute_output_spec(self, numbers: Any) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Both as long as the numbers."""
        return keras.KerasTensor(numbers.shape, self._kind), keras.KerasTensor(numbers.shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "edges": self.edges}


@_register
class PiecewiseLinear(FoldedLayer):
    """What `BinIndex` answers to embeddings [batch, numbers, width]: linear in a bin, continuous.

    An embedding is looked up: where its bin starts, and what the bin adds from its start to its end. All bins of a
    number share evenly what lies between its ends.

    Args:
      bins: For each number how many bins it has; 0 where it has one value alone.
      width: Size of an embedding.
      straight: Starts at nothing and has no ReLU: each number's own share of a sum.
    """

    def __init__(self, bins: list[int], width: int, straight: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins, self.width, self.straight = bins, width, straight
        known = np.arange(max(1, *bins)) < np.array(bins)[:, None]
        self._share = (known / np.maximum(np.array(bins), 1)[:, None])[:, :, None].astype(np.float32)

    def build(self, *_: Any) -> None:
        """Makes the weights; every embedding starts as a straight line over the quantiles, and learns to bend."""
        numbers, bins, _ = self._share.shape
        slope = keras.initializers.RandomNormal(stddev=0.0 if self.straight else 1.5)
        spread = keras.initializers.RandomNormal(stddev=0.0 if self.straight else 0.5)
        # One unit rises and the next falls: so after the ReLU they see both ends of every number.
        signs = np.where(np.arange(self.width) % 2, -1, 1).astype(np.float32)

        def line(shape: tuple[int, ...], dtype: Any = None) -> Any:
            return ops.repeat(ops.abs(slope((shape[0], 1, shape[2]), dtype)) * signs, shape[1], axis=1)

        self.steps = self.add_weight(name="steps", shape=(numbers, bins, self.width), initializer=line)
        self.bias = self.add_weight(name="bias", shape=(numbers, self.width), initializer=spread)
        self.missing = self.add_weight(name="missing", shape=(numbers, self.width), initializer=spread)

    def of_weights(self) -> Any:
        """Start and step of each bin, [numbers * (bins + 1), 2 * width]; a number's last one is for missing ones."""
        numbers = self._share.shape[0]
        step = self.steps * self._share
        start = ops.cumsum(step, axis=1) - step + (self.bias - 0.5 * ops.mean(self.steps, axis=1))[:, None, :]
        absent = ops.stack([self.missing, ops.zeros_like(self.missing)], axis=1)
        absent = ops.reshape(absent, (numbers, 1, 2 * self.width))
        table = ops.concatenate([ops.concatenate([start, step], axis=2), absent], axis=1)
        return ops.reshape(table, (-1, 2 * self.width))

    def call(self, bin_index: Any, bin_fraction: Any) -> Any:
        """Embeds; a missing number gets its own embedding."""
        numbers, bins, _ = self._share.shape
        rows = ops.cast(bin_index, "int32") + (bins + 1) * np.arange(numbers, dtype=np.int32)
        looked_up = ops.take(self.folded(), rows, axis=0)
        # Split, not sliced: a slice's gradient is as large as the whole, and all of them would be added up.
        start, step = ops.split(looked_up, 2, axis=2)
        embedded = start + bin_fraction[:, :, None] * step
        return embedded if self.straight else ops.relu(embedded)

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "bins": self.bins, "width": self.width, "straight": self.straight}
