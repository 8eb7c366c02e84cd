"""ML Metadata's events and values in Python: the artifacts that executions were given or made, by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

_Event = metadata_store_pb2.Event
OUTPUT_EVENTS = (_Event.OUTPUT, _Event.INTERNAL_OUTPUT, _Event.DECLARED_OUTPUT)
"""Types of the events of an execution's outputs; INTERNAL_OUTPUT is what a resolver hands on."""
INPUT_EVENTS = (_Event.INPUT, _Event.INTERNAL_INPUT, _Event.DECLARED_INPUT)
"""Types of the events of its inputs."""
DIGEST = "content_digest"
"""Custom property of an artifact: SHA-256 of its contents when it was published."""
FLAGS = {"PushedModel": "pushed", "ModelBlessing": "blessed"}
"""Types of artifacts that record a decision, with the custom property that is 1 where the decision is yes."""
RECORDS = frozenset({"Promotion", "ChallengerReport", "DataAlarms", "WatchDecision"})
"""Types of artifacts that history is read from: they stay, and nothing stays for their sake."""
CHUNK = 500
"""Ids in one call: databases limit how many values a statement may hold."""

Scalar = str | int | float


@dataclass(frozen=True)
class Artifact:
    """One artifact of an execution.

    Args:
      proto: As the store has it.
      type: Its type.
    """

    proto: metadata_store_pb2.Artifact
    type: metadata_store_pb2.ArtifactType

    @property
    def uri(self) -> str:
        """Where it lies."""
        return str(self.proto.uri)

    @property
    def digest(self) -> str:
        """Of its contents when it was published; "" where that is not recorded."""
        properties = self.proto.custom_properties
        return str(properties[DIGEST].string_value) if DIGEST in properties else ""

    @property
    def properties(self) -> dict[str, Scalar]:
        """Texts and numbers among its properties, declared and custom, by name."""
        return scalars(self.proto.properties) | scalars(self.proto.custom_properties)


ByKey = dict[str, list[Artifact]]


def scalars(values: Mapping[str, metadata_store_pb2.Value]) -> dict[str, Scalar]:
    """Texts and numbers among ML Metadata's values, by name."""
    return {
        name: getattr(value, kind)
        for name, value in values.items()
        if (kind := value.WhichOneof("value")) in ("int_value", "double_value", "string_value")
    }


def by_key(
    store: mlmd.MetadataStore, executions: Iterable[int], types: tuple[int, ...] = OUTPUT_EVENTS
) -> dict[int, ByKey]:
    """The artifacts of executions, by execution and key, in the order of their places under the key.

    Args:
      store: The metadata store.
      executions: Their ids.
      types: Types of the events that count, `OUTPUT_EVENTS` or `INPUT_EVENTS`.
    """
    return group(store, events_of(store, executions), types)


def group(
    store: mlmd.MetadataStore, events: Iterable[metadata_store_pb2.Event], types: tuple[int, ...]
) -> dict[int, ByKey]:
    """The artifacts of events that are at hand; see `by_key`."""
    places = sorted(
        (event.execution_id, key.key, index.index, event.artifact_id)
        for event in events
        if event.type in types
        # An artifact that is given under several keys has one event, with the keys one after the other.
        for key, index in zip(event.path.steps[::2], event.path.steps[1::2], strict=False)
    )
    artifacts = by_id(store, {artifact for *_, artifact in places})
    grouped: dict[int, ByKey] = {}
    for execution, key, _, artifact in dict.fromkeys(places):
        grouped.setdefault(execution, {}).setdefault(key, []).append(artifacts[artifact])
    return grouped


def by_id(store: mlmd.MetadataStore, ids: Iterable[int]) -> dict[int, Artifact]:
    """Artifacts by their ids, with their types."""
    protos = [proto for chunk in chunks(ids) for proto in store.get_artifacts_by_id(chunk)]
    types = {type_.id: type_ for type_ in store.get_artifact_types_by_id(sorted({p.type_id for p in protos}))}
    return {proto.id: Artifact(proto, types[proto.type_id]) for proto in protos}


def events_of(store: mlmd.MetadataStore, executions: Iterable[int]) -> list[metadata_store_pb2.Event]:
    """Every event of executions."""
    return [event for chunk in chunks(executions) for event in store.get_events_by_execution_ids(chunk)]


def events_about(store: mlmd.MetadataStore, artifacts: Iterable[int]) -> list[metadata_store_pb2.Event]:
    """Every event of artifacts."""
    return [event for chunk in chunks(artifacts) for event in store.get_events_by_artifact_ids(chunk)]


def executions_of(store: mlmd.MetadataStore, ids: Iterable[int]) -> dict[int, metadata_store_pb2.Execution]:
    """Executions by their ids."""
    return {proto.id: proto for chunk in chunks(ids) for proto in store.get_executions_by_id(chunk)}


def chunks(ids: Iterable[int]) -> list[list[int]]:
    """Ids in order, each once, in lists that one call may hold."""
    ordered = sorted(set(ids))
    return [ordered[first : first + CHUNK] for first in range(0, len(ordered), CHUNK)]


def quoted(text: str) -> str:
    """A text as a literal of a filter query."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
