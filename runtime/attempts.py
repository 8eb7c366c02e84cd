"""Attempts: each time a node is tried is an execution of its own, and downstream sees the latest that succeeded.

TFX's launcher looks an execution up by pipeline, run and node, and returns at once when it is complete, so a task
that Airflow clears would turn green without running. Here every attempt has a context of its own, which makes the
launcher register a new execution with its own output folders, and each input of this run is asked for in the context
of its producer's current attempt. So nodes that were not cleared keep their outputs, lineage keeps every attempt, and
neither snapshots nor locks are needed.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.proto.orchestration import pipeline_pb2

log = logging.getLogger(__name__)

CONTEXT_TYPE = "node_attempt"
_RUN_TYPE = "pipeline_run"
_NODE_TYPE = "node"
_DONE = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)
_SKIPPED = metadata_store_pb2.Execution.CANCELED
_OWNER_PARTS = 4
_CLEARED = "clear_number"
_OPEN = (metadata_store_pb2.Execution.NEW, metadata_store_pb2.Execution.RUNNING)


def mark(node: pipeline_pb2.PipelineNode, run: str, attempt: str, folder: str, labels: dict[str, str | int]) -> None:
    """Gives the node's execution the context of this attempt.

    Args:
      node: The node in a copy of the IR; changed in place.
      run: Key of the run.
      attempt: Name of the attempt.
      folder: Where the node's outputs go, so that what is left of a dead attempt can be found.
      labels: What lineage should tell of it.
    """
    context = node.contexts.contexts.add()
    context.type.name = CONTEXT_TYPE
    context.name.field_value.string_value = _name(run, node.node_info.id, attempt)
    for key, value in (labels | {"owner": _owner(os.getpid()), "folder": folder}).items():
        target = context.properties[key].field_value
        if isinstance(value, int):
            target.int_value = value
        else:
            target.string_value = value


@dataclass(frozen=True)
class Success:
    """An execution that succeeded.

    Args:
      execution: It, complete or from the cache.
      attempt: The context of its attempt.
    """

    execution: metadata_store_pb2.Execution
    attempt: metadata_store_pb2.Context

    def is_untold(self, labels: dict[str, str | int]) -> bool:
        """Whether its task died before the scheduler heard of it, so that it is the answer to the present attempt.

        A scheduler that tries again by itself keeps `clear_number`, and one that a person told to run the node again
        raises it: only in the first case the earlier success is the answer. Without that label nobody can tell.

        Args:
          labels: Of the present attempt.
        """
        mine = self.attempt.custom_properties
        return _CLEARED in labels and _CLEARED in mine and mine[_CLEARED].int_value == labels[_CLEARED]


def latest(store: mlmd.MetadataStore, run: str, node: str) -> Success | None:
    """The success whose outputs count for a node: the latest, unless the node was skipped since."""
    for attempt in _attempts(store, run, node):
        for execution in store.get_executions_by_context(attempt.id):
            if execution.last_known_state in _DONE:
                return Success(execution, attempt)
            if execution.last_known_state == _SKIPPED:
                return None
    return None


def pin_inputs(node: pipeline_pb2.PipelineNode, run: str, store: mlmd.MetadataStore) -> dict[str, Success | None]:
    """Asks each input of this run for the outputs of its producer's current attempt only.

    Args:
      node: The node in a copy of the IR whose parameters are bound; changed in place.
      run: Key of the run.
      store: The metadata store.

    Returns:
      The success that counts of every node of this run that an input comes from; None where there is none.
    """
    pinned: dict[str, Success | None] = {}
    for spec in node.inputs.inputs.values():
        for channel in spec.channels:
            producer = producer_in_run(channel, run)
            if not producer:
                continue
            if producer not in pinned:
                pinned[producer] = latest(store, run, producer)
            del channel.context_queries[:]
            query = channel.context_queries.add()
            query.type.name = CONTEXT_TYPE
            success = pinned[producer]
            query.name.field_value.string_value = success.attempt.name if success else "none"
    return pinned


def producer_in_run(channel: pipeline_pb2.InputSpec.Channel, run: str) -> str:
    """Gives the node of this run that a channel comes from, or "" for a channel that looks across runs."""
    names = {query.type.name: query.name.field_value.string_value for query in channel.context_queries}
    if CONTEXT_TYPE in names:
        return str(channel.producer_node_query.id)
    if names.get(_RUN_TYPE) != run:
        return ""
    pipeline = names.get("pipeline", "")
    return names.get(_NODE_TYPE, "").removeprefix(f"{pipeline}.")


def bury(store: mlmd.MetadataStore, run: str, node: str) -> None:
    """Ends what earlier attempts of a node left open: stops them, removes half-written outputs, marks them failed."""
    for context in _attempts(store, run, node):
        for execution in store.get_executions_by_context(context.id):
            if execution.last_known_state in _OPEN:
                _stop(context.custom_properties["owner"].string_value)
                _end(store, execution, context)


def sweep(store: mlmd.MetadataStore) -> None:
    """Ends every open execution whose process died on this machine, whatever its run."""
    for execution in store.get_executions(mlmd.ListOptions(filter_query="last_known_state = RUNNING")):
        for context in store.get_contexts_by_execution(execution.id):
            if _is_dead(context.custom_properties["owner"].string_value):
                _end(store, execution, context)


def _end(
    store: mlmd.MetadataStore, execution: metadata_store_pb2.Execution, context: metadata_store_pb2.Context
) -> None:
    folder = context.custom_properties["folder"].string_value
    for half in Path(folder).glob(f"*/{execution.id}") if folder else ():
        shutil.rmtree(half, ignore_errors=True)
    execution.last_known_state = metadata_store_pb2.Execution.FAILED
    store.put_executions([execution])
    log.warning(
        "The attempt %s (execution %d) had ended in the middle; its outputs are removed.", context.name, execution.id
    )


def record_skip(store: mlmd.MetadataStore, node: pipeline_pb2.PipelineNode) -> None:
    """Notes that this attempt had nothing to do, so that outputs of earlier attempts no longer count."""
    types = {context.type.name: context for context in node.contexts.contexts}
    contexts = [
        store.get_context_by_type_and_name(name, spec.name.field_value.string_value) for name, spec in types.items()
    ]
    type_id = store.put_execution_type(node.node_info.type)
    execution = metadata_store_pb2.Execution(type_id=type_id, last_known_state=_SKIPPED)
    store.put_execution(execution, [], [context for context in contexts if context])


def _attempts(store: mlmd.MetadataStore, run: str, node: str) -> list[metadata_store_pb2.Context]:
    """Contexts of a node's attempts in a run, the latest first."""
    wanted = f"type = '{CONTEXT_TYPE}' AND name LIKE '{_name(run, node, '%')}'"
    found = store.get_contexts(list_options=mlmd.ListOptions(filter_query=wanted))
    # "_" in LIKE stands for any character, so the names are looked at once more.
    return sorted(
        (c for c in found if c.name.startswith(_name(run, node, ""))), key=lambda context: context.id, reverse=True
    )


def _name(run: str, node: str, attempt: str) -> str:
    return f"{run}/{node}/{attempt}"


def _owner(pid: int) -> str:
    """Names a process so that no other is taken for it: host, boot, pid and its start in clock ticks."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{socket.gethostname()} {boot} {pid} {_started(pid)}"


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _stop(owner: str) -> None:
    """Kills the process group of an attempt that another attempt has replaced, if it still lives on this machine."""
    parts = owner.split()
    if len(parts) != _OWNER_PARTS or int(parts[2]) == os.getpid() or owner != _owner(int(parts[2])):
        return
    pid = int(parts[2])
    log.warning("An earlier attempt still runs as process %d; it is stopped.", pid)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def _is_dead(owner: str) -> bool:
    parts = owner.split()
    return bool(parts) and parts[0] == socket.gethostname() and owner != _owner(int(parts[2]))
