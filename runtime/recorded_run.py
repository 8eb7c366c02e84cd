"""What ML Metadata keeps of a past run: its nodes, and of each what went in, what came out and what it rested on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.errors import TerminalError
from runtime import attempts, cache, content_digest

_Event = metadata_store_pb2.Event
_OUTPUTS = (_Event.OUTPUT, _Event.DECLARED_OUTPUT)
_INPUTS = (_Event.INPUT, _Event.DECLARED_INPUT)
_NEWEST = 10
_LOOKED_AT = 500


@dataclass(frozen=True)
class Run:
    """A run that has been.

    Args:
      id: What a person calls it: Airflow's run id, or the local run's.
      key: What it is called in the lineage.
      pipeline: The pipeline's id.
    """

    id: str
    key: str
    pipeline: str

    def __str__(self) -> str:
        return f"{self.id} of {self.pipeline}" + (f" ({self.key})" if self.key != self.id else "")


@dataclass(frozen=True)
class Artifact:
    """One artifact of a node.

    Args:
      proto: As the store has it.
      type: Its type.
    """

    proto: metadata_store_pb2.Artifact
    type: metadata_store_pb2.ArtifactType

    @property
    def digest(self) -> str:
        """Of what it held when it was published; "" where that was not noted."""
        noted = self.proto.custom_properties
        return str(noted[content_digest.DIGEST].string_value) if content_digest.DIGEST in noted else ""

    @property
    def properties(self) -> dict[str, Any]:
        """Texts and numbers, by name."""
        return {
            name: getattr(value, value.WhichOneof("value"))
            for told in (self.proto.properties, self.proto.custom_properties)
            for name, value in told.items()
            if value.WhichOneof("value") in ("int_value", "double_value", "string_value")
        }


@dataclass(frozen=True)
class Execution:
    """What an execution of a node was given, made and rested on.

    Args:
      id: Its id.
      parameters: Values by name, as the store has them.
      parts: The parts of its key in the cache; empty where it has none.
      inputs: Artifacts by key, in their order.
      outputs: Likewise.
      seconds: From its beginning to its end; 0 where it was taken from the cache.
    """

    id: int
    parameters: dict[str, metadata_store_pb2.Value]
    parts: cache.Parts
    inputs: dict[str, list[Artifact]] = field(default_factory=dict)
    outputs: dict[str, list[Artifact]] = field(default_factory=dict)
    seconds: float = 0.0


def find(store: mlmd.MetadataStore, run: str, pipeline: str = "") -> Run:
    """Finds the one run of that name.

    Args:
      store: The metadata store.
      run: Airflow's run id, the local run's, or the key in the lineage.
      pipeline: Only runs of this pipeline count; "" for any.

    Raises:
      TerminalError: There is none, or several pipelines have one.
    """
    text = run.replace("\\", "\\\\").replace("'", "\\'")
    named = f"custom_properties.run_id.string_value = '{text}'"
    found = {told for told in _runs(store, _attempts(store, named)) if told.id == run}
    found |= set(_runs(store, _attempts(store, f"name LIKE '{text}/%'"), key=run))
    chosen = sorted((told for told in found if pipeline in ("", told.pipeline)), key=str)
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise TerminalError(
            f"There are several runs {run}.",
            expected="one run",
            received=[str(told) for told in chosen],
            remedy="Name the pipeline with --pipeline, or give the run's key instead of its id.",
        )
    newest = list(dict.fromkeys(_runs(store, _attempts(store, "", newest=True))))
    told = "; ".join(str(told) for told in newest[:_NEWEST])
    raise TerminalError(
        f"There is no run {run}" + (f" of the pipeline {pipeline}." if pipeline else "."),
        expected=f"a run in the metadata store; the newest are: {told}" if told else "a run in the metadata store",
        received="no node that was tried under this name" if told else "a store without runs",
        remedy="Give a run id as Airflow's grid shows it, or the id of a local run.",
    )


def succeeded(store: mlmd.MetadataStore, run: Run, node: str) -> Execution | None:
    """The execution of a node whose outputs count in a run; None where it did not succeed.

    Args:
      store: The metadata store.
      run: The run.
      node: The node's id.
    """
    success = attempts.latest(store, run.key, node)
    return execution(store, success.execution) if success else None


def execution(store: mlmd.MetadataStore, proto: metadata_store_pb2.Execution) -> Execution:
    """What the store keeps of one execution."""
    events = store.get_events_by_execution_ids([proto.id])
    told = {a.id: a for a in store.get_artifacts_by_id(sorted({event.artifact_id for event in events}))}
    types = {t.id: t for t in store.get_artifact_types_by_id(sorted({a.type_id for a in told.values()}))}
    artifacts = {number: Artifact(artifact, types[artifact.type_id]) for number, artifact in told.items()}
    seconds = (proto.last_update_time_since_epoch - proto.create_time_since_epoch) / 1000
    return Execution(
        proto.id,
        dict(proto.custom_properties),
        cache.parts_of(store, proto.id) or {},
        _by_key([event for event in events if event.type in _INPUTS], artifacts),
        _by_key([event for event in events if event.type in _OUTPUTS], artifacts),
        0.0 if proto.last_known_state == proto.CACHED else seconds,
    )


def _by_key(events: Iterable[Any], artifacts: dict[int, Artifact]) -> dict[str, list[Artifact]]:
    placed = sorted((e.path.steps[0].key, e.path.steps[1].index, e.artifact_id) for e in events if e.path.steps)
    found: dict[str, list[Artifact]] = {}
    for key, _, number in dict.fromkeys(placed):
        found.setdefault(key, []).append(artifacts[number])
    return found


def _attempts(store: mlmd.MetadataStore, query: str, *, newest: bool = False) -> list[metadata_store_pb2.Context]:
    wanted = " AND ".join(filter(None, [f"type = '{attempts.CONTEXT_TYPE}'", query]))
    options = mlmd.ListOptions(filter_query=wanted)
    if newest:
        options = mlmd.ListOptions(filter_query=wanted, limit=_LOOKED_AT, order_by=mlmd.OrderByField.ID, is_asc=False)
    return list(store.get_contexts(list_options=options))


def _runs(store: mlmd.MetadataStore, found: Iterable[metadata_store_pb2.Context], key: str = "") -> list[Run]:
    """The runs that attempts belong to, in their order; with a key, that one alone."""
    told: dict[str, Run] = {}
    for attempt in found:
        run_key = attempt.name.rsplit("/", 2)[0]
        if run_key in told or (key and run_key != key):
            continue
        for tried in store.get_executions_by_context(attempt.id)[:1]:
            around = {c.type: c.name for c in store.get_contexts_by_execution(tried.id)}
            given = attempt.custom_properties["run_id"].string_value if "run_id" in attempt.custom_properties else ""
            told[run_key] = Run(given or run_key, run_key, around.get("pipeline", ""))
    return list(told.values())
