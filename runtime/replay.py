"""Replays a past run: executes its nodes again with what is recorded of them, and compares what they make.

Each node is given the inputs and parameters that ML Metadata keeps of it, not what the replay itself made: so one that
is not repeatable does not hide the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airtight import fingerprint
from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from runtime import artifact_diff, cache, content_digest, metadata_store
from runtime.client import call
from runtime.compiled_pipeline import CompiledPipeline, Node
from runtime.compiled_store import all_known, current
from runtime.lineage import recorded_run
from runtime.lineage.artifacts import ByKey
from runtime.protocol import CompileRequest
from runtime.replay_sandbox import Do, Stage, scratch

State = Literal["equal", "differs", "lost", "not replayed"]
_PYTHON = "python"
_MAX_LISTED = 3
_NAMED = 5
_FAILS = "it fails: "
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
            then = f"{self.then:.1f} s then" if self.then else "from the cache then"
            return f"{self.seconds:.1f} s, {then}" + (f"; {self.why}" if self.why else "")
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
    do: Do | None = None,
) -> list[Replayed]:
    """Replays the nodes of a run, in their order, and says of each what became of it.

    Args:
      run: Airflow's run id, or the local run's, or the run's key.
      home: The state folder; nothing in it is changed.
      pipeline: The pipeline's id or source, if several pipelines have a run of that name.
      nodes: Only these; empty for all.
      keep: A folder that does not exist, to keep what the replay makes; None for a temporary one.
      say: Takes what is told, line by line.
      do: Does a request; None for the warm launcher where it runs, and a process for each node otherwise.

    Returns:
      The nodes, all that were replayed equal.

    Raises:
      TerminalError: There is no such run, nothing of it can be replayed, or a node differs.
    """
    known = list(all_known(home))
    # A source that no compiled pipeline knows tells nothing of the id.
    unknown = "" if ":" in pipeline or "/" in pipeline else pipeline
    named = next((compiled.pipeline for compiled in known if compiled.source == pipeline), unknown)
    with metadata_store.project_connection(home) as handle:
        recorded = recorded_run.find(handle.store, run, named)
    with scratch(home, keep) as place:
        compiled = _current_pipeline(
            [b for b in known if b.pipeline == recorded.pipeline], pipeline or recorded.pipeline, home, place, do
        )
        chosen = [compiled.node(name) for name in nodes] if nodes else list(compiled.nodes)
        with metadata_store.project_connection(home) as handle:
            past = {
                node.id: recorded_run.succeeded(handle.store, recorded, node.id)
                for node in compiled.nodes
                if node in chosen
            }
        stage = Stage(compiled, recorded, place, home, do)
        again = [past[node.id] for node in compiled.nodes if node.id in past and not stage.why_not(node)]
        say(f"The run {recorded}: {len(again)} of {len(past)} nodes to replay. {_changes(again)}")
        width = max(len(name) for name in past)
        replayed = []
        for node in (node for node in compiled.nodes if node.id in past):
            result = _replayed(stage, node, past[node.id])
            replayed.append(result)
            say(f"{node.id:<{width}}  {result.state:<12}  {result}")
        if keep:
            say(f"What the replay made lies in {place.path}.")
    _judge(recorded, replayed)
    return replayed


def _current_pipeline(
    known: Sequence[CompiledPipeline], wanted: str, home: Home, place: Home, do: Do | None
) -> CompiledPipeline:
    """The pipeline as its code is now; compiled in the scratch folder if the stored one is older or gone.

    Args:
      known: The compiled pipelines of the pipeline.
      wanted: The source or the id of the pipeline.
      home: The state folder.
      place: The scratch state folder.
      do: Does a request.
    """
    chosen = [compiled for compiled in known if compiled.source == wanted] or list(known)
    if len(chosen) > 1:
        raise TerminalError(
            f"Several compiled pipelines are of the pipeline {wanted}.",
            expected="one",
            received=[compiled.source for compiled in chosen],
            remedy="Name the one to replay with --pipeline.",
        )
    if chosen and not chosen[0].stale():
        return chosen[0]
    source = chosen[0].source if chosen else wanted
    arguments, paths = (chosen[0].arguments, chosen[0].paths) if chosen else ({}, ())
    request = CompileRequest(source, str(place.path), arguments, dict(os.environ), paths)
    outcome = do(request) if do else call(request, home.launcher_socket)
    if outcome.state == "failed" and not chosen:
        raise TerminalError(
            f"The run's pipeline {wanted} is not known here.",
            expected=f"its compiled form in {home.compiled}, or its source",
            received=AirtightError.from_json(outcome.error).message,
            remedy="Name its source, a folder of pipelines/ or package.module:function, with --pipeline.",
        )
    outcome.raise_if_failed()
    return current(source, place, arguments)


def _changes(past: Iterable[recorded_run.Execution | None]) -> str:
    """What of the code and the versions that a run was made with is no longer as it was."""
    files: dict[str, str] = {}
    versions: dict[str, str] = {}
    for execution in past:
        if execution:
            files |= execution.parts.get("code", {})
            versions |= execution.parts.get("version", {})
    versions.pop(_PYTHON, None)
    now = {"code": fingerprint.digests(files), "version": fingerprint.versions(versions)}
    changed = cache.differences({"code": files, "version": versions}, now)
    if not changed:
        return "Its code and its packages are as they were."
    return f"It was made with other code than now: {_in_words(changed)}."


def _replayed(stage: Stage, node: Node, past: recorded_run.Execution | None) -> Replayed:
    """Executes one node again, and compares."""
    reason = stage.why_not(node) or ("" if past else "it has no success in this run")
    if reason or past is None:
        return Replayed(node.id, "not replayed", (reason,))
    lost = (*_lost(past.inputs, "input"), *_lost(past.outputs, "recorded output"))
    if lost:
        return Replayed(node.id, "lost", lost, execution=past.id)
    before = _digests(past.inputs)
    started = time.monotonic()
    outcome, again = stage.execute(node, past)
    seconds = time.monotonic() - started
    if outcome.state == "failed":
        fault = AirtightError.from_json(outcome.error)
        differences = [f"{_FAILS}{fault.message.rstrip('.')}" + (f" ({fault.received})" if fault.received else "")]
    elif again is None or outcome.state != "complete":
        differences = [f"it was {outcome.state}: {outcome.summary}"]
    else:
        differences = list(_compared(past.outputs, again.outputs))
    differences += [
        f"it wrote into its input {key}" for key, held in _digests(past.inputs).items() if held != before[key]
    ]
    why = _in_words(list(_changed(past, again.parts if again else {})))
    if not differences:
        return Replayed(node.id, "equal", (), why, seconds, past.seconds, past.id)
    return Replayed(node.id, "differs", tuple(differences), why or _REPEATABLE, seconds, past.seconds, past.id)


def _lost(artifacts: ByKey, what: str) -> Iterator[str]:
    for key, of_key in artifacts.items():
        for artifact in of_key:
            uri = artifact.proto.uri
            if uri.startswith("/") and not Path(uri).exists():
                yield f"its {what} {key} is gone from {uri}"


def _digests(artifacts: ByKey) -> dict[str, list[str]]:
    return {key: [content_digest.of_uri(artifact.uri) for artifact in several] for key, several in artifacts.items()}


def _compared(then: ByKey, now: ByKey) -> Iterator[str]:
    """Each thing that differs in the outputs, by key."""
    for key in [*then, *(key for key in now if key not in then)]:
        old, new = then.get(key, []), now.get(key, [])
        if len(old) != len(new):
            yield f"{key}: {len(old)} artifacts then, {len(new)} now"
            continue
        for place, (a, b) in enumerate(zip(old, new, strict=True)):
            name = f"{key}[{place}]" if len(old) > 1 else key
            for difference in (
                artifact_diff.places(Path(a.proto.uri), Path(b.proto.uri)) if a.proto.uri.startswith("/") else ()
            ):
                yield f"{name}/{difference}"
            for difference in artifact_diff.properties(a.properties, b.properties):
                yield f"{name}: {difference}"


def _changed(past: recorded_run.Execution, parts: cache.Parts) -> Iterator[str]:
    """What the node rested on that is no longer as it was, and what it made."""
    if not past.parts:
        yield "what it rested on was not recorded"
    elif parts:
        outside = parts.get("outside", {})
        for name, old in past.parts.get("outside", {}).items():
            if outside.get(name) != old:
                yield f"{name} told {old!r}, tells {outside.get(name, 'nothing')!r}"
        for difference in cache.differences(
            past.parts, {kind: held for kind, held in parts.items() if kind != "outside"}
        ):
            yield f"{difference} on disk since" if difference.startswith("input ") else difference
    for key, artifacts in past.outputs.items():
        if any(artifact.digest not in ("", content_digest.of_uri(artifact.proto.uri)) for artifact in artifacts):
            yield f"output {key} changed on disk since"


def _in_words(changes: Sequence[str]) -> str:
    """Changes as one sentence's part, the files of the code together."""
    files = [change.removeprefix("code ").removesuffix(" changed") for change in changes if change.startswith("code ")]
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    code = [f"code changed: {', '.join(files[:_NAMED])}{more}"] if files else []
    return "; ".join([*code, *(change for change in changes if not change.startswith("code "))])


def _judge(run: recorded_run.Run, replayed: Sequence[Replayed]) -> None:
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
    elif first.differences[0].startswith(_FAILS):
        remedy = f"Correct what it says ({first.why}); its log is kept with --keep."
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
        received=first.differences[:_MAX_LISTED],
        remedy=remedy,
    )
