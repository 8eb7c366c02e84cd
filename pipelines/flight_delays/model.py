"""The network: piecewise-linear numbers, embedded categories, crosses, an ensemble of members on top.

Every number is told by where it lies between quantiles of the rows that are fitted, so that its unit, its skew and its
outliers do not matter, and a missing one has an embedding of its own. A wide part adds up what each number says alone;
cross layers multiply embeddings with each other; the members of the ensemble share their matrices and differ in how
they scale what goes in and out of them (BatchEnsemble, as in TabM): a mean of many, at little cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from components.data.examples import Columns
from components.schema import ExampleSchema

CATEGORIES, NUMBERS = "categories", "numbers"
_register = keras.saving.register_keras_serializable("airtight.flight_delays")


LEFT_OUT = ("temp", "dewp", "humid", "pressure")
"""Numbers that the network does not look at: over a few months they tell which day it is rather than what is going on,
and validation months up to May are predicted better without them."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; chosen on validation months up to May, see docs/benchmarks.md.

    Args:
      bins: Quantile bins of a number.
      width: Size of a number's embedding.
      category_width: Largest size of a category's embedding.
      category_rows: A category of fewer rows than this counts as unknown.
      crosses: Cross layers (DCN-v2) over all embeddings.
      cross_rank: Rank of a cross layer's matrix.
      hidden: Units of the hidden layers; the first is one for all members.
      members: Of the ensemble.
      dropout: Share of hidden units left out in training.
      input_dropout: Share of the embeddings' units left out in training.
    """

    bins: int = 64
    width: int = 2
    category_width: int = 4
    category_rows: int = 20
    crosses: int = 4
    cross_rank: int = 32
    hidden: tuple[int, ...] = (128, 64)
    members: int = 8
    dropout: float = 0.4
    input_dropout: float = 0.2


def build(schema: ExampleSchema, columns: Columns) -> tuple[keras.Model, Callable[[], keras.Model]]:
    """As `components.train` wants it: what prepares raw features, and what builds the network.

    Args:
      schema: The features, by name and kind.
      columns: The rows that are fitted, raw; vocabularies and quantiles are learned from them alone.

    Returns:
      `preprocess`, from raw features by name, each [batch], to {"categories": int64 [batch, categories],
      "numbers": float32 [batch, numbers]}; and a function that builds the network, to logits [batch, members].
    """
    shape = Shape()
    vocabularies = [_vocabulary(columns[name], shape.category_rows) for name in schema.of_kind("category")]
    edges = [quantile_edges(columns[name], shape.bins).tolist() for name in _numbers(schema)]

    def build_network() -> keras.Model:
        return _network([len(words) + 1 for words in vocabularies], edges, shape)

    return _preprocess(schema, vocabularies), build_network


def quantile_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Edges of quantile bins, float32 [bins + 1], never falling; equal ones bound a bin of no width.

    Args:
      values: A number's values, [rows]; NaN where missing.
      bins: How many.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(bins + 1, np.float32)
    unique = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)).astype(np.float32))
    # A value so common that it fills several quantiles frees bins: the rest is spread over the other values.
    others = np.unique(known)
    if len(others) <= bins + 1:
        unique = others.astype(np.float32)
    return np.pad(unique, (0, bins + 1 - len(unique)), mode="edge")


def _numbers(schema: ExampleSchema) -> list[str]:
    return [name for name in schema.of_kind("number") if name not in LEFT_OUT]


def _vocabulary(values: np.ndarray, rows: int) -> list[str]:
    words, counts = np.unique(values.astype(str), return_counts=True)
    return [str(word) for word, count in zip(words, counts, strict=True) if count >= rows and word]


def _preprocess(schema: ExampleSchema, vocabularies: list[list[str]]) -> keras.Model:
    inputs = {
        feature.name: keras.Input((), dtype="string" if feature.kind == "category" else "float32", name=feature.name)
        for feature in schema.features
    }
    codes = [
        layers.StringLookup(vocabulary=words, num_oov_indices=1)(inputs[name])
        for name, words in zip(schema.of_kind("category"), vocabularies, strict=True)
    ]
    numbers = [inputs[name] for name in _numbers(schema)]
    return keras.Model(inputs, {CATEGORIES: ops.stack(codes, axis=-1), NUMBERS: ops.stack(numbers, axis=-1)})


def _network(sizes: list[int], edges: list[list[float]], shape: Shape) -> keras.Model:
    categories = keras.Input((len(sizes),), dtype="int64", name=CATEGORIES)
    numbers = keras.Input((len(edges),), name=NUMBERS)
    embedded = [layers.Flatten()(PiecewiseLinear(edges, shape.width)(numbers))]
    for place, size in enumerate(sizes):
        width = min(shape.category_width, max(2, size // 2))
        start = keras.initializers.RandomNormal(stddev=0.3)
        embedded.append(layers.Embedding(size, width, embeddings_initializer=start)(categories[:, place]))
    x = first = layers.Dropout(shape.input_dropout)(layers.Concatenate()(embedded))
    for _ in range(shape.crosses):
        low = layers.Dense(shape.cross_rank, use_bias=False)(x)
        x = layers.Add()([x, layers.Multiply()([first, layers.Dense(first.shape[-1])(low)])])
    x = layers.Dropout(shape.dropout)(layers.Dense(shape.hidden[0], activation="relu")(x))
    x = layers.Reshape((1, shape.hidden[0]))(x)
    for depth, units in enumerate(shape.hidden[1:]):
        x = layers.Activation("relu")(MemberDense(units, shape.members, differ=not depth)(x))
        x = layers.Dropout(shape.dropout)(x)
    wide = layers.Flatten()(PiecewiseLinear(edges, 1, straight=True)(numbers))
    logits = layers.Add()([MemberHeads(shape.members)(x), layers.Dense(1, kernel_initializer="ones")(wide)])
    return keras.Model({CATEGORIES: categories, NUMBERS: numbers}, logits)


@_register
class PiecewiseLinear(layers.Layer):
    """Numbers [batch, numbers] to embeddings [batch, numbers, width]: linear within each bin, and continuous.

    Args:
      edges: For each number the edges of its bins, never falling.
      width: Size of an embedding.
      straight: Starts at nothing and has no ReLU: each number's own share of a sum.
    """

    def __init__(self, edges: list[list[float]], width: int, straight: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edges, self.width, self.straight = edges, width, straight
        table = np.array(edges, np.float32)
        widths = table[:, 1:] - table[:, :-1]
        # A bin of no width adds nothing; the others share the way from 0 to 1 evenly.
        share = 1 / np.maximum((widths > 0).sum(axis=1, keepdims=True), 1)
        self._low = table[:, :-1]
        self._slope = np.where(widths > 0, 1 / np.where(widths > 0, widths, 1), 0).astype(np.float32)
        self._share = share.astype(np.float32)

    def build(self, _: Any) -> None:
        """Makes the weights; every embedding starts as a straight line over the quantiles, and learns to bend."""
        numbers, bins = self._low.shape
        slope = keras.initializers.RandomNormal(stddev=0.0 if self.straight else 1.5)
        spread = keras.initializers.RandomNormal(stddev=0.0 if self.straight else 0.5)

        def line(shape: tuple[int, ...], dtype: Any = None) -> Any:
            return ops.repeat(slope((shape[0], 1, shape[2]), dtype), shape[1], axis=1)

        self.steps = self.add_weight(name="steps", shape=(numbers, bins, self.width), initializer=line)
        self.bias = self.add_weight(name="bias", shape=(numbers, self.width), initializer=spread)
        self.missing = self.add_weight(name="missing", shape=(numbers, self.width), initializer=spread)

    def call(self, numbers: Any) -> Any:
        """Embeds; NaN gets the number's own embedding of a missing value."""
        absent = ops.isnan(numbers)
        known = ops.where(absent, 0.0, numbers)[:, :, None]
        within = ops.clip((known - self._low) * self._slope, 0.0, 1.0) * self._share
        middle = self.bias - 0.5 * ops.mean(self.steps, axis=1)
        embedded = ops.where(absent[:, :, None], self.missing, ops.einsum("bnk,nkw->bnw", within, self.steps) + middle)
        return embedded if self.straight else ops.relu(embedded)

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "edges": self.edges, "width": self.width, "straight": self.straight}


