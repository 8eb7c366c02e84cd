"""A file that must not change while it is read."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from airtight.errors import TerminalError, TransientError


@contextlib.contextmanager
def watched(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file and sees, when the block ends, that it is still the same.

    Args:
      path: The file; the text of a `.gz` file is yielded.

    Raises:
      TerminalError: It may not be read, or cannot be unpacked.
      TransientError: It was written to, or replaced, meanwhile.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise TerminalError(
            "The file cannot be opened.",
            expected=f"a file that {os.environ.get('USER', 'this user')} may read",
            received=f"{path}: {error.strerror}",
            remedy="Correct its path or its permissions.",
        ) from error
    with raw:
        before = os.fstat(raw.fileno())
        try:
            with gzip.open(raw) if path.suffix == ".gz" else contextlib.nullcontext(raw) as file:
                yield file  # type: ignore[misc]
        except Exception as error:
            # Who reads a part of what is being written finds it broken: that it changes is the reason.
            _check_same(path, before)
            if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)):
                raise TerminalError(
                    f"{path.name} cannot be unpacked.",
                    expected="a whole file that gzip wrote",
                    received=str(error),
                    remedy="Write or copy it again, or take `.gz` from the name of one that is not packed.",
                ) from error
            raise
        _check_same(path, before)


def _check_same(path: Path, before: os.stat_result) -> None:
    now = path.stat() if path.exists() else None
    if now is None or (before.st_size, before.st_mtime_ns, before.st_ino) != (now.st_size, now.st_mtime_ns, now.st_ino):
        raise TransientError(
            f"{path.name} changed while it was read.",
            expected=f"a file that nobody writes to, of {before.st_size:,} bytes",
            received=f"{now.st_size:,} bytes afterwards" if now else "a file that was removed",
            remedy="Wait until it is complete, or read a copy of it. Nothing was written.",
        )
