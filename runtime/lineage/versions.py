"""What ML Metadata keeps of the versions of a model: pushes, promotions, releases, and what each version rests on."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.served_history import versions_that_served
from airtight.served_spans import Event, Span, spans
from runtime import attempt_names
from runtime.lineage.artifacts import (
    INPUT_EVENTS,
    OUTPUT_EVENTS,
    Artifact,
    ByKey,
    Scalar,
    by_id,
    by_key,
    events_about,
    executions_of,
    quoted,
    scalars,
)

_CACHE_TYPE, _PARTS = "execution_cache", "parts"
_COMPLETE = metadata_store_pb2.Execution.COMPLETE


@dataclass(frozen=True)
class Made:
    """An execution of a node, and what it made.

    Args:
      node: The node's id.
      execution: Its id.
      parameters: Their values by name.
      labels: What is known of its attempt: `run_id`, `dag_id`, `user`, `commit`, `lock_digest`.
      run: The run's key.
      parts: The parts of its key in the cache, such as `code` and `version`; empty where it has none.
      inputs: By key.
      outputs: By key.
    """

    node: str
    execution: int
    parameters: dict[str, Scalar]
    labels: dict[str, Scalar]
    run: str
    parts: dict[str, dict[str, str]]
    inputs: ByKey = field(default_factory=dict)
    outputs: ByKey = field(default_factory=dict)

    def output(self, kind: str) -> Artifact | None:
        """Its output of a type; None where there is none."""
        return next((a for several in self.outputs.values() for a in several if a.type.name == kind), None)


def pushes(store: mlmd.MetadataStore, pipeline: str) -> list[Artifact]:
    """Every `PushedModel` of a pipeline that says that something was pushed, the oldest first."""
    return of_node(store, pipeline, "push", "PushedModel", "custom_properties.pushed.int_value = 1")


def evaluations(store: mlmd.MetadataStore, pipeline: str) -> list[Artifact]:
    """Every evaluation that says which model it judged, the oldest first."""
    return of_node(store, pipeline, "evaluate", "ModelEvaluation", "custom_properties.interval_end.string_value != ''")


def evaluations_beside(store: mlmd.MetadataStore, pipeline: str, version: int) -> list[Artifact]:
    """Every evaluation in which a version was the champion, the oldest first."""
    condition = f"custom_properties.champion_version.int_value = {version}"
    return of_node(store, pipeline, "evaluate", "ModelEvaluation", condition)


def of_model(store: mlmd.MetadataStore, kind: str, model: str) -> list[Artifact]:
    """Every artifact of a type that names a model (`Promotion`, `Release`, `ReleaseDecision`), the oldest first."""
    return _read(store, f"type = {quoted(kind)} AND properties.model.string_value = {quoted(model)}")


def of_node(store: mlmd.MetadataStore, pipeline: str, node: str, kind: str, condition: str) -> list[Artifact]:
    """Every artifact of a type that a node made and that meets a condition of ML Metadata's filters, the oldest first.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      node: The node's id.
      kind: Name of the artifacts' type.
      condition: Such as "custom_properties.pushed.int_value = 1".
    """
    name = quoted(attempt_names.node_context_name(pipeline, node))
    return _read(
        store, f"type = {quoted(kind)} AND contexts_n.type = 'node' AND contexts_n.name = {name} AND {condition}"
    )


def of_watch(store: mlmd.MetadataStore, pipeline: str) -> list[Artifact]:
    """Every `WatchDecision` of a watch's pipeline, the oldest first."""
    return of_node(store, pipeline, "decide", "WatchDecision", "state = LIVE")


def label_quality(store: mlmd.MetadataStore, model: str) -> Artifact | None:
    """The `LabelQuality` of a model whose labels were known last; None where there is none.

    One that was made later, by a Clear or a backfill of an earlier day, may know less.
    """

    def known(quality: Artifact) -> tuple[datetime, int]:
        return datetime.fromisoformat(str(quality.properties["known_by"])), quality.proto.id

    return max(of_model(store, "LabelQuality", model), key=known, default=None)


