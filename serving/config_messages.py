"""Small config files in protobuf's text format whose messages tensorflow-serving-api does not bring along."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from airtight.errors import TerminalError

_PACKAGE = "tensorflow.serving"
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"string": _Field.TYPE_STRING, "bool": _Field.TYPE_BOOL}
_DECLARED: dict[str, tuple[tuple[str, str], ...]] = {
    "SSLConfig": (
        ("server_key", "string"),
        ("server_cert", "string"),
        ("custom_ca", "string"),
        ("client_verify", "bool"),
    ),
    "PrometheusConfig": (("enable", "bool"), ("path", "string")),
    "MonitoringConfig": (("prometheus_config", "PrometheusConfig"),),
}
"""Messages with their fields, which are numbered from 1 on."""


def read(path: Path, name: str, flag: str) -> Any:
    """Reads a config file.

    Args:
      path: The file.
      name: The message that it holds: SSLConfig or MonitoringConfig.
      flag: The flag that names it.

    Raises:
      TerminalError: It cannot be read.
    """
    config = _message(name)()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise TerminalError(
            f"The file of --{flag} cannot be read.",
            expected=f"a {name} in protobuf's text format",
            # Not the parser's words for a key: they repeat what the file holds.
            received=f"{path}: {error if name != 'SSLConfig' or isinstance(error, OSError) else type(error).__name__}",
            remedy=f"Correct --{flag}, or the file.",
        ) from None
    return config


@functools.cache
def _message(name: str) -> type[message.Message]:
    file = descriptor_pb2.FileDescriptorProto(name="airtight/config.proto", package=_PACKAGE, syntax="proto3")
    for declared, fields in _DECLARED.items():
        described = file.message_type.add(name=declared)
        for number, (field, kind) in enumerate(fields, start=1):
            scalar = _SCALARS.get(kind)
            described.field.add(
                name=field,
                number=number,
                label=_Field.LABEL_OPTIONAL,
                type=scalar or _Field.TYPE_MESSAGE,
                type_name=None if scalar else f".{_PACKAGE}.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()  # Its own: a later tensorflow-serving-api may register the same names.
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
