"""Atomic writes and content digests: a reader sees the whole of a file or folder, or nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from airtight.errors import TransientError

ABANDONED_S = 60.0
"""A temporary folder that is younger is not taken for an abandoned one."""
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


@contextlib.contextmanager
def new_file(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renames it to `path` when the block ends well, removes it otherwise.

    Args:
      path: The name under which the file becomes visible, whole.
      exclusive: Refuse to replace a file of that name; of two writers exactly one gets it.

    Raises:
      FileExistsError: `exclusive`, and the file is there already.
      TransientError: The disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with full_disk_in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with full_disk_in_words(path):
            yield temporary
            _sync(temporary)
            if exclusive:
                os.link(temporary, path)  # Unlike a rename, a link fails when the name is taken.
            else:
                os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `path`; renames it to `path` when the block ends well, removes it otherwise.

    Raises:
      FileExistsError: `path` is there already and is not empty.
      TransientError: The disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    held = -1
    with full_disk_in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with full_disk_in_words(path):
            temporary.mkdir()
            held = _hold(temporary)
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            if path.exists():
                raise FileExistsError(errno.EEXIST, "the folder is there already", str(path))
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if held >= 0:
            os.close(held)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder for unfinished files, and removes it; those of killed processes beside it go first.

    Args:
      parent: On the disk to which the files are to be renamed; it is made.

    Raises:
      TransientError: The disk is full.
    """
    folder = parent / f".scratch.{uuid.uuid4().hex}.tmp"
    with full_disk_in_words(folder):
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        folder.mkdir()
    held = _hold(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def remove_abandoned(parent: Path) -> list[str]:
    """Removes the folders that `new_folder` and `scratch_folder` left in `parent` because their process was killed.

    Whoever fills such a folder holds a lock on it, which the kernel lets go of when that process ends, however it
    ends. Where the file system has no locks, nothing is removed.

    Args:
      parent: The folder in which the new ones were to become visible.

    Returns:
      The names of what was removed.
    """
    removed = []
    for folder in parent.glob(".*.tmp"):
        if not _TEMPORARY.fullmatch(folder.name) or folder.is_symlink():
            continue
        try:
            # Between its making and its lock a folder is held by nobody: a young one is left alone.
            if time.time() - folder.stat().st_mtime < ABANDONED_S:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
        except OSError:
            continue
        finally:
            os.close(handle)
    return removed


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file, UTF-8, or nothing."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_tree(path: Path) -> str:
    """SHA-256 over the relative names and bytes of every file below `path`, hexadecimal."""
    whole = hashlib.sha256()
    for file in files_below(path):
        whole.update(f"{file.relative_to(path).as_posix()}\0{digest_of_file(file)}\n".encode())
    return whole.hexdigest()


def files_below(path: Path) -> list[Path]:
    """Returns every file below a folder, by links to folders too, in the order of their paths; [] without a folder.

    Raises:
      OSError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    if not path.is_dir():
        return []
    files = [
        Path(folder, name) for folder, _, names in os.walk(path, onerror=refuse, followlinks=True) for name in names
    ]
    return sorted(file for file in files if file.is_file())


@contextlib.contextmanager
def full_disk_in_words(path: Path) -> Iterator[None]:
    """Turns ENOSPC and EDQUOT into a fault that says which disk and what to do."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise full_disk(f"to write {path}", error) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception says that a disk is full, in whichever library it was raised."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in ("No space left on device", "database or disk is full"))


def full_disk(what: str, error: BaseException) -> TransientError:
    """The fault of a full disk in words.

    Args:
      what: What could not be done, such as "to write model/1".
      error: What was raised.
    """
    return TransientError(
        f"There is no room left {what}.",
        expected="free space on that disk",
        received=getattr(error, "strerror", None) or str(error).splitlines()[0],
        remedy="Free some space and retry the task; nothing half-written was left behind.",
    )


def _hold(folder: Path) -> int:
    """Locks a folder for as long as this process lives or the handle is open."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # A file system without locks.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _sync(path: Path) -> None:
    """Flushes one file to disk, so that the rename never becomes visible before the bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
