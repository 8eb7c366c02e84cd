"""Piecewise-linear encoding: bins of quantiles, continuous, and an embedding of what is missing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from components.modelling.piecewise_linear import BinIndex, PiecewiseLinear, quantile_edges

pytestmark = pytest.mark.slow


def test_quantile_edges_rise_and_hold_the_range():
    values = np.random.default_rng(0).gamma(2, 30, 5000).astype(np.float32)
    values[::7] = np.nan
    edges = quantile_edges(values, 16)
    known = values[~np.isnan(values)]
    assert edges.shape == (17,) and (np.diff(edges) > 0).all()
    assert (edges[0], edges[-1]) == (known.min(), known.max())
    shares = np.histogram(known, edges)[0] / len(known)
    assert shares == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.nan, np.nan], [0]),
        ([3.0, 3.0, np.nan], [3]),
        ([0.0] * 90 + [1.0] * 9 + [2.0], [0, 1, 2]),
        ([0.0] * 90 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 6]),
    ],
)
def test_quantile_edges_of_few_values(values, expected):
    assert quantile_edges(np.array(values, np.float32), 4).tolist() == expected


EDGES = [[0.0, 1.0, 3.0], [5.0], [-2.0, 7.0]]


def embedded(numbers: np.ndarray, layer: PiecewiseLinear) -> np.ndarray:
    return layer(*BinIndex(EDGES)(np.asarray(numbers, np.float32))).numpy()


def test_piecewise_linear_is_continuous_flat_outside_and_knows_missing():
    layer = PiecewiseLinear([2, 0, 1], 4)
    inside = embedded([[x, x, x] for x in np.linspace(-2, 5, 701)], layer)
    assert np.abs(np.diff(inside, axis=0)).max() < 0.05
    assert (inside[:201, 0] == inside[0, 0]).all() and (inside[500:, 0] == inside[500, 0]).all()
    assert (inside[:, 1] == inside[0, 1]).all(), "a number of one value says nothing"
    missing = embedded([[np.nan] * 3], layer)
    np.testing.assert_allclose(missing[0], np.maximum(layer.missing.numpy(), 0))
    assert np.isfinite(embedded([[np.inf] * 3, [-np.inf] * 3, [1e30] * 3], layer)).all()


def test_the_look_up_is_the_sum_of_all_bins():
    layer = PiecewiseLinear([2, 0, 1], 2, straight=True)
    numbers = np.random.default_rng(0).normal(1, 3, (200, 3)).astype(np.float32)
    embedded(numbers[:1], layer)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    steps, bias, _ = (np.asarray(w) for w in layer.get_weights())
    expected = np.zeros((200, 3, 2)) + bias - 0.5 * steps.mean(axis=1)
    for number, edges in enumerate(EDGES):
        for place, (low, high) in enumerate(itertools.pairwise(edges)):
            way = np.clip((numbers[:, number] - low) / (high - low), 0, 1)
            expected[:, number] += way[:, None] * steps[number, place] / (len(edges) - 1)
    np.testing.assert_allclose(embedded(numbers, layer), expected, atol=1e-5)


def test_every_second_unit_of_an_embedding_starts_falling():
    layer = PiecewiseLinear([2, 0, 1], 4)
    embedded([[0.0] * 3], layer)
    assert (np.sign(layer.steps.numpy()) == [1, -1, 1, -1]).all()
