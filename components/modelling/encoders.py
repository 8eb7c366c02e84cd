"""From raw features to vectors: of each kind what is computed once for all epochs, and what the network learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from components.data.feature_kinds import kind_of
from components.modelling.encoder_layers import DecodedImage, FixedLength, HashedWords, Standardized
from components.modelling.labelled_examples import LabelledExamples, Statistics
from components.modelling.piecewise_linear import BinIndex, PiecewiseLinear, quantile_edges
from components.schema import ExampleSchema, Feature

BIN_INDEX, BIN_FRACTION, CATEGORIES = "bin_index", "bin_fraction", "categories"
Tensors = Mapping[str, Any]


class Encoder(ABC):
    """What is done with some features."""

    @abstractmethod
    def preprocess(self, raw: Tensors) -> dict[str, Any]:
        """The network's inputs by name, of raw features by name: Keras tensors of fixed shape."""

    @abstractmethod
    def embed(self, inputs: Tensors) -> list[Any]:
        """Vectors [batch, width] of the network's inputs by name."""

    @property
    def vocabulary(self) -> Mapping[str, Sequence[str]]:
        """The words of the embeddings that `embed` makes, as `ModelSpec.vocabulary`."""
        return {}


class Numbers(Encoder):
    """Piecewise-linear embeddings.

    Args:
      names: Features.
      fitted: The rows that are fitted.
      bins: Quantile bins of a number.
      width: Size of an embedding.
    """

    def __init__(self, names: Sequence[str], fitted: LabelledExamples, bins: int, width: int) -> None:
        self.names, self.width = names, width
        samples = fitted.samples(names)
        self.edges = [quantile_edges(samples[name], bins).tolist() for name in names]
        self.bins = [len(edges) - 1 for edges in self.edges]

    def preprocess(self, raw: Tensors) -> dict[str, Any]:
        """Bins, and how far in them."""
        index, fraction = BinIndex(self.edges)(ops.stack([raw[name] for name in self.names], axis=-1))
        return {BIN_INDEX: index, BIN_FRACTION: fraction}

    def embed(self, inputs: Tensors) -> list[Any]:
        """All numbers' embeddings beside each other."""
        return [layers.Flatten()(PiecewiseLinear(self.bins, self.width)(inputs[BIN_INDEX], inputs[BIN_FRACTION]))]

    def wide(self, inputs: Tensors) -> Any:
        """What each number adds alone, [batch, numbers]."""
        return layers.Flatten()(PiecewiseLinear(self.bins, 1, straight=True)(inputs[BIN_INDEX], inputs[BIN_FRACTION]))


class Categories(Encoder):
    """An embedding of each category; 0 is the code of unknown, rare and missing ones.

    Args:
      names: Features.
      vocabularies: Their words.
      width: Largest size of an embedding.
    """

    def __init__(self, names: Sequence[str], vocabularies: Sequence[Sequence[str]], width: int) -> None:
        self.names, self.words, self.width = names, vocabularies, width

    def preprocess(self, raw: Tensors) -> dict[str, Any]:
        """Codes, int32 [batch, categories]."""
        codes = [
            layers.StringLookup(vocabulary=words, num_oov_indices=1)(raw[name])
            for name, words in zip(self.names, self.words, strict=True)
        ]
        return {CATEGORIES: ops.cast(ops.stack(codes, axis=-1), "int32")}

    def embed(self, inputs: Tensors) -> list[Any]:
        """An embedding each."""
        return [
            _embedding(len(words) + 1, self.width)(inputs[CATEGORIES][:, place])
            for place, words in enumerate(self.words)
        ]

    @property
    def vocabulary(self) -> Mapping[str, Sequence[str]]:
        """One for each category; no other encoder makes embeddings without a name."""
        return {f"embedding_{place}/embeddings": ["", *words] for place, words in enumerate(self.words)}


class CategoryBag(Encoder):
    """The mean of the embeddings of a cell's categories, without those that are unknown or rare.

    Args:
      name: The feature.
      words: Its vocabulary.
      width: Largest size of an embedding.
      length: Categories of a cell at most; what is behind them does not count.
    """

    def __init__(self, name: str, words: Sequence[str], width: int, length: int) -> None:
        self.name, self.words, self.width, self.length = name, words, width, length

    def preprocess(self, raw: Tensors) -> dict[str, Any]:
        """Codes, int32 [batch, length], 0 behind the last."""
        codes = layers.StringLookup(vocabulary=self.words, num_oov_indices=1)(raw[self.name])
        return {f"bag_{self.name}": FixedLength(self.length)(ops.cast(codes, "int32"))}

    def embed(self, inputs: Tensors) -> list[Any]:
        """The mean."""
        return [_bag(f"bag_{self.name}", inputs, len(self.words) + 1, self.width)]

    @property
    def vocabulary(self) -> Mapping[str, Sequence[str]]:
        """Its words."""
        return {f"bag_{self.name}_words_0/embeddings": ["", *self.words]}


