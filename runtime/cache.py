"""The cache: reuses an earlier result if everything that it depends on is unchanged, and says why or why not.

It takes the place of TFX's own in its launcher. TFX's key holds neither a component's code, when that is a function,
nor the versions of libraries, and it goes by the ids of input artifacts; this one goes by code, versions, parameters
and the contents of inputs. The parts of each key are kept beside it in ML Metadata, so that a miss can name the
part that changed.
"""

from __future__ import annotations

import json
import logging
import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import ml_metadata as mlmd
from google.protobuf.message import Message
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.orchestration import metadata
from tfx.orchestration.portable.mlmd import context_lib
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import artifact_utils

from airtight import fingerprint
from airtight.import_string import load
from runtime import attempt_names, content_digest
from runtime.compiled_pipeline import Node
from runtime.lineage.artifacts import DIGEST, ByKey, by_key

log = logging.getLogger(__name__)

MESSAGE = "cache"
"""Custom property of an execution: whether it hit, and why not."""
_PARTS = "parts"
_LONG = 200
_NAMED = 5
_CANDIDATES = 20
_DAY_MS = 86_400_000
_OF_THE_RUN = (
    *("name", "state", "tfx_version", "pipeline_name", "producer_component"),
    *(DIGEST, content_digest.FILES),
    *("audit_log", "audit_line", "audit_sha256"),
)
_UNREADABLE = "cannot be read"
_RUN_TYPE = "pipeline_run"
_SPOKEN = {"code": "code", "version": "versions", "parameter": "parameters", "input": "inputs"}
Parts = dict[str, dict[str, str]]
"""What a key is made of: for each kind of thing the digest or the value of each thing, by name."""


