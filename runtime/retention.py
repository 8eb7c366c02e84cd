"""Removes old artifacts; never what a pushed model or a blessed one rests on, nor what a recent run made or used.

A pass looks at what executions made or used that have become old since the pass before, and at what was made from
that: its cost does not depend on the rest of history. What a pass keeps for a pushed or blessed model it keeps for
good, because artifacts do not change, so no later pass looks at it again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import gmtime, sleep, strftime, time

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.home import Home
from runtime import attempt_names
from runtime.lineage.artifacts import (
    CHUNK,
    FLAGS,
    OUTPUT_EVENTS,
    RECORDS,
    Artifact,
    by_id,
    events_about,
    events_of,
    executions_of,
)

log = logging.getLogger(__name__)

GIVE_UP_DAYS = 30.0
"""An execution that has been running for so long without a sign is taken for gone with its machine."""
GRACE_S = 30.0
"""Between marking and removing: a run that chose an artifact before it was marked has so long to record its use."""
_DAY_MS = 86_400_000
_OVERLAP_MS = 60_000
"""Passes overlap by this: the clocks of the machines that write the store differ a little."""
_CONTEXT_TYPE = "retention"
_SETTLED = "settled_until_ms"
_States = metadata_store_pb2.Artifact.State
_OPEN = (metadata_store_pb2.Execution.NEW, metadata_store_pb2.Execution.RUNNING)


@dataclass
class Cleaned:
    """What a clean-up did.

    Args:
      removed: Places of the removed artifacts.
      bytes: Their size on disk.
      kept: Places that could not be removed.
      recent: How many of the artifacts that were looked at were kept because they were used since.
      needed: How many were kept because a pushed or blessed model rests on them.
      given_up: Executions that are no longer waited for.
    """

    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    kept: list[str] = field(default_factory=list)
    recent: int = 0
    needed: int = 0
    given_up: list[int] = field(default_factory=list)


def clean(
    store: mlmd.MetadataStore,
    home: Home,
    *,
    days: float,
    dry_run: bool = False,
    everything: bool = False,
    give_up_days: float = GIVE_UP_DAYS,
    grace_s: float = GRACE_S,
) -> Cleaned:
    """Removes what is old and what nothing rests on; lineage keeps its record, marked as deleted.

    Only places under the state folder's `artifacts` are touched. Artifacts are marked first, so that no cache and no
    input takes them any more, and removed after a pause if nobody has come to use them. A clean-up that is broken off
    is taken up by the next.

    Args:
      store: The metadata store.
      home: The state folder.
      days: What was made, or used by an execution, within so many days stays.
      dry_run: Only report.
      everything: Look at all of history again, not only at what has become old since the pass before.
      give_up_days: An execution that has been open for so many days is marked failed, and protects nothing any more.
      grace_s: Seconds between marking and removing.
    """
    oldest = _now_ms() - days * _DAY_MS
    given_up = _give_up(store, home, _now_ms() - give_up_days * _DAY_MS, dry_run=dry_run)
    cleaned = Cleaned(given_up=sorted(given_up))
    mark = _mark(store, home)
    settled = int(mark.custom_properties[_SETTLED].string_value or 0)
    since = 0 if everything else settled - _OVERLAP_MS
    ended = [execution.id for execution in _ended_between(store, since, oldest)]
    touched = by_id(store, {event.artifact_id for event in events_of(store, ended)})
    ours = {i: a for i, a in touched.items() if _is_ours(a.uri, home)}
    live = {i: a for i, a in ours.items() if a.proto.state != _States.DELETED}
    # A pass before was broken off, or could not remove them.
    left = [a for a in ours.values() if a.proto.state == _States.DELETED and os.path.lexists(a.uri)]
    recent = _used_since(store, live, oldest, given_up)
    needed = _needed(store, {i: a for i, a in live.items() if i not in recent})
    cleaned.recent, cleaned.needed = len(recent), len(needed)
    old = [a for i, a in sorted(live.items()) if i not in recent and i not in needed]
    if dry_run:
        cleaned.removed = list(dict.fromkeys(a.uri for a in old if _is_alone(store, a, {a.proto.id for a in old})))
        cleaned.bytes = sum(_size(Path(uri)) for uri in cleaned.removed)
        return cleaned
    # A pass that was broken off may have left marks on what is used by now.
    marked = [a for a in live.values() if a.proto.state == _States.MARKED_FOR_DELETION]
    _set_state(store, [a for a in marked if a.proto.id in recent | needed], _States.LIVE)
    _set_state(store, old, _States.MARKED_FOR_DELETION)
    if old:
        sleep(grace_s)
    for artifact in old:
        _remove(store, artifact, oldest, given_up, cleaned)
    for artifact in left:
        _erase(store, artifact, cleaned)
    if not cleaned.kept:
        # A text, as in the stores that have one already.
        mark.custom_properties[_SETTLED].string_value = str(max(int(oldest), settled))
        store.put_contexts([mark])
    return cleaned


def _remove(store: mlmd.MetadataStore, artifact: Artifact, oldest: float, given_up: Set[int], cleaned: Cleaned) -> None:
    """Removes a marked artifact, unless somebody has come to use it since it was chosen."""
    alone = {artifact.proto.id: artifact}
    if _used_since(store, alone, oldest, given_up) or _needed(store, alone):
        _set_state(store, [artifact], _States.LIVE)
        log.info("%s is used again, and stays.", artifact.uri)
        cleaned.recent += 1
        return
    _set_state(store, [artifact], _States.DELETED)
    _erase(store, artifact, cleaned)


def _erase(store: mlmd.MetadataStore, artifact: Artifact, cleaned: Cleaned) -> None:
    """Removes the place of a deleted artifact, if it is no other's; what stays, the next pass tries again."""
    if not _is_alone(store, artifact, set()):
        return
    place = Path(artifact.uri)
    size = _size(place)
    try:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed, which the next clean-up tries again: %s", place, error)
        cleaned.kept.append(artifact.uri)
        return
    cleaned.removed.append(artifact.uri)
    cleaned.bytes += size


