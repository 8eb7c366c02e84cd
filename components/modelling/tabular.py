"""A model of any schema: a network over all kinds of features, and boosted trees beside it.

Each kind of feature has an encoder (`components.modelling.encoders`). In the network a wide part adds up what each
number says alone; cross layers multiply embeddings with each other; the members of an ensemble share their matrices.
The trees err elsewhere than the network does, and the mean of both is better than either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from airtight.errors import TerminalError
from components.modelling import encoders, raw_features
from components.modelling.boosted_trees import TreeSettings, booster_to_layer, train_boosters
from components.modelling.encoder_layers import LogReference
from components.modelling.head import Head
from components.modelling.labelled_examples import LabelledExamples, sampled
from components.modelling.member_layers import MemberDense, MemberLogits
from components.modelling.model_spec import ModelSpec
from components.modelling.row_store import RowStore
from components.schema import ExampleSchema
from components.tasks import task_of

log = logging.getLogger(__name__)

_REFERENCE = "reference"
"""The network's input with the logarithm of the schema's reference."""


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of the network.

    Args:
      without: Features that the network does not look at.
      bins: Quantile bins of a number.
      width: Size of a number's embedding.
      category_width: Largest size of a category's embedding.
      text_buckets: Of the hash of a text's words.
      text_length: Words, and pairs of them, of a text at most.
      bag_length: Categories of a cell at most.
      bag_width: Size of the embedding of a text or of several categories.
      vector_width: Units over a vector or an image.
      image_size: Pixels of an image's side.
      crosses: Cross layers (DCN-v2) over all embeddings.
      cross_rank: Rank of a cross layer's matrix.
      hidden: Units of the hidden layers; the first is one for all members.
      members: Of the ensemble.
      dropout: Share of hidden units left out in training.
      input_dropout: Share of the embeddings' units left out in training.
    """

    without: tuple[str, ...] = ()
    bins: int = 64
    width: int = 2
    category_width: int = 4
    text_buckets: int = 1 << 14
    text_length: int = 128
    bag_length: int = 32
    bag_width: int = 16
    vector_width: int = 64
    image_size: int = 32
    crosses: int = 4
    cross_rank: int = 32
    hidden: tuple[int, ...] = (128, 64)
    members: int = 8
    dropout: float = 0.4
    input_dropout: float = 0.2


@dataclass(frozen=True)
class Settings:
    """What a model is made of.

    Args:
      network: None: trees alone.
      trees: None: the network alone. Where no feature is a number, a category or a vector there are none either.
      category_rows: A category of fewer rows than this counts as unknown.
      category_words: So many of a column's categories are known at most, the most frequent ones.
    """

    network: NetworkSettings | None = field(default_factory=NetworkSettings)
    trees: TreeSettings | None = field(default_factory=TreeSettings)
    category_rows: int = 20
    category_words: int = 10_000


