"""Attempts: each time a node is tried is an execution of its own, and downstream sees one that succeeded.

TFX's launcher looks an execution up by pipeline, run and node, and returns at once when it is complete, so a task
that Airflow clears would turn green without running. Here every attempt has a context of its own, which makes the
launcher register a new execution with its own output folders, and each input of this run is asked for in the context
of the attempt that made it. So nodes that were not cleared keep their outputs, lineage keeps every attempt, and
neither snapshots nor locks are needed.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.proto.orchestration import pipeline_pb2

from runtime import node_inputs, process_identity
from runtime.attempt_names import CONTEXT_TYPE, LONGEST_NAME, LONGEST_NODE, context_name
from runtime.protocol import shortened

log = logging.getLogger(__name__)

_DONE = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)
_SKIPPED = metadata_store_pb2.Execution.CANCELED
_OPEN = (metadata_store_pb2.Execution.NEW, metadata_store_pb2.Execution.RUNNING)
_OF_THE_RUN = ("dag_id", "run_id")
_SUPERSEDED = "superseded"
_MAY_WRITE, _HAS_ENDED = 1, 2
"""What `superseded` says of the process of an attempt that another has replaced."""


def tag(node: pipeline_pb2.PipelineNode, run: str, attempt: str, folder: str, labels: dict[str, str | int]) -> None:
    """Gives the node's execution the context of this attempt.

    Args:
      node: The node in a copy of the IR; changed in place.
      run: Key of the run.
      attempt: Name of the attempt.
      folder: Where the node's outputs go, so that what is left of a dead attempt can be found.
      labels: What lineage keeps of it.
    """
    context = node.contexts.contexts.add()
    context.type.name = CONTEXT_TYPE
    context.name.field_value.string_value = context_name(run, node.node_info.id, attempt)
    for key, value in (labels | {"owner": process_identity.name_of(os.getpid()), "folder": folder}).items():
        target = context.properties[key].field_value
        if isinstance(value, int):
            target.int_value = value
        else:
            target.string_value = value


@dataclass
class Attempt:
    """One attempt of a node, whose executions are read once, when they are first wanted.

    Args:
      store: The metadata store.
      context: The attempt's context.
    """

    store: mlmd.MetadataStore
    context: metadata_store_pb2.Context

    @cached_property
    def executions(self) -> list[metadata_store_pb2.Execution]:
        """What it ran: one execution, or none where it did not come so far."""
        return list(self.store.get_executions_by_context(self.context.id))


@dataclass(frozen=True)
class Success:
    """An execution that succeeded.

    Args:
      execution: It, complete or from the cache.
      attempt: The context of its attempt.
    """

    execution: metadata_store_pb2.Execution
    attempt: metadata_store_pb2.Context

    def was_unreported(self, names: Iterable[str]) -> bool:
        """Returns whether its task died before it reported this success, which then answers the present attempt.

        Args:
          names: The attempts whose success the scheduler has not heard of.
        """
        return self.attempt.name.rpartition("/")[2] in names


def earlier(store: mlmd.MetadataStore, run: str, node: str, names: Iterable[str] | None = None) -> list[Attempt]:
    """Gives a node's attempts in a run, the latest first.

    Args:
      store: The metadata store.
      run: Key of the run.
      node: The node's id.
      names: The attempts; None for all that the store knows under this key, which a run that was deleted and created
        again has, too.
    """
    if names is not None:
        contexts = (store.get_context_by_type_and_name(CONTEXT_TYPE, context_name(run, node, name)) for name in names)
        known = [context for context in contexts if context]
    else:
        query = f"type = '{CONTEXT_TYPE}' AND name LIKE '{context_name(run, node, '%')}'"
        # "_" in LIKE stands for any character, so the names are compared once more.
        prefix = context_name(run, node, "")
        matches = store.get_contexts(list_options=mlmd.ListOptions(filter_query=query))
        known = [context for context in matches if context.name.startswith(prefix)]
    return [Attempt(store, context) for context in sorted(known, key=lambda context: context.id, reverse=True)]


def latest_success(attempts: Iterable[Attempt]) -> Success | None:
    """Returns the latest successful execution of attempts, or None if the node was skipped afterwards.

    An attempt that another has replaced does not count, though its process may have gone on elsewhere and succeeded.

    Args:
      attempts: One node's attempts, the latest first.
    """
    for attempt in attempts:
        if _SUPERSEDED in attempt.context.custom_properties:
            continue
        for execution in attempt.executions:
            if execution.last_known_state in _DONE:
                return Success(execution, attempt.context)
            if execution.last_known_state == _SKIPPED:
                return None
    return None


def latest(store: mlmd.MetadataStore, run: str, node: str) -> Success | None:
    """Returns a node's latest successful execution in a run, or None if it was skipped afterwards."""
    return latest_success(earlier(store, run, node))


