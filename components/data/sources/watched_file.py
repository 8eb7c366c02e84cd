"""A file that must not change while it is read."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from airtight.errors import TerminalError, TransientError


@contextlib.contextmanager
def watched(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file and sees, when the block ends well, that it is still the same.

    Args:
      path: The file; the text of a `.gz` file is yielded.

    Raises:
      TerminalError: It may not be read.
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
        with gzip.open(raw) if path.suffix == ".gz" else contextlib.nullcontext(raw) as file:
            yield file  # type: ignore[misc]
        after = os.fstat(raw.fileno())
        now = path.stat() if path.exists() else None
        same = now is not None and (before.st_size, before.st_mtime_ns, before.st_ino) == (
            now.st_size,
            now.st_mtime_ns,
            now.st_ino,
        )
        if not same:
            size = now.st_size if now else after.st_size
            raise TransientError(
                f"{path.name} changed while it was read.",
                expected=f"a file that nobody writes to, of {before.st_size:,} bytes",
                received=f"{size:,} bytes afterwards" if now else "a file that was removed",
                remedy="Wait until it is complete, or read a copy of it. Nothing was written.",
            )