def build(
    schema: ExampleSchema,
    fitted: LabelledExamples,
    validation: LabelledExamples | None,
    tuned: Mapping[str, Any],
    seed: int,
    settings: Settings = Settings(),
) -> ModelSpec:
    """A model as `components.train` wants it.

    Args:
      schema: The features, by name and kind.
      fitted: The rows that are fitted; vocabularies, quantiles and trees are learned from them alone.
      validation: Rows that choose the number of trees.
      tuned: {"trees": how many} of an earlier fit (with several boosters "trees_0" and so on), which counts where there
        are no validation rows.
      seed: Of the trees.
      settings: What it is made of.

    Returns:
      The network over the encoders' inputs, the trees as the ensemble member, how many trees were chosen, and the words
      of the embeddings. A network may start from an earlier one's weights; trees are always trained from scratch.

    Raises:
      TerminalError: The settings leave neither a network nor trees.
    """
    statistics, head = fitted.statistics, task_of(schema).head
    head = head.fitted_to(statistics.labels)
    inputs = encoders.raw_inputs(schema)
    reference = None
    if schema.reference:
        reference = LogReference(max(statistics.labels[schema.label].mean, 0.0))(inputs[schema.reference])
    words = {
        name: encoders.vocabulary(statistics, name, settings.category_rows, settings.category_words)
        for name in statistics.vocabularies
    }
    member, chosen, learned = None, {}, None
    if settings.trees is not None and any(schema.of_kind(kind) for kind in ("number", "category", "vector")):
        tree_inputs = _tree_inputs(schema, inputs, words)
        known = None if reference is None else keras.Model(inputs, reference)
        boosters, rows = _boosters(tree_inputs, known, head, fitted, validation, tuned, seed, settings.trees)
        learned = rows if rows < len(fitted) else None
        chosen = {name: booster.current_iteration() for name, booster in boosters.items()}
        numbers, codes = tree_inputs.output
        logits = booster_to_layer(list(boosters.values()), numbers.shape[1])(numbers, codes)
        member = keras.Model(inputs, logits if reference is None else logits + ops.expand_dims(reference, -1))
    if settings.network is None:
        if member is None:
            raise TerminalError(
                "There is nothing to train.",
                expected="a network, or trees and features that are numbers, categories or vectors",
                received=f"trees alone, of {', '.join(sorted({feature.kind for feature in schema.features}))}",
                remedy="Give the model a network.",
            )
        return ModelSpec(keras.Model(inputs, inputs), None, member, chosen, ensemble_rows=learned)
    parts = _encoders(schema, fitted, words, settings.network)
    preprocessed = {name: tensor for part in parts for name, tensor in part.preprocess(inputs).items()}
    if reference is not None:
        preprocessed[_REFERENCE] = reference
    shape = settings.network
    return ModelSpec(
        preprocess=keras.Model(inputs, preprocessed),
        build_network=lambda: _network(parts, preprocessed, head, shape),
        ensemble_member=member,
        tuned=chosen,
        vocabulary={name: rows for part in parts for name, rows in part.vocabulary.items()},
        ensemble_rows=learned,
    )


def build_trees(
    schema: ExampleSchema,
    fitted: LabelledExamples,
    validation: LabelledExamples | None,
    tuned: Mapping[str, Any],
    seed: int,
) -> ModelSpec:
    """As `build`, of trees alone."""
    return build(schema, fitted, validation, tuned, seed, Settings(network=None))


def _encoders(
    schema: ExampleSchema, fitted: LabelledExamples, words: Mapping[str, Sequence[str]], shape: NetworkSettings
) -> list[encoders.Encoder]:
    features = [feature for feature in schema.features if feature.name not in shape.without]
    by_kind = {kind: [f.name for f in features if f.kind == kind] for kind in ("number", "category")}
    parts: list[encoders.Encoder] = []
    if by_kind["number"]:
        parts.append(encoders.Numbers(by_kind["number"], fitted, shape.bins, shape.width))
    if by_kind["category"]:
        names = by_kind["category"]
        parts.append(encoders.Categories(names, [words[name] for name in names], shape.category_width))
    for feature in features:
        name = feature.name
        if feature.kind == "categories":
            parts.append(encoders.CategoryBag(name, words[name], shape.bag_width, shape.bag_length))
        elif feature.kind == "text":
            parts.append(encoders.TextBag(name, shape.text_buckets, shape.bag_width, shape.text_length))
        elif feature.kind == "vector":
            parts.append(encoders.Vector(feature, fitted.statistics, shape.vector_width))
        elif feature.kind == "image":
            parts.append(encoders.Image(name, shape.image_size, shape.vector_width))
    return parts


def _network(
    parts: Sequence[encoders.Encoder], preprocessed: Mapping[str, Any], head: Head, shape: NetworkSettings
) -> keras.Model:
    inputs = {
        name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name) for name, tensor in preprocessed.items()
    }
    embedded = [vector for part in parts for vector in part.embed(inputs)]
    joined = layers.Concatenate()(embedded) if len(embedded) > 1 else embedded[0]
    x = first = layers.Dropout(shape.input_dropout)(joined)
    for _ in range(shape.crosses):
        low = layers.Dense(shape.cross_rank, use_bias=False)(x)
        x = layers.Add()([x, layers.Multiply()([first, layers.Dense(first.shape[-1])(low)])])
    x = layers.Dropout(shape.dropout)(layers.Dense(shape.hidden[0], activation="relu")(x))
    x = layers.Reshape((1, shape.hidden[0]))(x)
    for depth, units in enumerate(shape.hidden[1:]):
        x = layers.Activation("relu")(MemberDense(units, shape.members, differ=not depth)(x))
        x = layers.Dropout(shape.dropout)(x)
    wide = [part.wide(inputs) for part in parts if isinstance(part, encoders.Numbers)]
    logits = [MemberLogits(shape.members, head.outputs)(x)]
    for alone in wide:
        shares = layers.Dense(head.outputs, kernel_initializer="ones")(alone)
        logits.append(layers.Reshape((1, head.outputs))(shares))
    if _REFERENCE in inputs:
        logits.append(layers.Reshape((1, 1))(inputs[_REFERENCE]))
    return keras.Model(inputs, layers.Add()(logits) if len(logits) > 1 else logits[0])


