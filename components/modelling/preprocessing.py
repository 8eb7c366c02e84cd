"""From examples to what a fit reads: a model's `preprocess` over all rows, once, onto local disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from airtight.errors import TerminalError
from components.data.row_faults import naming_rows
from components.modelling import raw_features
from components.modelling.fitting import Validation
from components.modelling.head import Head
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.model_spec import ModelSpec
from components.modelling.row_store import RowStore
from components.modelling.scoring import of_row, reason_of
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
        with naming_rows(examples.folder, examples.splits, examples.schema, start):
            inputs = _called(preprocess, raw)
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
            with naming_rows(examples.folder, examples.splits, schema, start):
                store.append(_called(preprocess, raw))
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


def _called(preprocess: Callable[[Any], Any], raw: dict[str, Any]) -> Any:
    """What a model makes of rows.

    Raises:
      TerminalError: It fails on them (`RowFault` where one is to blame, such as one whose image is none).
    """
    try:
        return preprocess(raw)
    except tf.errors.InvalidArgumentError as error:
        fault = TerminalError(
            "The model cannot preprocess these examples.",
            expected="values of the schema's kinds",
            received=reason_of(error),
            remedy="Correct the step that makes the examples.",
        )
        rows = slice(0, len(next(iter(raw.values()))))
        raise of_row(
            fault, lambda part: preprocess({name: values[part] for name, values in raw.items()}), rows
        ) from error
