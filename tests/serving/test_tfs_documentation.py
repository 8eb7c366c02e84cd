"""Each example of TensorFlow Serving's README and of its guide to the REST API, unchanged, against a real server."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.serving import models

pytestmark = pytest.mark.slow


class Guide(tf.Module):
    """What the guide's examples of formats are asked of; inputs are answered as they came."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def texts(self, text):
        return {"text": tf.identity(text)}

    @tf.function(input_signature=[tf.TensorSpec([None, 1, 2], tf.float32, name="pair")])
    def pairs(self, pair):
        return {"pair": tf.identity(pair)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="tag"),
            tf.TensorSpec([None, 5], tf.int64, name="signal"),
            tf.TensorSpec([None, 2, 2], tf.int64, name="sensor"),
        ]
    )
    def serve(self, tag, signal, sensor):
        return {"tag": tf.identity(tag), "signal": tf.identity(signal), "sensor": tf.identity(sensor)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def objects(self, inputs):
        kinds = {"image": tf.io.FixedLenFeature([], tf.string), "caption": tf.io.FixedLenFeature([], tf.string)}
        parsed = tf.io.parse_example(inputs, kinds)
        scores = tf.cast(tf.strings.length(parsed["image"]), tf.float32)
        return {"classes": tf.expand_dims(parsed["caption"], 1), "scores": tf.expand_dims(scores, 1)}


def save_guide(folder) -> None:
    module = Guide()
    signatures = {"serving_default": module.serve, "texts": module.texts, "pairs": module.pairs}
    tf.saved_model.save(module, str(folder), signatures={**signatures, "classify_objects": module.objects})
    # Keras and TensorFlow 2 write one method for all signatures; the guide's model was written to classify.
    path = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    classify = saved.meta_graphs[0].signature_def["classify_objects"]
    classify.method_name = "tensorflow/serving/classify"
    path.write_bytes(saved.SerializeToString())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("guide")
    for name in ("half_plus_two", "saved_model_half_plus_three", "guide"):
        (root / name).mkdir()
    models.save_half_plus_two(root / "half_plus_two" / "00000123")
    three = root / "saved_model_half_plus_three" / "00000123"
    models.save_half_plus_two(three, 3.0, "tensorflow/serving/regress")
    save_guide(root / "guide" / "1")
    with models.running(root.with_name("guide-server"), f"--models_root={root}") as running:
        yield running


def test_readme(server):
    path = "/v1/models/half_plus_two:predict"
    assert server.ask("POST", path, '{"instances": [1.0, 2.0, 5.0]}') == (200, {"predictions": [2.5, 3.0, 4.5]})


THREE = "/v1/models/saved_model_half_plus_three"


def test_status(server):
    version = {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in (THREE, f"{THREE}/versions/123"):
        assert server.ask("GET", path) == (200, {"model_version_status": [version]})


def test_metadata(server):
    status, body = server.ask("GET", f"{THREE}/metadata")
    assert status == 200
    assert body["model_spec"] == {"name": "saved_model_half_plus_three", "signature_name": "", "version": "123"}
    assert "tensorflow/serving/regress" in body["metadata"]["signature_def"]["signature_def"]


def test_predict_and_regress(server):
    body = '{"instances": [1.0,2.0,5.0]}'
    assert server.ask("POST", f"{THREE}:predict", body) == (200, {"predictions": [3.5, 4.0, 5.5]})
    body = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert server.ask("POST", f"{THREE}:regress", body) == (200, {"results": [3.5, 4.0]})


def test_an_unknown_model(server):
    refusal = {"error": "Servable not found for request: Latest(half)"}
    assert server.ask("POST", "/v1/models/half:predict", '{"instances": [1.0,5.0]}') == (404, refusal)


ROWS = [
    {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
    {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
]
COLUMNS = {
    "tag": ["foo", "bar"],
    "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
    "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]],
}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"signature_name": "texts", "instances": ["foo", "bar", "baz"]}, {"predictions": ["foo", "bar", "baz"]}),
        (
            {"signature_name": "pairs", "instances": [[[1, 2]], [[3, 4]]]},
            {"predictions": [[[1.0, 2.0]], [[3.0, 4.0]]]},
        ),
        ({"instances": ROWS}, {"predictions": ROWS}),
        ({"inputs": COLUMNS}, {"outputs": COLUMNS}),
    ],
)
def test_rows_and_columns(server, body, answer):
    assert server.ask("POST", "/v1/models/guide:predict", body) == (200, answer)


def test_binary_values(server):
    body = """{
      "signature_name": "classify_objects",
      "examples": [
        {
          "image": { "b64": "aW1hZ2UgYnl0ZXM=" },
          "caption": "seaside"
        },
        {
          "image": { "b64": "YXdlc29tZSBpbWFnZSBieXRlcw==" },
          "caption": "mountains"
        }
      ]
    }"""
    answer = {"results": [[["seaside", 11.0]], [["mountains", 19.0]]]}
    assert server.ask("POST", "/v1/models/guide:classify", body) == (200, answer)


def test_a_number_that_float32_does_not_have_and_tokens_that_json_does_not(server):
    _, answer = server.ask("POST", "/v1/models/half_plus_two:predict", '{"instances": [1435774380, -3.0, 1e2]}')
    assert answer["predictions"] == [717887170.0, 0.5, 52.0]
    status, raw = server.raw("POST", "/v1/models/half_plus_two:predict", '{"instances": [NaN, Infinity, -Infinity]}')
    assert (status, json.dumps(json.loads(raw))) == (200, '{"predictions": [NaN, Infinity, -Infinity]}')
