"""ML Metadata on PostgreSQL, with backslashes.

ML Metadata's client writes a text that holds a backslash so that PostgreSQL takes it for a syntax error, or for worse:
`'E'{...}`. Tracebacks, JSON in parameters and the cache's keys hold them. So here every backslash crosses to the
database, in values as in queries, as a character of Unicode's private use area, and becomes one again on its way back.
"""

from __future__ import annotations

from typing import Any

import ml_metadata as mlmd
from google.protobuf import message
from google.protobuf.descriptor import FieldDescriptor

_BACKSLASH = "\\"
_STANDS_FOR_IT = "\uf05c"


class Store(mlmd.MetadataStore):
    """A metadata store on PostgreSQL."""

    def _pywrap_cc_call(self, method: Any, request: message.Message, response: message.Message) -> None:
        if _BACKSLASH.encode() in request.SerializeToString():
            request = _translated(request, _BACKSLASH, _STANDS_FOR_IT)
        super()._pywrap_cc_call(method, request, response)
        if _STANDS_FOR_IT.encode() in response.SerializeToString():
            response.CopyFrom(_translated(response, _STANDS_FOR_IT, _BACKSLASH))


def _translated(told: message.Message, old: str, new: str) -> message.Message:
    """A copy with one character for another in every text, names and keys too."""
    copy = type(told)()
    copy.CopyFrom(told)
    _translate(copy, old, new)
    return copy


def _translate(told: message.Message, old: str, new: str) -> None:
    for field, value in told.ListFields():
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _translate_map(value, kind.fields_by_name["value"].message_type is not None, old, new)
        elif kind is not None:
            for each in value if field.label == FieldDescriptor.LABEL_REPEATED else [value]:
                _translate(each, old, new)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.label == FieldDescriptor.LABEL_REPEATED:
                value[:] = [each.replace(old, new) for each in value]
            else:
                setattr(told, field.name, value.replace(old, new))


def _translate_map(told: Any, holds_messages: bool, old: str, new: str) -> None:
    for key in list(told):
        if holds_messages:
            _translate(told[key], old, new)
        elif isinstance(told[key], str):
            told[key] = told[key].replace(old, new)
        if isinstance(key, str) and old in key:
            if holds_messages:
                told[key.replace(old, new)].CopyFrom(told[key])
            else:
                told[key.replace(old, new)] = told[key]
            del told[key]
