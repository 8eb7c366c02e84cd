from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from components.modelling.feeding import batches
from components.modelling.fitting import Rows


@pytest.fixture
def rows() -> Rows:
    numbers = np.arange(26, dtype=np.float32)
    return Rows({"number": numbers[:, None]}, numbers % 2)


def seen(data: tf.data.Dataset) -> list[list[float]]:
    return [inputs["number"][:, 0].tolist() for inputs, _ in data.as_numpy_iterator()]


def test_the_shares_of_a_batch_are_its_parts_one_after_the_other(rows: Rows) -> None:
    whole = seen(batches(rows, 8, 3, 0, 2))
    shares = [seen(batches(rows, 8, 3, 0, 2, share, 2)) for share in range(2)]
    assert [one + other for one, other in zip(*shares, strict=True)] == whole


def test_an_epoch_has_no_row_twice_and_the_next_another_order(rows: Rows) -> None:
    told = seen(batches(rows, 8, 3, 0, 2))
    epochs = [[*chain(*told[:3])], [*chain(*told[3:])]]
    assert [len(set(epoch)) for epoch in epochs] == [24, 24] and epochs[0] != epochs[1]
    assert seen(batches(rows, 8, 3, 1, 2)) == told[3:], "as where a fit goes on"
    assert seen(batches(rows, 8, 4, 0, 2)) != told, "by the seed"
