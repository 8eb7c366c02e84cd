"""The tf.Examples of a classify or regress request in JSON, serialized.

It does without TensorFlow, because the process that parses large bodies does.
"""

from __future__ import annotations

import math
from typing import Any

from serving import base64_text
from serving.declared_messages import message_classes
from serving.errors import invalid
from serving.tensors_json import NULL_IS_NAN

_CLASS = message_classes(
    "airtight.examples",
    {  # Names and numbers as in tensorflow/core/example/{example,feature}.proto. A map is a list of pairs on the wire.
        "BytesList": (("value", 1, "bytes", True),),
        "FloatList": (("value", 1, "float", True),),
        "Int64List": (("value", 1, "int64", True),),
        "Feature": (
            ("bytes_list", 1, "BytesList", False),
            ("float_list", 2, "FloatList", False),
            ("int64_list", 3, "Int64List", False),
        ),
        "Pair": (("key", 1, "string", False), ("value", 2, "bytes", False)),  # The value is a serialized Feature.
        "Features": (("feature", 1, "Pair", True),),
        "Example": (("features", 1, "Features", False),),
    },
)
_BYTES, _FLOATS, _INTEGERS, _FEATURE = (_CLASS[name] for name in ("BytesList", "FloatList", "Int64List", "Feature"))
_PAIR, _FEATURES, _EXAMPLE = (_CLASS[name] for name in ("Pair", "Features", "Example"))


def serialized_examples(request: dict[str, Any], verb: str) -> list[bytes]:
    """Reads `examples` and `context` of a REST request.

    Args:
      request: The parsed body.
      verb: "classify" or "regress".

    Returns:
      Each example, serialized, with the features of the context that it does not have itself.

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
    if "context" not in request:
        return [_example(_features(value, index, nan)) for index, value in enumerate(listed)]
    examples = [_features(value, index, nan) for index, value in enumerate(listed)]
    context = _features(request["context"], None, nan)
    return [_example(context | features) for features in examples]


def _example(features: dict[str, bytes]) -> bytes:
    pairs = [_PAIR(key=name, value=feature) for name, feature in features.items()]
    return _EXAMPLE(features=_FEATURES(feature=pairs)).SerializeToString()


def _features(value: Any, index: int | None, nan: bool) -> dict[str, bytes]:
    """The serialized features of an example by name; those of the context where there is no index."""
    if type(value) is not dict:
        raise invalid(f"{_place(index)} is not an object")
    features = {}
    for name, content in value.items():
        if not _is_text(name):
            raise invalid(f"{_place(index)}: the feature name {name!r} is not valid Unicode")
        values = content if type(content) is list else [content]
        if nan and None in values:
            values = [math.nan if element is None else element for element in values]
        try:
            features[name] = _feature(values).SerializeToString()
        except (ValueError, OverflowError) as error:
            raise invalid(f"{_place(index)}, feature {name!r}: {error}") from error
    return features


def _place(index: int | None) -> str:
    return "'context'" if index is None else f"'examples' element {index}"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _feature(values: list[Any]) -> Any:
    types = set(map(type, values))
    if types <= {int, bool}:
        return _FEATURE(int64_list=_INTEGERS(value=map(int, values)))
    if types <= {float, int}:
        return _FEATURE(float_list=_FLOATS(value=values))
    if types <= {str, dict}:
        return _FEATURE(bytes_list=_BYTES(value=map(_bytes, values)))
    raise ValueError(f"values of different or unexpected types: {', '.join(sorted(t.__name__ for t in types))}")


def _bytes(value: str | dict[str, Any]) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if value.keys() == {"b64"} and isinstance(value["b64"], str):
        return base64_text.decode(value["b64"])
    raise ValueError("an object must be of the form {'b64': '...'}")
