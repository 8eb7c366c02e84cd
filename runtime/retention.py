"""Removes old artifacts; never what a pushed model or a blessed one rests on, nor what a recent run made or used."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.home import Home

log = logging.getLogger(__name__)

_Event = metadata_store_pb2.Event
_OUTPUTS = (_Event.OUTPUT, _Event.INTERNAL_OUTPUT, _Event.DECLARED_OUTPUT)
_DAY_MS = 86_400_000
ROOTS = {"PushedModel": "pushed", "ModelBlessing": "blessed"}
"""Types of artifacts that protect all that they rest on, if the custom property of this name is 1."""


@dataclass
class Cleaned:
    """What a clean-up did.

    Args:
      removed: Places of the removed artifacts.
      bytes: Their size on disk.
      recent: How many artifacts were kept for being recent.
      needed: How many older ones were kept because a pushed or blessed model rests on them.
    """

    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    recent: int = 0
    needed: int = 0


def clean(store: mlmd.MetadataStore, home: Home, *, days: float, dry_run: bool = False) -> Cleaned:
    """Removes what is old and what nothing rests on; lineage keeps its record, marked as deleted.

    Only places under the state folder's `artifacts` are touched. An artifact is marked first and removed then: a
    clean-up that is broken off leaves no artifact that the cache would still take.

    Args:
      store: The metadata store.
      home: The state folder.
      days: What was made, or read by an execution, within so many days stays.
      dry_run: Only tell.
    """
    live = {
        a.id: a for a in store.get_artifacts() if a.state == metadata_store_pb2.Artifact.LIVE and _is_ours(a.uri, home)
    }
    oldest = _now_ms() - days * _DAY_MS
    events = store.get_events_by_artifact_ids(list(live)) if live else []
    recent = {a.id for a in live.values() if a.create_time_since_epoch >= oldest}
    recent |= {event.artifact_id for event in events if event.milliseconds_since_epoch >= oldest}
    open_ = {e.id for e in store.get_executions() if e.last_known_state in (e.NEW, e.RUNNING)}
    recent |= {event.artifact_id for event in events if event.execution_id in open_}
    needed = _rests_on(store, _protecting(store, live.values()))
    # Several artifacts may lie in one place, as after a hit of the cache elsewhere: it stays while one of them does.
    kept_places = {live[i].uri for i in live if i in recent or i in needed}
    old = [a for a in live.values() if a.id not in recent and a.id not in needed and a.uri not in kept_places]
    cleaned = Cleaned(recent=len(recent & set(live)), needed=len((needed & set(live)) - recent))
    for artifact in sorted(old, key=lambda a: a.id):
        place = Path(artifact.uri)
        cleaned.removed.append(artifact.uri)
        cleaned.bytes += _size(place)
        if dry_run:
            continue
        artifact.state = metadata_store_pb2.Artifact.DELETED
        store.put_artifacts([artifact])
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
    return cleaned


def _protecting(store: mlmd.MetadataStore, artifacts: Iterable[metadata_store_pb2.Artifact]) -> set[int]:
    names = {t.id: t.name for t in store.get_artifact_types()}
    return {
        a.id for a in artifacts if (flag := ROOTS.get(names[a.type_id])) and a.custom_properties[flag].int_value == 1
    }


def _rests_on(store: mlmd.MetadataStore, roots: set[int]) -> set[int]:
    """The roots, and every artifact that an execution read, or wrote beside, on the way to them."""
    found, front = set(roots), set(roots)
    while front:
        made = store.get_events_by_artifact_ids(list(front))
        executions = {event.execution_id for event in made if event.type in _OUTPUTS}
        beside = store.get_events_by_execution_ids(list(executions)) if executions else []
        front = {event.artifact_id for event in beside} - found
        found |= front
    return found


def _now_ms() -> float:
    return time.time() * 1000


def _is_ours(uri: str, home: Home) -> bool:
    return uri.startswith("/") and Path(uri).is_relative_to(home.path / "artifacts")


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())
