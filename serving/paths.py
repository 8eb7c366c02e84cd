"""Paths of the REST API: matched as they were sent, so that an encoded slash is none; names and labels are decoded."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from serving.errors import invalid
from serving.version_folders import MAX_VERSION

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_MODEL + r":(?P<verb>predict|classify|regress)", re.ASCII)
_KEPT_LENGTH = 256
"""A shorter path of a call is read once and kept, among the last thousand."""
_LOOK = re.compile(_MODEL + r"(?P<verb>/metadata)?", re.ASCII)


class Target(NamedTuple):
    """What a path names.

    Args:
      name: The model.
      version: The version that is asked for, or None.
      label: The label that is asked for, or None.
      verb: `predict`, `classify`, `regress`, `/metadata`; empty for the state.
    """

    name: str
    version: int | None
    label: str | None
    verb: str

    @property
    def chosen(self) -> tuple[str, int | None, str | None]:
        """As the registry takes it."""
        return self.name, self.version, self.label


def path_of(raw_path: bytes) -> str:
    """The path as it was sent, without its query, a character for each byte."""
    return raw_path.partition(b"?")[0].decode("latin-1")


def call(path: str) -> Target | None:
    """What a request for inference names; None where the path is none.

    Raises:
      ServingError: INVALID_ARGUMENT, a version beyond 64 bits.
    """
    return _call(path) if len(path) < _KEPT_LENGTH else _target(_CALL.fullmatch(path))


@functools.lru_cache(maxsize=1024)
def _call(path: str) -> Target | None:
    return _target(_CALL.fullmatch(path))


def look(path: str) -> Target | None:
    """What a request for a state or for metadata names; None where the path is none.

    Raises:
      ServingError: INVALID_ARGUMENT, a version beyond 64 bits.
    """
    return _target(_LOOK.fullmatch(path))


def decoded(part: str) -> str:
    """A part of a path without its percent encoding; bytes that are no UTF-8 become surrogates, which no name has."""
    return unquote_to_bytes(part.encode("latin-1")).decode("utf-8", "surrogateescape")


def _target(match: re.Match[str] | None) -> Target | None:
    if match is None:
        return None
    version, label = match["version"], match["label"]
    if version and int(version) > MAX_VERSION:
        raise invalid(f"Failed to convert version: {version} to numeric.")
    return Target(
        decoded(match["name"]),
        int(version) if version else None,
        decoded(label) if label else None,
        match["verb"] or "",
    )
