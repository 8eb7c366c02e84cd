"""The number that stands for probabilities of classes: by row as services count it, by column as steps do."""

import numpy as np
import pytest

from airtight.class_score import class_score
from components.tasks.multiclass import Multiclass


def test_a_row_has_the_score_that_the_task_gives_it():
    rows = np.random.default_rng(0).dirichlet(np.full(4, 0.3), 300)
    rows = np.vstack([rows, np.eye(4), np.full((1, 4), 0.25), [[0.4, 0.1, 0.4, 0.1]]])
    assert [class_score(row) for row in rows.tolist()] == Multiclass.score(None, rows).tolist()


@pytest.mark.parametrize(
    ("row", "score"),
    [([1.0], None), ([0.5, 0.4], None), ([1.2, -0.2], None), ([0.5004, 0.5], 0.2502), ([0.0, 1.0], (2 - 1e-6) / 2)],
)
def test_what_are_no_probabilities_has_none(row, score):
    assert class_score(row) == (None if score is None else pytest.approx(score))
