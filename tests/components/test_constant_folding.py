"""Folding: what is exported has what depends on weights alone worked out; training sees the weights as they are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.modelling.constant_folding import FoldedLayer, constant_folding

pytestmark = pytest.mark.slow


class Summed(FoldedLayer):
    """Rows times the running sums of a weight."""

    def build(self, shape):
        self.steps = self.add_weight(name="steps", shape=(shape[-1],), initializer="ones")

    def of_weights(self):
        return keras.ops.cumsum(self.steps)

    def call(self, x):
        return x * self.folded()


@pytest.fixture
def nested():
    """A model whose layer is within another model, and the layer."""
    outer, inner = keras.Input((3,)), keras.Input((3,))
    layer = Summed()
    return keras.Model(outer, keras.Model(inner, layer(inner))(outer)), layer


def operations(model) -> set[str]:
    traced = tf.function(model).get_concrete_function(tf.TensorSpec([None, 3]))
    return {operation.type for operation in traced.graph.get_operations()}


def test_what_is_traced_within_has_the_answer_in_place_of_the_sum(nested):
    model, _ = nested
    assert "Cumsum" in operations(model)
    with constant_folding(model):
        assert not {"Cumsum", "ReadVariableOp"} & operations(model)
    assert "Cumsum" in operations(model)


def test_several_models_are_folded_together_and_none_stays_so_when_one_cannot(nested):
    model, layer = nested
    broken = Summed()
    rows = keras.Input((3,))
    other = keras.Model(rows, broken(rows))
    with constant_folding(model, other):
        assert "Cumsum" not in operations(model) | operations(other)
    broken.of_weights = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), constant_folding(model, other):
        raise AssertionError("it does not come so far")
    assert layer._kept is None


def test_it_holds_until_the_block_ends_however_it_ends(nested):
    model, layer = nested
    rows = np.ones((2, 3), np.float32)
    with pytest.raises(ZeroDivisionError), constant_folding(model):
        layer.steps.assign([2.0, 2.0, 2.0])
        assert model(rows).numpy().tolist() == [[1, 2, 3]] * 2, "the weights as they were"
        raise ZeroDivisionError
    assert model(rows).numpy().tolist() == [[2, 4, 6]] * 2
    with constant_folding(model):
        assert model(rows).numpy().tolist() == [[2, 4, 6]] * 2
