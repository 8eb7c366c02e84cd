"""The kinds of features by the name that a schema gives."""

from __future__ import annotations

from typing import Any

from airtight.errors import TerminalError
from components.data.feature_kinds.feature_kind import FeatureKind
from components.data.feature_kinds.lists import Categories, Vector
from components.data.feature_kinds.single import Image, Number, Text
from components.schema import ExampleSchema, Feature

KINDS: dict[str, FeatureKind] = {
    "number": Number(),
    "category": Text(),
    "categories": Categories(),
    "text": Text(),
    "vector": Vector(),
    "image": Image(),
}


def kind_of(feature: Feature) -> FeatureKind:
    """What a feature's kind is.

    Raises:
      TerminalError: There is no such kind, or a vector has no length.
    """
    if feature.kind not in KINDS or (feature.kind == "vector") != (feature.length > 0):
        raise TerminalError(
            f"The schema's feature {feature.name} is none.",
            expected=f"one of the kinds {', '.join(KINDS)}; a length of 1 or more for a vector, and for no other",
            received=f"kind {feature.kind!r}, length {feature.length}",
            remedy="Correct the pipeline's schema.",
        )
    return KINDS[feature.kind]


def parse_specs(schema: ExampleSchema) -> dict[str, Any]:
    """How `tf.io.parse_example` reads the features of a schema, by name."""
    return {feature.name: kind_of(feature).parse_spec(feature) for feature in schema.features}
