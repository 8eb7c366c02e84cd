"""Protobuf messages declared field by field, for processes that do without TensorFlow.

Importing the generated code imports TensorFlow, 400 MB and seconds of it. What is not declared is kept as it came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {"string": 9, "bytes": 12, "float": 2, "double": 1, "int32": 5, "int64": 3}
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3
Field: TypeAlias = tuple[str, int, str, bool]
"""A field's name, number, type (or message) and whether it is repeated."""


def message_classes(package: str, declared: Mapping[str, Sequence[Field]]) -> dict[str, Any]:
    """Makes classes of messages, in a pool of their own.

    Args:
      package: A name of their own, with dots.
      declared: Fields by message; numbers as in the .proto file.

    Returns:
      The classes by the messages' names.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in declared.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            message.field.add(
                name=field,
                number=number,
                label=_REPEATED if repeated else _OPTIONAL,
                type=_TYPES.get(kind, _MESSAGE),
                type_name=None if kind in _TYPES else f".{package}.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in declared}