def served_ever(store: mlmd.MetadataStore, pipeline: str, numbers: Collection[int]) -> set[int]:
    """Those of some versions that answered requests at any time, taken back since or not.

    Args:
      store: The metadata store.
      pipeline: Id of the training pipeline, which is also the model's name.
      numbers: The versions; the cost is that of their records.
    """
    if not numbers:
        return set()
    wanted = f"IN ({', '.join(map(str, sorted(numbers)))})"
    condition = f"custom_properties.pushed.int_value = 1 AND custom_properties.version.int_value {wanted}"
    pushed = of_node(store, pipeline, "push", "PushedModel", condition)
    promoted = f"type = 'Promotion' AND properties.model.string_value = {quoted(pipeline)}"
    promotions = _read(store, f"{promoted} AND properties.to_version.int_value {wanted}")
    return versions_that_served(*([(a.proto.id, a.properties) for a in several] for several in (pushed, promotions)))


def published_at(artifact: Artifact) -> str:
    """When an artifact was published, ISO 8601, UTC, in whole seconds."""
    at = datetime.fromtimestamp(artifact.proto.create_time_since_epoch // 1000, UTC)
    return at.isoformat(timespec="seconds")


def spans_of(records: Iterable[Artifact]) -> list[Span]:
    """When each version answered the requests, by the clock.

    Args:
      records: All pushes and promotions of a model.
    """
    return spans(Event(record.proto.id, published_at(record), record.properties) for record in records)


def rests_on(store: mlmd.MetadataStore, pipeline: str, artifact: Artifact) -> dict[str, Made]:
    """The executions that an artifact rests on, by node: the nearest one of each node of the pipeline.

    So what a champion rests on, whose model a gate was given too, is left out.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      artifact: Such as a `PushedModel`.
    """
    made: dict[str, Made] = {}
    waiting = deque([artifact.proto.id])
    while waiting:
        producer = _producer(store, pipeline, waiting.popleft())
        if producer is None or producer.node in made:
            continue
        made[producer.node] = producer
        waiting += [given.proto.id for key in sorted(producer.inputs) for given in producer.inputs[key]]
    return made


def users_of(store: mlmd.MetadataStore, pipeline: str, artifact: Artifact, node: str) -> list[Made]:
    """The complete executions of a node that were given an artifact, the oldest first."""
    users = {event.execution_id for event in events_about(store, [artifact.proto.id]) if event.type in INPUT_EVENTS}
    complete = [e for _, e in sorted(executions_of(store, users).items()) if e.last_known_state == _COMPLETE]
    made = (_made(store, pipeline, execution) for execution in complete)
    return [user for user in made if user is not None and user.node == node]


def _producer(store: mlmd.MetadataStore, pipeline: str, artifact: int) -> Made | None:
    """The execution that made an artifact, and neither took it from the cache nor handed it on."""
    events = events_about(store, [artifact])
    makers = {e.execution_id for e in events if e.type in OUTPUT_EVENTS and e.type != e.INTERNAL_OUTPUT}
    complete = [e for _, e in sorted(executions_of(store, makers).items()) if e.last_known_state == _COMPLETE]
    return _made(store, pipeline, complete[0]) if complete else None


def _made(store: mlmd.MetadataStore, pipeline: str, execution: metadata_store_pb2.Execution) -> Made | None:
    contexts = store.get_contexts_by_execution(execution.id)
    nodes = [c.name for c in contexts if c.type == "node" and c.name.startswith(f"{pipeline}.")]
    if not nodes:
        return None
    attempt = next((c for c in contexts if c.type == attempt_names.CONTEXT_TYPE), None)
    key = next((c for c in contexts if c.type == _CACHE_TYPE and _PARTS in c.custom_properties), None)
    return Made(
        nodes[0].removeprefix(f"{pipeline}."),
        execution.id,
        {name: value for name, value in scalars(execution.custom_properties).items() if not name.startswith("__")},
        scalars(attempt.custom_properties) if attempt else {},
        attempt.name.rsplit("/", 2)[0] if attempt else "",
        json.loads(key.custom_properties[_PARTS].string_value) if key else {},
        by_key(store, [execution.id], INPUT_EVENTS).get(execution.id, {}),
        by_key(store, [execution.id], OUTPUT_EVENTS).get(execution.id, {}),
    )


def _read(store: mlmd.MetadataStore, query: str) -> list[Artifact]:
    ids: Iterable[int] = [proto.id for proto in store.get_artifacts(mlmd.ListOptions(filter_query=query))]
    return [artifact for _, artifact in sorted(by_id(store, ids).items())]
