"""The cache: an earlier result stands for a new one where all that it rests on is equal, and says why or why not.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import ml_metadata as mlmd
from google.protobuf import message
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.orchestration import metadata
from tfx.orchestration.portable import cache_utils
from tfx.orchestration.portable.mlmd import context_lib
from tfx.proto.orchestration import pipeline_pb2

from airtight import fingerprint
from airtight.files import digest_of_file, digest_of_tree
from airtight.import_string import load
from runtime.compiled_pipeline import Node
from runtime.lineage.artifacts import DIGEST

log = logging.getLogger(__name__)

TOLD = "cache"
"""Custom property of an execution: whether it hit, and why not."""
_PARTS = "parts"
_LONG = 200
_TOLD = 5
_CANDIDATES = 20
_DAY_MS = 86_400_000
_OF_THE_RUN = ("name", "state", "tfx_version", "pipeline_name", "producer_component", DIGEST)
_COMPLETE = metadata_store_pb2.Execution.COMPLETE
_SPOKEN = {"code": "code", "version": "versions", "parameter": "parameters", "input": "inputs"}
Parts = dict[str, dict[str, str]]
"""What a key is made of: for each kind of thing the digest or the value of each thing, by name."""


@dataclass
class Cache:
    """The cache as one node of one run sees it; its two methods stand for those of TFX's `cache_utils`.

    Args:
      node: The node, with its policy.
      why_not: Why an earlier result must not be used in this run, or "".
      told: What became of it, in words; filled by the launcher's questions.
    """

    node: Node
    why_not: str = ""
    told: str = ""
    _parts: Parts = field(default_factory=dict)
    _pipeline: str = ""

    def get_cache_context(  # noqa: PLR0917 - as TFX's launcher calls it
        self,
        metadata_handle: metadata.Metadata,
        pipeline_node: pipeline_pb2.PipelineNode,
        pipeline_info: pipeline_pb2.PipelineInfo,
        executor_spec: message.Message | None = None,
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
            "input": _inputs(input_artifacts or {}),
            "output": {key: str(len(found)) for key, found in (output_artifacts or {}).items()},
            "outside": {self.node.cache.on: _short(load(self.node.cache.on)(given))} if self.node.cache.on else {},
        }
        told = json.dumps(self._parts, sort_keys=True)
        key = sha256(f"{self._pipeline}/{self.node.id}\0{told}".encode()).hexdigest()
        context = context_lib.register_context_if_not_exists(
            metadata_handle, context_type_name=context_lib.CONTEXT_TYPE_EXECUTION_CACHE, context_name=key
        )
        if _PARTS not in context.custom_properties:
            context.custom_properties[_PARTS].string_value = told
            metadata_handle.store.put_contexts([context])
        if self.why_not:
            self.told = f"not asked: {self.why_not}"
        return context

    def get_cached_outputs(
        self, metadata_handle: metadata.Metadata, cache_context: metadata_store_pb2.Context
    ) -> dict[str, list[types.Artifact]] | None:
        """Gives the outputs of the newest result under the key that is whole and not too old, or None."""
        found = cache_utils.get_cached_outputs(metadata_handle, cache_context)
        if found is None:
            self.told = f"missed: {self._difference(metadata_handle.store, cache_context)}"
            log.info("The cache %s.", self.told)
            return None
        made = max((a.mlmd_artifact.create_time_since_epoch for made in found.values() for a in made), default=0)
        age = (_now_ms() - made) / _DAY_MS
        if made and self.node.cache.days and age > self.node.cache.days:
            self.told = f"missed: the equal result is {age:.1f} days old, and counts for {self.node.cache.days:g}"
            log.info("The cache %s.", self.told)
            return None
        self.told = (
            f"hit: code, versions, parameters and inputs equal those of {_made(metadata_handle.store, cache_context)}"
        )
        log.info("The cache %s.", self.told)
        return found

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

    def _difference(self, store: mlmd.MetadataStore, context: metadata_store_pb2.Context) -> str:
        """What differs from the nearest earlier result of this node, in words."""
        earlier = _earlier(store, self._pipeline, self.node.id)
        if not earlier:
            return "this node has no earlier result"
        nearest, parts = min(earlier, key=lambda candidate: len(differences(candidate[1], self._parts)))
        found = differences(parts, self._parts)
        if not found:
            return f"the outputs of execution {nearest}, which is equal, are gone"
        equal = [name for kind, name in _SPOKEN.items() if self._parts[kind] and self._parts[kind] == parts.get(kind)]
        more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        told = f"{', '.join(found[:_TOLD])}{more}; {', '.join(equal) or 'nothing else'} equal"
        return f"{told} (nearest: execution {nearest})"


def keep_digests(store: mlmd.MetadataStore, artifacts: Sequence[metadata_store_pb2.Artifact]) -> None:
    """Notes the content digest of artifacts that have just been published.

    Args:
      store: The metadata store.
      artifacts: As the store has them; those whose contents lie elsewhere than on this machine's disk stay as they are.
    """
    noted = []
    for artifact in artifacts:
        digest = contents(artifact.uri)
        if digest and DIGEST not in artifact.custom_properties:
            artifact.custom_properties[DIGEST].string_value = digest
            noted.append(artifact)
    if noted:
        store.put_artifacts(noted)


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


def _inputs(given: Mapping[str, Sequence[types.Artifact]]) -> dict[str, str]:
    return {
        f"{key}[{place}]" if len(found) > 1 else key: _fingerprint(artifact.mlmd_artifact, artifact.type_name)
        for key, found in given.items()
        for place, artifact in enumerate(found)
    }


def _fingerprint(artifact: metadata_store_pb2.Artifact, type_name: str) -> str:
    """Of an artifact's contents and properties, not of its id; nor of its place, unless that is all there is."""
    properties = {
        name: getattr(value, value.WhichOneof("value"))
        for told in (artifact.properties, artifact.custom_properties)
        for name, value in told.items()
        if name not in _OF_THE_RUN and value.WhichOneof("value") in ("int_value", "double_value", "string_value")
    }
    noted = artifact.custom_properties[DIGEST].string_value if DIGEST in artifact.custom_properties else ""
    held = noted or contents(artifact.uri) or artifact.uri
    return sha256(json.dumps([type_name, properties, held], sort_keys=True).encode()).hexdigest()


