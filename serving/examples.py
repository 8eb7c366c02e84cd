"""Classify and Regress: requests made of tf.Examples, in protobuf and in JSON, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, regression_pb2

from serving import examples_json, json_pieces
from serving.errors import invalid
from serving.signature import Signature

INPUT, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"
"""TensorFlow Serving's names for the tensors of such signatures."""
METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}

Result: TypeAlias = "classification_pb2.ClassificationResult | regression_pb2.RegressionResult"


def arrays(request: input_pb2.Input, signature: Signature, verb: str) -> list[np.ndarray]:
    """The signature's one input: each example, serialized, with the shared context merged in.

    Args:
      request: The examples.
      signature: What will be called.
      verb: "classify" or "regress".

    Raises:
      ServingError: INVALID_ARGUMENT, the signature is for something else, or there are no examples.
    """
    if request.WhichOneof("kind") == "example_list_with_context":
        listed = request.example_list_with_context
        examples = [_merged(listed.context, example) for example in listed.examples]
    else:
        examples = list(request.example_list.examples)
    return arrays_of([example.SerializeToString() for example in examples], signature, verb)


def arrays_of(serialized: Sequence[bytes], signature: Signature, verb: str) -> list[np.ndarray]:
    """As `arrays`, of serialized examples."""
    if signature.method != METHODS[verb]:
        raise invalid(
            f"Expected {'classification' if verb == 'classify' else 'regression'} signature method_name to be "
            f"{METHODS[verb]}. Was: {signature.method}"
        )
    if [spec.name for spec in signature.inputs] != [INPUT]:
        raise invalid(f"Expected one input tensor named {INPUT!r}")
    if not len(serialized):
        raise invalid("Input is empty")
    array = np.empty(len(serialized), object)
    array[:] = serialized
    return [array]


def arrays_from_json(request: dict[str, Any], signature: Signature, verb: str) -> list[np.ndarray]:
    """The arrays of a REST request's examples; errors are those of both steps."""
    return arrays_of(examples_json.serialized_examples(request, verb), signature, verb)


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
    named = _named(outputs, signature)
    return _classification(named, count) if verb == "classify" else _regression(named, count)


def result_json(outputs: list[np.ndarray], signature: Signature, verb: str, count: int) -> bytes:
    """The same result as REST answers it: `[label, score]` pairs, or numbers; arguments and errors as of `result`."""
    named = _named(outputs, signature)
    if verb == "regress":
        values = _values(named, count)
        answer = json_pieces.dump_array(values, bool(np.isfinite(values).all()))
    else:
        labels, scores = _labels_and_scores(named, count)
        finite = bool(np.isfinite(scores).all())
        answer = json_pieces.dump_list(count, 2 * scores.size, lambda part: _pairs(labels[part], scores[part]), finite)
    return b'{"results":' + answer + b"}"


def _pairs(labels: np.ndarray, scores: np.ndarray) -> list[list[tuple[str, np.float32]]]:
    return [
        [(_text(label), score) for label, score in zip(*entry, strict=True)]
        for entry in zip(labels, scores, strict=True)
    ]


def _text(label: bytes) -> str:
    return label.decode("utf-8", "replace")


def _named(outputs: list[np.ndarray], signature: Signature) -> dict[str, np.ndarray]:
    return {spec.name: output for spec, output in zip(signature.outputs, outputs, strict=True)}


def _classification(named: dict[str, np.ndarray], count: int) -> classification_pb2.ClassificationResult:
    answer = classification_pb2.ClassificationResult()
    for labels, scores in zip(*_labels_and_scores(named, count), strict=True):
        entry = answer.classifications.add()
        for label, score in zip(labels, scores, strict=True):
            entry.classes.add(label=_text(label), score=score)
    return answer


def _labels_and_scores(named: dict[str, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Both [examples, classes], bytes and float32; what the model does not answer is empty, or 0."""
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
    return (
        np.full(shape, b"", object) if classes is None else classes,
        np.zeros(shape, np.float32) if scores is None else _float32(scores, "scores"),
    )


def _regression(named: dict[str, np.ndarray], count: int) -> regression_pb2.RegressionResult:
    answer = regression_pb2.RegressionResult()
    for value in _values(named, count):
        answer.regressions.add(value=value)
    return answer


def _values(named: dict[str, np.ndarray], count: int) -> np.ndarray:
    """[examples], float32."""
    output = named.get(OUTPUTS)
    if output is None:
        raise invalid(f"Expected regression signature outputs to contain {OUTPUTS!r}")
    if output.shape not in ((count,), (count, 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1]. Was: {list(output.shape)}"
        )
    return _float32(output.ravel(), "output")


def _float32(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind in "OSc":
        raise invalid(f"Expected {name} Tensor of DT_FLOAT. Was: {array.dtype}")
    with np.errstate(over="ignore"):  # What is too large becomes infinite, as in C++.
        return np.ascontiguousarray(array, np.float32)


def _merged(context: example_pb2.Example, example: example_pb2.Example) -> example_pb2.Example:
    whole = example_pb2.Example()
    whole.CopyFrom(context)
    whole.MergeFrom(example)  # A feature of the example wins over the context's.
    return whole
