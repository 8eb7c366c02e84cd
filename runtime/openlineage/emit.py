"""Sends events where OpenLineage's own settings say; without any it does nothing, and no fault of it fails a node."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import ml_metadata as mlmd

from airtight.home import Home
from runtime.attempt_names import CONTEXT_TYPE, context_name, node_context_name
from runtime.openlineage import record
from runtime.openlineage.record import FAILED, NodeRun
from runtime.protocol import REPLAY, NodeRequest, Outcome

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent
    from tfx.orchestration import metadata

log = logging.getLogger(__name__)

_CLOSE_S = 10.0
"""Seconds that a transport which sends in the background has for what is left."""


def is_configured() -> bool:
    """Whether OpenLineage's variables or files say where events go; `OPENLINEAGE_DISABLED=true` overrules them."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OPENLINEAGE_URL") or any(name.startswith("OPENLINEAGE__TRANSPORT") for name in os.environ):
        return True
    files = (os.environ.get("OPENLINEAGE_CONFIG", ""), "openlineage.yml", "~/.openlineage/openlineage.yml")
    # A folder that may not be looked at, and a user without a home, are no settings; `Path` raises for both.
    return any(os.path.isfile(os.path.expanduser(name)) for name in files if name)


class Emitter:
    """OpenLineage's client, in the folder in which it was made: relative paths of its settings begin there.

    Raises:
      Exception: Whatever the client makes of settings that it cannot use.
    """

    def __init__(self) -> None:
        from openlineage.client import OpenLineageClient

        self._folder = Path.cwd()
        self._client: OpenLineageClient = OpenLineageClient()

    @property
    def transport(self) -> str:
        """Kind of the transport, such as "http" or "file"."""
        return str(self._client.transport.kind)

    def emit(self, events: Iterable[RunEvent]) -> None:
        """Sends events, in their order.

        Raises:
          Exception: Whatever the transport makes of a fault.
        """
        with contextlib.chdir(self._folder):
            for event in events:
                self._client.emit(event)

    def close(self) -> None:
        """Waits until a transport that sends in the background has sent what is left, ten seconds at most."""
        self._client.close(_CLOSE_S)


class Reporter:
    """Reports one attempt of a node while it runs: START once it is registered, and its end.

    Args:
      request: What is run.
    """

    def __init__(self, request: NodeRequest) -> None:
        self._request = request
        self._emitter: Emitter | None = None
        self._has_warned = False
        self._has_started = False
        self._began = datetime.now(UTC)
        self._connection: metadata.Metadata | None = None
        self._pipeline = ""
        if is_configured() and REPLAY not in request.labels:
            with self._harmless():
                self._emitter = Emitter()

    def connected(self, connection: metadata.Metadata, pipeline: str) -> None:
        """Takes what is known once the pipeline is read.

        Args:
          connection: To its metadata store.
          pipeline: Its id.
        """
        self._connection, self._pipeline = connection, pipeline

    def started(self, store: mlmd.MetadataStore) -> None:
        """Sends START of the attempt, which is registered.

        Args:
          store: The metadata store.
        """
        if self._emitter is None:
            return
        with self._harmless():
            self._emit(self._recorded(store), is_end=False)
            self._has_started = True

    def ended(self, outcome: Outcome) -> None:
        """Sends how the attempt ended; START before it, if that was not sent. A signal to stop is too late by now.

        Args:
          outcome: What became of it, which is published.
        """
        if self._emitter is None or self._connection is None:
            return
        error = outcome.summary if outcome.state == "failed" else ""
        with contextlib.suppress(Exception), self._harmless(), self._connection as handle:
            self._emit(self._recorded(handle.store, error) or self._unrecorded(error), is_end=True)
            self._emitter.close()

    def _emit(self, node_run: NodeRun | None, *, is_end: bool) -> None:
        from runtime.openlineage.events import events_of

        if self._emitter is None or node_run is None:
            return
        events = events_of(node_run)
        self._emitter.emit(events[self._has_started :] if is_end else events[:1])

    def _recorded(self, store: mlmd.MetadataStore, error: str = "") -> NodeRun | None:
        name = context_name(self._request.run, self._request.node, self._request.attempt)
        attempt = store.get_context_by_type_and_name(CONTEXT_TYPE, name)
        known = record.read(store, attempt, Home(Path(self._request.home))) if attempt else None
        return replace(known, error=error) if known else None

    def _unrecorded(self, error: str) -> NodeRun | None:
        """An attempt that failed before it was registered; None for one that did not fail."""
        if not error:
            return None
        request = self._request
        return NodeRun(
            node_context_name(self._pipeline, request.node),
            self._pipeline,
            request.run,
            context_name(request.run, request.node, request.attempt),
            FAILED,
            self._began,
            datetime.now(UTC),
            labels=request.labels,
            parameters=request.parameters,
            error=error,
        )

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """Turns faults into one warning: lineage elsewhere is no reason for a node to fail."""
        try:
            yield
        except Exception as error:
            from runtime.faults import Cancelled

            # A signal to stop may come in the middle of sending, and a transport may wrap what it raises.
            if isinstance(error, Cancelled) or isinstance(error.__cause__, Cancelled):
                raise
            if self._has_warned:
                return
            self._has_warned = True
            transport = self._emitter.transport if self._emitter else "that is configured"
            log.warning(
                "OpenLineage events of %s were not sent by the transport %s. %s: %s. "
                "`python -m commands.lineage` sends those of past runs again.",
                *(self._request.node, transport, type(error).__name__, error),
            )