def completed(attempts: Iterable[Attempt]) -> list[int]:
    """Gives the ids of the executions of attempts that made their outputs themselves."""
    executions = [execution for attempt in attempts for execution in attempt.executions]
    return [e.id for e in executions if e.last_known_state == metadata_store_pb2.Execution.COMPLETE]


def pin_inputs(
    node: pipeline_pb2.PipelineNode,
    run: str,
    store: mlmd.MetadataStore,
    executions: Mapping[str, int] | None = None,
    labels: Mapping[str, str | int] | None = None,
) -> dict[str, Success | None]:
    """Replaces the query of each input of this run by one for the outputs of a single attempt of its producer.

    TFX reads every execution of each context that a channel names, and a pipeline's own holds all that there ever were.

    Args:
      node: The node in a copy of the IR whose parameters are bound; changed in place.
      run: Key of the run.
      store: The metadata store.
      executions: For each producer that has an output in this run the execution that made it; None for the latest
        success that the store knows under the run's key.
      labels: Those of the present attempt; an execution of another DAG or run counts for none.

    Returns:
      The success that counts of every node of this run that an input comes from; None where there is none.
    """
    pinned: dict[str, Success | None] = {}
    for spec in node.inputs.inputs.values():
        for channel in spec.channels:
            producer = node_inputs.producer_in_run(channel, run)
            if not producer:
                continue
            if producer not in pinned:
                pinned[producer] = (
                    latest(store, run, producer)
                    if executions is None
                    else success_of(store, executions.get(producer, 0), producer, labels or {})
                )
            success = pinned[producer]
            del channel.context_queries[:]
            query = channel.context_queries.add()
            query.type.name = CONTEXT_TYPE
            query.name.field_value.string_value = success.attempt.name if success else "none"
            channel.producer_node_query.id = producer
    return pinned


def fit_names(node: pipeline_pb2.PipelineNode) -> None:
    """Shortens the names of contexts that ML Metadata has no room for, such as `<pipeline>.<node>`.

    Args:
      node: The node in a copy of the IR whose inputs are pinned; changed in place.
    """
    queries = (q for spec in node.inputs.inputs.values() for channel in spec.channels for q in channel.context_queries)
    for context in (*node.contexts.contexts, *queries):
        if len(context.name.field_value.string_value) > LONGEST_NAME:
            name = shortened(context.name.field_value.string_value, LONGEST_NAME)
            context.name.field_value.string_value = name


def fail_stale_attempts(store: mlmd.MetadataStore, attempts: Iterable[Attempt]) -> None:
    """Stops what earlier attempts of a node left running, removes half-written outputs and marks them failed.

    A process on another machine or in another container cannot be stopped from here, and may go on writing: its
    outputs stay until the launcher beside it finds it dead.

    Args:
      store: The metadata store.
      attempts: They; what their executions became is read again.
    """
    for attempt in attempts:
        if not any(execution.last_known_state in _OPEN for execution in attempt.executions):
            continue
        context = attempt.context
        owner = context.custom_properties["owner"].string_value
        is_beside = process_identity.is_beside(owner)
        if is_beside:
            process_identity.kill(owner)
        else:
            context.custom_properties[_SUPERSEDED].int_value = _MAY_WRITE
            store.put_contexts([context])
        # It may have published its success in the moment before.
        del attempt.executions
        for execution in attempt.executions:
            if execution.last_known_state not in _OPEN:
                continue
            if is_beside:
                _end(store, execution, context)
            else:
                message = "The attempt %s (execution %d) may still run elsewhere; it no longer counts."
                _fail(store, execution, context, message)