def contents(uri: str) -> str:
    """SHA-256 of what lies at a place of this machine's disk; "" for nothing there, and for any other place."""
    path = Path(uri) if uri.startswith("/") else None
    if path is None or not path.exists():
        return ""
    return digest_of_file(path) if path.is_file() else digest_of_tree(path)


def _earlier(store: mlmd.MetadataStore, pipeline: str, node: str) -> list[tuple[int, Parts]]:
    """Executions of this node that succeeded, newest first, and the parts of their keys."""
    context = store.get_context_by_type_and_name("node", f"{pipeline}.{node}")
    if context is None:
        return []
    newest = mlmd.ListOptions(limit=_CANDIDATES, order_by=mlmd.OrderByField.ID, is_asc=False)
    found = []
    for execution in store.get_executions_by_context(context.id, list_options=newest):
        if execution.last_known_state not in (_COMPLETE, metadata_store_pb2.Execution.CACHED):
            continue
        parts = parts_of(store, execution.id)
        if parts is not None:
            found.append((execution.id, parts))
    return found


def differences(before: Parts, now: Parts) -> list[str]:
    """Each thing that differs between the parts of two keys, as people say it."""
    told = []
    for kind, values in now.items():
        old = before.get(kind, {})
        for name in sorted(set(values) | set(old)):
            if values.get(name) == old.get(name):
                continue
            if kind in ("parameter", "version"):
                told.append(f"{kind} {name} was {old.get(name, 'not there')}, is {values.get(name, 'not there')}")
            else:
                told.append(f"{kind} {name} changed")
    return told


def _now_ms() -> float:
    return time.time() * 1000


def _made(store: mlmd.MetadataStore, context: metadata_store_pb2.Context) -> str:
    """Names the newest execution that made what lies under a key, and its run."""
    ran = [e for e in store.get_executions_by_context(context.id) if e.last_known_state == _COMPLETE]
    if not ran:
        return "an earlier execution"
    newest = max(ran, key=lambda execution: execution.id)
    type_id = store.get_context_type("pipeline_run").id
    runs = [c.name for c in store.get_contexts_by_execution(newest.id) if c.type_id == type_id]
    return f"execution {newest.id}" + (f" in the run {runs[0]}" if runs else "")


def _short(value: Any) -> str:
    told = str(value)
    return told if len(told) <= _LONG else f"{told[:40]}… sha256:{sha256(told.encode()).hexdigest()}"


def _digest(proto: message.Message | None) -> str:
    return sha256(proto.SerializeToString(deterministic=True)).hexdigest() if proto else ""
