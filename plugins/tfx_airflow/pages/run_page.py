"""The page of a DAG run: its gates, the way from its data interval to the served version, and what the cache said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airtight import verdict
from airtight.home import Home
from airtight.supervised import Supervised
from plugins.tfx_airflow.pages import reports
from plugins.tfx_airflow.pages.model_record import ModelRecord
from plugins.tfx_airflow.pages.rendering import minute, render
from plugins.tfx_airflow.pages.visible import Visible
from runtime.compiled_pipeline import safe_id

if TYPE_CHECKING:
    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.runs import Run, Step

_CHAIN = ("Dataset", "Examples", "Model", "ModelEvaluation", "PushedModel", "Release", "ReleaseDecision", "Promotion")
"""Types of the artifacts that lead from data to what is served, in order."""
_LAKE = {"then": "as it was then", "now": "as it is now"}
_SHORT = 10
_NAMED_RUN = re.compile(r" in the run ([\w.-]+)")


@dataclass(frozen=True)
class Gate:
    """What one gate decided.

    Args:
      task: Its node.
      passed: Whether it passed.
      summary: The decision in a sentence.
      checks: What it looked at, as `airtight.verdict.Check` in JSON.
      report: Whether it has a report of its own.
    """

    task: str
    passed: bool
    summary: str
    checks: Sequence[dict[str, Any]]
    report: bool


@dataclass(frozen=True)
class Link:
    """One stop on the way from data to what is served."""

    name: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Chain:
    """The way of one pipeline run."""

    title: str
    links: Sequence[Link] = field(default_factory=tuple)


def page(visible: Visible, dag_id: str, run_id: str, settings: Supervised | None, home: Home) -> str:
    """Renders the page.

    Args:
      visible: What the reader may see of the metadata store.
      dag_id: The DAG.
      run_id: Airflow's id of the run.
      settings: Those of the supervised pipeline whose DAG it is; None for another DAG.
      home: The state folder.
    """
    from runtime.lineage.runs import of_dag_run

    title, runs = f"{dag_id}: {run_id}", of_dag_run(visible.store, dag_id, run_id)
    if not runs:
        text = (
            "No task of this run has run a node of a pipeline yet. Airflow shows this tab on the runs of every DAG; "
            "there is something to see on those whose tasks are nodes of TFX pipelines."
        )
        return render("words.html", title=title, texts=[text], link=None)
    steps = [step for run in runs for step in sorted(run.steps.values(), key=lambda step: step.started)]
    interval = next((run.interval for run in runs if run.interval), None)
    gates = [gate for step in steps if (gate := gate_of(step))]
    record = ModelRecord(visible, settings, home) if settings else None
    stopped = [gate.task for gate in gates if not gate.passed]
    return render(
        "run.html",
        title=title,
        dag_id=dag_id,
        model=settings.name if settings and visible.may_read(settings.name) else "",
        run_id=run_id,
        interval=(interval.start, interval.end) if interval else None,
        result=f"stopped by {', '.join(stopped)}" if stopped else "every gate passed" if gates else "",
        chains=[Chain(run.key if len(runs) > 1 else "", _links(run, record)) for run in runs],
        gates=gates,
        tasks=[_task(visible, step) for step in steps],
    )


def gate_of(step: Step) -> Gate | None:
    """What a step decided, where it is a gate whose verdict is still there."""
    if step.is_resolver or step.state not in ("complete", "cached"):
        return None
    for artifact in _made(step):
        file = Path(artifact.uri) / verdict.FILE_NAME
        if file.is_file():
            payload = json.loads(file.read_text(encoding="utf-8"))
            # Verdicts from before there were intervals have none.
            checks = [{"interval": None, **check} for check in payload["checks"]]
            has_report = reports.file_of(_made(step)) is not None
            return Gate(step.node, bool(payload["passed"]), str(payload["summary"]), checks, has_report)
    return None


def _made(step: Step) -> list[Artifact]:
    return [artifact for several in step.outputs.values() for artifact in several]


def _links(run: Run, record: ModelRecord | None) -> list[Link]:
    """The artifacts that this run itself made, from the data on, and what became of the version that it pushed."""
    links = []
    if run.interval:
        links.append(Link("Data interval", f"{minute(run.interval.start)} to {minute(run.interval.end)}"))
    own = [
        (artifact, step)
        for step in run.steps.values()
        if not step.is_resolver and step.state in ("complete", "cached")
        for artifact in _made(step)
    ]
    for kind in _CHAIN:
        for artifact, step in own:
            if artifact.type.name == kind:
                again = ", from the cache" if step.state == "cached" else ""
                links.append(Link(f"{kind} {artifact.proto.id}", f"{_described(artifact)}{again}", artifact.uri))
    pushed = [artifact.properties.get("version") for artifact, _ in own if artifact.type.name == "PushedModel"]
    if record and pushed and pushed[0]:
        links.append(_outcome(record, int(pushed[0])))
    return links


def _outcome(record: ModelRecord, version: int) -> Link:
    """What became of a version, as far as the reader may see."""
    own = [span for span in record.history if span.version == version]
    if not own:
        return Link("Never served", "as far as you may see")
    since, until = minute(own[-1].since), own[-1].until
    if not until:
        return Link("Serves", f"since {since}", own[-1].because)
    return Link("Served", f"{since} to {minute(until)}; now {record.history[-1].version}", own[-1].because)


def _described(artifact: Artifact) -> str:
    """What an artifact is, in a few words, by its type."""
    properties = artifact.properties
    rows = (f"{name.removeprefix('rows_')} {n:,}" for name, n in sorted(properties.items()) if name.startswith("rows_"))
    champion = properties.get("champion_version")
    words = {
        "Dataset": f"the lake {_LAKE.get(str(properties.get('lake_version')), '?')}, "
        f"digest {_short(properties.get('digest'))}",
        "Examples": f"rows: {', '.join(rows) or 'not counted'}",
        "Model": f"files {_short(artifact.digest)}",
        "ModelEvaluation": f"beside champion {champion}" if champion else "beside no champion",
        "PushedModel": _pushed(properties),
    }
    return words.get(artifact.type.name) or str(properties.get("summary") or properties.get("reason") or "")


def _pushed(properties: Mapping[str, Any]) -> str:
    if not properties.get("pushed"):
        return f"not pushed: {properties.get('reason', '')}"
    return f"version {properties.get('version')}, {'it took over' if properties.get('took_over') else 'registered'}"


def _short(digest: Any) -> str:
    return str(digest)[:_SHORT] if digest else "not recorded"


def _task(visible: Visible, step: Step) -> dict[str, Any]:
    return {
        "name": safe_id(step.node),
        "state": step.state,
        "seconds": step.seconds,
        "cache": _without_hidden_run(visible, step.cache) or ("hands on" if step.is_resolver else "not asked"),
        "given": _named(step.inputs.values()),
        "made": _named(step.outputs.values()),
    }


def _without_hidden_run(visible: Visible, words: str) -> str:
    """What the cache said, without the name of a run that the reader may not see."""

    def shown(match: re.Match[str]) -> str:
        return match[0] if visible.run(match[1]) else " in a run that you may not read"

    return _NAMED_RUN.sub(shown, words)


def _named(groups: Iterable[Sequence[Artifact]]) -> list[str]:
    return [f"{artifact.type.name} {artifact.proto.id}" for several in groups for artifact in several]
