"""Labels in Arrow: encoded exactly, and refused by value and row where they are none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from components.schema import ExampleSchema
from components.tasks import task_of
from components.tasks.weights import weights_of
from tests.components.tasks import schemas
from tests.components.tasks.schemas import BINARY, MULTICLASS, QUANTILES, REGRESSION


@pytest.mark.parametrize(
    ("schema", "values", "encoded"),
    [
        (BINARY, pa.array([0, 1, 1]), [0, 1, 1]),
        (MULTICLASS, pa.array(["high", "low"]), [2, 0]),
        (MULTICLASS, pa.array(["high", "low"]).dictionary_encode(), [2, 0]),
        (REGRESSION, pa.array([12.7, -0.9]), [12.7, -0.9]),
    ],
)
def test_labels_are_encoded(schema, values, encoded):
    assert task_of(schema).encode(pa.chunked_array([values])).tolist() == encoded
    assert task_of(schema).encode(pa.chunked_array([], values.type)).tolist() == []


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (BINARY, [0, 2, 1, -1], "2 in row 1.*-1 in row 3"),
        (BINARY, [0, None], "missing in row 1"),
        (BINARY, [0.0, 12.7], "type double"),
        (MULTICLASS, ["low", "extreme"], "'extreme' in row 1"),
        (MULTICLASS, ["low", None], "missing in row 1"),
        (MULTICLASS, [0, 1], "type int64"),
        (REGRESSION, [1.0, float("nan"), float("inf")], "nan in row 1.*inf in row 2"),
        (REGRESSION, [1.0, None], "missing in row 1"),
        (REGRESSION, [1, 2], "type int64"),
        (QUANTILES, ["1.0"], "type string"),
    ],
)
def test_what_is_no_label_is_named_with_its_row(schema, values, message):
    with pytest.raises(TerminalError, match=message) as raised:
        task_of(schema).encode(pa.chunked_array([pa.array(values)]))
    assert "target" in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "regresion"},
        {"task": "multiclass"},
        {"task": "multiclass", "classes": ("only",)},
        {"task": "multiclass", "classes": ("a", "a")},
        {"task": "multiclass", "classes": ("a", "")},
        {"task": "binary", "classes": ("a", "b")},
        {"task": "binary", "quantiles": (0.5,)},
        {"task": "regression", "quantiles": (0.5, 0.1)},
        {"task": "regression", "quantiles": (0.5, 0.5)},
        {"task": "regression", "quantiles": (0.0, 0.5)},
        {"task": "regression", "baseline": "colour", "baseline_as_is": True},
        {"task": "binary", "baseline": "size", "baseline_as_is": True},
    ],
)
def test_a_schema_that_does_not_fit_its_task_is_refused(change):
    with pytest.raises(TerminalError, match=r"no such task|does not fit the task"):
        task_of(dataclasses.replace(BINARY, **change))


def test_a_task_of_ones_own_is_named_by_its_import_string():
    assert task_of(dataclasses.replace(BINARY, task="components.tasks.binary:Binary")).label_type == pa.int64()


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf"), None])
def test_weights_below_zero_or_none_are_named_with_their_row(wrong):
    weights = pa.table({"importance": pa.array([1.0, wrong], pa.float32())})
    with pytest.raises(TerminalError, match=r"importance.*in row 1"):
        weights_of(weights, schemas.WEIGHTED)


def test_weights_are_read_where_there_are_any():
    assert weights_of(pa.table({"importance": [0, 2]}), schemas.WEIGHTED).tolist() == [0, 2]
    assert weights_of(pa.table({"x": [1]}), BINARY) is None


def test_the_built_in_tasks_are_whole():
    for schema in (BINARY, MULTICLASS, REGRESSION, QUANTILES):
        assert isinstance(schema, ExampleSchema)
        metrics = task_of(schema).metrics
        assert metrics and all(metric.margin > 0 and metric.title for metric in metrics.values())
        assert np.isclose(next(iter(metrics.values())).size(np.array([0, 1])), 2)
