"""A note of files that were verified before, so that a month's run reads a month and not the whole history again.

A file of the lake never changes: what was verified once, and has not been touched since, is what it was. Any write
moves the file's inode, size or times, and it is read again. A note that is lost or cannot be kept costs time alone.

What no note can see is a disk that loses a bit by itself, for nothing is touched then. So the note speaks for history
only, and `DatasetReader` digests every file in the very node that computes with it, whatever the note says.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from types import TracebackType

from airtight.errors import TransientError
from airtight.files import write_text
from components.data.lake import File, Lake, Table

_LOG = logging.getLogger(__name__)

NOTE = "_verified.json"
"""The note's name in the lake's folder."""
SETTLED_NS = 2_000_000_000
"""A file touched so shortly before it was read is not noted: a second write within the clock's tick would not show."""
_RULES = 1
"""Raised when `Lake.verify` asks for more than it did: earlier notes then count for nothing."""


class Verifier:
    """Verifies files of a lake, some of them by a note, and keeps the note when the block that uses it ends.

    Args:
      lake: The lake.
      zone: IANA name of the zone whose days are the partitions.
    """

    def __init__(self, lake: Lake, zone: str) -> None:
        self._lake, self._zone = lake, zone
        self._note = lake.path / NOTE
        self._noted = _read(self._note)
        self._new: dict[str, list[str | int]] = {}
        self.read: list[File] = []
        self.known: list[File] = []

    def verify(self, table: Table, file: File, *, by_note: bool) -> None:
        """Checks one file as `Lake.verify` does, into `read`; or finds that this was done before, into `known`.

        Args:
          table: The pipeline's declaration of the table.
          file: The file, from a version.
          by_note: Whether the note may stand for reading it.

        Raises:
          TerminalError: As `Lake.verify`.
        """
        state, started = self._now(table, file), time.time_ns()
        if by_note and state and self._noted.get(file.path) == state:
            self.known.append(file)
            return
        self._lake.verify(table, file, self._zone)
        self.read.append(file)
        touched = max((value for value in state[-2:] if isinstance(value, int)), default=0)
        if state == self._now(table, file) and touched < started - SETTLED_NS:
            self._new[file.path] = state

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        new = {path: state for path, state in self._new.items() if self._noted.get(path) != state}
        if not new:
            return
        try:
            # Of runs that end at once one may lose its part: then its files are read once more.
            write_text(self._note, json.dumps({**_read(self._note), **new}, indent=0))
        except (OSError, TransientError) as lost:
            _LOG.info("The note of verified files was not kept, so the next run reads them again: %s", lost)

    def _now(self, table: Table, file: File) -> list[str | int]:
        """What was asked of a file, and how it lies on the disk; empty when it is not there."""
        try:
            lies = os.stat(self._lake.path / file.path)
        except OSError:
            return []
        form = [_RULES, self._zone, table.time, [(field.name, str(field.type)) for field in table.schema], file.sha256]
        rules_digest = hashlib.sha256(json.dumps(form).encode()).hexdigest()
        return [rules_digest, lies.st_ino, lies.st_size, lies.st_mtime_ns, lies.st_ctime_ns]


def _read(note: Path) -> dict[str, list[str | int]]:
    try:
        notes = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}
