"""What the runs of a pipeline did, read back from ML Metadata: node by node, with what each made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.interval import Interval
from runtime.attempts import CONTEXT_TYPE

_PIPELINE_TYPE = "pipeline"
_STATES = metadata_store_pb2.Execution.State
_OUTPUTS = (metadata_store_pb2.Event.OUTPUT, metadata_store_pb2.Event.DECLARED_OUTPUT)
SUCCEEDED = ("complete", "cached")


@dataclass(frozen=True)
class Output:
    """One artifact that a node made.

    Args:
      type: Its type's name.
      uri: Where it lies.
      properties: Its properties, custom ones among them.
    """

    type: str
    uri: str
    properties: dict[str, str | int | float]


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
    """

    node: str
    state: str
    execution: int
    started: datetime
    seconds: float
    outputs: dict[str, tuple[Output, ...]]

    def output(self, key: str) -> Output | None:
        """The artifact of an output key; None where there is none."""
        return next(iter(self.outputs.get(key, ())), None)


@dataclass(frozen=True)
class Run:
    """One run of a pipeline.

    Args:
      key: The run's key in ML Metadata.
      labels: What the scheduler told of it, such as `run_id`.
      steps: The latest try of each node, by id.
    """

    key: str
    labels: dict[str, str | int | float]
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def interval(self) -> Interval | None:
        """The data interval, from the first artifact that tells it; None before there is one."""
        for step in self.steps.values():
            for outputs in step.outputs.values():
                for output in outputs:
                    ends = [str(output.properties.get(name, "")) for name in ("interval_start", "interval_end")]
                    if all(ends):
                        return Interval.of(*ends)
        return None

    @property
    def ended(self) -> datetime:
        """When the last of its nodes that were tried ended."""
        return max(datetime.fromtimestamp(s.started.timestamp() + s.seconds, UTC) for s in self.steps.values())

    def output(self, node: str, key: str) -> Output | None:
        """What a node made, if its latest try succeeded."""
        step = self.steps.get(node)
        return step.output(key) if step and step.state in SUCCEEDED else None


def runs(store: mlmd.MetadataStore, pipeline: str) -> list[Run]:
    """Every run of a pipeline, in the order in which they began.

    Args:
      store: The metadata store.
      pipeline: The pipeline's id.
    """
    context = store.get_context_by_type_and_name(_PIPELINE_TYPE, pipeline)
    if context is None:
        return []
    executions = {execution.id: execution for execution in store.get_executions_by_context(context.id)}
    outputs = _outputs(store, executions)
    found: dict[str, Run] = {}
    for attempt in store.get_contexts_by_type(CONTEXT_TYPE):
        run, node, _ = attempt.name.rsplit("/", 2)
        for execution in store.get_executions_by_context(attempt.id):
            if execution.id not in executions:
                continue
            labels = {name: _value(value) for name, value in attempt.custom_properties.items()}
            steps = found.setdefault(run, Run(run, labels)).steps
            if node not in steps or steps[node].execution < execution.id:
                steps[node] = _step(node, execution, outputs[execution.id])
    return sorted(found.values(), key=lambda run: min(step.execution for step in run.steps.values()))


def latest_of_each_interval(found: Iterable[Run]) -> list[Run]:
    """Of the runs of the same interval the one that ended last, in the order of the intervals."""
    latest: dict[Interval, Run] = {}
    for run in sorted(found, key=lambda run: run.ended):
        if run.interval is not None:
            latest[run.interval] = run
    return [latest[interval] for interval in sorted(latest)]


def _outputs(store: mlmd.MetadataStore, executions: Iterable[int]) -> defaultdict[int, dict[str, tuple[Output, ...]]]:
    made: defaultdict[int, dict[str, tuple[Output, ...]]] = defaultdict(dict)
    events = [event for event in store.get_events_by_execution_ids(list(executions)) if event.type in _OUTPUTS]
    artifacts = {a.id: a for a in store.get_artifacts_by_id(sorted({event.artifact_id for event in events}))}
    for event in events:
        artifact, key = artifacts[event.artifact_id], event.path.steps[0].key
        properties = {n: _value(v) for n, v in (*artifact.properties.items(), *artifact.custom_properties.items())}
        of_key = made[event.execution_id].get(key, ())
        made[event.execution_id][key] = (*of_key, Output(artifact.type, artifact.uri, properties))
    return made


def _step(node: str, execution: metadata_store_pb2.Execution, outputs: dict[str, tuple[Output, ...]]) -> Step:
    began, ended = execution.create_time_since_epoch, execution.last_update_time_since_epoch
    started = datetime.fromtimestamp(began / 1e3, UTC)
    state = _STATES.Name(execution.last_known_state).lower()
    return Step(node, state, execution.id, started, (ended - began) / 1e3, outputs)


def _value(value: metadata_store_pb2.Value) -> str | int | float:
    told = getattr(value, value.WhichOneof("value"))
    return told if isinstance(told, (str, int, float)) else str(told)
