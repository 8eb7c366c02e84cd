"""The JSON Schema of a stream's messages, and what a change of it breaks.

    python -m streaming.windows.schemas bike_demand > docs/schemas/bike.rides.json

Producers and readers are upgraded one after the other, so each must do with what the other one knows: fields may be
added that no reader needs, and kinds of messages. What breaks a schema is a message of another topic.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from airtight.import_string import load
from streaming.windows.declaration import Stream, declared

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NOTES = ("title", "description", "default", "examples")
"""What a schema says to people, and a change of which breaks nothing."""
Schema = dict[str, Any]


def json_schema(stream: Stream) -> Schema:
    """The JSON Schema (2020-12) of a message of a stream that declares what its messages are."""
    return {
        "$schema": DIALECT,
        "title": f"Messages of {stream.topics[0]}",
        **msgspec.json.schema(load(stream.messages)),
    }


def broken(former: Schema, schema: Schema) -> list[str]:
    """What a schema breaks for readers or producers that know its former version.

    Args:
      former: The former version, as `json_schema` made it.
      schema: The version of today.

    Returns:
      A sentence for each field or kind that is gone, has another type, or is needed only now or no longer; empty where
      the change adds at most.
    """
    return [*_broken(_resolved(former, former), _resolved(schema, schema), "$")]


def _broken(former: Schema, schema: Schema, path: str) -> Iterator[str]:
    if "discriminator" in former and "discriminator" in schema:
        kinds, kinds_now = _kinds(former), _kinds(schema)
        for kind, of_kind in kinds.items():
            if kind in kinds_now:
                yield from _broken(of_kind, kinds_now[kind], f"{path}({kind})")
            else:
                yield f"{path}({kind}) is removed: who reads waits for it in vain"
    elif "properties" in former and "properties" in schema:
        yield from _broken_object(former, schema, path)
    elif former != schema:
        yield f"{path} is retyped: it was {json.dumps(former)} and is {json.dumps(schema)}"


def _broken_object(former: Schema, schema: Schema, path: str) -> Iterator[str]:
    fields, fields_now = former["properties"], schema["properties"]
    needed, needed_now = set(former.get("required", ())), set(schema.get("required", ()))
    for name, field in fields.items():
        if name not in fields_now:
            yield f"{path}.{name} is removed: an older reader may need it"
            continue
        yield from _broken(field, fields_now[name], f"{path}.{name}")
        if name in needed - needed_now:
            yield f"{path}.{name} is optional now: an older reader needs it"
    for name in sorted(needed_now - needed):
        yield f"{path}.{name} is required now: messages of older producers lack it"
    if former.get("additionalProperties", True) and not schema.get("additionalProperties", True):
        yield f"{path} takes no further fields any more: newer producers may add some"


def _kinds(schema: Schema) -> dict[str, Schema]:
    """The schemas of a union by the value of the field that tells them apart."""
    field = schema["discriminator"]
    return {kind: one for one in schema["anyOf"] for kind in one["properties"][field].get("enum", ())}


def _resolved(root: Schema, part: Any) -> Any:
    """A part of a schema with what its references mean, and without what is for people alone."""
    if isinstance(part, list):
        return [_resolved(root, one) for one in part]
    if not isinstance(part, dict):
        return part
    if reference := part.get("$ref"):
        target: Any = root
        for name in reference.removeprefix("#/").split("/"):
            target = target[name]
        return _resolved(root, target)
    if "discriminator" in part:
        return {"anyOf": _resolved(root, part["anyOf"]), "discriminator": part["discriminator"]["propertyName"]}
    kept = {name: value for name, value in part.items() if name not in (*NOTES, "$schema", "$defs")}
    if "properties" in kept:
        # A field may have the name of a note.
        properties = {name: _resolved(root, field) for name, field in kept.pop("properties").items()}
        return {**{name: _resolved(root, value) for name, value in kept.items()}, "properties": properties}
    return {name: _resolved(root, value) for name, value in kept.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(declared(sys.argv[1])), indent=1) + "\n")
