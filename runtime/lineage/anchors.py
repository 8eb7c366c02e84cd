"""What ML Metadata says of the audit log's lines: the artifacts that name them, and the attempts that wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_metadata as mlmd

from airtight.audit.chain import Anchor
from airtight.audit.verify import DONE, OPEN, UNKNOWN
from runtime import attempt_names
from runtime.lineage.artifacts import by_id, quoted


def anchors_of(store: mlmd.MetadataStore, log: str) -> list[Anchor]:
    """The anchors of a log's lines in all artifacts, those that were removed since too.

    Args:
      store: The metadata store.
      log: Name of the log.
    """
    query = f"custom_properties.audit_log.string_value = {quoted(log)}"
    protos = store.get_artifacts(mlmd.ListOptions(filter_query=query))
    artifacts = by_id(store, (proto.id for proto in protos)).values()
    return [Anchor.of(artifact.properties, f"{artifact.type.name} {artifact.proto.id}") for artifact in artifacts]


def state_of(store: mlmd.MetadataStore, by: Mapping[str, Any]) -> str:
    """Whether the attempt that a line names succeeded (`DONE`), did not (`OPEN`), or never was (`UNKNOWN`).

    Args:
      store: The metadata store.
      by: What the line says of who acted.
    """
    names = [str(by.get(name, "")) for name in ("run", "node", "attempt")]
    attempt = store.get_context_by_type_and_name(attempt_names.CONTEXT_TYPE, attempt_names.context_name(*names))
    if attempt is None:
        return UNKNOWN
    executions = store.get_executions_by_context(attempt.id)
    return DONE if any(e.last_known_state in (e.COMPLETE, e.CACHED) for e in executions) else OPEN
