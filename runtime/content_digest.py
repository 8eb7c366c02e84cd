"""What an artifact holds, as a digest: a file or a tree, wherever TFX's file systems can read it.

The digest is noted when a node's output is published, and beside it how its files lay on the disk then (inode, size
and times, as components/data/verified.py does for the lake). Whoever asks later what it holds now is answered from the
note while the files lie as they did; otherwise they are read again. So a changed or truncated file is seen, at the
price of a stat. What no node of ours made, such as an importer's data, and what lies on no disk of this machine, has no
note: each consumer reads it in full, also with its cache off, because its result may be wanted once that is on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio

from airtight.files import digest_of_file, digest_of_tree, files_below
from runtime.lineage.artifacts import DIGEST

log = logging.getLogger(__name__)

FILES = "content_digest_files"
"""Custom property of an artifact: SHA-256 of how its files lie on the disk while it holds what `DIGEST` says."""
SETTLED_NS = 2_000_000_000
"""How its files lie says nothing of one touched so shortly before it was read: a second write would not show.

Where a file can be made beside them, that one's time says it without a wait: what is written after it bears no earlier.
"""
_CHUNK = 1 << 20


def of_uri(uri: str) -> str:
    """Returns the SHA-256 of what lies at a place.

    Args:
      uri: A path, absolute or relative to the process's folder, `file://` before it or not, or what else TFX's file
        systems know.

    Returns:
      The digest, or "" where there is nothing or where it cannot be read.
    """
    try:
        path = _local(uri)
        if path is None:
            return _of_remote(uri)
        if not path.exists():
            return ""
        return digest_of_file(path) if path.is_file() else digest_of_tree(path)
    except Exception as error:  # noqa: BLE001 - each file system has exceptions of its own
        log.warning("What lies at %s cannot be read: %s: %s", uri, type(error).__name__, error)
        return ""


def current(store: mlmd.MetadataStore, artifacts: Sequence[metadata_store_pb2.Artifact]) -> list[str]:
    """Returns the digests of what artifacts hold now, "" for one that cannot be read.

    Where the files were touched and still hold what they held, the store notes how they lie now.

    Args:
      store: The metadata store.
      artifacts: As the store has them; changed in place as in the store, because TFX writes them back as they are.
    """
    digests, touched = [], []
    for artifact in artifacts:
        digest, files = _read(artifact)
        digests.append(digest)
        if files and artifact.id and digest == _noted(artifact, DIGEST):
            artifact.custom_properties[FILES].string_value = files
            touched.append(artifact)
    if touched:
        # The mask leaves alone what others may change meanwhile, such as the state.
        store.put_artifacts(touched, field_mask_paths=[f"custom_properties.{FILES}"])
    return digests


def note(store: mlmd.MetadataStore, artifacts: Sequence[metadata_store_pb2.Artifact]) -> None:
    """Notes the digests of artifacts that have just been published; one that cannot be read gets none.

    Args:
      store: The metadata store.
      artifacts: As the store has them; changed in place.
    """
    new = [artifact for artifact in artifacts if DIGEST not in artifact.custom_properties]
    for artifact in new:
        digest, files = _read(artifact, is_ours=True)
        for name, value in ((DIGEST, digest), (FILES, files)):
            if value:
                artifact.custom_properties[name].string_value = value
    new = [artifact for artifact in new if DIGEST in artifact.custom_properties]
    if new:
        # The mask leaves alone what others may change meanwhile, such as the state.
        store.put_artifacts(new, field_mask_paths=[f"custom_properties.{name}" for name in (DIGEST, FILES)])


def is_there(uri: str) -> bool:
    """Whether there is something at a place that can be asked."""
    try:
        path = _local(uri)
        return bool(uri) and (fileio.exists(uri) if path is None else path.exists())
    except Exception:  # noqa: BLE001 - each file system has exceptions of its own
        return False


def _read(artifact: metadata_store_pb2.Artifact, *, is_ours: bool = False) -> tuple[str, str]:
    """Returns the digest of what an artifact holds now, and how its files lie if that should be noted.

    Args:
      artifact: The artifact.
      is_ours: Whether its folder is one that this process may write to.
    """
    path = _local(artifact.uri)
    if path is None or not path.exists():
        return of_uri(artifact.uri), ""
    began = _clock_beside(path) if is_ours else time.time_ns() - SETTLED_NS
    before, touched_ns = _lie(path)
    if before and before == _noted(artifact, FILES) and _noted(artifact, DIGEST):
        return _noted(artifact, DIGEST), ""
    digest = of_uri(artifact.uri)
    settled = before == _lie(path)[0] and touched_ns < began
    return digest, before if digest and settled else ""


def _clock_beside(path: Path) -> int:
    """Returns the time, in nanoseconds since 1970, that the file system gives to what is written at a place now."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            return os.fstat(file.fileno()).st_ctime_ns
    except OSError:
        return time.time_ns() - SETTLED_NS


def _lie(path: Path) -> tuple[str, int]:
    """Returns a digest of how the files of a place lie on the disk, "" if that cannot be read, and the last touch."""
    try:
        files = [path] if path.is_file() else files_below(path)
        stats = [(file.relative_to(path).as_posix(), os.stat(file)) for file in files]
    except OSError:
        return "", 0
    rows = [(name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]
    touched_ns = max((max(s.st_mtime_ns, s.st_ctime_ns) for _, s in stats), default=0)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest(), touched_ns


def _local(uri: str) -> Path | None:
    """Returns the path of a place on this machine's disk; None for any other place."""
    path = uri.removeprefix("file://")
    return Path(path) if path and "://" not in path else None


def _of_remote(uri: str) -> str:
    """As `digest_of_tree` and `digest_of_file`, through TFX's file systems; "" for nothing there."""
    if not uri or not fileio.exists(uri):
        return ""
    if not fileio.isdir(uri):
        return _of_remote_file(uri)
    names = [os.path.join(folder, name) for folder, _, files in fileio.walk(uri) for name in files]
    relative = {PurePosixPath(name.removeprefix(uri).lstrip("/")): name for name in names}
    whole = hashlib.sha256()
    for path in sorted(relative):
        whole.update(f"{path.as_posix()}\0{_of_remote_file(relative[path])}\n".encode())
    return whole.hexdigest()


def _of_remote_file(uri: str) -> str:
    whole = hashlib.sha256()
    with fileio.open(uri, "rb") as file:
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
    return whole.hexdigest()


def _noted(artifact: metadata_store_pb2.Artifact, name: str) -> str:
    properties = artifact.custom_properties
    return str(properties[name].string_value) if name in properties else ""
