"""Protobufs that nobody should send, from a seed; the models are those of `hostile_http`."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.serving.hostile_http import flipped


def grpc_case(random: Random) -> tuple[str, bytes]:
    """A method and what is sent to it."""
    method, message = random.choice(_MESSAGES)(random)
    data = message.SerializePartialToString()
    kind = random.randrange(8)
    if kind == 0:
        data = random.randbytes(random.randrange(300))
    elif kind == 1:
        data = data[: random.randrange(len(data) + 1)]
    elif kind == 2:
        data = flipped(random, data)
    elif kind == 3:
        data += random.choice(
            (b"\xa2\x06\x03abc", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 200, b"\x0a\x03\x0a\x01\xff", data)
        )
    elif kind == 4:
        name = random.choice((b"mixed", b"half", b"pair"))
        data = data.replace(name, random.choice((b"\xff\xfe\xfa\x00\x80"[: len(name)].ljust(len(name), b"\xff"), name)))
    return method, data


def _spec(random: Random, message: Any) -> None:
    spec = message.model_spec
    spec.name = random.choice(("mixed", "mixed", "half", "half", "nobody", "", "..", "é"))
    spec.signature_name = random.choice(("", "", "serving_default", "regress_x_to_y", "classify_x", "nothing"))
    choice = random.randrange(6)
    if choice == 0:
        spec.version.value = random.choice((1, 3, 0, -1, 2**63 - 1, -(2**63)))
    elif choice == 1:
        spec.version_label = random.choice(("", "stable", "x" * 5000))


def _tensor(random: Random, good: tensor_pb2.TensorProto) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto()
    tensor.CopyFrom(good)
    kind = random.randrange(8)
    if kind == 0:  # A dtype of another kind, or of none: references, resources, variants, and numbers that are no name.
        tensor.dtype = random.choice((*types_pb2.DataType.values(), 99, -1, 2**31 - 1))
    elif kind == 1:
        del tensor.tensor_shape.dim[:]
        sizes = (0, 1, 2, -1, -(2**63), 2**31, 2**40, 2**62, 2**63 - 1)
        for _ in range(random.choice((0, 1, 2, 3, 5, 70, 300))):
            tensor.tensor_shape.dim.add(size=random.choice(sizes))
    elif kind == 2:
        tensor.tensor_content = random.randbytes(random.choice((1, 3, 4, 8, 16, 1000)))
    elif kind == 3:
        tensor.tensor_shape.unknown_rank = True
    elif kind == 4:
        tensor.string_val.append(random.randbytes(20))
        tensor.float_val.append(math.nan)
        tensor.int64_val.append(2**62)
        tensor.half_val.append(70_000)
        tensor.scomplex_val.append(1.0)
    elif kind == 5:
        tensor.variant_val.add(type_name="tensorflow::Tensor", metadata=b"\xff" * 20)
        tensor.resource_handle_val.add(device="/cpu:0", name="x" * 100)
        tensor.dtype = random.choice((types_pb2.DT_VARIANT, types_pb2.DT_RESOURCE))
    return tensor


_GOOD = {
    "mixed": {
        "pair": tf.make_tensor_proto([[1.0, 2.0]], tf.float32),
        "count": tf.make_tensor_proto([3], tf.int32),
        "word": tf.make_tensor_proto(["w"]),
        "flag": tf.make_tensor_proto([True]),
        "exact": tf.make_tensor_proto([0.5], tf.float64),
    },
    "half": {"x": tf.make_tensor_proto([[1.0]], tf.float32)},
}


def _predict(random: Random) -> tuple[str, Any]:
    request = predict_pb2.PredictRequest()
    _spec(random, request)
    for name, good in _GOOD[random.choice(("mixed", "mixed", "half"))].items():
        if random.random() < 0.97:
            request.inputs[name].CopyFrom(_tensor(random, good) if random.random() < 0.3 else good)
    if random.random() < 0.1:
        request.output_filter.extend(random.choices(("sum", "y", "nothing", ""), k=random.randrange(4)))
    return "/tensorflow.serving.PredictionService/Predict", request


def _examples(random: Random, examples_input: Any) -> None:
    listed = examples_input.example_list if random.random() < 0.7 else examples_input.example_list_with_context
    for _ in range(random.randrange(4)):
        feature = listed.examples.add().features.feature[random.choice(("x", "x", "x", "y", ""))]
        kind = random.randrange(4)
        if kind == 0:
            feature.bytes_list.value.append(random.randbytes(5))
        elif kind == 1:
            feature.int64_list.value.append(2**62)
        else:
            feature.float_list.value.extend(
                [random.choice((1.0, math.nan, 1e38))] * random.choice((1, 1, 1, 0, 2, 500))
            )


def _classify(random: Random) -> tuple[str, Any]:
    request = classification_pb2.ClassificationRequest()
    _spec(random, request)
    _examples(random, request.input)
    return "/tensorflow.serving.PredictionService/Classify", request


def _regress(random: Random) -> tuple[str, Any]:
    request = regression_pb2.RegressionRequest()
    _spec(random, request)
    _examples(random, request.input)
    return "/tensorflow.serving.PredictionService/Regress", request


def _several(random: Random) -> tuple[str, Any]:
    request = inference_pb2.MultiInferenceRequest()
    for _ in range(random.randrange(4)):
        task = request.tasks.add(
            method_name=random.choice(("tensorflow/serving/regress", "tensorflow/serving/classify", ""))
        )
        _spec(random, task)
    _examples(random, request.input)
    return "/tensorflow.serving.PredictionService/MultiInference", request


def _metadata(random: Random) -> tuple[str, Any]:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    _spec(random, request)
    request.metadata_field.extend(random.choices(("signature_def", "x"), k=random.randrange(3)))
    return "/tensorflow.serving.PredictionService/GetModelMetadata", request


def _status(random: Random) -> tuple[str, Any]:
    request = get_model_status_pb2.GetModelStatusRequest()
    _spec(random, request)
    return f"/tensorflow.serving.ModelService/{random.choice(('GetModelStatus', 'GetModelStatus', 'Nothing'))}", request


_MESSAGES: tuple[Callable[[Random], tuple[str, Any]], ...] = (
    _predict,
    _predict,
    _predict,
    _classify,
    _regress,
    _several,
    _metadata,
    _status,
)
