"""Rows into Parquet files by model and day; a reader sees whole files, and a killed server loses nothing written.

An open file is a journal, an Arrow stream under a hidden name, which is readable up to its last batch however the
process ends. When it is an hour old, or large, or the server stops, it becomes a Parquet file under a name of its own
and is removed. What a killed server left is turned into files by the next one. A lock on each journal tells which
belong to a server that runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.files import new_file
from airtight.predictions import JOURNAL, folder_of

logger = logging.getLogger(__name__)

ROLL_BYTES = 64 << 20
"""A journal of this size is closed before its time."""
ROW_GROUP = 1 << 17
AGAIN_S = 60.0
"""What could not be closed is tried again after so long."""


@dataclass(slots=True)
class _Open:
    """A journal that is being written.

    Args:
      path: Where.
      file: The same, open and locked.
      stream: Writes batches into it.
      since: When it was opened, by the monotonic clock, seconds.
    """

    path: Path
    file: FileIO
    stream: pa.ipc.RecordBatchStreamWriter
    since: float


class ParquetSink:
    """Writes tables below a folder.

    Args:
      root: The folder.
      roll_s: A file is closed after so many seconds.
    """

    def __init__(self, root: Path, roll_s: float) -> None:
        self.root = root
        self._roll_s = roll_s
        self._open: dict[tuple[Path, pa.Schema], _Open] = {}
        # No other server has this name, on this machine or another.
        self._name = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._count = 0
        self._again_at = float("inf")
        recover(root)

    def write(self, model: str, table: pa.Table) -> None:
        """Appends rows of one model.

        Raises:
          OSError: The disk is full, or the folder cannot be written to.
        """
        days = pc.strftime(table["time"], format="%Y-%m-%d")
        for day in pc.unique(days).to_pylist():
            part = table if pc.all(pc.equal(days, day)).as_py() else table.filter(pc.equal(days, day))
            self._append(folder_of(self.root, model) / f"date={day}", part)

    def roll(self, everything: bool = False) -> None:
        """Closes the files that are old or large; or all.

        Raises:
          OSError: One cannot be written. Its journal stays, and is closed a while later, or by the next server.
          TransientError: The disk is full; the same.
        """
        now = time.monotonic()
        if now >= self._again_at:
            self._again_at = now + AGAIN_S
            recover(self.root)
            self._again_at = float("inf")
        for key, journal in list(self._open.items()):
            if everything or now - journal.since >= self._roll_s or journal.file.tell() >= ROLL_BYTES:
                del self._open[key]
                try:
                    _finish(journal)
                except BaseException:
                    self._again_at = now + AGAIN_S
                    raise

    def _append(self, folder: Path, table: pa.Table) -> None:
        key = (folder, table.schema)
        journal = self._open.get(key)
        if journal is None:
            journal = self._open[key] = self._new(folder, table.schema)
        try:
            journal.stream.write_table(table)
        except BaseException:
            # A batch may be torn in it. What is before that is whole, and the next rows go into another.
            del self._open[key]
            journal.file.close()
            raise

    def _new(self, folder: Path, schema: pa.Schema) -> _Open:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._count += 1
            path = folder / f".{datetime.now(UTC):%H%M%S}-{self._name}-{self._count:05d}{JOURNAL}"
            file = FileIO(path, "xb+")
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():
                return _Open(path, file, pa.ipc.new_stream(file, schema), time.monotonic())
            file.close()  # Another server found it between the two lines above, and took it for one that was left.


def recover(root: Path) -> int:
    """Turns journals that no running server holds into files.

    Returns:
      How many.
    """
    done = 0
    for path in sorted(root.glob(f"*/date=*/.*{JOURNAL}")):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():  # Another server may have done it between the two lines above.
                _convert(path)
                done += 1
    if done:
        logger.warning("%d files of the prediction log in %s, left by a server that was killed, are closed", done, root)
    return done


def _finish(journal: _Open) -> None:
    with journal.file:
        journal.stream.close()
        _convert(journal.path)


def _convert(path: Path) -> None:
    final = path.with_name(path.name.removeprefix(".").removesuffix(JOURNAL) + ".parquet")
    with path.open("rb") as file:
        batches = list(_batches(file))
    if batches:
        with new_file(final) as temporary:
            table = pa.Table.from_batches(batches)
            pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)
    path.unlink()


def _batches(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The batches of a journal up to its end, or up to the one that was torn."""
    with contextlib.suppress(pa.ArrowInvalid, OSError, EOFError):
        with pa.ipc.open_stream(file) as stream:
            yield from stream
