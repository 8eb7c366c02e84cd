"""A network's weights in a file, and another network that starts from them."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from airtight.errors import TerminalError
from components.modelling.weights import Weights

pytestmark = pytest.mark.slow


def network(words: int, units: int = 3, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    word, number = keras.Input((), dtype="int64"), keras.Input((2,))
    inner = keras.Sequential([keras.layers.Dense(units), keras.layers.Dense(units)])
    both = keras.layers.Concatenate()([keras.layers.Embedding(words, 4)(word), inner(number)])
    return keras.Model([word, number], keras.layers.Dense(1)(both))


def words(*entries: str) -> dict[str, list[str]]:
    return {"embedding_0/embeddings": ["", *entries]}


def test_names_do_not_depend_on_what_keras_counted_before():
    one, other = network(3), network(3)
    assert [w.path for w in one.weights] != [w.path for w in other.weights]
    names = list(Weights.of(one, {}).arrays)
    assert names == list(Weights.of(other, {}).arrays)
    assert len(set(names)) == len(one.weights) == 7


def test_equal_weights_are_equal_bytes_and_come_back(tmp_path):
    for name in ("one", "other"):
        Weights.of(network(3), words("BOS", "Zürich")).write(tmp_path / name / "weights.npz")
    one, other = (tmp_path / name / "weights.npz" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    again = Weights.read(one)
    assert again.vocabulary == words("BOS", "Zürich")
    assert list(again.arrays) == list(Weights.of(network(3), {}).arrays)
    for array, weight in zip(again.arrays.values(), network(3).get_weights(), strict=True):
        np.testing.assert_array_equal(array, weight)


def test_rows_go_with_their_words_and_new_words_start_afresh():
    old, new, fresh = network(4, seed=1), network(5, seed=2), network(5, seed=2)
    carried = Weights.of(old, words("ATL", "BOS", "CLT")).carry_into(new, words("AUS", "BOS", "CLT", "DCA"))
    assert (carried.weights, carried.fresh, carried.new_words) == (7, (), 2)
    table, before, start = (each.get_weights()[0] for each in (new, old, fresh))
    np.testing.assert_array_equal(table[[0, 2, 3]], before[[0, 2, 3]])
    np.testing.assert_array_equal(table[[1, 4]], start[[1, 4]])
    for mine, theirs in zip(new.get_weights()[1:], old.get_weights()[1:], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_weights_of_another_shape_start_afresh_and_are_named():
    old, new, fresh = network(3, 3, seed=1), network(3, 5, seed=2), network(3, 5, seed=2)
    kept = Weights.of(old, words("BOS", "ATL"))
    carried = kept.carry_into(new, words("BOS", "ATL"))
    assert (carried.weights, len(carried.fresh)) == (2, 5), "the table and the last bias"
    assert str(carried).startswith("2 of 7 weights carried over, 0 new words; afresh: ")
    for name, mine, start in zip(Weights.of(new, {}).arrays, new.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, start if name in carried.fresh else kept.arrays[name])
    unnamed = Weights.of(old, {}).carry_into(network(3), words("BOS", "ATL"))
    assert unnamed.fresh == ("embedding_0/embeddings",), "whose rows they are is not known"


@pytest.mark.parametrize("wrong", [{"embedding_0/embeddings": ["", "BOS"]}, {"embedding/embeddings": [""] * 3}])
def test_words_that_do_not_fit_the_network_are_refused(wrong):
    with pytest.raises(TerminalError, match=re.escape(f"words of the weight {next(iter(wrong))} do not fit")):
        Weights.of(network(3), wrong)


def test_what_holds_no_plain_arrays_is_refused(tmp_path):
    (tmp_path / "broken").write_bytes(b"no archive")
    with (tmp_path / "objects").open("wb") as file:
        np.savez(file, **{"weights/a": np.array([{}], object)})
    for name in ("broken", "objects"):
        with pytest.raises(TerminalError, match=f"{name} cannot be read"):
            Weights.read(tmp_path / name)
