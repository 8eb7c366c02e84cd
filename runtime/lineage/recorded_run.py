"""What ML Metadata keeps of a past run: its nodes, and of each what went in, what came out and what it rested on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.errors import TerminalError
from runtime import attempt_names, attempts, cache
from runtime.lineage.artifacts import INPUT_EVENTS, OUTPUT_EVENTS, ByKey, events_of, group, quoted

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
    inputs: ByKey = field(default_factory=dict)
    outputs: ByKey = field(default_factory=dict)
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
    same_id = f"custom_properties.run_id.string_value = {quoted(run)}"
    candidates = {match for match in _runs(store, _attempts(store, same_id)) if match.id == run}
    candidates |= set(_runs(store, _attempts(store, f"name LIKE {quoted(f'{run}/%')}"), key=run))
    chosen = sorted((candidate for candidate in candidates if pipeline in ("", candidate.pipeline)), key=str)
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise TerminalError(
            f"There are several runs {run}.",
            expected="one run",
            received=[str(candidate) for candidate in chosen],
            remedy="Name the pipeline with --pipeline, or give the run's key instead of its id.",
        )
    newest = list(dict.fromkeys(_runs(store, _attempts(store, "", newest=True))))
    names = "; ".join(str(candidate) for candidate in newest[:_NEWEST])
    raise TerminalError(
        f"There is no run {run}" + (f" of the pipeline {pipeline}." if pipeline else "."),
        expected=f"a run in the metadata store; the newest are: {names}" if names else "a run in the metadata store",
        received="no node that was tried under this name" if names else "a store without runs",
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
    events = events_of(store, [proto.id])
    seconds = (proto.last_update_time_since_epoch - proto.create_time_since_epoch) / 1000
    return Execution(
        proto.id,
        dict(proto.custom_properties),
        cache.parts_of(store, proto.id) or {},
        group(store, events, INPUT_EVENTS).get(proto.id, {}),
        group(store, events, OUTPUT_EVENTS).get(proto.id, {}),
        0.0 if proto.last_known_state == proto.CACHED else seconds,
    )


def _attempts(store: mlmd.MetadataStore, query: str, *, newest: bool = False) -> list[metadata_store_pb2.Context]:
    wanted = " AND ".join(filter(None, [f"type = '{attempt_names.CONTEXT_TYPE}'", query]))
    options = mlmd.ListOptions(filter_query=wanted)
    if newest:
        options = mlmd.ListOptions(filter_query=wanted, limit=_LOOKED_AT, order_by=mlmd.OrderByField.ID, is_asc=False)
    return list(store.get_contexts(list_options=options))


def _runs(store: mlmd.MetadataStore, tried: Iterable[metadata_store_pb2.Context], key: str = "") -> list[Run]:
    """The runs that attempts belong to, in their order; with a key, that one alone."""
    runs: dict[str, Run] = {}
    for attempt in tried:
        run_key = attempt.name.rsplit("/", 2)[0]
        if run_key in runs or (key and run_key != key):
            continue
        for execution in store.get_executions_by_context(attempt.id)[:1]:
            around = {c.type: c.name for c in store.get_contexts_by_execution(execution.id)}
            given = attempt.custom_properties["run_id"].string_value if "run_id" in attempt.custom_properties else ""
            runs[run_key] = Run(given or run_key, run_key, around.get("pipeline", ""))
    return list(runs.values())
