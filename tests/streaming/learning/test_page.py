"""The page of models that learn as labels come."""

from __future__ import annotations

import math

import numpy as np

from components.measures.scores import roc_auc
from components.reports.online_learning import ERROR, by_day, page


def test_the_page_says_what_was_measured():
    days = np.array(["2013-06-01"] * 4 + ["2013-06-02"] * 2, object)
    labels = np.array([0, 1, 0, 1, 1, 1])
    nan = math.nan
    scores = {"a": np.array([0.1, 0.9, 0.8, 0.2, 0.5, 0.5]), "<b>": np.array([0.1, 0.9, nan, nan, nan, nan])}
    (first, second), rolling = by_day(days, labels, scores), by_day(days, labels, scores, rolling=7)
    assert first == ("2013-06-01", 4, {"a": 0.75, "<b>": 1.0}) and second[1] == 2 and math.isnan(second[2]["a"])
    assert rolling[1][1] == 6 and rolling[1][2]["a"] == roc_auc(labels, scores["a"])
    made = page("Online learning", days, labels, scores, {"learned": 6})
    assert "&lt;b&gt;" in made and "<b>" not in made and "0.7500" in made and "nan" not in made
    assert "on the 2 rows that all answered" in made
    assert "No label" in page("x", days[:0], labels[:0], {"a": np.array([])}, {})


def test_numbers_are_judged_by_their_error_and_the_axis_is_theirs():
    days, labels = np.array(["2013-06-01", "2013-06-02"], object), np.array([10.0, 400.0])
    scores = {"a": np.array([13.0, 393.0]), "b": np.array([math.nan, 400.0])}
    assert [row[2]["a"] for row in by_day(days, labels, scores, ERROR)] == [3.0, 7.0]
    made = page("x", days, labels, scores, {}, ERROR)
    assert ">7</text>" in made and "<td class=n>5.0000</td>" in made and "nan" not in made
    assert "No label" in page("x", days[:0], labels[:0], {"a": np.array([])}, {}, ERROR)
