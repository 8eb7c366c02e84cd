"""What ML Metadata keeps of one attempt of a node, as far as OpenLineage has words for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight import verdict
from airtight.errors import AirtightError
from airtight.home import Home
from airtight.interval import Interval
from airtight.verdict import Verdict
from runtime.attempt_names import CONTEXT_TYPE, node_context_name
from runtime.lineage.artifacts import (
    INPUT_EVENTS,
    OUTPUT_EVENTS,
    Artifact,
    ByKey,
    Scalar,
    events_about,
    events_of,
    group,
    quoted,
    scalars,
)
from runtime.lineage.runs import CACHE

_Event = metadata_store_pb2.Event
_STATES = metadata_store_pb2.Execution.State
COMPLETE, CACHED, FAILED, SKIPPED = "complete", "cached", "failed", "canceled"
"""States; an attempt under way is "new" or "running"."""
ENDED = (COMPLETE, CACHED, FAILED)
_OF_THE_ATTEMPT = ("owner", "folder", "superseded")


@dataclass(frozen=True)
class Dataset:
    """An artifact, and what it is of.

    Args:
      key: Input or output key of the node.
      name: `<pipeline>.<node>.<output key>` of the node that made it, which is the same in every run.
      artifact: It.
    """

    key: str
    name: str
    artifact: Artifact


@dataclass(frozen=True)
class NodeRun:
    """One attempt of a node.

    Args:
      job: `<pipeline>.<node>`.
      pipeline: The pipeline's id.
      run: Key of the run.
      name: Of the attempt's context, which no other attempt has.
      state: See above.
      began: When the launcher registered it.
      ended: When it was changed last.
      execution: Its id; 0 where it failed before it had one.
      labels: What the scheduler calls it, and code and environment: `dag_id`, `run_id`, `try_number`, `commit`, ...
      parameters: By name.
      cache: What the cache said.
      inputs: What it was given; of a resolver or importer what it hands on.
      outputs: What it made.
      verdict: What it decided, where it is a gate.
      error: Why it failed.
    """

    job: str
    pipeline: str
    run: str
    name: str
    state: str
    began: datetime
    ended: datetime
    execution: int = 0
    labels: Mapping[str, Scalar] = field(default_factory=dict)
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    cache: str = ""
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    verdict: Verdict | None = None
    error: str = ""

    @property
    def interval(self) -> Interval | None:
        """The data interval, by its parameters or the first artifact that has one; None where none has."""
        datasets = (*self.outputs, *self.inputs)
        return interval_of(self.parameters, *(dataset.artifact.properties for dataset in datasets))


def interval_of(*known: Mapping[str, Scalar]) -> Interval | None:
    """The data interval of the first properties that have one; None where none have.

    Args:
      *known: Properties, or parameters, by name.
    """
    for properties in known:
        ends = [str(properties.get(name, "")) for name in ("interval_start", "interval_end")]
        if all(ends):
            with contextlib.suppress(AirtightError):
                return Interval.of(*ends)
    return None


def read(store: mlmd.MetadataStore, attempt: metadata_store_pb2.Context, home: Home) -> NodeRun | None:
    """Reads an attempt; None where it has no execution.

    Args:
      store: The metadata store.
      attempt: Its context.
      home: The state folder, where the verdict of a gate that failed is kept.
    """
    executions = store.get_executions_by_context(attempt.id)
    if not executions:
        return None
    execution = executions[-1]
    around = {context.type: context.name for context in store.get_contexts_by_execution(execution.id)}
    events = events_of(store, [execution.id])
    given, made = (group(store, events, types).get(execution.id, {}) for types in (INPUT_EVENTS, OUTPUT_EVENTS))
    if any(event.type == _Event.INTERNAL_OUTPUT for event in events):
        given, made = made, {}
    run, node, _ = attempt.name.rsplit("/", 2)
    pipeline = around.get("pipeline", "")
    began, ended = (
        datetime.fromtimestamp(ms / 1e3, UTC)
        for ms in (execution.create_time_since_epoch, execution.last_update_time_since_epoch)
    )
    kept = scalars(execution.custom_properties)
    inputs = _named(given, _names(store, given))
    job = around.get("node", node_context_name(pipeline, node))
    outputs = tuple(Dataset(key, f"{job}.{key}", artifact) for key, several in made.items() for artifact in several)
    if execution.last_known_state == _STATES.Value("CACHED"):
        # What the cache answers with another run has made, of this node or of one that is equal.
        outputs = _named(made, _names(store, made))
    recorded = NodeRun(
        job,
        pipeline,
        run,
        attempt.name,
        _STATES.Name(execution.last_known_state).lower(),
        began,
        ended,
        execution.id,
        {name: value for name, value in scalars(attempt.custom_properties).items() if name not in _OF_THE_ATTEMPT},
        {name: value for name, value in kept.items() if name != CACHE and not name.startswith("__")},
        str(kept.get(CACHE, "")),
        inputs,
        outputs,
    )
    return _with_verdict(recorded, home, node)


def attempts_of(store: mlmd.MetadataStore, pipeline: str) -> Iterator[metadata_store_pb2.Context]:
    """The contexts of all attempts in a pipeline's runs, the oldest run first.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
    """
    parent = f"parent_contexts_p.type = 'pipeline' AND parent_contexts_p.name = {quoted(pipeline)}"
    runs = store.get_contexts(mlmd.ListOptions(filter_query=f"type = 'pipeline_run' AND {parent}"))
    for known in sorted(runs, key=lambda context: context.id):
        tried = f"type = {quoted(CONTEXT_TYPE)} AND name LIKE {quoted(f'{known.name}/%')}"
        attempts = store.get_contexts(mlmd.ListOptions(filter_query=tried))
        # "_" in LIKE stands for any character, so the names are looked at once more.
        yield from sorted((a for a in attempts if a.name.startswith(f"{known.name}/")), key=lambda context: context.id)


def _named(by_key: ByKey, names: Mapping[int, str]) -> tuple[Dataset, ...]:
    return tuple(
        Dataset(key, names[artifact.proto.id], artifact) for key, several in by_key.items() for artifact in several
    )


def _names(store: mlmd.MetadataStore, by_key: ByKey) -> dict[int, str]:
    """Names of artifacts by their ids: after the node that made each, and the key under which it did."""
    artifacts = {artifact.proto.id: artifact for several in by_key.values() for artifact in several}
    made = [e for e in events_about(store, artifacts) if e.type in OUTPUT_EVENTS and e.type != _Event.INTERNAL_OUTPUT]
    names = {number: f"{artifact.type.name}.{number}" for number, artifact in artifacts.items()}
    # The first one made it; those after it took it from the cache.
    first = {event.artifact_id: event for event in sorted(made, key=lambda event: event.execution_id, reverse=True)}
    for number, event in first.items():
        nodes = [c.name for c in store.get_contexts_by_execution(event.execution_id) if c.type == "node"]
        if nodes and event.path.steps:
            names[number] = f"{nodes[0]}.{event.path.steps[0].key}"
    return names


def _with_verdict(recorded: NodeRun, home: Home, node: str) -> NodeRun:
    """Adds the verdict in one of the outputs' folders, or the one that a gate that failed has left in the home."""
    folders = [Path(dataset.artifact.uri) for dataset in recorded.outputs]
    interval = recorded.interval
    if recorded.state == FAILED and interval:
        kept = home.failed_report(recorded.pipeline, interval, node)
        file = kept / verdict.FILE_NAME
        # The next attempt for the same interval replaces it.
        if file.is_file() and recorded.began.timestamp() <= file.stat().st_mtime <= recorded.ended.timestamp() + 1:
            folders = [kept]
    for folder in folders:
        try:
            decided = Verdict.read(folder)
        except (OSError, ValueError, KeyError, TypeError, AirtightError):
            continue
        return replace(recorded, verdict=decided)
    return recorded