def _give_up(store: mlmd.MetadataStore, home: Home, before: float, *, dry_run: bool) -> set[int]:
    """Marks executions failed that were open for too long: their machine or pod is gone, and nobody else will.

    Only attempts whose outputs go to this state folder count: others may share the store, and know better.
    """
    query = f"(last_known_state = NEW OR last_known_state = RUNNING) AND last_update_time_since_epoch < {int(before)}"
    query += f" AND contexts_attempt.type = '{attempt_names.CONTEXT_TYPE}'"
    candidates = store.get_executions(mlmd.ListOptions(filter_query=query))
    stuck = [execution for execution in candidates if _is_of(store, execution, home)]
    for execution in stuck:
        since = strftime("%Y-%m-%d", gmtime(execution.last_update_time_since_epoch / 1000))
        done = "would be marked" if dry_run else "is marked"
        log.warning("Execution %d has been open since %s without a sign; it %s failed.", execution.id, since, done)
        execution.last_known_state = metadata_store_pb2.Execution.FAILED
    if stuck and not dry_run:
        store.put_executions(stuck)
    return {execution.id for execution in stuck}


def _is_of(store: mlmd.MetadataStore, execution: metadata_store_pb2.Execution, home: Home) -> bool:
    """Whether an execution is that of an attempt whose outputs go to a state folder."""
    contexts = [c for c in store.get_contexts_by_execution(execution.id) if c.type == attempt_names.CONTEXT_TYPE]
    return any(Path(context.custom_properties["folder"].string_value).is_relative_to(home.path) for context in contexts)


