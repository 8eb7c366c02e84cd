"""Folders of versions: which names are versions, and what is wrong with a base path without any."""

from __future__ import annotations

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
    found: dict[int, Folder] = {}
    for folder in sorted(folders, key=lambda folder: (len(folder.name), folder.name)):
        number = number_of(folder.name)
        if number is not None:
            found.setdefault(number, folder)
    return found


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
