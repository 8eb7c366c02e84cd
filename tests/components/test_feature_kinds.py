"""Every kind of feature: what a model gets of a column, and what tf.Example and a request hold of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components.data.example_frame import columns_of
from components.data.feature_kinds import IMAGE_HEADS, kind_of, parse_specs
from components.schema import ExampleSchema, Feature

PNG, JPEG = (head + b"rest" for head in IMAGE_HEADS.values())
FEATURES = {
    "number": Feature("number", "number", "a number", "m"),
    "category": Feature("category", "category", "a category"),
    "categories": Feature("categories", "categories", "some categories"),
    "text": Feature("text", "text", "a text"),
    "vector": Feature("vector", "vector", "a vector", length=2),
    "image": Feature("image", "image", "an image"),
}
SCHEMA = ExampleSchema(tuple(FEATURES.values()), "label", "at", ("id",), ())
NAN = float("nan")
COLUMNS = {
    "number": ([1.5, None], np.float32([1.5, NAN])),
    "category": (["red", None], np.array(["red", ""], object)),
    "categories": ([["b", "a"], ["c"]], np.array([["b", "a"], ["c", ""]], object)),
    "text": (["Zürich, at night", None], np.array(["Zürich, at night", ""], object)),
    "vector": ([[1, 2], None], np.float32([[1, 2], [NAN, NAN]])),
    "image": ([PNG, None], np.array([PNG, b""], object)),
}


def column(kind: str, values: list) -> pa.ChunkedArray:
    feature = FEATURES[kind]
    return pa.chunked_array([pa.array(values, kind_of(feature).arrow_type(feature))])


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_becomes_what_a_model_takes(kind):
    feature, (values, expected) = FEATURES[kind], COLUMNS[kind]
    made = kind_of(feature).numpy(feature, column(kind, values))
    np.testing.assert_array_equal(made, expected)
    assert made.dtype == expected.dtype
    spec = kind_of(feature).tensor_spec(feature)
    assert spec.is_compatible_with(tf.constant(made, spec.dtype))
    assert kind_of(feature).holds(column(kind, values).type)
    # In pieces, and of no rows, too.
    pieces = pa.chunked_array([column(kind, values[:1]).chunk(0), column(kind, values[1:]).chunk(0)])
    np.testing.assert_array_equal(kind_of(feature).numpy(feature, pieces), expected)
    empty = kind_of(feature).numpy(feature, column(kind, []))
    assert len(empty) == 0 and spec.is_compatible_with(tf.constant(empty, spec.dtype))
    sliced = kind_of(feature).numpy(feature, column(kind, [*values, *values]).slice(1, 2))
    assert len(sliced) == 2


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_another_kind_is_not_taken_for_it(kind):
    same = {"category", "text"}
    for other in COLUMNS:
        fits = kind_of(FEATURES[kind]).holds(column(other, []).type)
        assert fits == (kind == other or {kind, other} <= same)


def test_lists_of_nothing_are_one_column_of_padding():
    made = kind_of(FEATURES["categories"]).numpy(FEATURES["categories"], column("categories", [[], None]))
    assert made.tolist() == [[""], [""]]


def test_vectors_of_another_length_are_refused_when_read():
    with pytest.raises(TerminalError, match=r"of different lengths.*another length in 1 of 2 rows"):
        kind_of(FEATURES["vector"]).numpy(FEATURES["vector"], column("vector", [[1, 2], [1, 2, 3]]))


@pytest.mark.parametrize(
    "feature", [Feature("x", "sound", ""), Feature("x", "vector", ""), Feature("x", "number", "", length=2)]
)
def test_a_feature_that_is_none_is_refused_by_name(feature):
    with pytest.raises(TerminalError, match="feature x is none"):
        kind_of(feature)


def test_an_example_that_lacks_everything_is_missing_everywhere():
    def value(**kwargs) -> tf.train.Feature:
        return tf.train.Feature(**kwargs)

    full = tf.train.Example(
        features=tf.train.Features(
            feature={
                "number": value(float_list=tf.train.FloatList(value=[1.5])),
                "category": value(bytes_list=tf.train.BytesList(value=[b"red"])),
                "categories": value(bytes_list=tf.train.BytesList(value=[b"b", b"a"])),
                "text": value(bytes_list=tf.train.BytesList(value=["Zürich, at night".encode()])),
                "vector": value(float_list=tf.train.FloatList(value=[1, 2])),
                "image": value(bytes_list=tf.train.BytesList(value=[PNG])),
            }
        )
    )
    serialized = [full.SerializeToString(), tf.train.Example().SerializeToString()]
    parsed = tf.io.parse_example(tf.constant(serialized), parse_specs(SCHEMA))
    for name, (values, _) in COLUMNS.items():
        feature = FEATURES[name]
        missing = [values[0], None if name != "categories" else []]
        expected = kind_of(feature).numpy(feature, column(name, missing))
        spec = kind_of(feature).tensor_spec(feature)
        np.testing.assert_array_equal(parsed[name].numpy(), tf.constant(expected, spec.dtype).numpy())


def test_the_columns_of_examples_are_in_one_order():
    names = [*FEATURES, "label", "at", "id"]
    assert columns_of(SCHEMA, labelled=True).names == names
    assert columns_of(SCHEMA, labelled=False).names == [name for name in names if name != "label"]
