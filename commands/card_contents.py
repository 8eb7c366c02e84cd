"""What a model card says, gathered from ML Metadata, the artifacts' files and the audit log: plain values for JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airtight import verdict
from airtight.audit import log as audit_log
from airtight.audit.log import AuditLog
from airtight.errors import TerminalError
from airtight.home import Home
from airtight.provenance import COMMIT, LOCK
from airtight.served_spans import Span
from airtight.supervised import Supervised
from commands import card_quality
from components.modelling import metric_names
from components.modelling.served import RELEASE

if TYPE_CHECKING:
    import ml_metadata as mlmd

    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.versions import Made

LATEST = "latest"
FORMAT = 1
"""Of the JSON; another number where names change their meaning."""
GATES = ("validate", "evaluate", "try_serving")
_OF_THE_SYSTEM = ("cache", "name", "state", "tfx_version", "is_external")
_RECORD = ("version", "model_digest", "reason", "took_over", "awaits_release", "overridden")
_SHORT = ("tfx", "tensorflow", "keras", "lightgbm", "pyspark", "numpy", "python")
"""Libraries that a card names beside the digest of the whole environment, where the training rests on them."""


def contents(store: mlmd.MetadataStore, settings: Supervised, home: Home, wanted: str) -> dict[str, Any]:
    """Gathers everything about one version; equal stores, files and logs give equal contents.

    Args:
      store: The metadata store.
      settings: The pipeline's.
      home: The state folder.
      wanted: A version's number, or `latest` for the highest.

    Raises:
      TerminalError: No push made such a version.
    """
    from runtime.lineage import versions

    name = settings.name
    pushes = versions.pushes(store, name)
    pushed = _chosen(pushes, wanted, name)
    version, digest = int(pushed.properties["version"]), str(pushed.properties.get("model_digest", ""))
    promotions = versions.of_model(store, "Promotion", name)
    history = versions.spans_of((*pushes, *promotions))
    releases = _releases(store, name, version, promotions)
    made = versions.rests_on(store, name, pushed)
    evaluation = _output(made, "evaluate", "ModelEvaluation")
    acts = _acts(AuditLog(name, home), version, digest)
    return {
        "format": FORMAT,
        "pipeline": name,
        "title": settings.title,
        "description": settings.description,
        "version": version,
        "status": _status(version, history, releases),
        "interval": [str(pushed.properties.get(end, "")) for end in ("interval_start", "interval_end")],
        "zone": settings.zone,
        "pushed": {key: pushed.properties.get(key, "") for key in _RECORD} | {"at": versions.published_at(pushed)},
        "run": _run(made.get("push")),
        "data": _data(made),
        "code": _code(made),
        "environment": _environment(made.get("train")),
        "parameters": {node: _parameters(made[node]) for node in sorted(made)},
        "training": _file(_output(made, "train", "ModelRun"), "training.json"),
        "metrics": card_quality.metrics(evaluation),
        "champion": int((evaluation.properties if evaluation else {}).get("champion_version", 0)),
        "slices": _file(evaluation, metric_names.SLICES),
        "gates": [gate for node in GATES if (gate := _gate(node, made.get(node)))],
        "drift": _drift(store, name, made),
        "overrides": [act for act in acts if act["act"] == audit_log.OVERRIDDEN],
        "approvals": _approvals(promotions, version),
        "releases": releases,
        "served": [_span(span) for span in history if span.version == version],
        "quality_since": card_quality.of_later_intervals(store, name, version),
        "quality_by_day": card_quality.by_day(store, name, version),
        "audit": acts,
    }


def _chosen(pushes: list[Artifact], wanted: str, model: str) -> Artifact:
    """The last push of the version that is wanted: of a number that was pushed again, its files lie there."""
    numbers = sorted({int(push.properties["version"]) for push in pushes}, reverse=True)
    number = numbers[0] if numbers and wanted == LATEST else int(wanted) if wanted.isdecimal() else 0
    if number not in numbers:
        raise TerminalError(
            f"There is no version {wanted} of {model}.",
            expected=f"{LATEST} or one of {', '.join(map(str, numbers)) or 'none: nothing was pushed yet'}",
            received=repr(wanted),
            remedy="Choose another version." if numbers else "Push a model first: run the pipeline.",
        )
    return [push for push in pushes if int(push.properties["version"]) == number][-1]


def _status(version: int, history: list[Span], releases: list[dict[str, Any]]) -> str:
    """Where the version stands, in words."""
    own = [span for span in history if span.version == version]
    tried = [release for release in releases if release["candidate"] == version and release["outcome"]]
    if not own:
        return "was tried and taken back, and never served" if tried else "was registered, and never served"
    last = own[-1]
    if not last.until:
        return f"has served since {_minute(last.since)}"
    verb = "was taken back" if last.ended_by < version else "was replaced"
    return f"{verb}: {last.ended_by} serves in its place since {_minute(last.until)}"


def _minute(instant: str) -> str:
    return f"{instant[:16].replace('T', ' ')} UTC"


def _run(push: Made | None) -> dict[str, Any]:
    if push is None:
        return {}
    names = ("dag_id", "run_id", "try_number", "user")
    return {"key": push.run} | {name: push.labels[name] for name in names if name in push.labels}


def _data(made: dict[str, Made]) -> dict[str, Any]:
    """What was read: the dataset's manifest without its files, whose digests are digested by table."""
    dataset, examples = _output(made, "ingest", "Dataset"), _output(made, "transform", "Examples")
    manifest = _file(dataset, "manifest.json") or {}
    tables = {}
    for name, table in sorted(manifest.get("tables", {}).items()):
        files = table.get("files", [])
        tables[name] = {
            "version": table.get("version"),
            "known_at": table.get("known_at"),
            "files": len(files),
            "rows": sum(file.get("rows", 0) for file in files),
            "digest": _digest([[file.get("path"), file.get("sha256")] for file in files]),
        }
    properties = dataset.properties if dataset else {}
    of_examples = examples.properties if examples else {}
    splits = {key.removeprefix("rows_"): of_examples[key] for key in sorted(of_examples) if key.startswith("rows_")}
    spans_of_time = ("history_start", "training_start", "labels_known_by", "interval_start", "interval_end")
    return {
        "digest": properties.get("digest", ""),
        "lake_version": properties.get("lake_version") or manifest.get("lake_version", ""),
        **{key: manifest[key] for key in spans_of_time if key in manifest},
        "tables": tables,
        "examples": {"digest": of_examples.get("digest", ""), "rows": splits},
    }


def _code(made: dict[str, Made]) -> dict[str, Any]:
    """The commit of each node that the version rests on, and the digest of the code that the training rested on."""
    train = made.get("train")
    files = train.parts.get("code", {}) if train else {}
    return {
        "commits": {node: str(made[node].labels.get(COMMIT, "")) for node in sorted(made)},
        "training_digest": _digest(files) if files else "",
        "training_files": len(files),
    }


def _environment(train: Made | None) -> dict[str, Any]:
    versions = train.parts.get("version", {}) if train else {}
    return {
        "lock": str(train.labels.get(LOCK, "")) if train else "",
        "versions": {name: versions[name] for name in _SHORT if name in versions},
        "packages": len(versions),
        "packages_digest": _digest(versions) if versions else "",
    }


def _parameters(made: Made) -> dict[str, Any]:
    return {name: value for name, value in sorted(made.parameters.items()) if name not in _OF_THE_SYSTEM}


def _gate(node: str, made: Made | None) -> dict[str, Any] | None:
    """What a gate decided, where its file is still there."""
    outputs = [artifact for several in (made.outputs if made else {}).values() for artifact in several]
    result = next((payload for artifact in outputs if (payload := _file(artifact, verdict.FILE_NAME))), None)
    if result is None:
        return None
    return {"gate": node, **{key: result[key] for key in ("passed", "summary", "reason", "checks")}}


def _drift(store: mlmd.MetadataStore, pipeline: str, made: dict[str, Made]) -> dict[str, Any] | None:
    """How its interval differed from what was learned from, as monitor saw it; None where that is not known."""
    from runtime.lineage import versions

    given = [_output(made, *of) for of in (("train", "Model"), ("transform", "Examples"), ("ingest", "Dataset"))]
    for artifact in filter(None, given):
        if users := versions.users_of(store, pipeline, artifact, "monitor"):
            return _gate("monitor", users[-1])
    return None


def _approvals(promotions: list[Artifact], version: int) -> list[dict[str, Any]]:
    """The promotions that a person approved, and neither a release nor the step that takes versions back."""
    from runtime.lineage import versions

    names = ("from_version", "to_version", "approval", "reason", "overridden", "summary")
    return [
        {"at": versions.published_at(promotion), **{name: promotion.properties.get(name, "") for name in names}}
        for promotion in promotions
        if version in (promotion.properties.get("from_version"), promotion.properties.get("to_version"))
        and str(promotion.properties.get("approval", "")).split(" ")[0] != RELEASE
    ]


def _releases(
    store: mlmd.MetadataStore, model: str, version: int, promotions: Iterable[Artifact]
) -> list[dict[str, Any]]:
    """The releases that tried the version, or in which another was tried beside it."""
    from runtime.lineage import versions

    decisions = {a.properties.get("release"): a.properties for a in versions.of_model(store, "ReleaseDecision", model)}
    ended = {str(a.properties.get("approval", "")): a for a in promotions}
    names = ("release", "stable", "candidate", "mode", "share", "since", "summary")
    releases = []
    for release in versions.of_model(store, "Release", model):
        properties = release.properties
        if version not in (properties.get("candidate"), properties.get("stable")):
            continue
        key = properties.get("release")
        decision = decisions.get(key, {}) if key else {}
        end = ended.get(f"release {key}") if key else None
        releases.append(
            {name: properties.get(name, "") for name in names}
            | {
                "margins": json.loads(str(properties.get("margins") or "{}")),
                "decision": decision.get("reason", ""),
                "promoted": decision.get("promoted"),
                "until": versions.published_at(end) if end else "",
                "outcome": str(end.properties.get("summary", "")) if end else "",
            }
        )
    return releases


def _span(span: Span) -> dict[str, Any]:
    return {"since": span.since, "until": span.until, "because": span.because, "ended_by": span.ended_by}


def _acts(log: AuditLog, version: int, digest: str) -> list[dict[str, Any]]:
    """The lines of the audit log that name the version, or the training of its files."""
    lines, _ = log.lines()
    acts = []
    for line in lines:
        entry = line.entry
        of_files = bool(digest) and entry.get("digest") == digest and not entry.get("version")
        details = entry.get("details", {})
        others = (details.get("in_place_of"), details.get("beside"), details.get("serves"))
        if entry and (entry.get("version") == version or of_files or version in others):
            shown = ("number", "at", "act", "version", "reason", "details", "by")
            acts.append({name: entry.get(name, "") for name in shown} | {"sha256": line.sha256})
    return acts


def _output(made: dict[str, Made], node: str, kind: str) -> Artifact | None:
    return made[node].output(kind) if node in made else None


def _file(artifact: Artifact | None, name: str) -> Any:
    """A JSON file of an artifact; None where it is gone, or never was."""
    path = Path(artifact.uri) / name if artifact else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