@dataclass
class Cache:
    """The cache as one node of one run sees it; its two methods stand for those of TFX's `cache_utils`.

    Args:
      node: The node, with its policy.
      why_not: Why an earlier result must not be used in this run, or "".
      message: Whether it hit, and why or why not; filled by the launcher's questions.
      execution: The node's execution; the launcher publishes it with the outputs of a hit.
    """

    node: Node
    why_not: str = ""
    message: str = ""
    execution: metadata_store_pb2.Execution | None = None
    _parts: Parts = field(default_factory=dict)
    _pipeline: str = ""

    def get_cache_context(  # noqa: PLR0917 - as TFX's launcher calls it
        self,
        metadata_handle: metadata.Metadata,
        pipeline_node: pipeline_pb2.PipelineNode,
        pipeline_info: pipeline_pb2.PipelineInfo,
        executor_spec: Message | None = None,
        input_artifacts: Mapping[str, Sequence[types.Artifact]] | None = None,
        output_artifacts: Mapping[str, Sequence[types.Artifact]] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> metadata_store_pb2.Context:
        """Gives the context whose name is the key; its custom property keeps the key's parts."""
        self._pipeline = pipeline_info.id
        given = dict(parameters or {})
        files, distributions = self._rests_on(given)
        self._parts = {
            "component": {pipeline_node.node_info.type.name: _digest(executor_spec)},
            "code": fingerprint.digests(files),
            "version": fingerprint.versions(distributions) | {"python": platform.python_version()},
            "parameter": {name: _short(value) for name, value in given.items()},
            "input": _inputs(metadata_handle.store, input_artifacts or {}),
            "output": {key: str(len(artifacts)) for key, artifacts in (output_artifacts or {}).items()},
            "outside": {self.node.cache.on: _short(load(self.node.cache.on)(given))} if self.node.cache.on else {},
        }
        parts = json.dumps(self._parts, sort_keys=True)
        key = sha256(f"{self._pipeline}/{self.node.id}\0{parts}".encode()).hexdigest()
        context = context_lib.register_context_if_not_exists(
            metadata_handle, context_type_name=context_lib.CONTEXT_TYPE_EXECUTION_CACHE, context_name=key
        )
        if _PARTS not in context.custom_properties:
            context.custom_properties[_PARTS].string_value = parts
            metadata_handle.store.put_contexts([context])
        if self.why_not:
            self.message = f"not asked: {self.why_not}"
            log.info("The cache was %s.", self.message)
        return context

    def get_cached_outputs(
        self, metadata_handle: metadata.Metadata, cache_context: metadata_store_pb2.Context
    ) -> dict[str, list[types.Artifact]] | None:
        """Gives the outputs of the newest result under the key that is whole and not too old, or None."""
        outputs, self.message = self._ask(metadata_handle.store, cache_context)
        log.info("The cache %s.", self.message)
        if outputs is not None and self.execution is not None:
            # It is published with the outputs, which saves a write.
            self.execution.custom_properties[MESSAGE].string_value = self.message
        return outputs

    def _ask(
        self, store: mlmd.MetadataStore, context: metadata_store_pb2.Context
    ) -> tuple[dict[str, list[types.Artifact]] | None, str]:
        """Returns the outputs of the newest usable result, and why it is used or why there is none."""
        # What the cache answered are executions of their own, but not results.
        newest = _executions(store, context, "last_known_state = COMPLETE")
        outputs = by_key(store, [execution.id for execution in newest], (metadata_store_pb2.Event.OUTPUT,))
        unusable = ""
        for execution in newest:
            made = outputs.get(execution.id, {})
            wrong = _wrong(store, execution.id, made)
            if wrong:
                unusable = unusable or wrong
                continue
            age = (_now_ms() - execution.create_time_since_epoch) / _DAY_MS
            if self.node.cache.days and age > self.node.cache.days:
                return None, f"missed: the equal result is {age:.1f} days old, and counts for {self.node.cache.days:g}"
            hit = f"hit: code, versions, parameters and inputs equal those of {_named(store, execution)}"
            results = {
                key: [artifact_utils.deserialize_artifact(artifact.type, artifact.proto) for artifact in several]
                for key, several in made.items()
            }
            return results, f"{hit}; {unusable}" if unusable else hit
        return None, f"missed: {unusable or self._difference(store)}"

    def _rests_on(self, parameters: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """The component's code, files and code that its parameters name now, and what is installed that these use."""
        files, distributions = set(self.node.cache.code), set(self.node.cache.distributions)
        for name, value in parameters.items():
            if not isinstance(value, str):
                continue
            if name == "module_file" and Path(value).is_file():
                own, theirs = fingerprint.closure_of_file(Path(value))
                files.update(own)
                distributions.update(theirs)
            # TFX names a function with dots alone: `run_fn="package.module.run_fn"`.
            dotted = value.rpartition(".")[0] if name.endswith("_fn") else ""
            module = fingerprint.module_of(value) or dotted
            # What the pipeline itself names was found when it was compiled.
            if module and not fingerprint.is_in(module, files):
                own, theirs = fingerprint.closure([module])
                files.update(own)
                distributions.update(theirs)
        return sorted(files), sorted(distributions)

    def _difference(self, store: mlmd.MetadataStore) -> str:
        """What differs from the nearest earlier result of this node, in words."""
        earlier = _earlier(store, self._pipeline, self.node.id)
        if not earlier:
            return "this node has no earlier result"
        nearest, parts = min(earlier, key=lambda candidate: len(differences(candidate[1], self._parts)))
        changes = differences(parts, self._parts)
        if not changes:
            return f"the outputs of execution {nearest}, which is equal, are gone"
        equal = [name for kind, name in _SPOKEN.items() if self._parts[kind] and self._parts[kind] == parts.get(kind)]
        more = f" and {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
        rest = ", ".join(equal) or "nothing else"
        return f"{', '.join(changes[:_NAMED])}{more}; {rest} equal (nearest: execution {nearest})"


def parts_of(store: mlmd.MetadataStore, execution: int) -> Parts | None:
    """The parts of the key under which an execution's result lies; None where it has no key.

    Args:
      store: The metadata store.
      execution: Id of the execution.
    """
    for context in store.get_contexts_by_execution(execution):
        if _PARTS in context.custom_properties:
            parts: Parts = json.loads(context.custom_properties[_PARTS].string_value)
            return parts
    return None


def _inputs(store: mlmd.MetadataStore, inputs: Mapping[str, Sequence[types.Artifact]]) -> dict[str, str]:
    """Returns a digest for each input artifact; what cannot be read gets a value that no other has."""
    named = {
        f"{key}[{place}]" if len(artifacts) > 1 else key: artifact
        for key, artifacts in inputs.items()
        for place, artifact in enumerate(artifacts)
    }
    digests = content_digest.current(store, [artifact.mlmd_artifact for artifact in named.values()])
    return {
        name: _fingerprint(artifact.mlmd_artifact, artifact.type_name, digest)
        for (name, artifact), digest in zip(named.items(), digests, strict=True)
    }


def _fingerprint(artifact: metadata_store_pb2.Artifact, type_name: str, digest: str) -> str:
    """Of an artifact's contents and properties, neither of its id nor of its place."""
    if artifact.uri and not digest:
        return f"{_UNREADABLE}: {artifact.uri} {uuid.uuid4().hex}"
    properties = {
        name: getattr(value, value.WhichOneof("value"))
        for values in (artifact.properties, artifact.custom_properties)
        for name, value in values.items()
        if name not in _OF_THE_RUN and value.WhichOneof("value") in ("int_value", "double_value", "string_value")
    }
    return sha256(json.dumps([type_name, properties, digest], sort_keys=True).encode()).hexdigest()


def _executions(
    store: mlmd.MetadataStore, context: metadata_store_pb2.Context, query: str
) -> list[metadata_store_pb2.Execution]:
    """Returns the newest executions of a context, newest first; however many there are, it costs the same."""
    options = mlmd.ListOptions(limit=_CANDIDATES, order_by=mlmd.OrderByField.ID, is_asc=False, filter_query=query)
    return list(store.get_executions_by_context(context.id, list_options=options))


def _wrong(store: mlmd.MetadataStore, execution: int, outputs: ByKey) -> str:
    """Returns why an execution's outputs cannot be handed out, or ""."""
    made = [(key, artifact.proto) for key, several in outputs.items() for artifact in several]
    for _, artifact in made:
        if artifact.state != artifact.LIVE or not content_digest.is_there(artifact.uri):
            return f"the outputs of execution {execution}, which is equal, are gone"
    digests = content_digest.current(store, [artifact for _, artifact in made])
    for (key, artifact), digest in zip(made, digests, strict=True):
        noted = artifact.custom_properties
        if DIGEST in noted and noted[DIGEST].string_value != digest:
            how = "was changed after it was made" if digest else _UNREADABLE
            return f"the output {key} of execution {execution}, which is equal, {how}"
    return ""


def _earlier(store: mlmd.MetadataStore, pipeline: str, node: str) -> list[tuple[int, Parts]]:
    """Executions of this node that succeeded, newest first, and the parts of their keys."""
    context = store.get_context_by_type_and_name("node", attempt_names.node_context_name(pipeline, node))
    if context is None:
        return []
    succeeded = _executions(store, context, "last_known_state = COMPLETE OR last_known_state = CACHED")
    parts = [(execution.id, parts_of(store, execution.id)) for execution in succeeded]
    return [(number, known) for number, known in parts if known is not None]


def differences(before: Parts, now: Parts) -> list[str]:
    """Each thing that differs between the parts of two keys, as people say it."""
    changes = []
    for kind, values in now.items():
        old = before.get(kind, {})
        for name in sorted(set(values) | set(old)):
            if values.get(name) == old.get(name):
                continue
            if kind in ("parameter", "version"):
                changes.append(f"{kind} {name} was {old.get(name, 'not there')}, is {values.get(name, 'not there')}")
            elif values.get(name, "").startswith(_UNREADABLE):
                changes.append(f"{kind} {name} {_UNREADABLE}")
            else:
                changes.append(f"{kind} {name} changed")
    return changes


def _now_ms() -> float:
    return time.time() * 1000


def _named(store: mlmd.MetadataStore, execution: metadata_store_pb2.Execution) -> str:
    """Names an execution and its run."""
    runs = [context.name for context in store.get_contexts_by_execution(execution.id) if context.type == _RUN_TYPE]
    return f"execution {execution.id}" + (f" in the run {runs[0]}" if runs else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONG else f"{text[:40]}… sha256:{sha256(text.encode()).hexdigest()}"


def _digest(proto: Message | None) -> str:
    return sha256(proto.SerializeToString(deterministic=True)).hexdigest() if proto else ""
