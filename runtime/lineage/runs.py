"""What the latest runs of a pipeline did: node by node, with what each made.

The cost is that of the runs that are read, whatever else the store holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.interval import Interval
from runtime.attempt_names import CONTEXT_TYPE
from runtime.lineage.artifacts import (
    INPUT_EVENTS,
    OUTPUT_EVENTS,
    Artifact,
    ByKey,
    Scalar,
    events_of,
    group,
    quoted,
    scalars,
)

_STATES = metadata_store_pb2.Execution.State
CACHE = "cache"
"""Custom property of an execution: whether the cache answered, and why not."""
SUCCEEDED = ("complete", "cached")
RUNS_OF_AN_INTERVAL = 10
"""Read at most for each interval that is wanted, on average: runs of one interval, again and again, hide others."""


@dataclass(frozen=True)
class Step:
    """The latest try of a node in a run.

    Args:
      node: The node's id.
      state: "complete", "cached", "failed", "running", "canceled" or "new".
      execution: Its id in ML Metadata.
      started: When the launcher registered it.
      seconds: How long it took since; from the cache, that is the time of looking it up.
      outputs: What it made, by output key.
      is_resolver: Whether its outputs are what others made, and it hands them on.
      cache: Whether the cache answered, or why not, in words; empty where it was not asked.
      inputs: What it was given, by input key.
    """

    node: str
    state: str
    execution: int
    started: datetime
    seconds: float
    outputs: ByKey
    is_resolver: bool = False
    cache: str = ""
    inputs: ByKey = field(default_factory=dict)

    def output(self, key: str) -> Artifact | None:
        """The artifact of an output key; None where there is none."""
        return next(iter(self.outputs.get(key, ())), None)


@dataclass(frozen=True)
class Run:
    """One run of a pipeline.

    Args:
      key: The run's key in ML Metadata.
      labels: What the scheduler calls it, such as `run_id`.
      steps: The latest try of each node, by id.
    """

    key: str
    labels: dict[str, Scalar]
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def interval(self) -> Interval | None:
        """The data interval, from the first artifact made in this run that has one; None before there is one."""
        for step in self.steps.values():
            for artifacts in () if step.is_resolver else step.outputs.values():
                for artifact in artifacts:
                    ends = [str(artifact.properties.get(name, "")) for name in ("interval_start", "interval_end")]
                    if all(ends):
                        return Interval.of(*ends)
        return None

    @property
    def ended(self) -> datetime:
        """When the last of its nodes that were tried ended."""
        return max(datetime.fromtimestamp(s.started.timestamp() + s.seconds, UTC) for s in self.steps.values())

    def output(self, node: str, key: str) -> Artifact | None:
        """What a node made, if its latest try succeeded."""
        step = self.steps.get(node)
        return step.output(key) if step and step.state in SUCCEEDED else None


def latest_of_each_interval(store: mlmd.MetadataStore, pipeline: str, intervals: int) -> list[Run]:
    """Of each of the intervals that ran last, the run that ended last, in the order of the intervals.

    Runs are read from the newest on until there are so many intervals, and no more than `RUNS_OF_AN_INTERVAL` for each.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      intervals: So many at most.
    """
    latest: dict[Interval, Run] = {}
    read = 0
    for run in newest(store, pipeline, intervals):
        interval, read = run.interval, read + 1
        if interval is not None and (interval not in latest or latest[interval].ended < run.ended):
            latest[interval] = run
        if len(latest) == intervals or read == intervals * RUNS_OF_AN_INTERVAL:
            break
    return [latest[interval] for interval in sorted(latest)]


def of_dag_run(store: mlmd.MetadataStore, dag_id: str, run_id: str) -> list[Run]:
    """The runs of pipelines that tasks of one DAG run belong to: one for each pipeline, task group and map index.

    Args:
      store: The metadata store.
      dag_id: Airflow's id of the DAG.
      run_id: Airflow's id of the DAG run.
    """
    labels = {"dag_id": dag_id, "run_id": run_id}
    wanted = [f"custom_properties.{name}.string_value = {quoted(value)}" for name, value in labels.items()]
    options = mlmd.ListOptions(filter_query=" AND ".join([f"type = {quoted(CONTEXT_TYPE)}", *wanted]))
    attempts = store.get_contexts(options)
    runs = {name: Run(name, {}) for name in dict.fromkeys(attempt.name.rsplit("/", 2)[0] for attempt in attempts)}
    return _with_steps(store, runs, attempts)


def of_run_id(store: mlmd.MetadataStore, pipeline: str, run_id: str) -> Run | None:
    """The run of a pipeline that the scheduler calls so; of several, the one that ended last.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      run_id: Such as Airflow's.
    """
    tried = f"type = {quoted(CONTEXT_TYPE)} AND custom_properties.run_id.string_value = {quoted(run_id)}"
    keys = {attempt.name.rsplit("/", 2)[0] for attempt in store.get_contexts(mlmd.ListOptions(filter_query=tried))}
    contexts = []
    for key in sorted(keys):
        query = f"{_of_pipeline(pipeline)} AND name = {quoted(key)}"
        contexts += store.get_contexts(mlmd.ListOptions(filter_query=query))
    return max(_read(store, contexts), key=lambda run: run.ended, default=None)


def _of_pipeline(pipeline: str) -> str:
    parent = f"parent_contexts_p.type = 'pipeline' AND parent_contexts_p.name = {quoted(pipeline)}"
    return f"type = 'pipeline_run' AND {parent}"


def newest(store: mlmd.MetadataStore, pipeline: str, page: int) -> Iterator[Run]:
    """The runs of a pipeline that have begun, the newest first.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
      page: So many are read at once.
    """
    of_pipeline = _of_pipeline(pipeline)
    before = ""
    while True:
        options = mlmd.ListOptions(
            limit=page, order_by=mlmd.OrderByField.ID, is_asc=False, filter_query=of_pipeline + before
        )
        contexts = store.get_contexts(list_options=options)
        yield from _read(store, contexts)
        if len(contexts) < page:
            return
        before = f" AND id < {contexts[-1].id}"


def _read(store: mlmd.MetadataStore, contexts: list[metadata_store_pb2.Context]) -> list[Run]:
    runs = {context.name: Run(context.name, {}) for context in contexts}
    # The store has no index from an execution to its contexts, so the way is from the attempts to their executions.
    names = " OR ".join(f"name LIKE {quoted(f'{name}/%')}" for name in runs)
    options = mlmd.ListOptions(filter_query=f"type = {quoted(CONTEXT_TYPE)} AND ({names})")
    return _with_steps(store, runs, store.get_contexts(options) if runs else ())


def _with_steps(
    store: mlmd.MetadataStore, runs: dict[str, Run], attempts: Iterable[metadata_store_pb2.Context]
) -> list[Run]:
    """The runs that have begun, of these by their keys, with the steps that attempts tell of."""
    tried: list[tuple[metadata_store_pb2.Execution, Run, str]] = []
    for attempt in attempts:
        # "_" in LIKE stands for any character, so the names are looked at once more.
        name, node, _ = attempt.name.rsplit("/", 2)
        if name in runs:
            runs[name].labels.update(scalars(attempt.custom_properties))
            tried += [(execution, runs[name], node) for execution in store.get_executions_by_context(attempt.id)]
    events = events_of(store, (execution.id for execution, *_ in tried))
    outputs, inputs = group(store, events, OUTPUT_EVENTS), group(store, events, INPUT_EVENTS)
    handed_on = {event.execution_id for event in events if event.type == metadata_store_pb2.Event.INTERNAL_OUTPUT}
    for execution, run, node in sorted(tried, key=lambda entry: entry[0].id):
        made, given = outputs.get(execution.id, {}), inputs.get(execution.id, {})
        run.steps[node] = _step(node, execution, made, given, is_resolver=execution.id in handed_on)
    return [run for run in runs.values() if run.steps]


def _step(
    node: str, execution: metadata_store_pb2.Execution, outputs: ByKey, inputs: ByKey, *, is_resolver: bool
) -> Step:
    began, ended = execution.create_time_since_epoch, execution.last_update_time_since_epoch
    started = datetime.fromtimestamp(began / 1e3, UTC)
    state = _STATES.Name(execution.last_known_state).lower()
    cache = execution.custom_properties[CACHE].string_value if CACHE in execution.custom_properties else ""
    return Step(node, state, execution.id, started, (ended - began) / 1e3, outputs, is_resolver, cache, inputs)