def _tree_inputs(schema: ExampleSchema, inputs: Mapping[str, Any], words: Mapping[str, Sequence[str]]) -> keras.Model:
    """From raw features to numbers [batch, numbers], those of vectors among them, and codes [batch, categories]."""
    columns = [ops.expand_dims(inputs[name], -1) for name in schema.of_kind("number")]
    columns += [inputs[name] for name in schema.of_kind("vector")]
    names = schema.of_kind("category")
    coded = encoders.Categories(names, [words[name] for name in names], 1).preprocess(inputs) if names else {}
    some = next(iter(inputs.values()))
    # Without numbers, or without categories, their tensor has no columns.
    numbers = ops.concatenate(columns, axis=-1) if columns else _NoColumns("float32")(some)
    return keras.Model(inputs, (numbers, coded.get(encoders.CATEGORIES, _NoColumns("int32")(some))))


@keras.saving.register_keras_serializable("airtight")
class _NoColumns(layers.Layer):
    """A tensor [batch, 0] of some type."""

    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    def call(self, rows: Any) -> Any:
        return tf.zeros([tf.shape(rows)[0], 0], self.kind)

    def compute_output_spec(self, rows: Any) -> keras.KerasTensor:
        return keras.KerasTensor((rows.shape[0], 0), self.kind)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


def _boosters(
    tree_inputs: keras.Model,
    reference: keras.Model | None,
    head: Head,
    fitted: LabelledExamples,
    validation: LabelledExamples | None,
    tuned: Mapping[str, Any],
    seed: int,
    settings: TreeSettings,
) -> tuple[dict[str, Any], int]:
    """A booster for each objective of the head, by the name of its number of trees, and how many rows they learned."""
    specs = raw_features.specs(fitted.schema.features)

    def table_of(raw: Any) -> Any:
        known = tf.zeros([1, 1]) if reference is None else reference(raw, training=False)
        return *tree_inputs(raw, training=False), known[:, 0]

    traced = tf.function(table_of, input_signature=[specs])
    stores = [_stored(traced, head, rows, settings.rows) if rows else None for rows in (fitted, validation)]
    assert stores[0] is not None
    numbers, features = tree_inputs.output[0].shape[1], sum(tensor.shape[1] for tensor in tree_inputs.output)
    names = [f"trees_{place}" for place in range(len(head.objectives))] if len(head.objectives) > 1 else ["trees"]
    objectives = dict(zip(names, head.objectives, strict=True))
    boosters = train_boosters(stores[0], stores[1], range(numbers, features), objectives, tuned, seed, settings)
    return boosters, len(stores[0])


def _stored(table_of: Callable[[Any], Any], head: Head, examples: LabelledExamples, most: int) -> RowStore:
    """What trees see of rows, with what they learn, and the weights where there are some."""
    store, start = RowStore(), 0
    for piece in examples.pieces():
        kept = sampled(start, start + len(piece.labels), len(examples), most)
        start += len(piece.labels)
        numbers, codes, known = table_of(raw_features.tensors(piece.columns, examples.schema.features))
        table = np.concatenate([numbers.numpy(), codes.numpy().astype(np.float32)], axis=1)
        weights = () if piece.weights is None else (piece.weights[kept].astype(np.float32),)
        store.append((table[kept], (head.targets(piece.labels) - known.numpy())[kept], *weights))
    if len(store) < len(examples):
        log.warning("Trees see a sample, %d of the %d rows of %s.", len(store), len(examples), examples.name)
    return store.finish()