def reap_orphans(store: mlmd.MetadataStore) -> None:
    """Ends every open execution whose process died, whatever its run, and removes what dead ones left half-written.

    Only processes of this machine and of this PID namespace are looked at: of others nothing can be told from here.

    Args:
      store: The metadata store.
    """
    for execution in store.get_executions(mlmd.ListOptions(filter_query="last_known_state = RUNNING")):
        for context in store.get_contexts_by_execution(execution.id):
            if process_identity.is_dead(context.custom_properties["owner"].string_value):
                _end(store, execution, context)
    superseded = f"type = '{CONTEXT_TYPE}' AND custom_properties.{_SUPERSEDED}.int_value = {_MAY_WRITE}"
    for context in store.get_contexts(mlmd.ListOptions(filter_query=superseded)):
        if not process_identity.is_dead(context.custom_properties["owner"].string_value):
            continue
        for execution in store.get_executions_by_context(context.id):
            if execution.last_known_state == metadata_store_pb2.Execution.FAILED:
                _remove_outputs(execution, context)
        context.custom_properties[_SUPERSEDED].int_value = _HAS_ENDED
        store.put_contexts([context])


def _end(
    store: mlmd.MetadataStore, execution: metadata_store_pb2.Execution, context: metadata_store_pb2.Context
) -> None:
    _remove_outputs(execution, context)
    _fail(store, execution, context, "The attempt %s (execution %d) had ended in the middle; its outputs are removed.")


def _remove_outputs(execution: metadata_store_pb2.Execution, context: metadata_store_pb2.Context) -> None:
    folder = context.custom_properties["folder"].string_value
    for half in Path(folder).glob(f"*/{execution.id}") if folder else ():
        shutil.rmtree(half, ignore_errors=True)


def _fail(
    store: mlmd.MetadataStore,
    execution: metadata_store_pb2.Execution,
    context: metadata_store_pb2.Context,
    message: str,
) -> None:
    execution.last_known_state = metadata_store_pb2.Execution.FAILED
    store.put_executions([execution])
    log.warning(message, context.name, execution.id)


def record_skip(store: mlmd.MetadataStore, node: pipeline_pb2.PipelineNode) -> None:
    """Notes that this attempt had nothing to do, so that outputs of earlier attempts no longer count."""
    types = {context.type.name: context for context in node.contexts.contexts}
    contexts = [
        store.get_context_by_type_and_name(name, spec.name.field_value.string_value) for name, spec in types.items()
    ]
    type_id = store.put_execution_type(node.node_info.type)
    execution = metadata_store_pb2.Execution(type_id=type_id, last_known_state=_SKIPPED)
    store.put_execution(execution, [], [context for context in contexts if context])


def success_of(store: mlmd.MetadataStore, number: int, node: str, labels: Mapping[str, str | int]) -> Success | None:
    """Returns the execution of that id, if it succeeded and is the node's, in the DAG and run that the labels name.

    Ids begin anew in a new store, so one that Airflow kept may be another's by now.

    Args:
      store: The metadata store.
      number: The id; 0 for none.
      node: The node's id.
      labels: Those of the present attempt.
    """
    for execution in store.get_executions_by_id([number]):
        for context in store.get_contexts_by_execution(execution.id):
            kept = context.custom_properties
            if (
                context.type == CONTEXT_TYPE
                and context.name.rsplit("/", 2)[1] == shortened(node, LONGEST_NODE)
                and all(kept[name].string_value == labels[name] for name in _OF_THE_RUN if name in labels)
                and execution.last_known_state in _DONE
            ):
                return Success(execution, context)
    return None
