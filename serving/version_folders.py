"""Folders of versions: which there are, what they look like, and what is wrong with a base path without any."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MAX_VERSION = 2**63 - 1
_NUMBER = re.compile(r"[ \t\n\v\f\r]*\+?[0-9]+[ \t\n\v\f\r]*", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")


class Folder(NamedTuple):
    """A version's folder as it is seen from outside; another look means another version of the same number.

    Args:
      name: Its name within the base path.
      inode: Its number in the file system.
      changed_ns: When an entry of it last came or went, nanoseconds.
    """

    name: str
    inode: int
    changed_ns: int


def number_of(name: str) -> int | None:
    """The version that a folder's name stands for, zero-padded or not, or None; as TensorFlow Serving reads names."""
    if not _NUMBER.fullmatch(name):
        return None
    number = int(name)
    return number if number <= MAX_VERSION else None


def by_number(folders: Iterable[Folder]) -> dict[int, Folder]:
    """The folder of each version; of several with one number the one without padding, or else the first by name."""
    numbered: dict[int, Folder] = {}
    for folder in sorted(folders, key=lambda folder: (len(folder.name), folder.name)):
        number = number_of(folder.name)
        if number is not None:
            numbered.setdefault(number, folder)
    return numbered


def versions_on_disk(base_path: Path) -> dict[int, Folder]:
    """The numeric folders of a base path and what each looks like.

    Names that are no numbers are ignored, so a publisher may copy under such a name and rename.

    Raises:
      FileNotFoundError: The base path is not there (yet).
    """
    folders = []
    for entry in list(os.scandir(base_path)):
        if number_of(entry.name) is not None and entry.is_dir():
            seen = entry.stat()
            folders.append(Folder(entry.name, seen.st_ino, seen.st_mtime_ns))
    return by_number(folders)


def fingerprint(path: Path) -> object:
    """What the files of a version look like: a broken one is tried again once this changes."""
    files = []
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                seen = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            except OSError as error:  # No permission, or a file server that has lost it: the load says so.
                files.append((folder, name, error.errno, 0))
                continue
            files.append((folder, name, seen.st_size, seen.st_mtime_ns))
    return tuple(sorted(files))


def local(base_path: str) -> Path:
    """A base path as flags and config files name it; `file://` says nothing more."""
    return Path(base_path.removeprefix("file://") if base_path.startswith("file:///") else base_path)


def missing(model: str, base_path: Path) -> str:
    """What to say of a base path that is not there."""
    scheme = _SCHEME.match(str(base_path))
    if scheme is not None:
        return (
            f"File system scheme '{scheme[1]}' is not supported: {model} has no versions. Mount what "
            f"{base_path} names, or copy it, and give the folder as base path"
        )
    return f"Could not find base path {base_path} for servable {model}"


def empty(model: str, base_path: Path) -> str:
    """What to say of a base path without versions."""
    return (
        f"No versions of servable {model} found under base path {base_path}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )
