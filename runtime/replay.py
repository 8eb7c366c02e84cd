"""Replays a past run: executes its nodes again with what is recorded of them, and compares what they make.

Each node is given the inputs and parameters that ML Metadata keeps of it, not what the replay itself made: so one that
is not repeatable does not hide the others. Inputs are read where they lie; everything that is written, metadata too,
is written in a scratch state folder.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import ml_metadata as mlmd
from google.protobuf import json_format
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.proto.orchestration import pipeline_pb2

from airtight import code
from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from runtime import cache, comparing, recorded, stores
from runtime.bundle import Bundle, Node, path_of
from runtime.client import Call, call
from runtime.protocol import CompileRequest, NodeRequest, Outcome, Request

State = Literal["equal", "differs", "lost", "not replayed"]
_PUSHED = "PushedModel"
_PYTHON = "python"
_TOLD = 3
_REPEATABLE = "same code, versions, parameters and inputs"


@dataclass(frozen=True)
class Replayed:
    """What became of one node.

    Args:
      node: Its id.
      state: Whether its outputs are equal; "lost" is a node that should be replayed and cannot be, because an input or
        a recorded output is no longer there.
      differences: What differs in its outputs, or what is lost, or why it was not replayed.
      why: What it rests on that is no longer as it was, in words.
      seconds: How long it took.
      then: How long it took in the run.
      execution: Id of the recorded execution.
    """

    node: str
    state: State
    differences: tuple[str, ...] = ()
    why: str = ""
    seconds: float = 0.0
    then: float = 0.0
    execution: int = 0

    def __str__(self) -> str:
        if self.state == "equal":
            told = f"{self.differences[0]}; " if self.differences else ""
            return f"{told}{self.seconds:.1f} s, {self.then:.1f} s then" + (f"; {self.why}" if self.why else "")
        more = f" and {len(self.differences) - 1} more" if len(self.differences) > 1 else ""
        return f"{self.differences[0]}{more}" + (f" - {self.why}" if self.why else "")


def replay(
    run: str,
    home: Home,
    *,
    pipeline: str = "",
    nodes: Sequence[str] = (),
    keep: Path | None = None,
    say: Callable[[str], None],
    do: Callable[[Request], Outcome] | None = None,
) -> list[Replayed]:
    """Replays the nodes of a run, in their order, and says of each what became of it.

    Args:
      run: Airflow's run id, or the local run's, or the run's key.
      home: The state folder; nothing in it is changed.
      pipeline: The pipeline, where several have a run of that name or several bundles are of one pipeline.
      nodes: Only these; empty for all.
      keep: A folder that does not exist, to keep what the replay makes; None for a temporary one.
      say: Takes what is told, line by line.
      do: Does a request, in a process that is not this one where it matters; None for the warm launcher or a cold
        process.

    Returns:
      The nodes, all that were replayed equal.

    Raises:
      TerminalError: There is no such run, nothing of it can be replayed, or a node differs.
    """
    with stores.project_connection(home) as handle:
        found = recorded.find(handle.store, run, pipeline if ":" not in pipeline else "")
    with _scratch(home, keep) as scratch:
        bundle = _bundle(found.pipeline, pipeline, home, scratch, do)
        chosen = [bundle.node(name) for name in nodes] if nodes else list(bundle.nodes)
        with stores.project_connection(home) as handle:
            past = {
                node.id: recorded.succeeded(handle.store, found, node.id) for node in bundle.nodes if node in chosen
            }
        stage = _Stage(bundle, found, scratch, home, do)
        again = [past[node.id] for node in bundle.nodes if node.id in past and not stage.why_not(node)]
        say(f"The run {found}: {len(again)} of {len(past)} nodes to replay. {_changes(again)}")
        width = max(len(name) for name in past)
        replayed = []
        for node in (node for node in bundle.nodes if node.id in past):
            result = stage.replay(node, past[node.id])
            replayed.append(result)
            say(f"{node.id:<{width}}  {result.state:<12}  {result}")
        if keep:
            say(f"What the replay made lies in {scratch.path}.")
    _judge(found, replayed)
    return replayed


@contextlib.contextmanager
def _scratch(home: Home, keep: Path | None) -> Iterator[Home]:
    """A state folder with nothing but the lake of the real one, and that by a link."""
    if keep is not None and keep.exists():
        raise TerminalError(
            "What the replay makes cannot be kept there.",
            expected="a folder that does not exist yet",
            received=str(keep),
            remedy="Name another folder, or take this one away.",
        )
    folder = Path(tempfile.mkdtemp(prefix="airtight-replay-")) if keep is None else keep.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lake").symlink_to(home.lake)
        yield Home(folder)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _bundle(pipeline: str, wanted: str, home: Home, scratch: Home, do: Callable[[Request], Outcome] | None) -> Bundle:
    """The pipeline as its code is now; where the bundle is older, it is compiled anew in the scratch folder."""
    known = []
    for path in sorted(home.bundles.glob("*.json")):
        with contextlib.suppress(TerminalError):
            known.append(Bundle.read(path))
    known = [bundle for bundle in known if bundle.pipeline == pipeline]
    sources = [bundle.source for bundle in known if wanted in ("", bundle.source, bundle.pipeline)]
    if len(sources) > 1:
        raise TerminalError(
            f"Several bundles are of the pipeline {pipeline}.",
            expected="one",
            received=sources,
            remedy="Name the one to replay with --pipeline.",
        )
    # A bundle that is gone, or of another format: its pipeline is compiled by its name.
    source = sources[0] if sources else wanted or pipeline
    bundle = next((bundle for bundle in known if bundle.source == source), None)
    if bundle is not None and not bundle.stale():
        return bundle
    request = CompileRequest(source, str(scratch.path))
    (do(request) if do else call(request, home.launcher_socket)).raise_if_failed()
    return Bundle.read(path_of(source, scratch))


def _changes(past: Iterable[recorded.Execution | None]) -> str:
    """What of the code and the versions that a run was made with is no longer as it was."""
    files: dict[str, str] = {}
    versions: dict[str, str] = {}
    for execution in past:
        if execution:
            files |= execution.parts.get("code", {})
            versions |= execution.parts.get("version", {})
    versions.pop(_PYTHON, None)
    now = {"code": code.digests(files), "version": code.versions(versions)}
    changed = cache.differences({"code": files, "version": versions}, now)
    if not changed:
        return "Its code and its packages are as they were."
    return f"It was made with other code than now: {', '.join(changed)}."


class _Stage:
    """Where nodes are replayed: one scratch state folder, with its own metadata store."""

    def __init__(
        self, bundle: Bundle, run: recorded.Run, scratch: Home, home: Home, do: Callable[[Request], Outcome] | None
    ) -> None:
        self._bundle, self._run, self._scratch, self._home, self._do = bundle, run, scratch, home, do
        self._ir = json_format.ParseDict(bundle.ir, pipeline_pb2.Pipeline())
        self._deployment = runner_utils.extract_local_deployment_config(self._ir)
        chosen = self._deployment.metadata_connection_config.database_connection_config
        chosen.CopyFrom(metadata.sqlite_metadata_connection_config(str(scratch.metadata_db)))
        # What the pipeline itself chose must not be written.
        self._ir.deployment_config.Pack(self._deployment)
        self._ir.runtime_spec.pipeline_root.runtime_parameter.ClearField("default_value")
        self._copied: dict[int, int] = {}

    def replay(self, node: Node, past: recorded.Execution | None) -> Replayed:
        """Executes one node again, and compares."""
        reason = self.why_not(node) or ("" if past else "it has no success in this run")
        if reason or past is None:
            return Replayed(node.id, "not replayed", (reason,))
        lost = (*_lost(past.inputs, "input"), *_lost(past.outputs, "recorded output"))
        if lost:
            return Replayed(node.id, "lost", lost, execution=past.id)
        before = _digests(past.inputs)
        started = time.monotonic()
        outcome = self._execute(node, past)
        seconds = time.monotonic() - started
        again = self._made(outcome)
        if outcome.state == "failed":
            told = [f"it fails: {AirtightError.from_json(outcome.error)}"]
        elif again is None or outcome.state != "complete":
            told = [f"it was {outcome.state}: {outcome.summary}"]
        else:
            told = list(_compared(past.outputs, again.outputs))
        told += [f"it wrote into its input {key}" for key, held in _digests(past.inputs).items() if held != before[key]]
        why = "; ".join(_why(past, again.parts if again else {}))
        if told:
            return Replayed(node.id, "differs", tuple(told), why or _REPEATABLE, seconds, past.seconds, past.id)
        return Replayed(node.id, "equal", (), why, seconds, past.seconds, past.id)

    def why_not(self, node: Node) -> str:
        """Why a node's result is no function of its inputs, or cannot be had here; "" for one that is replayed."""
        if _PUSHED in node.outputs.values():
            return "it acts on the world: it pushes models"
        if node.ends:
            return f"it acts on the world: it gives back what {node.ends} took"
        if node.id not in self._deployment.executor_specs:
            return "it computes nothing: TFX finds what is there, and the nodes after it are given what it found then"
        if not node.cache.enabled:
            return "the pipeline keeps no result of it (its cache is off), as where a node acts on the world"
        where = next((name for name in ("image", "interpreter") if node.airflow.get(name)), "")
        return f"it runs elsewhere ({where} {node.airflow[where]})" if where else ""

    def _execute(self, node: Node, past: recorded.Execution) -> Outcome:
        request = NodeRequest(
            bundle=str(self._written(node, past)),
            node=node.id,
            run=self._run.key,
            attempt=uuid.uuid4().hex,
            home=str(self._scratch.path),
            labels={"run_id": self._run.id},
            use_cache=False,
        )
        if self._do:
            return self._do(request)
        log = self._scratch.logs / f"{node.id}.log"
        log.parent.mkdir(exist_ok=True)
        with Call(request, self._home.launcher_socket) as started, log.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in started.lines())
            return started.outcome

    def _written(self, node: Node, past: recorded.Execution) -> Path:
        """A bundle in which the node has the recorded values and artifacts, and waits for nothing."""
        ir = pipeline_pb2.Pipeline()
        ir.CopyFrom(self._ir)
        proto = next(n.pipeline_node for n in ir.nodes if n.pipeline_node.node_info.id == node.id)
        for name, value in proto.parameters.parameters.items():
            if name in past.parameters:
                value.field_value.CopyFrom(past.parameters[name])
        inputs = pipeline_pb2.NodeInputs()
        with self._store() as store:
            for key, spec in proto.inputs.inputs.items():
                given = inputs.inputs[key]
                given.min_count, given.hidden = spec.min_count, spec.hidden
                given.static_inputs.SetInParent()
                given.static_inputs.artifact_ids.extend(self._copy(store, a) for a in past.inputs.get(key, ()))
        proto.inputs.CopyFrom(inputs)
        told = json_format.MessageToDict(ir, preserving_proto_field_name=True)
        path = self._scratch.bundles / f"{node.id}.json"
        replace(self._bundle, ir=told, parameters=(), required=(), interval=False).write(path)
        return path

    def _copy(self, store: mlmd.MetadataStore, artifact: recorded.Artifact) -> int:
        """The artifact in the scratch store, at its own place; what it holds is looked at anew."""
        known = artifact.proto.id
        if known not in self._copied:
            kind, proto = type(artifact.type)(), type(artifact.proto)()
            kind.CopyFrom(artifact.type)
            proto.CopyFrom(artifact.proto)
            for copy in (kind, proto):
                copy.ClearField("id")
            proto.custom_properties.pop(cache.DIGEST, None)
            proto.state = proto.LIVE
            proto.type_id = store.put_artifact_type(kind, can_add_fields=True, can_omit_fields=True)
            (self._copied[known],) = store.put_artifacts([proto])
        return self._copied[known]

    def _made(self, outcome: Outcome) -> recorded.Execution | None:
        if not outcome.execution:
            return None
        with self._store() as store:
            (proto,) = store.get_executions_by_id([outcome.execution])
            return recorded.execution(store, proto)

    @contextlib.contextmanager
    def _store(self) -> Iterator[mlmd.MetadataStore]:
        with stores.connection(self._deployment, self._scratch) as handle:
            yield handle.store


_Artifacts = dict[str, list[recorded.Artifact]]


def _lost(artifacts: _Artifacts, what: str) -> Iterator[str]:
    for key, found in artifacts.items():
        for artifact in found:
            uri = artifact.proto.uri
            if uri.startswith("/") and not Path(uri).exists():
                yield f"its {what} {key} is gone from {uri}"


def _digests(artifacts: _Artifacts) -> dict[str, list[str]]:
    return {key: [cache.contents(artifact.proto.uri) for artifact in found] for key, found in artifacts.items()}


def _compared(then: _Artifacts, now: _Artifacts) -> Iterator[str]:
    """Each thing that differs in the outputs, by key."""
    for key in [*then, *(key for key in now if key not in then)]:
        old, new = then.get(key, []), now.get(key, [])
        if len(old) != len(new):
            yield f"{key}: {len(old)} artifacts then, {len(new)} now"
            continue
        for place, (a, b) in enumerate(zip(old, new, strict=True)):
            name = f"{key}[{place}]" if len(old) > 1 else key
            for told in comparing.places(Path(a.proto.uri), Path(b.proto.uri)) if a.proto.uri.startswith("/") else ():
                yield f"{name}/{told}"
            for told in comparing.properties(a.properties, b.properties):
                yield f"{name}: {told}"


def _why(past: recorded.Execution, parts: cache.Parts) -> Iterator[str]:
    """What the node rested on that is no longer as it was."""
    if not past.parts:
        yield "what it rested on was not recorded"
    elif parts:
        for told in cache.differences(past.parts, parts):
            yield f"{told} on disk since" if told.startswith("input ") else told


def _judge(run: recorded.Run, replayed: Sequence[Replayed]) -> None:
    """Raises what is wrong, if anything is: the first node that differs."""
    done = [result for result in replayed if result.state != "not replayed"]
    if not done:
        raise TerminalError(
            f"Nothing of the run {run} was replayed.",
            expected="a node that succeeded in it and whose result is a function of its inputs",
            received=[f"{result.node}: {result.differences[0]}" for result in replayed],
            remedy="Replay a run of which a node succeeded, with its cache on in the pipeline.",
        )
    wrong = [result for result in done if result.state != "equal"]
    if not wrong:
        return
    first = wrong[0]
    lost = first.state == "lost"
    if lost:
        remedy = "Clear the node that made it and those after it, or replay the others with --node."
    elif first.why == _REPEATABLE:
        remedy = (
            f"With the {_REPEATABLE} it must not: seed what is random in {first.node}, sort what comes in no order, "
            "or switch its cache off (cache=False) if it acts on the world."
        )
    else:
        remedy = f"See whether this explains it: {first.why}. Put it back as it was to judge the run itself."
    raise TerminalError(
        f"The run {run} cannot be replayed: of {first.node} something is gone."
        if lost
        else f"The run {run} is not repeated: {first.node} differs, the first of {len(wrong)}.",
        expected=f"the outputs of execution {first.execution}",
        received=first.differences[:_TOLD],
        remedy=remedy,
    )
