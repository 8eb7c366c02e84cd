"""Schemas of messages: what a change breaks, and that no declared stream has broken what was ever committed."""

from __future__ import annotations

import importlib
import json
import subprocess
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from msgspec import Meta

from airtight.home import ROOT
from streaming.windows.declaration import Stream
from streaming.windows.schemas import broken, json_schema

FOLDER = ROOT / "docs" / "schemas"


def streams() -> list[tuple[str, Stream]]:
    """Import strings and streams of every pipeline."""
    declared = []
    for path in sorted((ROOT / "pipelines").glob("*/streams.py")):
        name = f"pipelines.{path.parent.name}.streams"
        for attribute, value in vars(importlib.import_module(name)).items():
            if isinstance(value, Stream):
                declared.append((f"{name}:{attribute}", value))
    return declared


STREAMS = streams()


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def test_streams_are_declared_with_their_messages() -> None:
    assert len(STREAMS) >= 3
    assert [name for name, stream in STREAMS if not stream.messages] == []


@pytest.mark.parametrize(("name", "stream"), STREAMS, ids=[stream.name for _, stream in STREAMS])
def test_no_version_that_was_ever_committed_is_broken(name: str, stream: Stream) -> None:
    file = FOLDER / f"{stream.topics[0]}.json"
    schema = json_schema(stream)
    path = str(file.relative_to(ROOT))
    formers = [git("show", f"{commit}:{path}") for commit in git("log", "--format=%H", "--", path).split()]
    for former in [file.read_text(), *filter(None, formers)]:
        assert broken(json.loads(former), schema) == []
    assert json.loads(file.read_text()) == schema, f"write it anew: python -m streaming.windows.schemas {name} > {path}"


class Place(msgspec.Struct):
    town: str
    country: str = ""


class Sold(msgspec.Struct, tag_field="kind", tag="sold"):
    schema: int
    cents: Annotated[int, Meta(ge=0)]
    place: Place
    clerk: str | None = None


class Returned(msgspec.Struct, tag_field="kind", tag="returned"):
    schema: int


def schema_of(kind: Any) -> dict[str, Any]:
    return msgspec.json.schema(kind)


class Added(Sold, tag_field="kind", tag="sold"):
    """Another description, and more fields that nobody needs."""

    till: int | None = None


class PlaceAndStreet(Place):
    street: str = ""


class AddedInside(Sold, tag_field="kind", tag="sold"):
    place: PlaceAndStreet


@pytest.mark.parametrize("kind", [Sold, Added, AddedInside])
def test_an_addition_passes(kind: Any) -> None:
    assert broken(schema_of(Sold), schema_of(kind)) == []
    assert broken(schema_of(Sold | Returned), schema_of(kind | Returned)) == []


class Removed(msgspec.Struct, tag_field="kind", tag="sold"):
    schema: int
    cents: Annotated[int, Meta(ge=0)]
    place: Place


class Retyped(Sold, tag_field="kind", tag="sold"):
    cents: float


class Narrower(Sold, tag_field="kind", tag="sold"):
    cents: Annotated[int, Meta(ge=1)]


class Needed(Sold, tag_field="kind", tag="sold", kw_only=True):
    till: int


class WholePlace(msgspec.Struct):
    town: str
    country: str


class NeededInside(Sold, tag_field="kind", tag="sold"):
    place: WholePlace


class Optional(Sold, tag_field="kind", tag="sold", kw_only=True):
    cents: Annotated[int, Meta(ge=0)] = 0


class Closed(Sold, tag_field="kind", tag="sold", forbid_unknown_fields=True):
    pass


BREAKS: list[tuple[Any, str]] = [
    (Removed, "$.clerk is removed: an older reader may need it"),
    (Retyped, '$.cents is retyped: it was {"type": "integer", "minimum": 0} and is {"type": "number"}'),
    (Narrower, "$.cents is retyped"),
    (Needed, "$.till is required now: messages of older producers lack it"),
    (NeededInside, "$.place.country is required now"),
    (Optional, "$.cents is optional now"),
    (Closed, "$ takes no further fields any more"),
]


@pytest.mark.parametrize(("kind", "sentence"), BREAKS, ids=[kind.__name__ for kind, _ in BREAKS])
def test_what_breaks_is_named(kind: Any, sentence: str) -> None:
    (alone,) = broken(schema_of(Sold), schema_of(kind))
    assert alone.startswith(sentence)
    (in_union,) = broken(schema_of(Sold | Returned), schema_of(kind | Returned))
    assert in_union.startswith(sentence.replace("$", "$(sold)", 1))


def test_a_kind_may_come_and_not_go() -> None:
    class Lost(msgspec.Struct, tag_field="kind", tag="lost"):
        names: ClassVar[int] = 1

    assert broken(schema_of(Sold | Returned), schema_of(Sold | Returned | Lost)) == []
    (gone,) = broken(schema_of(Sold | Returned | Lost), schema_of(Sold | Returned))
    assert gone == "$(lost) is removed: who reads waits for it in vain"
