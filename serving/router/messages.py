"""The few fields of TensorFlow Serving's messages that the router reads."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from serving.declared_messages import Field, message_classes

# Names and numbers as in tensorflow_serving/apis/*.proto.
_DECLARED: dict[str, tuple[Field, ...]] = {
    "Number": (("value", 1, "int64", False),),
    "Spec": (
        ("name", 1, "string", False),
        ("version", 2, "Number", False),
        ("version_label", 4, "string", False),
    ),
    "Request": (("model_spec", 1, "Spec", False),),
    "Task": (("model_spec", 1, "Spec", False),),
    "Tasks": (("tasks", 1, "Task", True),),
    "Metadata": (("model_spec", 1, "Spec", False),),
    "Dimension": (("size", 1, "int64", False),),
    "Shape": (("dim", 2, "Dimension", True),),
    "Tensor": (
        ("dtype", 1, "int32", False),
        ("tensor_shape", 2, "Shape", False),
        ("tensor_content", 4, "bytes", False),
        ("float_val", 5, "float", True),
        ("double_val", 6, "double", True),
    ),
    "Output": (("key", 1, "string", False), ("value", 2, "Tensor", False)),
    "Predicted": (("outputs", 1, "Output", True), ("model_spec", 2, "Spec", False)),
    "Class": (("score", 2, "float", False),),
    "Classifications": (("classes", 1, "Class", True),),
    "Classification": (("classifications", 1, "Classifications", True),),
    "Classified": (("result", 1, "Classification", False), ("model_spec", 2, "Spec", False)),
    "Regression": (("value", 1, "float", False),),
    "Regressions": (("regressions", 1, "Regression", True),),
    "Regressed": (("result", 1, "Regressions", False), ("model_spec", 2, "Spec", False)),
}

_CLASS = message_classes("airtight.router", _DECLARED)
_TASKS = "MultiInference"
RELEASED = frozenset({"Predict", "Classify", "Regress", _TASKS})
"""Methods of the PredictionService that a release routes."""


def requested_model(method: str, request: bytes) -> tuple[str, bool]:
    """The model that a request of one of the methods `RELEASED` is for.

    Args:
      method: The method's name.
      request: The serialized message.

    Returns:
      The model's name, empty where none can be read, and whether the request leaves the version to the server.
    """
    try:
        if method == _TASKS:
            specs = [task.model_spec for task in _CLASS["Tasks"].FromString(request).tasks]
        else:
            specs = [_CLASS["Request"].FromString(request).model_spec]
    except DecodeError:
        return "", False
    names = {spec.name for spec in specs}
    if len(names) != 1:
        return "", False
    return names.pop(), not any(spec.HasField("version") or spec.version_label for spec in specs)


def with_version(method: str, request: bytes, version: int) -> bytes:
    """The same request, asking for a version.

    Args:
      method: The method's name, one of `RELEASED`.
      request: The serialized message, readable by `requested_model`.
      version: The version's number.
    """
    if method == _TASKS:
        tasks = _CLASS["Tasks"].FromString(request)
        for task in tasks.tasks:
            task.model_spec.version.value = version
            task.model_spec.version.SetInParent()
        return tasks.SerializeToString()
    # Two serialized messages one after the other are their merger, so that tensors need not be parsed and written anew.
    addition = _CLASS["Request"]()
    addition.model_spec.version.value = version
    addition.model_spec.version.SetInParent()
    return request + addition.SerializeToString()


def predicted(answer: bytes) -> Any:
    """A PredictResponse with `outputs` (`key`, `value`).

    Raises:
      DecodeError: It is none.
    """
    return _CLASS["Predicted"].FromString(answer)


def regressed(answer: bytes) -> Any:
    """A RegressionResponse with `result.regressions` (`value`).

    Raises:
      DecodeError: It is none.
    """
    return _CLASS["Regressed"].FromString(answer)


def classified(answer: bytes) -> Any:
    """A ClassificationResponse with `result.classifications` (`classes` of `score`).

    Raises:
      DecodeError: It is none.
    """
    return _CLASS["Classified"].FromString(answer)