@_register
class MemberDense(layers.Layer):
    """A dense layer that members share, each scaling what goes in and comes out: [batch, 1 or members, in] to units.

    Args:
      units: Units of a member.
      members: How many.
      differ: Whether the scales going in start at random signs, so that the members differ from the start.
    """

    def __init__(self, units: int, members: int, differ: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.members, self.differ = units, members, differ

    def build(self, shape: Any) -> None:
        """Makes the weights."""
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.units), initializer="he_normal")
        self.scale_in = self.add_weight(
            name="scale_in", shape=(self.members, shape[-1]), initializer=_signs if self.differ else "ones"
        )
        self.scale_out = self.add_weight(name="scale_out", shape=(self.members, self.units), initializer="ones")
        self.bias = self.add_weight(name="bias", shape=(self.members, self.units), initializer="zeros")

    def call(self, x: Any) -> Any:
        """Each member's own answer, [batch, members, units]."""
        return ops.matmul(x * self.scale_in, self.kernel) * self.scale_out + self.bias

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "units": self.units, "members": self.members, "differ": self.differ}


@_register
class MemberHeads(layers.Layer):
    """A logit of each member, [batch, members], of [batch, members, in].

    Args:
      members: How many.
    """

    def __init__(self, members: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members = members

    def build(self, shape: Any) -> None:
        """Makes the weights."""
        self.kernel = self.add_weight(name="kernel", shape=(self.members, shape[-1]), initializer="glorot_normal")
        self.bias = self.add_weight(name="bias", shape=(self.members,), initializer="zeros")

    def call(self, x: Any) -> Any:
        """Logits."""
        return ops.sum(x * self.kernel, axis=-1) + self.bias

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "members": self.members}


def _signs(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.sign(keras.random.normal(shape, dtype=dtype))
