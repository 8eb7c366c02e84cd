"""The model: a network of piecewise-linear numbers, embedded categories and crosses, and boosted trees beside it.

Every number is told by where it lies between quantiles of the rows that are fitted, so that its unit, its skew and its
outliers do not matter, and a missing one has an embedding of its own. A wide part adds up what each number says alone;
cross layers multiply embeddings with each other; the members of the ensemble share their matrices and differ in how
they scale what goes in and out of them (BatchEnsemble, as in TabM): a mean of many, at little cost. The trees err
elsewhere than the network does, and the mean of both is better than either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from components.data.examples import Columns
from components.modelling.fitting import Batched
from components.modelling.folding import Folding
from components.modelling.parts import Labelled, Parts
from components.modelling.saved_model import raw_tensors
from components.schema import ExampleSchema
from pipelines.flight_delays import forest

CATEGORIES, PLACES, WAYS = "categories", "places", "ways"
_register = keras.saving.register_keras_serializable("airtight.flight_delays")


LEFT_OUT = ("temp", "dewp", "humid", "pressure")
"""Numbers that the network does not look at: over a few months they tell which day it is rather than what is going on,
and validation months up to May are predicted better without them. The trees do."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; chosen on validation months up to May, see docs/benchmarks-quality.md.

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


def build(
    schema: ExampleSchema, fitted: Labelled, validation: Labelled | None, chosen: Mapping[str, Any], seed: int
) -> Parts:
    """As `components.train` wants it.

    Args:
      schema: The features, by name and kind.
      fitted: The rows that are fitted; vocabularies, quantiles and trees are learned from them alone.
      validation: Rows that choose the number of trees.
      chosen: {"trees": how many} of an earlier fit, which counts where there are no validation rows.
      seed: Of the trees.

    Returns:
      `preprocess`, to {"categories": int64 [batch, categories], "places": int32 [batch, numbers], "ways": float32
      [batch, numbers]}, the network on them, the trees as the companion, how many trees were chosen, and the words of
      the embeddings. A network may start from an earlier one's weights; trees are always grown from scratch.
    """
    shape = Shape()
    inputs = {
        feature.name: keras.Input((), dtype="string" if feature.kind == "category" else "float32", name=feature.name)
        for feature in schema.features
    }
    vocabularies = [_vocabulary(fitted.columns[name], shape.category_rows) for name in schema.of_kind("category")]
    codes = [
        layers.StringLookup(vocabulary=words, num_oov_indices=1)(inputs[name])
        for name, words in zip(schema.of_kind("category"), vocabularies, strict=True)
    ]
    coded = ops.stack(codes, axis=-1)
    looked_at = [name for name in schema.of_kind("number") if name not in LEFT_OUT]
    edges = [quantile_edges(fitted.columns[name], shape.bins).tolist() for name in looked_at]
    places, ways = Places(edges)(ops.stack([inputs[name] for name in looked_at], axis=-1))

    code = Batched(keras.Model(inputs, coded))

    def seen(rows: Labelled) -> forest.Seen:
        return forest.Seen(_numbers(schema, rows.columns), code(raw_tensors(rows.columns, schema)), rows.labels)

    booster = forest.grow(
        seen(fitted), seen(validation) if validation else None, chosen.get("trees", forest.UNWATCHED), seed
    )
    numbers = ops.stack([inputs[name] for name in schema.of_kind("number")], axis=-1)
    trees = forest.planted(booster, len(schema.of_kind("number")))

    def build_network() -> keras.Model:
        return _network([len(words) + 1 for words in vocabularies], [len(each) - 1 for each in edges], shape)

    return Parts(
        preprocess=keras.Model(inputs, {CATEGORIES: coded, PLACES: places, WAYS: ways}),
        build_network=build_network,
        companion=keras.Model(inputs, trees(numbers, coded)),
        chosen={"trees": booster.num_trees()},
        words={f"embedding_{number}/embeddings": ["", *words] for number, words in enumerate(vocabularies)},
    )


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


def _numbers(schema: ExampleSchema, columns: Columns) -> np.ndarray:
    return np.stack([columns[name] for name in schema.of_kind("number")], axis=1).astype(np.float32)


def _vocabulary(values: np.ndarray, rows: int) -> list[str]:
    words, counts = np.unique(values.astype(str), return_counts=True)
    return [str(word) for word, count in zip(words, counts, strict=True) if count >= rows and word]


