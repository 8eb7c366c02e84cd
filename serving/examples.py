"""Classify and Regress: requests made of tf.Examples, in protobuf and in JSON, and their results."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from serving import base64_text
from serving.errors import invalid
from serving.signature import Signature
from serving.tensors_json import NULL_IS_NAN

INPUT, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"
"""TensorFlow Serving's names for the tensors of such signatures."""
METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}

Result: TypeAlias = "classification_pb2.ClassificationResult | regression_pb2.RegressionResult"


def arrays(told: input_pb2.Input, signature: Signature, verb: str) -> list[np.ndarray]:
    """The signature's one input: each example, serialized, with the shared context merged in.

    Args:
      told: The examples.
      signature: What will be called.
      verb: "classify" or "regress".

    Raises:
      ServingError: INVALID_ARGUMENT, the signature is for something else, or there are no examples.
    """
    if signature.method != METHODS[verb]:
        raise invalid(
            f"Expected {'classification' if verb == 'classify' else 'regression'} signature method_name to be "
            f"{METHODS[verb]}. Was: {signature.method}"
        )
    if [spec.name for spec in signature.inputs] != [INPUT]:
        raise invalid(f"Expected one input tensor named {INPUT!r}")
    if told.WhichOneof("kind") == "example_list_with_context":
        listed = told.example_list_with_context
        examples = [_merged(listed.context, example) for example in listed.examples]
    else:
        examples = list(told.example_list.examples)
    if not examples:
        raise invalid("Input is empty")
    serialized = np.empty(len(examples), object)
    serialized[:] = [example.SerializeToString() for example in examples]
    return [serialized]


def arrays_from_json(request: dict[str, Any], signature: Signature, verb: str) -> list[np.ndarray]:
    """The arrays of a REST request's examples; errors are those of both steps."""
    return arrays(input_from_json(request, verb), signature, verb)


def result(outputs: list[np.ndarray], signature: Signature, verb: str, count: int) -> Result:
    """Turns what the signature answered into TensorFlow Serving's result.

    Args:
      outputs: In the order of `signature.outputs`.
      signature: What was called.
      verb: "classify" or "regress".
      count: Number of examples that were asked.

    Raises:
      ServingError: INVALID_ARGUMENT, the model's outputs have another form.
    """
    named = {spec.name: output for spec, output in zip(signature.outputs, outputs, strict=True)}
    return _classification(named, count) if verb == "classify" else _regression(named, count)


def input_from_json(request: dict[str, Any], verb: str) -> input_pb2.Input:
    """Reads `examples` and `context` of a REST request.

    Raises:
      ServingError: INVALID_ARGUMENT, saying what is wrong and where.
    """
    if "examples" not in request:
        raise invalid(f"When method is {verb}, key 'examples' is expected and was not found in the request")
    listed = request["examples"]
    if type(listed) is not list:
        raise invalid("Expecting 'examples' value to be an array/list")
    if not listed:
        raise invalid("'examples' is an empty list; at least one is needed")
    nan = NULL_IS_NAN in request
    examples = [_example(features, f"'examples' element {index}", nan) for index, features in enumerate(listed)]
    answer = input_pb2.Input()
    if "context" in request:
        answer.example_list_with_context.context.CopyFrom(_example(request["context"], "'context'", nan))
        answer.example_list_with_context.examples.extend(examples)
    else:
        answer.example_list.examples.extend(examples)
    return answer


def result_as_json(told: Result) -> dict[str, Any]:
    """The result as REST answers it: `[label, score]` pairs, or numbers."""
    if isinstance(told, regression_pb2.RegressionResult):
        return {"results": [_float32(one.value) for one in told.regressions]}
    return {"results": [[[one.label, _float32(one.score)] for one in entry.classes] for entry in told.classifications]}


def _classification(named: dict[str, np.ndarray], count: int) -> classification_pb2.ClassificationResult:
    classes, scores = named.get(CLASSES), named.get(SCORES)
    if classes is None and scores is None:
        raise invalid(f"Expected classification signature outputs to contain {CLASSES!r} or {SCORES!r}")
    for name, output in ((CLASSES, classes), (SCORES, scores)):
        if output is not None and (output.ndim != 2 or len(output) != count):  # noqa: PLR2004 - [batch, classes]
            raise invalid(f"Expected {name} output to be of shape [{count}, classes]. Was: {list(output.shape)}")
    if classes is not None and classes.dtype != object:
        raise invalid(f"Expected classes Tensor of DT_STRING. Was: {classes.dtype}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise invalid(f"Tensors class and score should match in shape: {list(classes.shape)}, {list(scores.shape)}")
    shape = next(output.shape for output in (classes, scores) if output is not None)
    classes = np.full(shape, b"", object) if classes is None else classes
    scores = np.zeros(shape, np.float32) if scores is None else scores
    answer = classification_pb2.ClassificationResult()
    for labels, numbers in zip(classes, scores, strict=True):
        entry = answer.classifications.add()
        for label, number in zip(labels, numbers, strict=True):
            entry.classes.add(label=label.decode("utf-8", "replace"), score=number)
    return answer


def _regression(named: dict[str, np.ndarray], count: int) -> regression_pb2.RegressionResult:
    output = named.get(OUTPUTS)
    if output is None:
        raise invalid(f"Expected regression signature outputs to contain {OUTPUTS!r}")
    if output.shape not in ((count,), (count, 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1]. Was: {list(output.shape)}"
        )
    answer = regression_pb2.RegressionResult()
    for value in output.ravel():
        answer.regressions.add(value=value)
    return answer


def _merged(context: example_pb2.Example, example: example_pb2.Example) -> example_pb2.Example:
    whole = example_pb2.Example()
    whole.CopyFrom(context)
    whole.MergeFrom(example)  # A feature of the example wins over the context's.
    return whole


def _example(features: Any, where: str, nan: bool) -> example_pb2.Example:
    if type(features) is not dict:
        raise invalid(f"{where} is not an object")
    answer = example_pb2.Example()
    for name, value in features.items():
        if not _is_text(name):
            raise invalid(f"{where}: the feature name {name!r} is not valid Unicode")
        values = value if type(value) is list else [value]
        if nan and None in values:
            values = [math.nan if element is None else element for element in values]
        answer.features.feature[name].CopyFrom(_feature(values, f"{where}, feature {name!r}"))
    return answer


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _feature(values: list[Any], where: str) -> feature_pb2.Feature:
    types = set(map(type, values))
    try:
        if types <= {int, bool}:
            return feature_pb2.Feature(int64_list=feature_pb2.Int64List(value=map(int, values)))
        if types <= {float, int}:
            return feature_pb2.Feature(float_list=feature_pb2.FloatList(value=values))
        if types <= {str, dict}:
            return feature_pb2.Feature(bytes_list=feature_pb2.BytesList(value=map(_bytes, values)))
    except (ValueError, OverflowError) as error:
        raise invalid(f"{where}: {error}") from error
    raise invalid(f"{where}: values of different or unexpected types: {', '.join(sorted(t.__name__ for t in types))}")


def _bytes(value: str | dict[str, Any]) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if value.keys() == {"b64"} and isinstance(value["b64"], str):
        return base64_text.decode(value["b64"])
    raise ValueError("an object must be of the form {'b64': '...'}")


def _float32(value: float) -> float:
    return float(str(np.float32(value)))
