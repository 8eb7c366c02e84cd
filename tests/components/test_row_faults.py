"""A row on which a model fails is named wherever models are called; where it is no row's fault, none is blamed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components import monitor
from components.data.row_faults import RowFault, naming_rows, row_in_words
from components.modelling import raw_features, saved_model
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.saved_model import SIGNATURE, Predictor
from components.modelling.scoring import first_failing
from components.schema import Feature
from components.watch import challengers
from components.watch.predicted import predicted
from tests.components import tables, toy

ROWS, BAD = 300, 207
PREDICTION = (Feature(monitor.PREDICTION, "number", ""),)


def bisected(*bad: int, rows: slice = slice(0, 100), answered: bool = False, memory: int = 0) -> int | None:
    """What comes of a search in which some rows fail, and parts of fewer rows than `memory` for want of memory."""

    def call(part: slice) -> None:
        if part.stop - part.start < memory:
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")
        if any(part.start <= row < part.stop for row in bad):
            raise tf.errors.InvalidArgumentError(None, None, "no")

    return first_failing(call, rows, answered=answered)


def test_the_first_row_is_found_that_fails_alone():
    assert [bisected(row) for row in (0, 41, 99)] == [0, 41, 99]
    assert bisected(0, 1, 41) == 0
    assert bisected(7, 50, 99) == 7
    assert bisected(150, 160, rows=slice(128, 200)) == 150


def test_no_row_is_blamed_where_all_fail_or_none_alone():
    assert bisected(*range(100)) is None
    assert bisected(0, rows=slice(0, 1)) is None
    assert bisected(0, rows=slice(0, 1), answered=True) == 0

    def too_many(part: slice) -> None:
        if part.stop - part.start > 40:
            raise tf.errors.InvalidArgumentError(None, None, "too many")

    assert first_failing(too_many, slice(0, 100)) is None


def test_want_of_memory_while_a_row_is_looked_for_hides_no_fault():
    assert bisected(41, memory=30) is None


def fussy(folder: Path, limit: float = 100.0) -> Path:
    """A SavedModel that fails where a size is too large."""

    def serve(values):
        size = tf.where(tf.math.is_nan(values["size"]), 0.0, values["size"])
        with tf.control_dependencies([tf.debugging.assert_less(size, limit, "too large")]):
            return {"probability": tf.sigmoid(size)}

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[raw_features.specs(tables.BINARY.features)])
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: module.serve})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return fussy(tmp_path_factory.mktemp("fussy") / "model" / "Format-Serving")


def spoiled(rows: int = ROWS, bad: int = BAD) -> pa.Table:
    table = tables.table(tables.BINARY, rows, 1)
    size = table["size"].to_numpy().copy()
    size[bad] = 1000
    return table.set_column(table.column_names.index("size"), "size", pa.array(size))


def test_a_models_fault_is_a_rows_alone_where_others_are_answered(model, monkeypatch):
    sizes = {"colour": np.array([b"red"] * 100), "size": np.full(100, 1000, np.float32)}
    with pytest.raises(TerminalError, match="too large") as raised:
        Predictor(model, tables.BINARY)(sizes)
    assert not isinstance(raised.value, RowFault)
    monkeypatch.setattr(saved_model, "BATCH", 32)
    sizes["size"][:96] = 1
    sizes["size"][97] = 1
    predict, parts = Predictor(model, tables.BINARY), []
    answer = predict._answer
    monkeypatch.setattr(predict, "_answer", lambda of, part: parts.append(part) or answer(of, part))
    with pytest.raises(RowFault) as raised:
        predict(sizes)
    assert raised.value.row == 96
    assert min(part.start for part in parts[4:]) >= 96, "rows of other calls are not tried again"


@pytest.mark.parametrize("by", ["challengers", "monitor", "predicted"])
def test_a_row_is_named_by_its_place_and_keys(tmp_path, model, monkeypatch, by):
    whole = tables.table(tables.BINARY, ROWS, 1)
    made = toy.examples(tmp_path, train=whole, test=spoiled())
    named = (
        f"{model} cannot answer for these examples: it fails on row {BAD} of the split test (id k1, at 2020-01-01 03:"
    )
    with pytest.raises(TerminalError, match=re.escape(named)):
        if by == "challengers":
            challengers._answers(model, LabelledExamples(tmp_path, ["test"], tables.BINARY))
        elif by == "predicted":
            monkeypatch.setattr("components.watch.predicted.MOST_ROWS", ROWS // 3)
            predicted(tmp_path, "test", tables.BINARY, model)
        else:
            monkeypatch.setattr("components.data.examples.PIECE", 128)
            side = monitor._Side(PREDICTION, monitor._scores(tables.BINARY, model), tables.BINARY)
            side.read(Path(made.uri), "test")


def test_a_row_without_keys_and_time_is_named_by_its_place(tmp_path):
    toy.examples(tmp_path, train=tables.table(tables.BINARY, 10, 1), test=tables.table(tables.BINARY, 10, 1))
    nameless = replace(tables.BINARY, keys=(), time="")
    assert row_in_words(tmp_path, ("train", "test"), nameless, 13) == "row 3 of the split test"
    fault = RowFault("It fails.", 3, expected="a", received="b", remedy="c")
    with pytest.raises(TerminalError, match="It fails: it fails on row 7 of the split test"):
        with naming_rows(tmp_path, ("test",), nameless, start=1, step=2):
            raise fault