class TextBag(Encoder):
    """The mean of the embeddings of a text's words and pairs of words, by their hash.

    Args:
      name: The feature.
      buckets: Of the hash.
      width: Size of an embedding.
      length: Words and pairs at most.
    """

    def __init__(self, name: str, buckets: int, width: int, length: int) -> None:
        self.name, self.buckets, self.width, self.length = name, buckets, width, length

    def preprocess(self, raw: Tensors) -> dict[str, Any]:
        """Codes, int32 [batch, length], 0 behind the last."""
        return {f"text_{self.name}": HashedWords(self.buckets, self.length)(raw[self.name])}

    def embed(self, inputs: Tensors) -> list[Any]:
        """The mean."""
        return [_bag(f"text_{self.name}", inputs, self.buckets + 1, self.width)]


class Vector(Encoder):
    """A dense layer over a vector whose places have mean 0 and standard deviation 1; what is missing is 0.

    Args:
      feature: The feature.
      statistics: Of the rows that are fitted.
      width: Units.
    """

    def __init__(self, feature: Feature, statistics: Statistics, width: int) -> None:
        self.name, self.width = feature.name, width
        mean, deviation = statistics.vectors[feature.name]
        self.mean, self.deviation = np.nan_to_num(mean).tolist(), np.where(deviation > 0, deviation, 1).tolist()

    def preprocess(self, raw: Tensors) -> dict[str, Any]:
        """The vector, standardized."""
        return {f"vector_{self.name}": Standardized(self.mean, self.deviation)(raw[self.name])}

    def embed(self, inputs: Tensors) -> list[Any]:
        """The layer's units."""
        return [layers.Dense(self.width, activation="relu")(inputs[f"vector_{self.name}"])]


class Image(Encoder):
    """A small convolutional network over a decoded image of one size; a missing one is black.

    Args:
      name: The feature.
      size: Pixels of a side.
      width: Units.
    """

    def __init__(self, name: str, size: int, width: int) -> None:
        self.name, self.size, self.width = name, size, width

    def preprocess(self, raw: Tensors) -> dict[str, Any]:
        """Pixels, uint8 [batch, size, size, 3]."""
        return {f"image_{self.name}": DecodedImage(self.size)(raw[self.name])}

    def embed(self, inputs: Tensors) -> list[Any]:
        """Units over two convolutions."""
        x = layers.Rescaling(1 / 127.5, -1)(inputs[f"image_{self.name}"])
        for filters in (self.width // 4, self.width // 2):
            x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
        return [layers.Dense(self.width, activation="relu")(layers.Flatten()(x))]


def raw_inputs(schema: ExampleSchema) -> dict[str, keras.KerasTensor]:
    """A Keras input for each feature."""
    return {
        feature.name: keras.Input(shape, dtype=dtype, name=feature.name)
        for feature in schema.features
        for dtype, shape in [kind_of(feature).tensor(feature)]
    }


def vocabulary(statistics: Statistics, name: str, rows: int, most: int) -> list[str]:
    """The words of a column of categories that `rows` rows or more have, in order, and of these the `most` common."""
    counts = statistics.vocabularies[name]
    common = sorted((-count, word) for word, count in counts.items() if count >= rows)[:most]
    return sorted(word for _, word in common)


def _embedding(rows: int, width: int, name: str | None = None) -> layers.Embedding:
    start = keras.initializers.RandomNormal(stddev=0.3)
    return layers.Embedding(rows, min(width, max(2, rows // 2)), embeddings_initializer=start, name=name)


def _bag(name: str, inputs: Tensors, rows: int, width: int) -> Any:
    codes = inputs[name]
    counted = ops.cast(codes > 0, "float32")[:, :, None]
    embedded = _embedding(rows, width, f"{name}_words")(codes)
    return ops.sum(embedded * counted, axis=1) / ops.maximum(ops.sum(counted, axis=1), 1.0)
