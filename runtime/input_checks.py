"""Whether what a node takes of this run is there: said before TFX would only say that an input is not resolved."""

from __future__ import annotations

import ml_metadata as mlmd
from tfx.dsl.io import fileio
from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import TerminalError, TransientError
from runtime import attempts, node_inputs
from runtime.lineage.artifacts import Artifact, by_key
from runtime.protocol import NodeRequest

_NEW_RUN = "start a new run (one that is cleared may see only what was there at first)"


def check(
    store: mlmd.MetadataStore,
    node: pipeline_pb2.PipelineNode,
    request: NodeRequest,
    producers: dict[str, attempts.Success | None],
) -> TerminalError | None:
    """Says which upstream output is missing, where TFX would only say that an input could not be resolved.

    Returns:
      The fault that it is unless TFX skips the node, by its condition or an empty loop.

    Raises:
      TransientError: An output is about to be made, or may be about to go.
      TerminalError: An output is gone, or one is missing and the node cannot be skipped.
    """
    # Of an optional input, too: without the output that is to come the node would decide as if there were none. And a
    # resolver goes by what all nodes before it give now.
    is_resolver = node.node_info.type.name == node_inputs.RESOLVER
    awaited = {name for name in request.pending if is_resolver or name in producers}
    if pending := " and ".join(sorted(awaited)):
        raise TransientError(
            f"The upstream node {pending} has not ended yet.",
            expected=f"a successful attempt of {pending}",
            received="a task that runs or is about to, as after a Clear",
            remedy=f"Wait for {pending}: the task is tried again, or clear it then.",
        )
    successes = {producer: success for producer, success in producers.items() if success}
    made = by_key(store, [success.execution.id for success in successes.values()])
    given = {producer: made.get(success.execution.id, {}) for producer, success in successes.items()}
    for producer, by_output in given.items():
        for key, several in by_output.items():
            for artifact in several:
                _check_is_there(producer, successes[producer].execution.type, key, artifact)
    for key, channels in node_inputs.required(node):
        sources = [(node_inputs.producer_in_run(channel, request.run), channel.output_key) for channel in channels]
        if (
            sources
            and all(producer for producer, _ in sources)
            and not any(given.get(producer, {}).get(output) for producer, output in sources)
        ):
            missing = _missing(node.node_info.id, key, sources, producers)
            if not node_inputs.may_skip(node):
                raise missing
            return missing
    return None


def _check_is_there(producer: str, producer_type: str, key: str, artifact: Artifact) -> None:
    """Sees to it that an input of the run is still there.

    Raises:
      TransientError: It is marked for removal, which may be taken back.
      TerminalError: It is gone.
    """
    state = artifact.proto.state
    if state == artifact.proto.MARKED_FOR_DELETION:
        raise TransientError(
            f"The output {key} of {producer} is about to be removed.",
            expected=f"an artifact that is in use or recent, at {artifact.uri}",
            received="one that `python -m runtime clean` has marked; it stays if a run uses it by then",
            remedy="Wait for the end of the clean-up: the task is tried again.",
        )
    is_lost = state == artifact.proto.LIVE and bool(artifact.uri) and not fileio.exists(artifact.uri)
    if state != artifact.proto.DELETED and not is_lost:
        return
    raise TerminalError(
        f"The output {key} of {producer} is gone.",
        expected=artifact.uri,
        received="nothing at that place; it was removed after it was published"
        + ("" if is_lost else ", by `python -m runtime clean`"),
        remedy=f"{producer} only hands it on: run again what made it, then {_NEW_RUN}."
        if producer_type == node_inputs.RESOLVER
        else f"Clear {producer}, which makes it again.",
    )


def _missing(
    node: str, key: str, sources: list[tuple[str, str]], producers: dict[str, attempts.Success | None]
) -> TerminalError:
    """The fault of a required input for which no node of the run gave anything."""
    names = " and ".join(dict.fromkeys(producer for producer, _ in sources))
    if not any(producers[producer] for producer, _ in sources):
        return TerminalError(
            f"The upstream node {names} has no output in this run.",
            expected=f"a successful attempt of {names}",
            received="none, though its task counts as done (it was skipped, or marked by hand)",
            remedy=f"Clear {names} so that it runs.",
        )
    return TerminalError(
        f"{names} found nothing yet, and {node} cannot do without it.",
        expected=f"an artifact at the output {' or '.join(output for _, output in sources)} of {names}",
        received=f"none for the input {key}",
        remedy=f"Take the input as optional, or run first what makes the artifacts that {names} looks for, "
        f"then {_NEW_RUN}.",
    )
