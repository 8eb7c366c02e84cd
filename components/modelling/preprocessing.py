"""From examples to what a fit reads: a model's `preprocess` over all rows, once, onto local disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from airtight.errors import TerminalError
from components.modelling import raw_features
from components.modelling.fitting import Validation
from components.modelling.head import Head
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.model_spec import ModelSpec
from components.modelling.row_store import RowStore
from components.modelling.scoring import first_failing, reason_of
from components.schema import ExampleSchema


def preprocessed(spec: ModelSpec, head: Head, examples: LabelledExamples) -> RowStore:
    """The rows that the network learns from.

    Args:
      spec: The model.
      head: Fitted to the labels.
      examples: The rows.

    Returns:
      (inputs, target [rows, labels]), with the weights [rows] behind them where there are some.

    Raises:
      TerminalError: A row cannot be preprocessed.
    """
    store, preprocess, start = RowStore(), _traced(spec.preprocess, examples.schema), 0
    for piece in examples.pieces():
        raw = raw_features.tensors(piece.columns, examples.schema.features)
        with _naming_rows(preprocess, raw, start, examples):
            inputs = preprocess(raw)
        start += len(piece.labels)
        weights = () if piece.weights is None else (piece.weights.astype(np.float32),)
        store.append((inputs, head.targets(piece.labels).reshape(len(piece.labels), -1), *weights))
    return store.finish()


def validation(spec: ModelSpec, head: Head, examples: LabelledExamples) -> Validation:
    """The rows that choose the epoch, with the ensemble member's predictions of them.

    Args:
      spec: The model.
      head: Fitted to the labels.
      examples: The rows.

    Raises:
      TerminalError: A row cannot be preprocessed.
    """
    schema, store, start = examples.schema, RowStore(), 0
    preprocess, member = _traced(spec.preprocess, schema), spec.ensemble_member
    predict = _traced(lambda raw, **named: head.predictions(member(raw, **named)), schema) if member else None
    labels, weights, predictions = [], [], []
    for piece in examples.pieces():
        raw = raw_features.tensors(piece.columns, schema.features)
        if spec.build_network is not None:
            with _naming_rows(preprocess, raw, start, examples):
                store.append(preprocess(raw))
        start += len(piece.labels)
        labels.append(piece.labels)
        if piece.weights is not None:
            weights.append(piece.weights)
        if predict is not None:
            predictions.append(predict(raw).numpy().astype(np.float64))
    return Validation(
        store.finish(),
        np.concatenate(labels),
        np.concatenate(weights) if weights else None,
        np.concatenate(predictions) if predictions else None,
    )


def _traced(model: Callable[..., Any], schema: ExampleSchema) -> Callable[[Any], Any]:
    """A model of raw features, traced once for rows of any number."""
    specs = raw_features.specs(schema.features)
    return tf.function(lambda raw: model(raw, training=False), input_signature=[specs])


@contextlib.contextmanager
def _naming_rows(
    preprocess: Callable[[Any], Any], raw: dict[str, Any], start: int, examples: LabelledExamples
) -> Iterator[None]:
    """Names the first row that a model cannot preprocess, such as one whose image is none."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        row = first_failing(
            lambda part: preprocess({name: values[part] for name, values in raw.items()}),
            len(next(iter(raw.values()))),
        )
        raise TerminalError(
            f"The {examples.row_in_words(start + row)} cannot be preprocessed.",
            expected="values of the schema's kinds",
            received=reason_of(error),
            remedy="Correct the step that makes the examples.",
        ) from error
