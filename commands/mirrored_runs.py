"""What an MLflow tracking server is given of a pipeline: its runs, and the versions of its model with their aliases."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airtight import verdict
from airtight.home import Home
from airtight.rollout import state
from airtight.served_spans import Event, spans

if TYPE_CHECKING:
    import ml_metadata as mlmd

    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.runs import Run, Step

RUN, EXECUTIONS, STATE, VERSION = (f"airtight.{name}" for name in ("run", "executions", "state", "version"))
"""Tags by which a mirror finds again what it has written."""
CHAMPION, CHALLENGER = ALIASES = ("champion", "challenger")
FINISHED, FAILED, RUNNING = "FINISHED", "FAILED", "RUNNING"
"""MLflow's states."""
_LONGEST = {"parameter": 6000, "tag": 5000}
"""Characters that MLflow takes of a value."""
_OF_THE_ATTEMPT = ("owner", "folder", "superseded")


@dataclass(frozen=True)
class Metric:
    """One number of a run.

    Args:
      name: `<node>/<property>`, `seconds/<node>`, or `gates/<node>`, which is 1 where the gate passed.
      value: It.
      at: Milliseconds since 1970.
      step: Id of the execution, so that a later try of the node counts.
    """

    name: str
    value: float
    at: int
    step: int


@dataclass(frozen=True)
class MirroredRun:
    """One run of a pipeline, as MLflow has words for it.

    Args:
      key: The run's key in ML Metadata.
      name: Airflow's run id, or the key.
      status: One of MLflow's states.
      began: Milliseconds since 1970.
      ended: Likewise, of the last try of a node.
      parameters: `<node>.<name>`.
      metrics: See `Metric`.
      tags: Those above, what the scheduler calls the run, commit, lock, and the data interval.
    """

    key: str
    name: str
    status: str
    began: int
    ended: int
    parameters: Mapping[str, str]
    metrics: tuple[Metric, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class MirroredVersion:
    """One version of the model.

    Args:
      number: Our version.
      run: Key of the run that pushed it; "" where that is not known.
      tags: Its digest, its interval, and where it lies.
    """

    number: int
    run: str
    tags: Mapping[str, str]


def run_of(store: mlmd.MetadataStore, run: Run) -> MirroredRun:
    """What is mirrored of a run.

    Args:
      store: The metadata store.
      run: The run.
    """
    from runtime.lineage.artifacts import executions_of, scalars
    from runtime.lineage.runs import CACHE

    steps = sorted(run.steps.values(), key=lambda step: step.execution)
    executions = executions_of(store, (step.execution for step in steps))
    parameters = {
        f"{step.node}.{name}": str(value)[: _LONGEST["parameter"]]
        for step in steps
        for name, value in scalars(executions[step.execution].custom_properties).items()
        if name != CACHE and not name.startswith("__") and value != ""
    }
    labels = {name: value for name, value in run.labels.items() if name not in _OF_THE_ATTEMPT}
    interval = {"interval_start": run.interval.start, "interval_end": run.interval.end} if run.interval else {}
    known = {
        **labels,
        **{name: end.isoformat() for name, end in interval.items()},
        "run": run.key,
        "executions": json.dumps({step.node: [step.execution, step.state] for step in steps}),
    }
    return MirroredRun(
        run.key,
        str(run.labels.get("run_id", run.key)),
        _status(step.state for step in steps),
        int(steps[0].started.timestamp() * 1000),
        int(run.ended.timestamp() * 1000),
        parameters,
        tuple(metric for step in steps for metric in _metrics(step)),
        {f"airtight.{name}": str(value)[: _LONGEST["tag"]] for name, value in known.items()},
    )


def _status(states: Iterable[str]) -> str:
    names = set(states)
    if names & {"running", "new"}:
        return RUNNING
    return FAILED if "failed" in names else FINISHED


def _metrics(step: Step) -> Iterable[Metric]:
    """Numbers of what a step made, how long it took, and whether its gate passed; nothing of what it handed on."""
    at = int(step.started.timestamp() * 1000 + step.seconds * 1000)
    numbers: dict[str, float] = {f"seconds/{step.node}": step.seconds}
    for artifact in () if step.is_resolver else (a for several in step.outputs.values() for a in several):
        for name, value in artifact.properties.items():
            if isinstance(value, float) or (isinstance(value, int) and name.startswith("rows")):
                numbers[f"{step.node}/{name}"] = float(value)
        file = Path(artifact.uri) / verdict.FILE_NAME
        if file.is_file():
            numbers[f"gates/{step.node}"] = float(json.loads(file.read_text(encoding="utf-8"))["passed"])
    return [Metric(name, value, at, step.execution) for name, value in numbers.items()]


def versions_of(store: mlmd.MetadataStore, model: str) -> list[MirroredVersion]:
    """Every version that was pushed, the oldest first.

    Args:
      store: The metadata store.
      model: The model's name, which is the pipeline's id.
    """
    from runtime.lineage.costs import executions_that_made
    from runtime.lineage.dags import run_of_execution
    from runtime.lineage.versions import pushes

    every = {int(push.properties["version"]): push for push in pushes(store, model)}
    makers = executions_that_made(store, every.values())
    return [
        MirroredVersion(number, run_of_execution(store, maker) if maker else "", _tags(push))
        for number, push in every.items()
        for maker in (makers.get(push.proto.id),)
    ]


def _tags(push: Artifact) -> dict[str, str]:
    names = ("version", "model_digest", "interval_start", "interval_end", "reason")
    known = {name: push.properties.get(name, "") for name in names} | {"uri": push.uri, "push": push.proto.id}
    return {f"airtight.{name}": str(value)[: _LONGEST["tag"]] for name, value in known.items() if value != ""}


def aliases_of(store: mlmd.MetadataStore, model: str, home: Home) -> dict[str, int]:
    """Which version answers the requests, and which is tried beside it, by MLflow's aliases; 0 for none.

    Args:
      store: The metadata store.
      model: The model's name.
      home: The state folder.
    """
    from runtime.lineage.versions import of_model, published_at, pushes

    records = [*pushes(store, model), *of_model(store, "Promotion", model)]
    served = spans(Event(record.proto.id, published_at(record), record.properties) for record in records)
    release = state.read(home.models_root).get(model)
    return {CHAMPION: served[-1].version if served else 0, CHALLENGER: release.candidate if release else 0}
