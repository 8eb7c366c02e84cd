"""Layers that work out what depends on their weights alone: anew in each step of training, once for an exported model.

A model server runs the exported graph for each request, and a product of weights costs the same whether one row is
asked or a thousand. TensorFlow folds constants when it loads a graph, but a variable is none.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops


class FoldedLayer(layers.Layer):
    """A layer whose `call` takes `self.folded()` for what `of_weights` answers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kept: np.ndarray | None = None

    @abstractmethod
    def of_weights(self) -> Any:
        """A tensor that depends on the layer's weights and on nothing else."""

    def folded(self) -> Any:
        """That tensor; within `constant_folding` a constant."""
        return self.of_weights() if self._kept is None else ops.convert_to_tensor(self._kept)


@contextlib.contextmanager
def constant_folding(*models: keras.Model) -> Iterator[None]:
    """Within it, what is traced of models has the weights of their `FoldedLayer` layers as they are now."""
    layers_ = [layer for model in models for layer in model._flatten_layers() if isinstance(layer, FoldedLayer)]
    try:
        for layer in layers_:
            layer._kept = ops.convert_to_numpy(layer.of_weights())
        yield
    finally:
        for layer in layers_:
            layer._kept = None