def _ended_between(store: mlmd.MetadataStore, since: float, oldest: float) -> list[metadata_store_pb2.Execution]:
    """Executions whose last sign was in a span of time."""
    field_ = "last_update_time_since_epoch"
    query = f"{field_} >= {int(since)} AND {field_} < {int(oldest)}"
    return list(store.get_executions(mlmd.ListOptions(filter_query=query)))


def _used_since(store: mlmd.MetadataStore, artifacts: Iterable[int], oldest: float, given_up: Set[int]) -> set[int]:
    """Of artifacts those that an execution made or used which is open, or gave its last sign since an instant."""
    events = events_about(store, artifacts)
    users = executions_of(store, {event.execution_id for event in events})
    busy = {
        i
        for i, execution in users.items()
        if i not in given_up
        and (execution.last_known_state in _OPEN or execution.last_update_time_since_epoch >= oldest)
    }
    return {event.artifact_id for event in events if event.execution_id in busy}


def _needed(store: mlmd.MetadataStore, artifacts: dict[int, Artifact]) -> set[int]:
    """Of artifacts those that a pushed or blessed model rests on: which an execution used, or wrote beside, on the way.

    From each artifact the way is followed forward until such a model is met, so that the cost is that of what was made
    from it and of no other part of history.
    """
    needed = {i for i, artifact in artifacts.items() if _protects(artifact)}
    # For each artifact at the front: those that were asked about from which it was reached.
    front = {i: {i} for i in artifacts if i not in needed}
    passed = {i: {i} for i in front}
    while front:
        through: dict[int, set[int]] = {}
        for event in events_about(store, front):
            through.setdefault(event.execution_id, set()).update(front[event.artifact_id])
        reached: dict[int, set[int]] = {}
        for event in events_of(store, through):
            if event.type in OUTPUT_EVENTS:
                reached.setdefault(event.artifact_id, set()).update(through[event.execution_id])
        protecting = [i for i, artifact in by_id(store, reached).items() if _protects(artifact) or i in needed]
        needed.update(*(reached[i] for i in protecting))
        front = {}
        for i, origins in reached.items():
            fresh = origins - needed - passed.get(i, set())
            if fresh:
                front[i] = fresh
                passed.setdefault(i, set()).update(fresh)
    return needed | {i for i, artifact in artifacts.items() if artifact.type.name in RECORDS}


def _protects(artifact: Artifact) -> bool:
    flag = FLAGS.get(artifact.type.name)
    return flag is not None and artifact.properties.get(flag) == 1


def _is_alone(store: mlmd.MetadataStore, artifact: Artifact, going: Set[int]) -> bool:
    """Whether nothing else that stays lies in an artifact's place: several may share one."""
    beside = [other for other in store.get_artifacts_by_uri(artifact.uri) if other.id != artifact.proto.id]
    return all(other.id in going or other.state == _States.DELETED for other in beside)


def _set_state(store: mlmd.MetadataStore, artifacts: list[Artifact], state: int) -> None:
    for artifact in artifacts:
        artifact.proto.state = state
    for first in range(0, len(artifacts), CHUNK):
        chunk = [artifact.proto for artifact in artifacts[first : first + CHUNK]]
        # The mask leaves alone what others have noted since these were read.
        store.put_artifacts(chunk, field_mask_paths=["state"])


def _mark(store: mlmd.MetadataStore, home: Home) -> metadata_store_pb2.Context:
    """The context that keeps up to when this state folder is settled: several may share a store."""
    name = sha256(str(home.path).encode()).hexdigest()
    known = store.get_context_by_type_and_name(_CONTEXT_TYPE, name)
    if known is not None:
        return known
    type_id = store.put_context_type(metadata_store_pb2.ContextType(name=_CONTEXT_TYPE), can_add_fields=True)
    return metadata_store_pb2.Context(type_id=type_id, name=name)


def _now_ms() -> float:
    return time() * 1000


def _is_ours(uri: str, home: Home) -> bool:
    return uri.startswith("/") and Path(uri).is_relative_to(home.path / "artifacts")


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if file.is_file())
