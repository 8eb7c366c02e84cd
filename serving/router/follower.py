"""Follows `releases.json`: a change holds within a fifth of a second, and a broken file changes nothing."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from airtight.errors import TerminalError
from airtight.rollout import rules, state
from airtight.rollout.state import Release

logger = logging.getLogger(__name__)

LOOK_S = 0.1
_MODEL = re.compile(r"[^/:]+")


class Follower:
    """What `releases.json` says.

    Args:
      root: The models' root.
      changed: Called with all releases, by model, after each change.
    """

    def __init__(self, root: Path, changed: Callable[[Mapping[str, Release]], None]) -> None:
        self._root = root
        self._changed = changed
        self._seen: object = ()
        self.error = ""

    def look(self) -> None:
        """Reads the file if it is another than the one that was read."""
        try:
            stat = (self._root / state.FILE).stat()
            seen: object = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            seen = None
        except OSError as error:
            seen = str(error)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            releases = state.read(self._root)
            for release in releases.values():
                _check(release)
        except (TerminalError, OSError, RecursionError) as error:
            if isinstance(error, OSError):
                self._seen = ()  # It says nothing of the file, which is read at the next look.
            if str(error) != self.error:
                logger.error("The releases stay as they were: %s", error)
            self.error = str(error)
            return
        self.error = ""
        self._changed(releases)

    async def run(self) -> None:
        """Looks again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()


def _check(release: Release) -> None:
    versions = (release.stable, release.candidate)
    sound = all(type(version) is int and 0 < version < 1 << 63 for version in versions)
    sound &= isinstance(release.margins, Mapping)
    if not sound or type(release.id) is not str or not release.id or not _MODEL.fullmatch(release.model):
        raise TerminalError(
            f"The release of {release.model!r} cannot be followed.",
            expected="a model's name, an id, and two versions as whole numbers",
            received=f"id {release.id!r}, stable {release.stable!r}, candidate {release.candidate!r}",
            remedy="Correct the file, or remove it: then no release is under way.",
        )
    rules.Margins.of(release.margins)
