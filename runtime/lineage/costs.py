"""What the nodes of a pipeline cost over all of its runs: a few reads for each node and run, whatever they made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from runtime.lineage.artifacts import OUTPUT_EVENTS, Artifact, events_about, quoted

_STATES = metadata_store_pb2.Execution.State


@dataclass(frozen=True)
class Cost:
    """One execution of a node.

    Args:
      node: The node's id.
      run: The run's key in ML Metadata.
      state: "complete", "cached", "failed", "running", "canceled" or "new".
      began: When the launcher registered it.
      seconds: From then to its last update; what the cache answered took the time of looking it up.
    """

    node: str
    run: str
    state: str
    began: datetime
    seconds: float


def costs(store: mlmd.MetadataStore, pipeline: str, since: datetime | None = None) -> dict[int, Cost]:
    """Every execution of a pipeline's nodes, tries that failed too, by its id.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      since: Runs whose first node began before are left out; None for all.
    """
    runs = (
        f"type = 'pipeline_run' AND parent_contexts_p.type = 'pipeline' AND parent_contexts_p.name = {quoted(pipeline)}"
    )
    if since is not None:
        runs += f" AND create_time_since_epoch >= {int(since.timestamp() * 1000)}"
    run_of = {
        execution.id: run.name
        for run in store.get_contexts(mlmd.ListOptions(filter_query=runs))
        for execution in store.get_executions_by_context(run.id)
    }
    nodes = mlmd.ListOptions(filter_query=f"type = 'node' AND name LIKE {quoted(f'{pipeline}.%')}")
    return {
        execution.id: _cost(node.name.removeprefix(f"{pipeline}."), run_of[execution.id], execution)
        for node in store.get_contexts(nodes)
        # "_" in LIKE stands for any character, so the names are looked at once more.
        if node.name.startswith(f"{pipeline}.")
        for execution in store.get_executions_by_context(node.id)
        if execution.id in run_of
    }


def executions_that_made(store: mlmd.MetadataStore, artifacts: Iterable[Artifact]) -> dict[int, int]:
    """The execution that made each artifact, by the artifact's id; what handed it on later does not count.

    Args:
      store: The metadata store.
      artifacts: The artifacts.
    """
    events = events_about(store, [artifact.proto.id for artifact in artifacts])
    made = [e for e in events if e.type in OUTPUT_EVENTS and e.type != metadata_store_pb2.Event.INTERNAL_OUTPUT]
    return dict(sorted(((event.artifact_id, event.execution_id) for event in made), reverse=True))


def _cost(node: str, run: str, execution: metadata_store_pb2.Execution) -> Cost:
    began, ended = execution.create_time_since_epoch, execution.last_update_time_since_epoch
    state = _STATES.Name(execution.last_known_state).lower()
    return Cost(node, run, state, datetime.fromtimestamp(began / 1e3, UTC), (ended - began) / 1e3)