def _network(sizes: list[int], bins: list[int], shape: Shape) -> keras.Model:
    categories = keras.Input((len(sizes),), dtype="int64", name=CATEGORIES)
    places = keras.Input((len(bins),), dtype="int32", name=PLACES)
    ways = keras.Input((len(bins),), name=WAYS)
    embedded = [layers.Flatten()(PiecewiseLinear(bins, shape.width)(places, ways))]
    for number, size in enumerate(sizes):
        width = min(shape.category_width, max(2, size // 2))
        start = keras.initializers.RandomNormal(stddev=0.3)
        embedded.append(layers.Embedding(size, width, embeddings_initializer=start)(categories[:, number]))
    x = first = layers.Dropout(shape.input_dropout)(layers.Concatenate()(embedded))
    for _ in range(shape.crosses):
        low = layers.Dense(shape.cross_rank, use_bias=False)(x)
        x = layers.Add()([x, layers.Multiply()([first, layers.Dense(first.shape[-1])(low)])])
    x = layers.Dropout(shape.dropout)(layers.Dense(shape.hidden[0], activation="relu")(x))
    x = layers.Reshape((1, shape.hidden[0]))(x)
    for depth, units in enumerate(shape.hidden[1:]):
        x = layers.Activation("relu")(MemberDense(units, shape.members, differ=not depth)(x))
        x = layers.Dropout(shape.dropout)(x)
    wide = layers.Flatten()(PiecewiseLinear(bins, 1, straight=True)(places, ways))
    logits = layers.Add()([MemberHeads(shape.members)(x), layers.Dense(1, kernel_initializer="ones")(wide)])
    return keras.Model({CATEGORIES: categories, PLACES: places, WAYS: ways}, logits)


@_register
class Places(layers.Layer):
    """Where numbers [batch, numbers] lie: in which bin, int32 [batch, numbers], and how far in it, float32, 0 to 1.

    It has no weights, so it is done once for all epochs. A missing number lies in a bin of its own behind all others.

    Args:
      edges: For each number the edges of its bins, rising.
    """

    def __init__(self, edges: list[list[float]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edges = edges
        self._last = np.array([max(len(each) - 2, 0) for each in edges], np.int32)
        self._most = int(self._last.max()) + 1
        table = np.full((len(edges), self._most + 1), np.inf, np.float32)
        for row, each in zip(table, edges, strict=True):
            row[: len(each)] = each
        self._inner, self._low = table[:, 1:-1], table[:, :-1]
        with np.errstate(invalid="ignore"):
            widths = table[:, 1:] - table[:, :-1]
        self._width = np.where(np.isfinite(widths), widths, 1).astype(np.float32)

    def call(self, numbers: Any) -> tuple[Any, Any]:
        """Bins and ways; below the first edge it is the first bin's start, above the last the last bin's end."""
        absent = tf.math.is_nan(numbers)
        known = tf.where(absent, self._low[:, 0], numbers)
        inner = tf.constant(self._inner)
        places = tf.transpose(tf.searchsorted(inner, tf.transpose(known), side="right"))
        places = tf.minimum(places, self._last)
        bins = places + self._most * np.arange(len(self.edges), dtype=np.int32)
        low, width = tf.gather(self._low.reshape(-1), bins), tf.gather(self._width.reshape(-1), bins)
        ways = tf.clip_by_value((known - low) / width, 0.0, 1.0)
        return tf.where(absent, self._most, places), tf.where(absent, 0.0, ways)

    def compute_output_spec(self, numbers: Any) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Both as long as the numbers."""
        return keras.KerasTensor(numbers.shape, "int32"), keras.KerasTensor(numbers.shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "edges": self.edges}


@_register
class PiecewiseLinear(Folding):
    """Bins and ways [batch, numbers], of `Places`, to embeddings [batch, numbers, width]: linear in a bin, continuous.

    An embedding is looked up: where its bin starts, and what the way through the bin adds. All bins of a number share
    evenly what lies between its ends.

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

    def call(self, places: Any, ways: Any) -> Any:
        """Embeds; a missing number gets its own embedding."""
        numbers, bins, _ = self._share.shape
        rows = places + (bins + 1) * np.arange(numbers, dtype=np.int32)
        found = ops.take(self.folded(), rows, axis=0)
        # Split, not sliced: a slice's gradient is as large as the whole, and all of them would be added up.
        at_start, on_the_way = ops.split(found, 2, axis=2)
        embedded = at_start + ways[:, :, None] * on_the_way
        return embedded if self.straight else ops.relu(embedded)

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "bins": self.bins, "width": self.width, "straight": self.straight}


@_register
class MemberDense(Folding):
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

    def of_weights(self) -> Any:
        """The matrices of all members beside each other, [in, members * units]."""
        weights = ops.transpose(self.scale_in)[:, :, None] * self.kernel[:, None, :] * self.scale_out
        return ops.reshape(weights, (self.kernel.shape[0], -1))

    def call(self, x: Any) -> Any:
        """Each member's own answer, [batch, members, units]."""
        if x.shape[1] != 1:
            return ops.matmul(x * self.scale_in, self.kernel) * self.scale_out + self.bias
        # All members see the same: scaling the weights takes as many products as they are, not as there are rows.
        answers = ops.matmul(ops.squeeze(x, axis=1), self.folded())
        return ops.reshape(answers, (-1, self.members, self.units)) + self.bias

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
