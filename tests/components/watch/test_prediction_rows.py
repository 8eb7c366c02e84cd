"""Rows of the prediction log as rows of predictions: names, outputs, slices, and requests without an answer."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from airtight.interval import Interval
from components.schema import ExampleSchema, Feature
from components.watch.prediction_rows import Form, _logged

COLOUR = Feature("colour", "category", "")
BINARY = ExampleSchema((COLOUR,), "broken", "at", ("id",), ("colour", "shop"))
CLASSES = ExampleSchema((COLOUR,), "kind", "at", ("id",), ("colour",), task="multiclass", classes=("a", "b"))
AT = datetime(2020, 3, 6, 4, tzinfo=UTC)
"""23:00 of the day before in New York."""
DAY = Interval(AT, AT + timedelta(hours=2))


def piece(**columns) -> pa.Table:
    rows = {
        "time": pa.array([AT + timedelta(hours=n) for n in range(4)], pa.timestamp("us", "UTC")),
        "version": pa.array([3, 3, 3, None], pa.int64()),
        "signature": ["serving_default"] * 4,
        "side": pa.array([None, "stable", None, None], pa.string()),
        "code": ["OK", "OK", "OK", "INVALID_ARGUMENT"],
        "request_id": ["a", "b", "c", "d"],
        "row": pa.array([0, 1, 0, 0], pa.int32()),
        "rows": pa.array([1, 2, 1, 0], pa.int32()),
        "input_colour": ["red", "green", "blue", None],
        "output_probability": pa.array([0.25, 0.5, 0.75, None], pa.float32()),
    }
    return pa.table(rows | columns)


def test_a_row_is_named_by_its_request_and_has_outputs_and_slices():
    refused: Counter[str] = Counter()
    rows = _logged(piece(), Form(BINARY, ("id",), "America/New_York"), DAY, refused)
    assert rows["id"].to_pylist() == ["a", "b#1"], "the third was answered later"
    assert rows["probability"].to_pylist() == [0.25, 0.5]
    assert rows["colour"].to_pylist() == ["red", "green"]
    assert rows["shop"].to_pylist() == [None, None], "what was not logged is missing"
    assert rows["_at"].to_pylist()[0] == AT and not refused


def test_requests_without_an_answer_are_counted_by_local_day():
    refused: Counter[str] = Counter()
    whole = Interval(AT, AT + timedelta(days=1))
    rows = _logged(
        piece(code=["UNAVAILABLE", "OK", "OK", "INVALID_ARGUMENT"]),
        Form(BINARY, ("id",), "America/New_York"),
        whole,
        refused,
    )
    assert rows.num_rows == 2 and refused == {"2020-03-05": 1, "2020-03-06": 1}


def test_outputs_of_several_values_are_read_from_json():
    text = ['{"probabilities":[0.25,0.75]}', '{"probabilities":[0.5,0.5]}', "{}", None]
    rows = _logged(piece(outputs_json=text), Form(CLASSES, ("id",), "UTC"), DAY, Counter())
    assert rows["probabilities"].to_pylist() == [[0.25, 0.75], [0.5, 0.5]]
    with pytest.raises(TerminalError, match="lack the output probabilities"):
        _logged(piece(), Form(CLASSES, ("id",), "UTC"), DAY, Counter())
