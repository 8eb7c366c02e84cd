"""Batches of rows into journals by model and day: Arrow streams under hidden names, readable to their last whole batch.

A journal is appended to, and never read, by the process that has it open, which holds a lock on it. When it is old or
large, or the process ends, however it ends, the lock is gone and `serving.prediction_log.shipper` takes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from airtight.predictions import JOURNAL, folder_of

ROLL_BYTES = 64 << 20
"""A journal of this size is closed before its time."""


@dataclass(slots=True, eq=False)
class Journal:
    """A journal that is being written.

    Args:
      path: Its file.
      file: The same, open and locked.
      since: When it was opened, by the monotonic clock, seconds.
    """

    path: Path
    file: FileIO
    since: float

    @property
    def is_removed(self) -> bool:
        """Whether somebody has removed the file, so that nobody will read what is written to it."""
        return not os.fstat(self.file.fileno()).st_nlink

    def append(self, content: pa.Buffer) -> None:
        """Writes all of it.

        Raises:
          OSError: The disk is full or broken.
        """
        rest = memoryview(content)
        while rest:
            rest = rest[self.file.write(rest) :]


class Journals:
    """The journals of one process below a folder.

    Args:
      root: The folder.
      roll_s: A journal is closed after so many seconds.
      durable: Whether what is synced survives a power cut, names of files included.
    """

    def __init__(self, root: Path, roll_s: float, durable: bool = False) -> None:
        self.root = root
        self.owner = f"{os.getpid()}-{uuid4().hex[:8]}"
        """Part of the journals' names; no other process has it, on this machine or another."""
        self._roll_s, self._durable = roll_s, durable
        self._open: dict[tuple[Path, pa.Schema], Journal] = {}
        self._count = 0
        self._closed = False

    def write(self, model: str, day: str, batch: pa.RecordBatch) -> Journal:
        """Appends rows of one model and day (YYYY-MM-DD, in UTC).

        Returns:
          The journal, which is to be synced where the rows are to be durable.

        Raises:
          OSError: The disk is full, or the folder cannot be written to.
        """
        folder = folder_of(self.root, model) / f"date={day}"
        key = (folder, batch.schema)
        journal = self._open.get(key)
        if journal is not None and journal.is_removed:
            self.abandon(journal)
            journal = None
        if journal is None:
            journal = self._open[key] = self._new(folder, batch.schema)
        try:
            journal.append(batch.serialize())
        except BaseException:
            self.abandon(journal)
            raise
        return journal

    def sync(self, journal: Journal) -> None:
        """Has the disk keep what was written.

        Raises:
          OSError: It does not.
        """
        try:
            os.fdatasync(journal.file.fileno())
            if journal.is_removed:
                raise FileNotFoundError(f"{journal.path} has been removed")
        except BaseException:
            self.abandon(journal)  # What the disk has of it nobody knows.
            raise

    def abandon(self, journal: Journal) -> None:
        """Closes a journal in which a batch may be torn; what is before that is whole."""
        for key, other in list(self._open.items()):
            if other is journal:
                del self._open[key]
        journal.file.close()
        self._closed = True

    def roll(self, everything: bool = False) -> bool:
        """Closes the journals that are old or large; or all. Answers whether any was closed since the last call."""
        now = time.monotonic()
        for journal in list(self._open.values()):
            if everything or now - journal.since >= self._roll_s or journal.file.tell() >= ROLL_BYTES:
                self.abandon(journal)
        closed, self._closed = self._closed, False
        return closed

    def _new(self, folder: Path, schema: pa.Schema) -> Journal:
        changed = folders_to_change(folder)
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._count += 1
            path = folder / f".{datetime.now(UTC):%H%M%S}-{self.owner}-{self._count:05d}{JOURNAL}"
            journal = Journal(path, FileIO(path, "xb+"), time.monotonic())
            fcntl.flock(journal.file, fcntl.LOCK_EX)
            if path.exists():
                break
            journal.file.close()  # A shipper found it between the two lines above, and took it for one that was left.
        try:
            journal.append(schema.serialize())
            if self._durable:
                os.fdatasync(journal.file.fileno())
                sync_folders(folder, *changed, folder.parent, self.root, self.root.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()  # It has no rows, and on a full disk there would soon be thousands.
            journal.file.close()
            raise
        return journal


def folders_to_change(folder: Path) -> list[Path]:
    """Returns the folders that get a new entry when a folder is made with its parents; [] where it is there."""
    return [path.parent for path in (folder, *folder.parents) if not path.exists()]


def sync_folders(*folders: Path) -> None:
    """Has the disk keep which files are in these folders."""
    for folder in folders:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
