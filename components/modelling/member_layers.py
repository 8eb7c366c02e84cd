"""Layers of an ensemble whose members share their matrices and differ in how they scale what goes in and out of them.

That is BatchEnsemble, as in TabM: a mean of many, at little cost.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from components.modelling.constant_folding import FoldedLayer

_register = keras.saving.register_keras_serializable("airtight")


@_register
class MemberDense(FoldedLayer):
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
class MemberLogits(layers.Layer):
    """Logits of each member, [batch, members, outputs], of [batch, members, in].

    Args:
      members: How many.
      outputs: Logits of a member.
    """

    def __init__(self, members: int, outputs: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members, self.outputs = members, outputs

    def build(self, shape: Any) -> None:
        """Makes the weights; outputs lie beside each other, so that their number leaves a member's scale as it is."""
        size = shape[-1] * self.outputs
        self.kernel = self.add_weight(name="kernel", shape=(self.members, size), initializer="glorot_normal")
        self.bias = self.add_weight(name="bias", shape=(self.members * self.outputs,), initializer="zeros")

    def call(self, x: Any) -> Any:
        """Logits."""
        kernel = ops.reshape(self.kernel, (self.members, -1, self.outputs))
        return ops.sum(ops.expand_dims(x, -1) * kernel, axis=2) + ops.reshape(self.bias, (self.members, self.outputs))

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "members": self.members, "outputs": self.outputs}


def _signs(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return ops.sign(keras.random.normal(shape, dtype=dtype))
