"""Plots: the values beside their lines, and values that cannot be drawn."""

import math

import pytest

from plugins.tfx_airflow.pages import charts
from plugins.tfx_airflow.pages.charts import Line, Point


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.0, 0.3, [0.0, 0.05, 0.1, 0.15, 0.2, 0.25]), (7.0, 7.0001, 0)],
)
def test_the_values_beside_a_plot_are_round_whatever_the_width_rounds_to(low, high, values):
    made = charts._round_values(low, high)
    assert 2 <= len(made) and all(low <= value <= high for value in made)
    if values:
        assert made == pytest.approx(values)


def test_every_width_has_values():
    for number in range(1, 400):
        assert charts._round_values(0.0, number / 100)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_leaves_a_gap(value):
    points = [Point(x, y, f"at {x}") for x, y in enumerate((0.1, value, 0.3, 0.2))]
    drawn = charts.lines([Line("loss", "blue", points)], ("a", "b"))
    assert "at 1" not in drawn and "at 2" in drawn and "nan" not in drawn
    assert "nan" not in charts.bars(points, ("a", "b"), [])
    assert charts.lines([Line("loss", "blue", points[1:2])], ("a", "b")) == ""
