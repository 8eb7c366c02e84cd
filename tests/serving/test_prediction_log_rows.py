"""Rows of the prediction log: what stands of a request in which column, and what of it nobody may read."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components.data import predictions
from serving.prediction_log.notes import Answered
from serving.prediction_log.personal import Personal, read_key
from serving.prediction_log.rows import groups
from serving.signature import Signature
from tests.serving.notes import NOW, answered, note, rows_of, spec, tables, texts


def test_each_example_is_a_row_with_a_column_for_each_feature():
    headers = [(b"x-request-id", b"r1"), (b"x-caller-id", b"Z\xc3\xbcrich"), (b"x-airtight-side", b"candidate")]
    first, second = rows_of(note(answered(), headers=headers))
    assert first["input_origin"] == "JFK" and first["input_delay"] == 1.5 and first["output_probability"] == 0.25
    assert second["input_origin"] == "" and np.isnan(second["input_delay"])
    assert [row["row"] for row in (first, second)] == [0, 1] and first["rows"] == 2
    assert {"r1"} == {row["request_id"] for row in (first, second)}
    columns = {name: first[name] for name in ("model", "version", "side", "caller", "code", "latency_ms", "signature")}
    assert columns == {
        "model": "m",
        "version": 7,
        "side": "candidate",
        "caller": "Zürich",
        "code": "OK",
        "latency_ms": 2.0,
        "signature": "serving_default",
    }
    assert first["time"] == datetime.fromtimestamp(NOW, UTC)


def test_requests_without_an_id_get_one_each_and_refused_ones_have_a_row_without_examples():
    rows = rows_of(note(answered(1)), note(answered(1)), note(code="INVALID_ARGUMENT"))
    assert len({row["request_id"] for row in rows}) == 3
    refused = rows[-1]
    assert (refused["code"], refused["rows"], refused["version"]) == ("INVALID_ARGUMENT", 0, None)
    # A request that ran and was answered too late was asked something, and got no answer.
    (late,) = rows_of(note(answered(1), code="DEADLINE_EXCEEDED"))
    assert late["input_origin"] == "JFK" and "output_probability" not in late


def test_what_has_no_column_is_json_by_name():
    signature = Signature("s", "", (spec("pair", tf.float32, (None, 2)),), (spec("y", tf.float32, ()),), lambda *x: [])
    call = Answered(1, signature, [np.ones((3, 2), np.float32)], [np.float32(4)[()]])
    call.outputs = [np.array(4, np.float32)]  # No batch: the whole request is one row.
    (row,) = rows_of(note(call))
    assert row["inputs_json"] == '{"pair":[[1.0,1.0],[1.0,1.0],[1.0,1.0]]}' and row["outputs_json"] == '{"y":4.0}'
    call.outputs = [np.arange(3, dtype=np.float32)]
    rows = rows_of(note(call))
    assert [row["inputs_json"] for row in rows] == ['{"pair":[1.0,1.0]}'] * 3
    assert [row["output_y"] for row in rows] == [0.0, 1.0, 2.0]


def test_a_call_without_examples_has_one_row_without_features_and_takes_no_others_with_it():
    nothing = Signature("constant", "", (), (spec("y", tf.float32),), lambda: [])
    two = Answered(7, nothing, [], [np.array([1, 2], np.float32)])
    none = Answered(7, nothing, [], [np.array([], np.float32)])
    rows = rows_of(note(answered(2)), note(answered(0)), note(two), note(none))
    positions = [(row["signature"], row["rows"], row["row"]) for row in rows]
    assert positions == [
        ("serving_default", 2, 0),
        ("serving_default", 2, 1),
        ("serving_default", 0, 0),
        ("constant", 2, 0),
        ("constant", 2, 1),
        ("constant", 0, 0),
    ]
    assert rows[0]["input_origin"] == "JFK" and "input_origin" not in rows[2] and rows[2]["version"] == 7
    assert rows[4]["output_y"] == 2.0


def serialized(**features) -> bytes:
    example = tf.train.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(value, bytes) else feature.float_list).value.append(value)
    return example.SerializeToString()


def test_a_personal_column_is_hashed_or_left_out_also_inside_of_serialized_examples():
    personal = Personal(frozenset({"origin", "caller"}), frozenset({"delay"}), b"k" * 32)
    first, second = rows_of(note(answered(), headers=[("x-caller-id", "me")]), personal=personal)
    assert "input_delay" not in first and len(first["input_origin"]) == 64 and second["input_origin"] is None
    assert first["caller"] not in ("me", None)
    assert Personal(personal.hashed, frozenset(), b"other").hashes([b"JFK"]) != personal.hashes([b"JFK"])

    signature = Signature("s", "", (spec("examples", tf.string),), (spec("y", tf.float32),), lambda *x: [])
    call = Answered(1, signature, [texts(serialized(origin=b"JFK", delay=1.0, hour=6.0))], [np.zeros(1, np.float32)])
    (row,) = rows_of(note(call), personal=personal)
    assert "JFK" not in str(row) and "delay" not in str(row) and '"hour":6.0' in row["inputs_json"]
    assert first["input_origin"] in row["inputs_json"], "the same value is the same hash wherever it stands"
    for kept in (note(answered(1)), note(answered()), note(call)):
        (group,) = groups([kept])
        assert b"JFK" not in group.batch(personal).serialize().to_pybytes(), "no journal has it"
        assert b"JFK" in group.batch(Personal()).serialize().to_pybytes()


def test_bytes_that_are_no_text_are_kept_in_base64():
    call = answered(1)
    call.inputs = [texts(b"\xff\x00"), call.inputs[1]]
    assert rows_of(note(call))[0]["input_origin"] == "b64:/wA="


def test_the_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "run" / "key"
    key = read_key(path)
    assert key == read_key(path) and len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and os.listdir(path.parent) == ["key"]
    path.chmod(0o644)
    with pytest.raises(TerminalError, match="mode 644"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(TerminalError, match="cannot be used"):
        read_key(path)


def test_the_tables_columns_are_those_of_the_reader():
    ((table,),) = [list(tables([note(answered())], Personal()))]
    kinds = {field.name: field.type for field in table.schema}
    assert all(kinds[field.name] == field.type for field in predictions._NOTHING)
    assert kinds["input_delay"] == pa.float32() and kinds["input_origin"] == pa.string()


PERSONAL = Personal(frozenset({"origin"}), frozenset({"tail"}), b"k" * 32)
WHOLE = serialized(origin=b"SECRET-ORIGIN", tail=b"SECRET-TAIL", hour=6.0)
UNKNOWN_FIELD = b"\x12\x00"
"""A field that tf.Example does not have, empty: TensorFlow reads what has it in front, too."""
HOSTILE = {
    "an unknown field in front": UNKNOWN_FIELD + WHOLE,
    "bytes behind": WHOLE + b"\xff",
    "cut off": WHOLE[:-3],
    "a tag in more bytes than it needs": b"\x8a\x00" + WHOLE[1:],
    "only a line feed": b"\nSECRET-ORIGIN",
}


def examples_call(*values: bytes, shape: tuple[int, ...] | None = None) -> Answered:
    """A call whose one input is of text: tf.Examples, or not."""
    array = texts(*values) if shape is None else texts(*values).reshape(shape)
    dimensions = (None, *array.shape[1:])
    signature = Signature("s", "", (spec("examples", tf.string, dimensions),), (spec("y", tf.float32),), lambda *x: [])
    return Answered(1, signature, [array], [np.zeros(len(array), np.float32)])


@pytest.mark.parametrize("shape", [None, (-1, 1)], ids=["a value for each row", "lists"])
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("company", [(), (WHOLE,), (b"JFK",), (b"", WHOLE)], ids=["alone", "examples", "text", "both"])
def test_no_value_keeps_personal_features_of_any_request_in_the_clear(hostile, company, shape):
    call = examples_call(*company, hostile, *company, shape=shape)
    for together in (note(call), note(call, code="INVALID_ARGUMENT")):
        (group,) = groups([together])
        journal = group.batch(PERSONAL).serialize().to_pybytes()
        assert b"SECRET" not in journal, "no journal has it"
        rows = rows_of(together, personal=PERSONAL)
        assert "SECRET" not in str(rows) and len(rows) == 2 * len(company) + 1
        if WHOLE in company:
            assert '"hour":6.0' in str(rows[-1]), "what can be read of the others is kept"


@pytest.mark.parametrize("shape", [None, (-1, 1), (1, -1)])
def test_text_that_is_none_of_this_is_kept_as_it_is(shape):
    values = (b"JFK", b"", b"two\nlines", b"\xff\x00", b"J\x01")
    call = examples_call(*values, shape=shape)
    assert rows_of(note(call), personal=PERSONAL)[0].keys() == rows_of(note(call))[0].keys()
    kept, plain = rows_of(note(call), personal=PERSONAL), rows_of(note(call))
    names = ("input_examples", "inputs_json")
    assert [[row.get(name) for name in names] for row in kept] == [[row.get(name) for name in names] for row in plain]


def test_examples_in_lists_are_opened():
    personal = PERSONAL
    (row,) = rows_of(note(examples_call(WHOLE, WHOLE, shape=(1, 2))), personal=personal)
    (hashed,) = personal.hashes([b"SECRET-ORIGIN"])
    assert (
        row["inputs_json"] == f'{{"examples":[{{"hour":6.0,"origin":"{hashed}"}},{{"hour":6.0,"origin":"{hashed}"}}]}}'
    )


def test_a_hashed_column_whose_values_are_no_examples_is_hashed_whatever_they_hold():
    (row,) = rows_of(note(examples_call(b"origin")), personal=Personal(frozenset({"examples", "origin"}), key=b"k"))
    assert len(row["input_examples"]) == 64
