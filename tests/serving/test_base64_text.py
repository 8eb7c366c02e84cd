"""Base64 in requests: what Abseil's Base64Unescape takes and refuses."""

from __future__ import annotations

import base64

import pytest
import tensorflow as tf
from tensorflow.core.example import example_pb2

from serving import base64_text, examples_json, tensors_json
from serving.errors import ServingError
from tests.serving.test_tensors_json import signature, spec

CONTENT = bytes(range(256))


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", b""),
        ("YQ==", b"a"),
        ("YQ", b"a"),
        ("YWI", b"ab"),
        ("YQ..", b"a"),
        ("YWI.", b"ab"),
        ("YQ=.", b"a"),
        (" Y\tQ\r\n=\v=\f", b"a"),
        ("YR==", b"a"),  # Unused bits.
        (base64.encodebytes(CONTENT).decode(), CONTENT),
        (base64.b64encode(CONTENT).decode().rstrip("="), CONTENT),
    ],
)
def test_taken(text, content):
    assert base64_text.decode(text) == content


@pytest.mark.parametrize(
    "text", ["Y", "YQ=", "YQ===", "YWI==", "YWJj=", "YWJj....", "=", "YQ=a", "-_-_", "YQ\0", "YQ==YQ==", "Yü", "Y\xa0Q"]
)
def test_refused(text):
    with pytest.raises(ValueError):
        base64_text.decode(text)


def test_inputs_and_features_are_read_so():
    folded = {"b64": base64.encodebytes(CONTENT).decode().rstrip("=\n")}
    arrays, _ = tensors_json.decode({"inputs": [folded]}, signature([spec("x", tf.string, None)]))
    assert arrays[0].tolist() == [CONTENT]
    [serialized] = examples_json.serialized_examples({"examples": [{"image": folded}]}, "classify")
    example = example_pb2.Example.FromString(serialized)
    assert list(example.features.feature["image"].bytes_list.value) == [CONTENT]
    for read in (
        lambda value: tensors_json.decode({"inputs": [value]}, signature([spec("x", tf.string, None)])),
        lambda value: examples_json.serialized_examples({"examples": [{"image": value}]}, "classify"),
    ):
        with pytest.raises(ServingError, match=r"(?i)base64"):
            read({"b64": "-_-_"})
